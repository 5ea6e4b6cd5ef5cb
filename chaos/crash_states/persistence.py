"""Three models of what is left after a crash, from the kindest to the harshest.

`process`: the process dies and the kernel lives; everything it had done is there, the write under way in part.
`ordered`: the power goes, on a journaling file system. Names changed in the order of the calls, and any sync has made all earlier changes
of names durable. Content that was not synced is lost in any blocks of 4 KiB; so is a size that was not.
`weak`: the power goes, and POSIX is all there is. Of the changes of names that no sync of their own directory has saved, any are lost.
A block that is lost holds what it held before: the old content, zeros, or what some other file once left on the disk.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import xxhash

from chaos.crash_states.recording import Entry, Recording, Resize, Sync, Write
from chaos.samples import BLOCK

MODELS = ("process", "ordered", "weak")
STALE = 0xA5  # of what another file left

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Breadth:
    """How many states are built where there are too many to build all.

    Attributes:
        exhaustive: pending changes up to which every subset is tried.
        samples: subsets drawn beyond that.
        pairs: combinations of names and contents up to which each is tried.
    """

    exhaustive: int = 5
    samples: int = 24
    pairs: int = 64


@dataclasses.dataclass(frozen=True)
class Kept:
    """What is left of a file's changes that were not synced.

    Attributes:
        blocks: those that reached the disk; None: all of it did.
        resized: whether its new size did; a block beyond the old size makes it larger in any case.
        fill: the byte that stands where nothing was written.
    """

    blocks: frozenset[int] | None
    resized: bool = True
    fill: int = 0


EVERYTHING = Kept(None)


@dataclasses.dataclass(frozen=True)
class Node:
    """One path of a state; `content` is None for a directory. Nodes of equal `inode` are links of one file."""

    path: str
    inode: int
    content: bytes | None


class Cut:
    """The moment right after the first `length` events of a recording, and what can be known of it once for all its states."""

    def __init__(self, recording: Recording, length: int) -> None:
        self.recording = recording
        self.length = length
        self.events = recording.events[:length]
        self.following = recording.events[length] if length < len(recording.events) else None
        self.names = [(at, event) for at, event in enumerate(self.events) if isinstance(event, Entry)]
        syncs: dict[int, list[tuple[int, bool]]] = {}
        changes: dict[int, list[tuple[int, Write | Resize]]] = {}
        for at, event in enumerate(self.events):
            if isinstance(event, Sync):
                syncs.setdefault(event.inode, []).append((at, event.lost))
            elif isinstance(event, Write | Resize):
                changes.setdefault(event.inode, []).append((at, event))
        self.synced = {inode: max((at for at, lost in found if not lost), default=-1) for inode, found in syncs.items()}
        self.pending: dict[int, list[Write | Resize]] = {}
        self._contents = {inode: self._split(inode, found, syncs.get(inode, [])) for inode, found in changes.items()}

    def _split(self, inode: int, changes: list[tuple[int, Write | Resize]], syncs: list[tuple[int, bool]]) -> tuple[bytearray, bytearray]:
        """Content that a sync has saved, and content as the kernel has it.

        What came before a failed sync may be gone though a later one succeeds: the kernel has marked it clean.
        """
        durable: list[Write | Resize] = []
        pending: list[Write | Resize] = []
        for at, change in changes:
            lost = next((lost for sync, lost in syncs if sync > at), True)
            (pending if lost else durable).append(change)
        if pending:
            self.pending[inode] = pending
        before = _applied(self.recording.baseline.content.get(inode, b""), durable)
        return before, _applied(before, pending)

    def content(self, inode: int, kept: Kept) -> bytearray:
        """A file's content where `kept` is left of what no sync has saved."""
        base = self.recording.baseline.content.get(inode, b"")
        before, after = self._contents.get(inode) or (bytearray(base), bytearray(base))
        return after if kept.blocks is None else _mixed(before, after, kept)


@dataclasses.dataclass(frozen=True)
class State:
    """What a crash may leave: the changes of names at the positions `names`, and of each file what `kept` says (all, if nothing)."""

    cut: Cut
    names: frozenset[int]
    kept: Mapping[int, Kept]
    torn: int | None = None  # bytes of the following write that were done when the process died

    def nodes(self) -> list[Node]:
        """The tree as it is found, parents before what is in them."""
        tree = {directory: dict(entries) for directory, entries in self.cut.recording.baseline.tree.items()}
        for position, event in self.cut.names:
            if position in self.names:
                for directory, name, inode in event.changes:
                    entries = tree.setdefault(directory, {})
                    entries.pop(name, None) if inode is None else entries.update({name: inode})
        return list(self._below(tree, 0, "", frozenset()))

    def _below(self, tree: Mapping[int, Mapping[str, int]], directory: int, path: str, above: frozenset[int]) -> Iterator[Node]:
        for name, inode in sorted(tree.get(directory, {}).items()):
            here = f"{path}{name}"
            if inode not in self.cut.recording.directories:
                yield Node(here, inode, bytes(self._content(inode)))
            elif inode not in above:  # a directory whose two names both survived is shown under both, but never within itself
                yield Node(here, inode, None)
                yield from self._below(tree, inode, f"{here}/", above | {inode})

    def _content(self, inode: int) -> bytearray:
        content = self.cut.content(inode, self.kept.get(inode, EVERYTHING))
        following = self.cut.following
        if self.torn is not None and isinstance(following, Write) and following.inode == inode:
            return _applied(content, [dataclasses.replace(following, data=following.data[: self.torn])])
        return content


