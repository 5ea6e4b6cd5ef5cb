"""Files not yet finished: their names, how one takes the place of another, and the removal of those whose writer is dead."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import xxhash

from resilient.store.files import sync_directory
from resilient.store.oserrors import storage_errors

_HOST = xxhash.xxh32_hexdigest(os.fsencode(socket.gethostname()))
_TOKEN = secrets.token_hex(4)  # tells this process from an earlier one of the same number, as in a restarted container
_NUMBER = itertools.count()
_PATTERN = re.compile(r"\..*\.tmp-([0-9a-f]{8})-(\d+)-([0-9a-f]{8})-\d+(\.keras|(\.weights)?\.h5)?", re.DOTALL)
_FOREIGN_AGE = 24 * 3600.0  # seconds; nobody can ask whether a process of another machine lives, but no single write takes a day


def short(name: str) -> str:
    """`name`, cut where adding to it could exceed what a file name may hold; still different for different names."""
    if len(os.fsencode(name)) <= 150:
        return name
    return f"{name[:30]}~{xxhash.xxh3_64_hexdigest(os.fsencode(name))}"


def name_beside(target: Path, suffix: str = "") -> Path:
    """A name never used before, hidden, in the directory of `target`; `suffix` for writers that insist on one."""
    return target.with_name(f".{short(target.name)}.tmp-{_HOST}-{os.getpid()}-{_TOKEN}-{next(_NUMBER)}{suffix}")


def sweep(directory: Path) -> None:
    """Removes the temporaries in `directory` whose process is dead."""
    for path in directory.iterdir():
        match = _PATTERN.fullmatch(path.name)
        if match and _abandoned(path, match[1], int(match[2]), match[3]):
            path.unlink(missing_ok=True)


def _abandoned(path: Path, host: str, pid: int, token: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        modified = path.stat().st_mtime
        if host != _HOST:
            return time.time() - modified > _FOREIGN_AGE
        if pid == os.getpid():
            return token != _TOKEN
        try:
            return bool(psutil.Process(pid).create_time() > modified + 1)  # the number was given to another process since
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False
    return False


@contextlib.contextmanager
def replacing(output: Path, ending: str = "") -> Iterator[Path]:
    """A temporary path beside `output`; what the block writes there replaces `output` in one step once it is durable."""
    target = Path(os.path.realpath(output))  # a symbolic link stays one, and what it points to is replaced
    temporary = name_beside(target, ending)
    with storage_errors("write the output", output):
        sweep(target.parent)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
