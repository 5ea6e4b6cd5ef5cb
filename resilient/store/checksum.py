"""The checksum of a mapped file, at the speed of memory where its content is cached.

Hashing the page cache where it lies takes half the time of copying it out first. But in a mapping, a sector that cannot be read is a
SIGBUS that kills the process, at every restart again. So the kernel is asked to fetch each piece before it is touched, and says no
instead; then the file is read the ordinary way, whose errors have names.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy.typing as npt
import xxhash

_MADV_POPULATE_READ = 22  # since Linux 5.14
_PIECE = 8 * 2**20  # fetched and hashed at a time
_BLOCK = 2**20  # small enough that the hash finds in the processor's cache what read just put there

# Not `mmap.madvise`: that one keeps the interpreter's lock while the disk works.
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def checksum(fd: int, content: npt.NDArray[Any]) -> str:
    """xxh3-128 of a regular file, in hex.

    Args:
        fd: descriptor of the file.
        content: bytes of the whole file, mapped.

    Raises:
        OSError: it cannot be read.
    """
    digest = xxhash.xxh3_128()
    for start in range(0, len(content), _PIECE):
        piece = content[start : start + _PIECE]
        if _madvise(piece.ctypes.data, len(piece), _MADV_POPULATE_READ) != 0:
            return _by_reading(fd)
        digest.update(piece.data)
    return digest.hexdigest()


def _by_reading(fd: int) -> str:
    digest = xxhash.xxh3_128()
    block = memoryview(bytearray(_BLOCK))
    offset = 0
    while count := os.preadv(fd, [block], offset):
        digest.update(block[:count])
        offset += count
    return digest.hexdigest()
