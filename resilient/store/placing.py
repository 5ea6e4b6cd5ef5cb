"""The order of a file's tensors in which a disk can read the large ones from where they lie in memory.

It does so where memory and file are at the same place of a block, and a file has no holes. So tensors of one place follow each other, and
between two places come small tensors, which are copied in any case and take the file on to the next place.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BLOCK = 512  # bytes; what disks want addresses to be a multiple of, or less
LARGE = 2**21  # bytes; what is smaller is as soon copied


def in_place(sizes: Sequence[int], places: Sequence[int | None]) -> list[int]:
    """The numbers of the tensors in that order, which is otherwise the given one.

    Args:
        sizes: of each, in bytes.
        places: of each in a block of memory; None for one that may lie anywhere.

    Returns:
        First those to be written in place, with the small ones between them. The file's data has to begin at the first one's place.
    """
    waiting: dict[int, deque[int]] = {}  # by place, those last that end at another one
    between: dict[int, deque[int]] = {}  # by how far they take the file on
    for number in sorted(range(len(sizes)), key=lambda number: sizes[number] % BLOCK != 0):
        place = places[number]
        kind, key = (between, sizes[number] % BLOCK) if place is None else (waiting, place)
        kind.setdefault(key, deque()).append(number)
    order = []
    end = max(waiting, key=lambda place: sum(sizes[number] for number in waiting[place]), default=0)
    while (way := _way(end, waiting, between)) is not None:
        numbers = [between[step].popleft() for step in way]
        numbers.append(waiting[(end + sum(way)) % BLOCK].popleft())
        end = (end + sum(sizes[number] for number in numbers)) % BLOCK
        order += numbers
    taken = set(order)
    return order + [number for number in range(len(sizes)) if number not in taken]


def _way(start: int, waiting: Mapping[int, deque[int]], between: Mapping[int, deque[int]]) -> tuple[int, ...] | None:
    """A short way from `start` to a place where a tensor waits, a step for each small tensor between; None where none is found."""
    ways: dict[int, tuple[int, ...]] = {start: ()}
    reached = deque([start])
    while reached:
        place = reached.popleft()
        if waiting.get(place):
            return ways[place]
        for step, numbers in between.items():
            following = (place + step) % BLOCK
            if following not in ways and len(numbers) > ways[place].count(step):
                ways[following] = (*ways[place], step)
                reached.append(following)
    return None
