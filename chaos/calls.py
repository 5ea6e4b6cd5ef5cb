"""The system calls by which `resilient` reads and changes a directory, each of which can be met on its way.

Everything that records, refuses, delays or counts such calls, or dies at one, is a function that gets the call and what carries it out.
The calls are met in process, where Python makes them: `os`, `fcntl`, `mmap`, and `resilient.store.kernel` for those that Python does not
offer. Files that are opened with `open` go through `os` as well while this lasts. A test compares the list with what strace sees.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import dataclasses
import fcntl
import functools
import io
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from chaos.python_files import PythonFile
from resilient.store import kernel


@dataclasses.dataclass(frozen=True)
class Call:
    """One system call about to be made: its name, and its arguments as Python gives them."""

    name: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]

    @property
    def given(self) -> list[Any]:
        """What a write is given, in its pieces."""
        return list(self.arguments[1]) if self.name == "writev" else [self.arguments[1]]

    @property
    def size(self) -> int:
        """Bytes that a write is given."""
        return sum(map(len, self.given))

    def first_bytes(self, count: int) -> list[Any]:
        """What a write is given, cut off after that many bytes."""
        kept = []
        for piece in self.given:
            kept.append(piece[:count])
            count -= len(kept[-1])
        return kept


Met = Callable[[Call, Callable[[], Any]], Any]  # the call, and what carries it out; returns, or raises, in its place

_OS = (
    *("open", "close", "read", "pread", "preadv", "write", "writev", "pwrite", "fsync", "ftruncate"),
    *("mkdir", "rmdir", "rename", "replace", "link", "unlink"),
    *("stat", "lstat", "fstat", "statvfs", "listdir", "scandir"),
)
# Name of the call -> (module, attribute, number of the argument that is a path or a descriptor).
_PLACES: dict[str, tuple[Any, str, int]] = {
    **{name: (os, name, 0) for name in _OS},
    "flock": (fcntl, "flock", 0),
    "fcntl": (fcntl, "fcntl", 0),
    "mmap": (mmap, "mmap", 0),
    "fallocate": (kernel, "_fallocate", 0),
    "sync_file_range": (kernel, "_sync_file_range", 0),
    "statx": (kernel, "_statx", 0),
    "fstatfs": (kernel, "_fstatfs", 0),
    "renameat2": (kernel, "_renameat2", 1),
}
ALL = tuple(_PLACES)
CHANGES = (
    *("open", "write", "writev", "pwrite", "fsync", "ftruncate", "mkdir", "rmdir", "rename", "replace", "link", "unlink"),
    *("fallocate", "renameat2"),
)


@contextlib.contextmanager
def met(around: Met, base: Path, names: Iterable[str] = ALL) -> Iterator[None]:
    """While this lasts, the calls of these names on something below `base` are made through `around`, on every thread.

    What `around` itself calls is not met again. Nested uses meet a call from the innermost outwards.
    """
    inside = threading.local()
    root = os.fspath(base.resolve())
    with contextlib.ExitStack() as stack:
        for name in names:
            module, attribute, place = _PLACES[name]
            genuine = getattr(module, attribute)
            if genuine is not None:  # a system call that this C library does not have
                stack.enter_context(mock.patch.object(module, attribute, _through(around, name, genuine, place, root, inside)))
        opened = functools.partial(_open, io.open, root)
        stack.enter_context(mock.patch.object(io, "open", opened))
        stack.enter_context(mock.patch.object(builtins, "open", opened))
        stack.enter_context(mock.patch("shutil._USE_CP_SENDFILE", new=False))  # copies by reading and writing
        yield


def _through(around: Met, name: str, genuine: Callable[..., Any], place: int, root: str, inside: threading.local) -> Callable[..., Any]:
    in_c = _PLACES[name][0] is kernel

    def call(*arguments: Any, **keywords: Any) -> Any:
        if getattr(inside, "now", False) or not _is_below(root, arguments[place] if arguments else ".", keywords.get("dir_fd")):
            return genuine(*arguments, **keywords)
        inside.now = True
        try:
            return around(Call(name, arguments, keywords), functools.partial(genuine, *arguments, **keywords))
        except OSError as error:
            if not in_c:
                raise
            ctypes.set_errno(error.errno or 0)
            return -1
        finally:
            inside.now = False

    return call


def _is_below(root: str, place: Any, directory: int | None) -> bool:
    """Whether a path or an open file lies in `root`."""
    if directory is not None:
        place = directory
    path = path_of(place) if isinstance(place, int) else os.path.abspath(os.fsdecode(place))
    return path == root or path.startswith(f"{root}/")


def path_of(fd: int) -> str:
    """Path of an open file, "" where it has none."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def _open(genuine: Callable[..., Any], root: str, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **keywords: Any) -> Any:
    """`open`, whose reads and writes below `root` are calls of `os`."""
    if isinstance(file, int) or "opener" in keywords or not _is_below(root, file, None):
        return genuine(file, mode, buffering, *rest, **keywords)
    raw = PythonFile(file, mode)
    if buffering == 0:
        return raw
    binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedReader(raw) if raw.readable() else io.BufferedWriter(raw)
    return binary if "b" in mode else io.TextIOWrapper(binary, *rest, **keywords)
