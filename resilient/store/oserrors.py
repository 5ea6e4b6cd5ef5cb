"""What the operating system refused, as one sentence with a remedy."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from resilient.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_REASONS = {
    errno.ENOSPC: ("the disk is full", "Free space there, keep fewer checkpoints, or name a directory on another disk"),
    errno.EDQUOT: ("the disk quota is used up", "Free space there, ask for a larger quota, or name a directory elsewhere"),
    errno.EFBIG: ("the file would be larger than allowed here", "Raise the file size limit (ulimit -f), or name a directory elsewhere"),
    errno.EROFS: ("the file system is read-only", "Mount it writable, or name another directory"),
    errno.EACCES: ("permission is denied", "Give this user the right to read and write there, or name another directory"),
    errno.EPERM: ("permission is denied", "Give this user the right to read and write there, or name another directory"),
    errno.ENOTDIR: ("a file is in the way where a directory is needed", "Move the file away, or name another directory"),
    errno.EEXIST: ("a file is in the way where a directory is needed", "Move the file away, or name another directory"),
    errno.EISDIR: ("a directory is in the way where a file is needed", "Move it away, or name another directory"),
    errno.ELOOP: ("a symbolic link is in the way", "Replace the link by what it points to, or name another directory"),
    errno.EIO: ("the disk reports an input/output error", "Check the disk and the kernel's log, and name a directory on another disk"),
    errno.ENAMETOOLONG: ("the path is too long", "Name a directory with a shorter path"),
    errno.ENOENT: ("a part of the path does not exist", "Check that the disk is mounted and that nobody removed the directory"),
    errno.ESTALE: ("the network file system lost the file", "Check the file server and mount it again"),
    errno.ENODEV: ("the device is gone", "Check that the disk is mounted"),
    errno.ENXIO: ("the device is gone", "Check that the disk is mounted"),
    errno.EMFILE: ("this process has too many files open", "Raise the limit (ulimit -n), or close files"),
    errno.ENFILE: ("the machine has too many files open", "Close files, or raise fs.file-max"),
    errno.ENOMEM: ("there is not enough memory", "Free memory, or save a smaller state"),
    errno.EXDEV: ("it would have to cross file systems", "Keep the whole run directory on one file system"),
    errno.ENOLCK: ("the file system gives no locks", "Name a directory on a local disk, or start the lock service of the file server"),
    errno.EBUSY: ("it is in use", "Unmount or close what uses it"),
    errno.EMLINK: ("the directory holds too many entries", "Keep fewer checkpoints"),
}

_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP}


def storage_error(error: OSError, action: str, path: str | os.PathLike[str]) -> StorageError:
    """`StorageError` that says what failed (`action`, an infinitive), where, why, and what to do."""
    number = error.errno
    default = (error.strerror or str(error), "Check the disk, or name another directory")
    why, remedy = _REASONS.get(number, default) if number is not None else default
    if number in _IN_THE_WAY and isinstance(error.filename, str) and error.filename != os.fspath(path):
        why = f"{why} ({error.filename})"
    return StorageError(f"Could not {action} at {os.fspath(path)}: {why}. {remedy}.")


@contextlib.contextmanager
def storage_errors(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Raises the `OSError` of the block as a `StorageError`, with the original as its cause."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, action, path) from error
