"""The store under power cuts: what it asked the kernel to do is recorded, and every tree is built that a cut could have left of it.

Two models of what survives. `ordered` (ext4, xfs, btrfs): names change in the order of the calls, and any sync makes all earlier
changes of names durable; content that was not synced may be lost in any part. `weak` (bare POSIX): of the changes of names that
were not synced by their own directory, any subset survives. The oracle is the store itself: it must find the last acknowledged state
or a newer one.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from store_samples import FROZEN, commit, is_sample, leftovers, manifest, prepared, reports, tensors

from resilient.keep import Keep
from resilient.store import Store, kernel
from resilient.store.files import sync_directory

EXHAUSTIVE = 5  # pending operations up to which every subset is tried
SAMPLES = 24  # subsets tried beyond


@dataclasses.dataclass(frozen=True)
class Write:
    inode: int
    offset: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class Entry:
    """One atomic change of directory entries: (directory, name, inode or None) each."""

    changes: tuple[tuple[int, str, int | None], ...]

    @property
    def directories(self):
        return {directory for directory, _, _ in self.changes}


@dataclasses.dataclass(frozen=True)
class Sync:
    inode: int


@dataclasses.dataclass(frozen=True)
class Ack:
    kind: str
    sequence: int


class Recorder:
    """Notes what goes through `os` below a base directory, in terms of inodes of its own."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.trace: list[object] = []
        self.tree: dict[int, dict[str, int]] = {0: {}}  # directory -> name -> inode; 0 is the base, and durable
        self.descriptors: dict[int, int] = {}
        self.offsets: dict[int, int] = {}
        self.numbers = itertools.count(1)

    def find(self, path, dir_fd=None) -> tuple[int, str]:
        """Directory and name of a path."""
        path = Path(os.fsdecode(path))
        if dir_fd is not None:
            return self.descriptors[dir_fd], path.name
        directory = 0
        parts = path.relative_to(self.base).parts
        for part in parts[:-1]:
            directory = self.tree[directory][part]
        return directory, parts[-1] if parts else "."

    def inode(self, path, dir_fd=None) -> int | None:
        directory, name = self.find(path, dir_fd)
        return directory if name == "." else self.tree[directory].get(name)

    def change(self, *changes: tuple[int, str, int | None]) -> None:
        for directory, name, inode in changes:
            if inode is None:
                self.tree[directory].pop(name)
            else:
                self.tree[directory][name] = inode
        self.trace.append(Entry(changes))

    def rename(self, source, target) -> None:
        (old, name), (new, new_name) = self.find(source), self.find(target)
        self.change((new, new_name, self.tree[old][name]), (old, name, None))

    def exchange(self, first, second) -> None:
        (left, name), (right, other) = self.find(first), self.find(second)
        self.change((left, name, self.tree[right][other]), (right, other, self.tree[left][name]))

    def create(self, path, dir_fd=None, directory=False) -> int:
        inode = next(self.numbers)
        if directory:
            self.tree[inode] = {}
        self.change((*self.find(path, dir_fd), inode))
        return inode

    def install(self, patch) -> None:
        real = {name: getattr(os, name) for name in ("open", "close", "write", "fsync", "link", "mkdir", "rename", "unlink", "rmdir")}
        real_exchange = kernel.exchange

        def opened(path, flags, mode=0o777, *, dir_fd=None):
            fd = real["open"](path, flags, mode, dir_fd=dir_fd)
            inode = self.inode(path, dir_fd)
            self.descriptors[fd] = self.create(path, dir_fd) if inode is None else inode
            self.offsets[fd] = 0
            return fd

        def written(fd, data):
            count = real["write"](fd, data)
            self.trace.append(Write(self.descriptors[fd], self.offsets[fd], bytes(data[:count])))
            self.offsets[fd] += count
            return count

        def linked(source, target, *, follow_symlinks=True):
            real["link"](source, target, follow_symlinks=follow_symlinks)
            self.change((*self.find(target), self.inode(source)))

        def made(path, mode=0o777):
            real["mkdir"](path, mode)
            self.create(path, directory=True)

        def removed(name):
            def remove(path, *, dir_fd=None):
                real[name](path, dir_fd=dir_fd)
                self.change((*self.find(path, dir_fd), None))

            return remove

        def exchanged(first, second):
            done = real_exchange(first, second)
            if done:
                self.exchange(first, second)
            return done

        patch.setattr(os, "open", opened)
        patch.setattr(os, "write", written)
        patch.setattr(os, "fsync", lambda fd: (real["fsync"](fd), self.trace.append(Sync(self.descriptors[fd]))))
        patch.setattr(os, "link", linked)
        patch.setattr(os, "mkdir", made)
        patch.setattr(os, "rename", lambda source, target: (real["rename"](source, target), self.rename(source, target)))
        patch.setattr(os, "unlink", removed("unlink"))
        patch.setattr(os, "rmdir", removed("rmdir"))
        patch.setattr(kernel, "exchange", exchanged)


