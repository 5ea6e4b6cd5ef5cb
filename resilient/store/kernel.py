"""Linux system calls that Python does not offer. Each has an answer for kernels and file systems without it."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import fcntl
import mmap
import os
import signal
import struct
from pathlib import Path
from typing import Any

_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE_WRITE_AND_WAIT = 7
_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000  # since Linux 6.1
_STATX_BYTES, _STATX_DIO_AT = 256, 152  # of the structure, and where in it the two alignments are
_MADV_COLLAPSE = 25  # since Linux 6.1
_STATFS_BYTES = 256
_ONE_MACHINE = {0xEF53, 0x58465342}  # ext2 to ext4, XFS: this kernel knows of all open files, but those of NFS clients of version 3
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
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
_fstatfs = _function("fstatfs", ctypes.c_int, ctypes.c_void_p)
_statx = _function("statx", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
_madvise = _function("madvise", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
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


@dataclasses.dataclass(frozen=True)
class Alignment:
    """What a direct write has to be a multiple of, in bytes: the address in `memory`, and `offset` and length in the file."""

    memory: int
    offset: int


def direct_alignment(fd: int) -> Alignment:
    """What the file system says about this file, a page where it says nothing; that is enough for every disk we know of."""
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if _statx is not None and _statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, answer) == 0:
        told = struct.unpack_from("=I", answer)[0] & _STATX_DIOALIGN
        memory, offset = struct.unpack_from("=II", answer, _STATX_DIO_AT)
        if told and memory and offset:
            return Alignment(memory, offset)
    return Alignment(mmap.PAGESIZE, mmap.PAGESIZE)


def is_of_one_machine(fd: int) -> bool:
    """Whether the file system is one that only this machine uses, so that its kernel can say who has a file open."""
    kind = ctypes.create_string_buffer(_STATFS_BYTES)
    return _fstatfs is not None and _fstatfs(fd, kind) == 0 and struct.unpack_from("@l", kind)[0] in _ONE_MACHINE


def nobody_else_has(fd: int) -> bool:
    """Whether no other descriptor of this file, and no mapping, exists in any process; False where that cannot be known.

    A write lease is given for nothing that somebody else has open (fcntl(2), F_SETLEASE). On file systems that other machines use as well
    (see `is_of_one_machine`) the kernel answers for this one alone.
    """
    try:
        # If somebody opens it right now, SIGIO would end the process; SIGURG is ignored by who does not ask for it.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Hints that the range may go to the disk now, so that the fsync at the end finds little left to do.

    Its result is ignored: only fsync decides. With this flag alone the call neither waits nor takes an error away from that fsync.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, size, _SYNC_FILE_RANGE_WRITE)


def finish_writeback(fd: int, offset: int, size: int) -> None:
    """Waits until the range is with the disk.

    Raises:
        OSError: the disk has refused some of it. That takes the error away from fsync, which would then say that all is well.
    """
    if _sync_file_range is not None and _sync_file_range(fd, offset, size, _SYNC_FILE_RANGE_WRITE_AND_WAIT) != 0:
        number = ctypes.get_errno()
        if number != errno.ENOSYS:
            raise OSError(number, os.strerror(number))


def huge_page_size() -> int | None:
    """Bytes of a huge page, None where there are none or the administrator has switched them off for everybody."""
    try:
        return None if "[never]" in (_HUGE_PAGES / "enabled").read_text() else int((_HUGE_PAGES / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return None


def move_into_huge_pages(address: int, size: int) -> None:
    """Address and size are multiples of a huge page; the content stays, whoever uses it meanwhile.

    A hint: older kernels, memory for which somebody has ruled it out (MADV_NOHUGEPAGE) and a lack of free huge pages leave all as it is.
    """
    if _madvise is not None:
        _madvise(address, size, _MADV_COLLAPSE)


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
