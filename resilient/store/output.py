"""One file written from beginning to end and hashed on the way, past the page cache where the file system allows it.

Through the page cache every byte is copied into fresh pages, which takes more processor time than all the rest of a save; training pays
for that, because its own threads keep all cores busy. In a direct write the disk reads the caller's memory. It wants addresses and
offsets to be multiples of a block: what is not goes through a small buffer of ours that is, in a huge page: one address for the disk
in place of 512.

Hashing and writing go on side by side where the training waits for the save (an emergency, the end), and where the file is so large that
training would have to copy what it still holds: the next piece is always at hand, so that the disk is never without work. The page cache
would be as fast in an emergency, but only from the second file on: an emergency has no second one.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable
from types import TracebackType

import numpy as np
import xxhash

from resilient.store import huge_pages, kernel, placing
from resilient.store.huge_pages import HugePages
from resilient.store.spare import Spare

Buffer = bytes | bytearray | memoryview

DIRECT_FROM = 2**20  # bytes; a smaller file is not worth the calls that switch over and back
_BESIDE_FROM = 2**26  # bytes; in a smaller file what is gained by a second thread is lost by the turns of the two
_BOUNCE = placing.LARGE  # bytes of one buffer: a huge page that fits into a processor's cache, and is hashed and written from there
_AHEAD = 2  # writes handed to the disk at most: one that it works on, and the next
_BEGUN = 2**23  # bytes in the page cache that the disk is told of at a time: it works while the next ones are copied
_CACHED = 2**25  # bytes that are on their way to the disk in the page cache; fewer make the writing wait
_DROPPED = 2**22  # of them are let go at a time


def _never() -> bool:
    return False


def _nothing() -> None:
    pass


@dataclasses.dataclass(frozen=True)
class WriteOptions:
    """How a checkpoint is written. The questions are asked between pieces of the data, and may be answered anew each time.

    Attributes:
        cancelled: whether to give it up.
        awaited: whether somebody waits for it: then hashing and writing go on side by side, which for small files is dearer.
        planned: called once, before anything is written. A tensor that the caller does not hold from then on is let go when it is written.
        reused: what is kept from one file to the next.
    """

    cancelled: Callable[[], bool] = _never
    awaited: Callable[[], bool] = _never
    planned: Callable[[], None] = _nothing
    reused: Reused | None = None


class Output:
    """Context manager for writing to a new file.

    Args:
        fd: descriptor of the file, at its beginning; stays the caller's.
        size: bytes that will come.
        options: see there.
    """

    def __init__(self, fd: int, size: int, options: WriteOptions) -> None:
        self._fd = fd
        self._digest = xxhash.xxh3_128()
        self._written = 0
        self._dropped = 0  # bytes that were given back to the page cache
        self._awaited = options.awaited
        self._large = size >= DIRECT_FROM
        self._beside = size >= _BESIDE_FROM
        self._direct = self._large and _set_direct(fd, on=True)
        self._alignment = kernel.direct_alignment(fd) if self._direct else kernel.Alignment(1, 1)
        self._bounce = options.reused.bounce if options.reused else Bounce(max(1, min(size, _BOUNCE)))
        self._bounce.take()  # what a file that failed has left
        self._disk: concurrent.futures.ThreadPoolExecutor | None = None  # where hashing and writing go on side by side
        self._under_way: deque[concurrent.futures.Future[None]] = deque()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._disk is not None:
            self._disk.shutdown()  # what is queued behind an error is written still, into a file that goes

    @property
    def accepted(self) -> int:
        """Bytes given so far."""
        return self._written + self._bounce.fill

    def write(self, data: Buffer) -> None:
        """Append `data`, which must not change before `finish` has returned.

        Raises:
            OSError: of this write or an earlier one; the file is incomplete.
        """
        rest = memoryview(data)
        while rest:
            to_block = -self._bounce.fill % self._alignment.offset
            enough = len(rest) - to_block > _BOUNCE - self._alignment.offset  # but for the blocks that it shares with its neighbours
            in_place = enough and (_address(rest) + to_block) % self._alignment.memory == 0
            if in_place and not to_block:
                count = len(rest) - len(rest) % self._alignment.offset
                self._put(self._bounce.take(), rest[:count])
            else:
                count = to_block if in_place else min(len(rest), self._bounce.room)
                self._bounce.add(rest[:count])
                if not self._bounce.room:
                    self._put(self._bounce.take())
            rest = rest[count:]

    def finish(self) -> str:
        """Write what is left; the checksum of everything."""
        left = self._bounce.take()
        blocks = len(left) - len(left) % self._alignment.offset
        self._put(left[:blocks])
        if blocks < len(left):
            self._wait()
            self._leave_direct()
            self._put(left[blocks:])
        self._wait()
        return self._digest.hexdigest()

    def _put(self, *pieces: memoryview) -> None:
        """Hand over to the disk in one write, and hash while that works."""
        given = [piece for piece in pieces if piece]
        if given:
            self._to_disk(given)
        for piece in given:
            self._digest.update(piece)

    def _to_disk(self, pieces: list[memoryview]) -> None:
        """Once few enough writes are under way; so the next bounce buffer is free by then."""
        offset, self._written = self._written, self._written + sum(map(len, pieces))
        if self._beside or (self._large and self._awaited()):
            self._disk = self._disk or concurrent.futures.ThreadPoolExecutor(1, "resilient-disk")
            self._wait(_AHEAD - 1)
            self._under_way.append(self._disk.submit(self._write_all, pieces, offset))
        else:
            self._wait()
            self._write_all(pieces, offset)

    def _wait(self, left: int = 0) -> None:
        """Until no more writes than that are under way."""
        while len(self._under_way) > left:
            self._under_way.popleft().result()

    def _write_all(self, pieces: list[memoryview], offset: int) -> None:
        while pieces:
            count = self._write_some(pieces)
            if not self._direct:
                kernel.start_writeback(self._fd, offset, count)
                self._drop(offset + count - _CACHED)
            pieces, offset = _after(pieces, count), offset + count

    def _write_some(self, pieces: list[memoryview]) -> int:
        """Direct writes in one call, because the disk has nothing to do between two."""
        if self._direct:
            try:
                return os.write(self._fd, pieces[0]) if len(pieces) == 1 else os.writev(self._fd, pieces)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._leave_direct()  # a disk with larger blocks than it said, or what is left after a short write
        return os.write(self._fd, pieces[0][:_BEGUN])

    def _drop(self, end: int) -> None:
        """Let go of the pages before `end`, and the next pieces get them: memory that is new to a virtual machine is ten times as slow."""
        if end - self._dropped >= _DROPPED:
            kernel.finish_writeback(self._fd, self._dropped, end - self._dropped)
            with contextlib.suppress(OSError):  # a hint
                os.posix_fadvise(self._fd, self._dropped, end - self._dropped, os.POSIX_FADV_DONTNEED)
            self._dropped = end

    def _leave_direct(self) -> None:
        """The rest of the file goes through the page cache."""
        if self._direct:
            self._direct = False
            _set_direct(self._fd, on=False)


class Bounce:
    """Buffers at the beginning of pages: one is filled while the disk has the others.

    To be kept from one file to the next: the first use of a page costs several times the copying.

    Args:
        size: bytes of each; None for what is usual.
    """

    def __init__(self, size: int | None = None) -> None:
        size = size or _BOUNCE
        room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        count = 1 + _AHEAD
        self._buffers = deque(huge_pages.memory(count * room).reshape(count, room))
        self.fill = 0

    @property
    def room(self) -> int:
        """Bytes that still fit."""
        return len(self._buffers[0]) - self.fill

    def add(self, data: memoryview) -> None:
        """Copy `data` to the end."""
        self._buffers[0][self.fill : self.fill + len(data)] = np.frombuffer(data, np.uint8)
        self.fill += len(data)

    def take(self) -> memoryview:
        """What was added; it stays until as many more were taken as the disk may have."""
        taken = self._buffers[0][: self.fill].data
        if taken:
            self._buffers.rotate(-1)
        self.fill = 0
        return taken


class Reused:
    """What is used again for the next file.

    Attributes:
        bounce: where pieces are gathered.
        huge_pages: moves tensors before they are written.
        spare: files to write over (none, if not given).
    """

    def __init__(self, spare: Spare | None = None) -> None:
        self.bounce = Bounce()
        self.huge_pages = HugePages()
        self.spare = spare or Spare()


def _after(pieces: list[memoryview], count: int) -> list[memoryview]:
    """What is left of them behind that many bytes."""
    while pieces and count >= len(pieces[0]):
        count -= len(pieces[0])
        pieces = pieces[1:]
    return [pieces[0][count:], *pieces[1:]] if pieces else []


def _address(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).__array_interface__["data"][0])


def _set_direct(fd: int, *, on: bool) -> bool:
    """Switch direct writing; whether the file system does what was asked."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    except OSError:
        return False
    return True
