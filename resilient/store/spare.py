"""Files that nobody needs any more, kept so that the next checkpoint is written over them.

New blocks are dear: the file system reserves them and notes when they are filled, a virtual disk gets memory for them, and deleting old
ones gives all of it back. Over old blocks a disk writes at its own speed (`python -m benchmarks.durable` has raw writers of both kinds),
so that the tensors of a snapshot are let go before training has to copy them.

Only what nobody else can see is written over: under its committed name it is gone, durably; it has no other link, and no process has
it open or mapped. Where that cannot be known it is deleted, and new files are made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from typing import TYPE_CHECKING

from resilient.store import kernel

if TYPE_CHECKING:
    from pathlib import Path

WORTH = 2**20  # bytes; a smaller file is as soon made anew
_OVER = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # never waits for who holds a lease
_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


class Spare:
    """At most one directory of such files: so no more is on the disk between two saves than during one."""

    def __init__(self) -> None:
        self._directory: Path | None = None

    def keep(self, directory: Path) -> None:
        """Keep `directory`, which has a temporary's name, in place of the one before. Deletes it where it gains nothing.

        Raises:
            OSError: it could not be deleted, or looked at.
        """
        if _is_worth_keeping(directory):
            self.drop()
            self._directory = directory
        else:
            shutil.rmtree(directory)

    def give_back(self, directory: Path) -> None:
        """Keep what a commit that was given up has taken from here, and written in `directory`. Raises as `keep`."""
        if self._directory is None:
            self.keep(directory)
            return
        with os.scandir(directory) as entries:
            for entry in filter(_is_large, entries):
                os.replace(entry.path, self._directory / entry.name)
        shutil.rmtree(directory)

    def drop(self) -> None:
        """Delete what is left. Raises OSError where that is refused; it is tried again with the next, or by the next start."""
        if self._directory is not None:
            with contextlib.suppress(FileNotFoundError):  # somebody was faster
                shutil.rmtree(self._directory)
            self._directory = None

    def take(self, path: Path, size: int) -> int | None:
        """Move the file of the same name to `path`, to be written over.

        Args:
            path: where nothing is yet.
            size: bytes that will be written; the file has no more than that.

        Returns:
            A descriptor at its beginning; None where there is none to be had, and nothing at `path`.
        """
        if self._directory is None or size < WORTH:
            return None
        source = self._directory / path.name
        try:
            # Not a rename: its new name alone is synced with the new directory, and has to be safe without the old one.
            os.link(source, path, follow_symlinks=False)
        except OSError:
            return None
        os.unlink(source)  # first: from now on nobody finds it who held on to the old directory
        fd = _opened(path, size)
        if fd is None:
            os.unlink(path)
        return fd


def _is_worth_keeping(directory: Path) -> bool:
    """It has large files, they can be written over here, and as much as they take is free besides."""
    with os.scandir(directory) as entries:
        nbytes = sum(entry.stat(follow_symlinks=False).st_size for entry in entries if _is_large(entry))
    if nbytes == 0:
        return False
    fd = os.open(directory, _DIRECTORY)
    try:
        room = os.statvfs(fd)
        return kernel.is_of_one_machine(fd) and nbytes <= room.f_bavail * room.f_frsize
    finally:
        os.close(fd)


def _is_large(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size >= WORTH


def _opened(path: Path, size: int) -> int | None:
    """The file for writing, cut to `size` or less; None where it is not as a new one, somebody else has it, or that cannot be known."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as held:
        fd = os.open(path, _OVER)
        held.callback(os.close, fd)
        found = os.fstat(fd)
        if _is_as_new(found, os.stat(path.parent)) and found.st_nlink == 1 and kernel.nobody_else_has(fd):
            # Whole blocks stay: of one that is written in part the file system would have to read the rest.
            os.ftruncate(fd, min(size, found.st_size) // found.st_blksize * found.st_blksize)
            held.pop_all()
            return fd
    return None


def _is_as_new(found: os.stat_result, directory: os.stat_result) -> bool:
    """A regular file with owner and permissions that one made now, in this new directory, would have."""
    same_owner = (found.st_uid, found.st_gid) == (directory.st_uid, directory.st_gid)
    return stat.S_ISREG(found.st_mode) and same_owner and stat.S_IMODE(found.st_mode) == stat.S_IMODE(directory.st_mode) & 0o666
