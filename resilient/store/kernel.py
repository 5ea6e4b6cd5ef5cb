"""Linux system calls that Python does not offer. Each has an answer for kernels and file systems without it."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

_SYNC_FILE_RANGE_WRITE = 2
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_NOT_HERE = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

_libc = ctypes.CDLL(None, use_errno=True)


def _function(name: str, *argtypes: Any) -> Any:
    function = getattr(_libc, name, None)
    if function is not None:
        function.argtypes = argtypes
        function.restype = ctypes.c_int
    return function


_fallocate = _function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_sync_file_range = _function("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_renameat2 = _function("renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


def allocate(fd: int, size: int) -> None:
    """Reserves `size` bytes, so that a full disk says so before the first byte is written; does nothing where that is not offered.

    Not `os.posix_fallocate`: where the file system cannot, the C library imitates it by writing into every block.
    """
    if _fallocate is None or size == 0:
        return
    while _fallocate(fd, 0, 0, size) != 0:
        number = ctypes.get_errno()
        if number in _NOT_HERE:
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Hints that the range may go to the disk now, so that the fsync at the end finds little left to do.

    Its result is ignored: only fsync decides. With this flag alone the call neither waits nor takes an error away from that fsync.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, size, _SYNC_FILE_RANGE_WRITE)


def exchange(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> bool:
    """Swaps two names in one atomic step; False where the kernel or the file system cannot."""
    if _renameat2 is None:
        return False
    if _renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number), os.fspath(first), None, os.fspath(second))
