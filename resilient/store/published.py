"""Files of the caller that appear atomically and durably, and go back to what they were when a run is rolled back.

`publish` writes one file; a reader sees the old one or the new one. A `Ledger` remembers, beside the files, which were written in which
order, and keeps what was overwritten as long as a recovery checkpoint may refer to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import xxhash

from resilient.store import files, temporaries

_JOURNAL = "written.jsonl"
_FORMAT = 1
_KEPT = 4  # overwritten versions: what three recovery checkpoints and the best one may refer to
_READ_BYTES = 8 << 20


def publish(target: Path, write: Callable[[Path], object], suffix: str = "", before: Callable[[Path], None] | None = None) -> None:
    """Replaces `target` by what `write` writes: atomic for readers, durable on return, with the mode the umask gives.

    Args:
        target: the final path; a symbolic link is followed. Missing directories are created.
        write: gets the path of a temporary beside it, ending in `suffix`.
        suffix: for writers that look at the name.
        before: called with the finished temporary just before it takes the final name.

    Raises:
        OSError: the target is then what it was, and the temporary is gone.
    """
    target = Path(os.path.realpath(target))
    files.make_directories(target.parent)
    temporary = temporaries.name_beside(target, suffix)
    try:
        write(temporary)
        _sync_file(temporary)
        if before is not None:
            before(temporary)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    files.sync_directory(target.parent)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def checksum(path: Path) -> str | None:
    """xxh3-128 of a file, in hex; None if there is no file."""
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
    except (FileNotFoundError, IsADirectoryError):
        return None
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Written:
    """One file that was written: the how-manieth, where (relative to the ledger's base), its checksum, and the best value it stood for."""

    serial: int
    path: str
    checksum: str
    best: float | None


@dataclasses.dataclass(frozen=True)
class RolledBack:
    """What `Ledger.roll_back` found.

    Attributes:
        complete: whether every file is what it was at that point.
        stays: a later file that had to stay because what it overwrote is no longer kept, None if there is none.
        newest: the newest write whose file is in place now, None if there is none.
    """

    complete: bool
    stays: Written | None
    newest: Written | None


class Ledger:
    """What one run wrote under one file name pattern: `.<name>.resilient/` beside the files, with a journal and overwritten versions.

    A write is journaled before its file takes the final name, so that whatever is found there later can be told from a file of the
    caller's by its checksum. Serial numbers are given by the caller, rising.
    """

    def __init__(self, base: Path, name: str, run: str) -> None:
        self.base = base
        self.directory = base / f".{temporaries.short(name)}.resilient"
        self._run = run
        self._newest: dict[str, Written] = {}  # path -> last write
        self._is_open = False
        self._marks: tuple[int, ...] = ()  # replaced, never changed: read by the thread that writes

    def mark(self, serial: int) -> None:
        """A recovery checkpoint may be taken now, with `serial` as the last write."""
        if not self._marks or self._marks[-1] != serial:
            self._marks = (*self._marks[-63:], serial)

    def refers(self, first: int, until: int) -> bool:
        """Whether some mark saw write `first` as the newest of its path, before write `until`."""
        return any(first <= mark < until for mark in self._marks)

    def record(self, temporary: Path, target: Path, serial: int, best: float | None) -> None:
        """Journals that `temporary` is about to become `target`, and keeps what stands there if a mark refers to it.

        Before the first mark there is nothing to go back to: then it is remembered in memory only.
        """
        path = os.path.relpath(target, self.base)
        if not self._marks:
            self._newest[path] = Written(serial, path, "", best)
            return
        self._open()
        before = self._newest.get(path)
        if before is not None and self.refers(before.serial, serial):
            self._keep(before, serial)
        written = Written(serial, path, checksum(temporary) or "", best)
        self._append(written)
        self._newest[path] = written

    def _open(self) -> None:
        """The journal of this run. A new one takes the place of another run's, whose files can then no longer be told from the caller's."""
        if self._is_open and (self.directory / _JOURNAL).exists():  # someone may tidy it away under a running training
            return
        entries = self._read()
        if entries is None:
            files.make_directories(self.directory)
            for kept in self._kept_files():
                kept.unlink(missing_ok=True)
            known = [dataclasses.replace(entry, checksum=checksum(self.base / entry.path) or "") for entry in self._newest.values()]
            entries = sorted((entry for entry in known if entry.checksum), key=lambda entry: entry.serial)
            self._rewrite(entries)
        self._newest = {entry.path: entry for entry in entries}
        self._is_open = True

    def _rewrite(self, entries: Iterable[Written]) -> None:
        lines = [{"format": _FORMAT, "run": self._run}, *map(dataclasses.asdict, entries)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        publish(self.directory / _JOURNAL, lambda path: _write_text(path, text))

    def _append(self, written: Written) -> None:
        with (self.directory / _JOURNAL).open("ab") as file:
            file.write(json.dumps(dataclasses.asdict(written)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> list[Written] | None:
        """This run's writes, oldest first; None where there is no journal of this run."""
        try:
            lines = (self.directory / _JOURNAL).read_bytes().splitlines()
        except FileNotFoundError:
            return None
        values = [value for line in lines if isinstance(value := _json(line), dict)]
        if not values or values[0].get("format") != _FORMAT or values[0].get("run") != self._run:
            return None
        return [entry for value in values[1:] if (entry := _entry(value)) is not None]

    def _keep(self, written: Written, overwritten_by: int) -> None:
        # Named after the write that takes its place: the oldest of these names is the one that fewest checkpoints can still refer to.
        kept = self.directory / f"{overwritten_by:012d}-{written.checksum}.kept"
        with contextlib.suppress(FileNotFoundError):  # the caller removed it
            if not kept.exists():
                _link_or_copy(self.base / written.path, kept)
                files.sync_directory(self.directory)  # before the file loses its name to the next version, not some time after
        for old in sorted(self._kept_files())[:-_KEPT]:
            old.unlink(missing_ok=True)

    def _kept(self, written: Written) -> Path | None:
        found = self.directory.glob(f"*-{written.checksum}.kept")
        return next((kept for kept in found if checksum(kept) == written.checksum), None)

    def _kept_files(self) -> Iterator[Path]:
        return self.directory.glob("[0-9]" * 12 + "-*.kept")

    def finish(self) -> None:
        """The run is over: nothing it overwrote is kept any longer. What the disk does not give up stays, and harms nobody."""
        with contextlib.suppress(OSError):
            for kept in self._kept_files():
                kept.unlink(missing_ok=True)

    def roll_back(self, serial: int) -> RolledBack | None:
        """Makes the files what they were when write `serial` was the last one; None where nothing is known of this run.

        Later files are removed, overwritten ones come back. A file that this run did not write is never touched.
        """
        entries = self._read()
        if entries is None:
            return None
        past = [entry for entry in entries if entry.serial <= serial]
        future = [entry for entry in entries if entry.serial > serial]
        touched = {entry.path for entry in future} | {entry.path for entry in past[-1:]}
        staying = [entry for path in sorted(touched) if (entry := self._roll_back_file(path, past, future)) is not None]
        left = [*past, *(dataclasses.replace(entry, serial=serial) for entry in staying)]
        for kept in self._kept_files():
            if int(kept.name[:12]) > serial:
                kept.unlink(missing_ok=True)
        self._rewrite(left)
        self._newest = {entry.path: entry for entry in left}
        self._is_open = True
        newest = next((entry for entry in reversed(left) if checksum(self.base / entry.path) == entry.checksum), None)
        complete = not staying and (serial == 0 or (newest is not None and newest.serial == serial))
        return RolledBack(complete, staying[-1] if staying else None, newest)

    def _roll_back_file(self, path: str, past: list[Written], future: list[Written]) -> Written | None:
        """Brings back the file's newest past version; returns the future one that had to stay because no past one is left."""
        target = self.base / path
        versions = [entry for entry in reversed(past) if entry.path == path]
        now = checksum(target)
        ours = next((entry for entry in reversed(future) if entry.path == path and entry.checksum == now), None)
        if now is not None and ours is None:
            return None  # a past version, or the caller's own file
        for version in versions:
            kept = self._kept(version)
            if kept is not None:
                publish(target, functools.partial(shutil.copyfile, kept))
                return None
        if ours is not None and not versions:
            target.unlink()
            files.sync_directory(target.parent)
            return None
        return ours


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except FileNotFoundError:
        raise
    except OSError:  # no hard links here, or another file system behind a symbolic link
        publish(target, functools.partial(shutil.copyfile, source))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:  # the torn last line of a killed process is no entry
        return None


def _entry(value: dict[str, Any]) -> Written | None:
    """The entry, or None for one that this program cannot have written: nothing outside the files' directory is ever touched."""
    serial, path, digest, best = (value.get(name) for name in ("serial", "path", "checksum", "best"))
    if type(serial) is not int or not isinstance(path, str) or not isinstance(digest, str):
        return None
    if not re.fullmatch(r"[0-9a-f]{32}", digest) or os.path.isabs(path) or ".." in Path(path).parts:
        return None
    return Written(serial, path, digest, best if isinstance(best, (int, float)) else None)