def key(nodes: Sequence[Node]) -> str:
    """The same for the same tree, and for no other one."""
    digest = xxhash.xxh3_128()
    for node in nodes:
        content = b"" if node.content is None else xxhash.xxh3_128_digest(node.content)
        digest.update(f"{len(node.path)}:{node.path}:{node.content is None}".encode() + content)
    return digest.hexdigest()


def _applied(content: bytes | bytearray, changes: Iterable[Write | Resize]) -> bytearray:
    held = bytearray(content)
    for change in changes:
        if isinstance(change, Resize):
            del held[change.size :]
            held.extend(bytes(change.size - len(held)))
        else:
            end = change.offset + len(change.data)
            held.extend(bytes(max(0, end - len(held))))
            held[change.offset : end] = change.data
    return held


def _mixed(before: bytearray, after: bytearray, kept: Kept) -> bytearray:
    """Blocks of the new content among those of the old."""
    size = len(after) if kept.resized else len(before)
    mixed = before[:size] + bytes([kept.fill]) * (size - len(before))
    for block in sorted(kept.blocks or ()):
        start = block * BLOCK
        part = after[start : start + BLOCK]
        mixed.extend(bytes([kept.fill]) * max(0, start + len(part) - len(mixed)))
        mixed[start : start + len(part)] = part
    return mixed


def states(cut: Cut, model: str, chance: random.Random, breadth: Breadth) -> Iterator[State]:
    """What the model allows a crash at this moment to leave."""
    if model == "process":
        yield from _after_death(cut)
        return
    fixed, choices = _ordered(cut) if model == "ordered" else _weak(cut, chance, breadth)
    contents = list(_contents(cut, chance, breadth))
    for index, chosen in enumerate(choices):
        # Of too many combinations a diagonal: each choice of names is met, with both extremes of the contents and one between.
        few = len(choices) * len(contents) <= breadth.pairs
        for kept in contents if few else [contents[index % len(contents)], contents[0], contents[-1]]:
            yield State(cut, frozenset(fixed | chosen), kept)


def _after_death(cut: Cut) -> Iterator[State]:
    names = frozenset(at for at, _ in cut.names)
    yield State(cut, names, {})
    if isinstance(cut.following, Write):
        size = len(cut.following.data)
        parts = {1, size // 2, size // 2 // BLOCK * BLOCK, size - 1} - {0, size}
        yield from (State(cut, names, {}, torn=part) for part in sorted(parts))


def _ordered(cut: Cut) -> tuple[set[int], list[set[int]]]:
    last = max(cut.synced.values(), default=-1)
    pending = [at for at, _ in cut.names if at > last]
    return {at for at, _ in cut.names if at < last}, [set(pending[:length]) for length in range(len(pending) + 1)]


def _weak(cut: Cut, chance: random.Random, breadth: Breadth) -> tuple[set[int], list[set[int]]]:
    fixed = {at for at, event in cut.names if all(cut.synced.get(directory, -1) > at for directory in event.directories)}
    return fixed, list(subsets([at for at, _ in cut.names if at not in fixed], chance, breadth))


def subsets(items: Sequence[_T], chance: random.Random, breadth: Breadth) -> Iterator[set[_T]]:
    """Every subset of a few; of many: the prefixes (none and all among them), all but one each, and a sample."""
    if len(items) <= breadth.exhaustive:
        yield from (set(chosen) for size in range(len(items) + 1) for chosen in itertools.combinations(items, size))
        return
    yield from (set(items[:length]) for length in range(len(items) + 1))
    yield from (set(items) - {item} for item in items)
    yield from ({item for item in items if chance.random() < 0.5} for _ in range(breadth.samples))


def _contents(cut: Cut, chance: random.Random, breadth: Breadth) -> Iterator[dict[int, Kept]]:
    """Choices of what is left of the files: first nothing new, last everything."""
    options = {inode: _options(changes, chance) for inode, changes in sorted(cut.pending.items())}
    yield {inode: some[0] for inode, some in options.items()}
    if options:
        count = math.prod(map(len, options.values()))
        drawn: Iterable[tuple[Kept, ...]] = (
            itertools.islice(itertools.product(*options.values()), 1, count - 1)
            if count <= breadth.pairs
            else (tuple(chance.choice(some) for some in options.values()) for _ in range(breadth.samples))
        )
        yield from (dict(zip(options, chosen, strict=True)) for chosen in drawn)
        yield dict.fromkeys(options, EVERYTHING)


def _options(changes: Sequence[Write | Resize], chance: random.Random) -> list[Kept]:
    """What may be left of one file's changes: nothing, its size over zeros or over old blocks, some blocks, all."""
    nothing = frozenset[int]()
    blocks = sorted({block for change in changes if isinstance(change, Write) for block in _blocks(change)})
    found = [Kept(nothing, resized=False), Kept(nothing), Kept(nothing, fill=STALE)]
    if len(blocks) > 1:
        half = frozenset(blocks[: len(blocks) // 2])
        some = frozenset(block for block in blocks if chance.random() < 0.5)
        one = frozenset(blocks) - {chance.choice(blocks)}
        found += [Kept(half), Kept(half, resized=False), Kept(some, fill=STALE), Kept(one), Kept(frozenset(blocks[:-1]), fill=STALE)]
    return [*found, EVERYTHING]


def _blocks(change: Write) -> range:
    return range(change.offset // BLOCK, (change.offset + max(1, len(change.data)) - 1) // BLOCK + 1)