# -- what a cut can leave ------------------------------------------------------------------------------------------------------------


def subsets(items, rng):
    """Every subset of a few; of many: all, none, the prefixes, each but one, and a sample."""
    items = list(items)
    if len(items) <= EXHAUSTIVE:
        yield from (set(chosen) for size in range(len(items) + 1) for chosen in itertools.combinations(items, size))
        return
    yield from (set(items[:length]) for length in range(len(items) + 1))
    yield from (set(items) - {item} for item in items)
    yield from ({item for item in items if rng.random() < 0.5} for _ in range(SAMPLES))


def survivors(trace, model, rng):
    """Sets of positions in `trace`, the calls until the cut, that may have survived it."""
    syncs = [(position, call.inode) for position, call in enumerate(trace) if isinstance(call, Sync)]
    names = [position for position, call in enumerate(trace) if isinstance(call, Entry)]
    data = [position for position, call in enumerate(trace) if isinstance(call, Write)]
    durable_data = {position for position in data if any(at > position and inode == trace[position].inode for at, inode in syncs)}
    if model == "ordered":
        last = max((at for at, _ in syncs), default=-1)
        fixed = {position for position in names if position < last}
        pending = [position for position in names if position > last]
        choices = [set(pending[:length]) for length in range(len(pending) + 1)]
    else:
        fixed = {
            position
            for position in names
            if all(any(at > position and inode == directory for at, inode in syncs) for directory in trace[position].directories)
        }
        choices = list(subsets([position for position in names if position not in fixed], rng))
    lost = list(subsets([position for position in data if position not in durable_data], rng))
    for index, chosen in enumerate(choices):
        # Of the combinations of many names and many data, a diagonal: each choice is met, with each extreme of the other.
        for kept in lost if len(choices) * len(lost) <= 64 else [lost[index % len(lost)], lost[0], lost[-1]]:
            yield fixed | durable_data | chosen | kept


def remains(trace, survived):
    """The tree that is left: path -> content (None for a directory)."""
    tree: dict[int, dict[str, int]] = {0: {}}
    content: dict[int, bytearray] = {}
    for position, call in enumerate(trace):
        if isinstance(call, Entry) and position in survived:
            for directory, name, inode in call.changes:
                entries = tree.setdefault(directory, {})
                entries.pop(name, None) if inode is None else entries.update({name: inode})
        elif isinstance(call, Write):
            held = content.setdefault(call.inode, bytearray())
            held.extend(b"\0" * (call.offset + len(call.data) - len(held)))  # lost content reads as zeros
            if position in survived:
                held[call.offset : call.offset + len(call.data)] = call.data
    return tree, content


def build(place: Path, trace, survived, directories) -> tuple:
    """Builds the tree on disk; returns what tells two trees apart."""
    tree, content = remains(trace, survived)
    seen = []

    def fill(inode: int, path: Path) -> None:
        for name, child in sorted(tree.get(inode, {}).items()):
            if child in directories:
                seen.append((str(path / name), None))
                fill(child, path / name)
            else:
                seen.append((str(path / name), bytes(content.get(child, b""))))

    fill(0, place)
    return tuple(seen)


