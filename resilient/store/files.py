"""Durable writing: when a function here returns, what it wrote survives a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from resilient.manifest import FileEntry
from resilient.store import kernel
from resilient.store.output import Output, WriteOptions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from resilient.store.output import Buffer

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_CHEAPLY = WriteOptions()
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def write_file(path: Path, size: int, chunks: Iterable[Buffer], options: WriteOptions = _CHEAPLY) -> FileEntry:
    """Writes a file of `size` bytes from `chunks` in one pass, hashing on the way, and fsyncs it.

    Raises:
        OSError: the file is then incomplete and must be thrown away. It is never fsynced a second time: after a failed fsync the
            kernel may have dropped the data, and the next fsync would say that all is well.
    """
    fd = options.reused.spare.take(path, size) if options.reused else None
    if fd is None:
        fd = os.open(path, _CREATE, 0o666)  # the umask decides, as for any file of the user
    try:
        entry = _fill(fd, size, chunks, options)
        os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one that tells
            os.close(fd)
        raise
    os.close(fd)  # may report what fsync could not, on network file systems
    return entry


def _fill(fd: int, size: int, chunks: Iterable[Buffer], options: WriteOptions) -> FileEntry:
    kernel.allocate(fd, size)
    with Output(fd, size, options) as output:
        for chunk in chunks:
            output.write(chunk)
        if output.accepted != size:
            raise OSError(errno.EIO, f"{output.accepted} bytes were written where {size} were announced")
        return FileEntry(size, output.finish())


def sync_directory(path: Path) -> None:
    """Makes the directory's entries durable: a rename or mkdir is not, before this."""
    fd = os.open(path, _DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a directory and order their metadata themselves.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)


def make_directories(path: Path) -> None:
    """Creates `path` and what is missing above it, each durable in its parent; an existing directory is fine."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        if path.parent == path:
            break
        path = path.parent
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process may be creating the same one
            directory.mkdir()
        sync_directory(directory.parent)
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(directory))
