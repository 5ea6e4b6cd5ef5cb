"""The memory that a training shares with its supervisor and shows to observers: what lies where in it, and how it is made."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import struct
import tempfile
from typing import Any

from resilient.signs import Orders

NAME = "resilient-heartbeat"  # as /proc shows it
MAGIC = b"resil\x00\x00\x02"  # the last byte is the version
SIZE = 1 << 17
BEAT = struct.Struct("@qqqq")
SAVES = struct.Struct("@qqq")
_TEXT = 24 << 10
_LINE = 1 << 10


class Record:
    """One record of the page: two copies of `size` bytes at `start`, and the count of writes, which is number `index` of `counts`."""

    def __init__(self, page: mmap.mmap, counts: memoryview, index: int, start: int, size: int) -> None:
        self._page, self._counts, self._index, self._start, self._size = page, counts, index, start, size
        self._count = counts[index]

    def write(self, layout: struct.Struct, *values: int) -> None:
        """Into the copy that nobody reads now."""
        count = self._count = self._count + 1
        layout.pack_into(self._page, self._start + self._size * (count & 1), *values)
        self._counts[self._index] = count  # one store; pack_into would write zeros first, and a death could come between

    def write_json(self, document: Any) -> None:
        """A document that is too long is cut, and then is none."""
        text = json.dumps(document).encode("ascii")[: self._size - 1]
        self.write(struct.Struct(f"{len(text) + 1}s"), text)  # type: ignore[arg-type]  # a zero byte ends it

    def read(self) -> tuple[int, bytes]:
        """The count, and the copy that was whole at that count."""
        while True:
            count = self._counts[self._index]
            start = self._start + self._size * (count & 1)
            data = self._page[start : start + self._size]
            if count == self._counts[self._index]:
                return count, data

    def read_json(self) -> Any:
        """None where nothing readable was written."""
        try:
            return json.loads(self.read()[1].partition(b"\0")[0])
        except (ValueError, RecursionError):
            return None


class Records:
    """Where everything lies in a page."""

    def __init__(self, page: mmap.mmap) -> None:
        self._whole = memoryview(page)
        self.places = self._whole[8:64].cast("q")
        self.time_of_beat = self._whole[128:136].cast("q")  # monotonic nanoseconds
        self.beat = Record(page, self.places, 0, 64, BEAT.size)
        self.saves = Record(page, self.places, 1, 192, SAVES.size)
        self.announcement = Record(page, self.places, 2, 4096, _TEXT)
        self._orders = Record(page, self.places, 3, 4096 + 2 * _TEXT, _TEXT)
        self.eviction = Record(page, self.places, 4, 1024, _LINE)

    def release(self) -> None:
        """Let go of the page, so that it can be closed."""
        self.places.release()
        self.time_of_beat.release()
        self._whole.release()

    def write_orders(self, orders: Orders) -> None:
        """For a program that has not begun to train."""
        self._orders.write_json(dataclasses.asdict(orders))

    def read_orders(self) -> Orders:
        """Those that were written, or none."""
        found = self._orders.read_json() or {}
        try:
            return Orders(**{**found, "skip": tuple((epoch, batch) for epoch, batch in found.get("skip", ()))})
        except (TypeError, ValueError, AttributeError):  # not what a supervisor writes: as if it had asked for nothing
            return Orders()


def new_page() -> int:
    """Memory with a name in /proc, so that others find it."""
    try:
        descriptor = os.memfd_create(NAME)
    except (AttributeError, OSError):  # some builds of Python lack it, and a system may forbid it
        descriptor, path = tempfile.mkstemp(prefix=NAME)
        os.unlink(path)
    os.ftruncate(descriptor, SIZE)
    os.pwrite(descriptor, MAGIC, 0)
    return descriptor


def mapped(descriptor: int) -> mmap.mmap:
    """The supervisor's page, or one of our own."""
    if descriptor >= 0:
        return mmap.mmap(descriptor, SIZE)
    own = -1
    with contextlib.suppress(OSError):  # then nobody else finds it, which is no reason not to train
        own = new_page()
    try:
        page = mmap.mmap(own, SIZE)  # which keeps a descriptor of its own
    finally:
        if own >= 0:
            os.close(own)
    page[: len(MAGIC)] = MAGIC
    return page
