"""The state's memory in huge pages: a disk that reads 200 MB of it gets 100 addresses in place of 50,000.

A direct write then takes less processor time from training (`python -m benchmarks.huge_pages`). Few programs have it by themselves: many
distributions give huge pages only to who asks for them, and neither TensorFlow nor, by itself, the C library does.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from resilient.store import kernel

_FRESH = 2**25  # bytes; glibc has larger blocks from the kernel anew each time, as ordinary memory: to move that costs what it gains
_RULED_OUT = "glibc.malloc.hugetlb=0"
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class HugePages:
    """Moves tensors into them, each place once: an allocator gives the same places again, and the state comes back to them.

    Not where the machine's administrator or the program's user, in GLIBC_TUNABLES, has ruled them out.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._size = _usable_size(environment)
        self._known: set[int] = set()  # numbers of pages

    def worth_moving(self, array: npt.NDArray[Any]) -> bool:
        """Whether the array is of a size that gains by it."""
        return 0 < self._size <= array.nbytes <= _FRESH and array.flags.c_contiguous

    def move(self, array: npt.NDArray[Any]) -> None:
        """Those of its pages that hold nothing else."""
        if not self.worth_moving(array):
            return
        address = int(array.__array_interface__["data"][0])
        pages = range(-(-address // self._size), (address + array.nbytes) // self._size)
        if pages and not self._known.issuperset(pages):
            kernel.move_into_huge_pages(pages.start * self._size, len(pages) * self._size)
            self._known.update(pages)


def memory(size: int, environment: Mapping[str, str] = os.environ) -> npt.NDArray[np.uint8]:
    """That many bytes at the beginning of a page, huge ones if they are as large as one and nobody has ruled them out."""
    huge = _usable_size(environment)
    if not 0 < huge <= size:
        return np.frombuffer(mmap.mmap(-1, size, flags=_PRIVATE), np.uint8)
    mapping = mmap.mmap(-1, -(-size // huge) * huge + huge, flags=_PRIVATE)
    with contextlib.suppress(OSError):  # a hint
        mapping.madvise(mmap.MADV_HUGEPAGE)
    content = np.frombuffer(mapping, np.uint8)
    start = -int(content.__array_interface__["data"][0]) % huge
    return content[start : start + size]


def _usable_size(environment: Mapping[str, str]) -> int:
    """Bytes of a huge page, 0 where there are none or the user has ruled them out."""
    ruled_out = _RULED_OUT in environment.get("GLIBC_TUNABLES", "").split(":")
    return 0 if ruled_out else kernel.huge_page_size() or 0