def holds(trees, acks) -> bool:
    """Whether the store finds, in that tree, the last acknowledged states or newer ones, whole, and cleans up."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as place:
        for path, data in trees:
            target = Path(place) / Path(path).relative_to("/")
            target.mkdir(parents=True, exist_ok=True) if data is None else target.write_bytes(data)
        store = Store(Path(place) / "run")
        try:
            store.prepare()
            seen, report = reports()
            latest, final = store.latest(report), store.load_final()
            if seen or store.verify() or leftovers(Path(place)):
                return False
        except Exception:  # noqa: BLE001 (whatever it is, the run cannot go on)
            return False
        found = {"commit": latest, "final": final}
        return all(one is None or is_sample(one) for one in found.values()) and all(
            found[kind] is not None and found[kind].manifest.sequence >= sequence for kind, sequence in acks.items()
        )


def explore(trace, model) -> tuple[int, int]:
    """Numbers of different trees after a cut anywhere in `trace`, and of those in which the run is not as promised."""
    rng = random.Random(1)
    directories = {call.changes[0][2] for call in trace if isinstance(call, Entry)} & (
        {directory for call in trace if isinstance(call, Entry) for directory in call.directories}
    )
    verdicts: dict[tuple, bool] = {}
    acks: dict[str, int] = {}
    for cut in range(len(trace) + 1):
        if cut and isinstance(trace[cut - 1], Ack):
            acks[trace[cut - 1].kind] = trace[cut - 1].sequence
        for survived in survivors(trace[:cut], model, rng):
            tree = build(Path("/"), trace[:cut], survived, directories)
            key = (tree, tuple(acks.items()))
            if key not in verdicts:
                verdicts[key] = holds(tree, acks)
    return len(verdicts), sum(not good for good in verdicts.values())


# -- lives to be cut -------------------------------------------------------------------------------------------------------------------


def grow(store: Store, acknowledge) -> None:
    for sequence in (1, 2, 3):
        commit(store, 10 * sequence, sequence)
        acknowledge("commit", sequence)
        store.prune(Keep(last=1, best=0))


def replace(store: Store, acknowledge) -> None:
    for sequence in (1, 2):
        commit(store, 10, sequence)
        acknowledge("commit", sequence)


def finish(store: Store, acknowledge) -> None:
    for sequence in (1, 2):
        store.commit_final(manifest(9, sequence), tensors(sequence), FROZEN)
        acknowledge("final", sequence)


def send_back(store: Store, acknowledge) -> None:
    for sequence, step in enumerate((10, 20, 15)):
        commit(store, step, sequence)
        acknowledge("commit", sequence)
    store.drop_abandoned("first", 2, 10)


class KilledError(BaseException):
    """The process dies here."""


def restart(store: Store, acknowledge) -> None:
    """Killed between the rename of a replacement and its sync; the next process sweeps the old one away, and then the power goes."""
    commit(store, 10, 1)
    acknowledge("commit", 1)

    def die_before_the_parent(path: Path) -> None:
        if path.name == "checkpoints":
            raise KilledError
        sync_directory(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resilient.store.commit.sync_directory", die_before_the_parent)
        with pytest.raises(KilledError):
            commit(store, 10, 2)
    Store(store.directory).prepare()
    acknowledge("commit", 1)


LIVES = (grow, replace, finish, send_back, restart)


def record(base: Path, life, exchange=True) -> list[object]:
    base.mkdir()
    recorder = Recorder(base)
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        if not exchange:
            patch.setattr(kernel, "exchange", lambda first, second: False)
        life(prepared(base / "run"), lambda kind, sequence: recorder.trace.append(Ack(kind, sequence)))
    assert sum(isinstance(call, Ack) for call in recorder.trace) >= 2
    shutil.rmtree(base)
    return recorder.trace


@pytest.mark.parametrize("model", ["ordered", "weak"])
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_no_power_cut_costs_an_acknowledged_state(tmp_path, life, exchange, model):
    """Commits, replacement, pruning, an abandoned line and the final state, cut after every call, in every way the model allows."""
    states, bad = explore(record(tmp_path / "base", life, exchange), model)
    assert states > 40
    assert bad == 0


def is_file_sync(call, trace) -> bool:
    return isinstance(call, Sync) and any(isinstance(other, Write) and other.inode == call.inode for other in trace)


@pytest.mark.parametrize("lazy", ["files", "directories"])
def test_the_oracle_notices_a_missing_sync(tmp_path, lazy):
    """Negative control: the same calls without syncing files, or without syncing directories, lose acknowledged states."""
    trace = record(tmp_path / "base", grow)
    mutant = [call for call in trace if not isinstance(call, Sync) or is_file_sync(call, trace) != (lazy == "files")]
    assert len(mutant) < len(trace)
    assert explore(mutant, "weak")[1] > 0
