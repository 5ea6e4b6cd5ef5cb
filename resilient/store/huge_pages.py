"""The state's memory in huge pages: a disk that reads 200 MB of it gets 100 addresses in place of 50,000.

That takes a fifth of the processor time of a direct write, and training's own pass over the state gains by it too. Few programs have it by
themselves: most distributions give huge pages only to who asks for them, and neither TensorFlow nor the C library does.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from resilient.store import kernel

_LARGEST_PAGE = 2**23  # bytes; kernels with ordinary pages of 64 KB have huge ones of 512 MB, in which hardly a tensor lies
_FRESH = 2**25  # bytes; glibc has larger blocks from the kernel anew each time, as ordinary memory: to move that costs what it gains


class HugePages:
    """Moves tensors into them, each place once: an allocator gives the same places again, and the state comes back to them."""

    def __init__(self) -> None:
        self._size = kernel.huge_page_size() or 0
        self._known: set[int] = set()  # numbers of pages

    def use(self, array: npt.NDArray[Any]) -> None:
        """For that one; what lies beside it in the first and the last page comes along."""
        if not 0 < self._size <= min(array.nbytes, _LARGEST_PAGE) or array.nbytes > _FRESH or not array.flags.c_contiguous:
            return
        address = int(array.__array_interface__["data"][0])
        first, end = address // self._size, -(-(address + array.nbytes) // self._size)
        pages = range(first, end)
        if not self._known.issuperset(pages):
            kernel.use_huge_pages(first * self._size, len(pages) * self._size)
            self._known.update(pages)
