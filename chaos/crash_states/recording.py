"""What a program asks the kernel to do to the files below a directory, in terms of inodes of our own."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from chaos.calls import CHANGES, Call, met

_NUMBERED = re.compile(r"(\.tmp|\.trash)-[0-9a-f-]+")
_FLAGS_WRITE = os.O_WRONLY | os.O_RDWR


@dataclasses.dataclass(frozen=True)
class Write:
    """Bytes that went into a file."""

    inode: int
    offset: int
    data: bytes
    says: str


@dataclasses.dataclass(frozen=True)
class Resize:
    """A file got this size without data, by an allocation or a cut."""

    inode: int
    size: int
    says: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One atomic change of directory entries: (directory, name, inode or None) each."""

    changes: tuple[tuple[int, str, int | None], ...]
    says: str

    @property
    def directories(self) -> set[int]:
        """Those whose entries change."""
        return {directory for directory, _, _ in self.changes}


@dataclasses.dataclass(frozen=True)
class Sync:
    """An fsync that said that all is well, where it began; `lost` if it failed, and with it what it should have saved."""

    inode: int
    says: str
    lost: bool = False


@dataclasses.dataclass(frozen=True)
class Ack:
    """The program was told that this is durable."""

    kind: str
    number: int

    @property
    def says(self) -> str:
        """For the reports."""
        return f"{self.kind} {self.number} acknowledged"


Event = Write | Resize | Entry | Sync | Ack


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What lay there durably at the beginning: directory -> name -> inode, and inode -> content. 0 is the base."""

    tree: Mapping[int, Mapping[str, int]]
    content: Mapping[int, bytes]

    @classmethod
    def of(cls, base: Path) -> Baseline:
        """What lies in a directory now; hard links stay links."""
        tree: dict[int, dict[str, int]] = {}
        content: dict[int, bytes] = {}
        numbers: dict[tuple[int, int], int] = {}

        def scan(directory: Path, inode: int) -> None:
            tree[inode] = {}
            for path in sorted(directory.iterdir()):
                found = path.stat()
                number = numbers.setdefault((found.st_dev, found.st_ino), len(numbers) + 1)
                tree[inode][path.name] = number
                if path.is_dir():
                    scan(path, number)
                else:
                    content[number] = path.read_bytes()

        scan(base, 0)
        return cls(tree, content)


@dataclasses.dataclass(frozen=True)
class Recording:
    """A baseline, what happened since, and which inodes are directories."""

    baseline: Baseline
    events: list[Event]
    directories: frozenset[int]


class _SortedScan:
    """What `os.scandir` gives, sorted by name."""

    def __init__(self, entries: Any) -> None:
        with entries:
            self._entries = iter(sorted(entries, key=lambda entry: entry.name))

    def __enter__(self) -> _SortedScan:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def __iter__(self) -> _SortedScan:
        return self

    def __next__(self) -> Any:
        return next(self._entries)

    def close(self) -> None:
        """All was read already."""


class Recorder:
    """Notes what goes through the calls below a base directory while `on` lasts."""

    def __init__(self, base: Path) -> None:
        self.base = base.resolve()
        self._baseline = Baseline.of(self.base)
        self._events: list[Event] = []
        self._tree = {directory: dict(entries) for directory, entries in self._baseline.tree.items()}
        self._descriptors: dict[int, int] = {}
        self._numbers = itertools.count(1 + max([*self._tree, *self._baseline.content]))
        self._lock = threading.RLock()
        self._notes: dict[str, Callable[[Call, Any], object]] = {
            "open": self._opened,
            "write": self._written,
            "writev": self._written,
            "pwrite": self._written_at,
            "ftruncate": lambda call, _: self._resized(call.arguments[0], call.arguments[1], "cut"),
            "fallocate": self._allocated,
            "mkdir": lambda call, _: self._created(call, directory=True),
            "rmdir": self._removed,
            "unlink": self._removed,
            "link": self._linked,
            "rename": self._renamed,
            "replace": self._renamed,
            "renameat2": self._exchanged,
        }

    @contextmanager
    def on(self, seed: int = 0) -> Iterator[Recorder]:
        """While this lasts everything is noted, and the names that the store draws are the same each time."""
        chance = random.Random(seed)

        def drawn() -> uuid.UUID:
            return uuid.UUID(int=chance.getrandbits(128), version=4)

        with mock.patch.object(uuid, "uuid4", drawn), met(self._around, self.base, (*CHANGES, "listdir", "scandir")):
            yield self

    def acknowledge(self, kind: str, number: int) -> None:
        """What the program was told."""
        with self._lock:
            self._events.append(Ack(kind, number))

    def recording(self) -> Recording:
        """Everything so far."""
        return Recording(self._baseline, list(self._events), frozenset(self._tree))

    def _around(self, call: Call, go: Callable[[], Any]) -> Any:
        if call.name == "fsync":
            return self._synced(call.arguments[0], go)
        result = go()
        if call.name in ("listdir", "scandir"):  # in the same order on every file system
            return sorted(result) if call.name == "listdir" else _SortedScan(result)
        with self._lock:
            self._notes[call.name](call, result)
        return result

    def _synced(self, fd: int, go: Callable[[], Any]) -> None:
        with self._lock:
            place = len(self._events)  # only what came before it began is saved by it
            inode = self._descriptors[fd]
            self._events.append(Sync(inode, f"fsync {self._name(fd)}"))
        try:
            go()
        except OSError:
            with self._lock:
                self._events[place] = Sync(inode, f"failed fsync {self._name(fd)}", lost=True)
            raise

    # -- where things are ------------------------------------------------------------------------------------------------------

    def _find(self, path: Any, dir_fd: int | None = None) -> tuple[int, str]:
        """Directory and name of a path."""
        path = Path(os.path.abspath(os.fsdecode(path))) if dir_fd is None else Path(os.fsdecode(path))
        if dir_fd is not None:
            return self._descriptors[dir_fd], path.name
        directory = 0
        parts = path.relative_to(self.base).parts
        for part in parts[:-1]:
            directory = self._tree[directory][part]
        return directory, parts[-1] if parts else "."

    def _inode(self, path: Any, dir_fd: int | None = None) -> int | None:
        directory, name = self._find(path, dir_fd)
        return directory if name == "." else self._tree[directory].get(name)

    def _change(self, says: str, *changes: tuple[int, str, int | None]) -> None:
        for directory, name, inode in changes:
            if inode is None:
                self._tree[directory].pop(name)
            else:
                self._tree[directory][name] = inode
        self._events.append(Entry(changes, says))

    def _name(self, fd: int) -> str:
        return short(os.readlink(f"/proc/self/fd/{fd}"), self.base)

    # -- the calls -------------------------------------------------------------------------------------------------------------

    def _opened(self, call: Call, fd: int) -> None:
        path, flags, dir_fd = call.arguments[0], call.arguments[1], call.keywords.get("dir_fd")
        inode = self._inode(path, dir_fd)
        if inode is None:
            inode = self._created(call)
        elif flags & os.O_TRUNC:
            self._events.append(Resize(inode, 0, f"empty {short(path, self.base)}"))
        self._descriptors[fd] = inode

    def _created(self, call: Call, *, directory: bool = False) -> int:
        inode = next(self._numbers)
        if directory:
            self._tree[inode] = {}
        path = call.arguments[0]
        self._change(f"create {short(path, self.base)}", (*self._find(path, call.keywords.get("dir_fd")), inode))
        return inode

    def _written(self, call: Call, count: int) -> None:
        self._note_write(call, os.lseek(call.arguments[0], 0, os.SEEK_CUR) - count, count)  # right with O_APPEND too

    def _written_at(self, call: Call, count: int) -> None:
        self._note_write(call, call.arguments[2], count)

    def _note_write(self, call: Call, offset: int, count: int) -> None:
        fd, data = call.arguments[0], b"".join(call.first_bytes(count))
        self._events.append(Write(self._descriptors[fd], offset, data, f"write {self._name(fd)}"))

    def _allocated(self, call: Call, result: int) -> None:
        fd, _, offset, size = call.arguments
        if result == 0:
            self._resized(fd, offset + size, "allocate")

    def _resized(self, fd: int, size: int, how: str) -> None:
        self._events.append(Resize(self._descriptors[fd], size, f"{how} {self._name(fd)}"))

    def _removed(self, call: Call, _: Any) -> None:
        path = call.arguments[0]
        self._change(f"remove {short(path, self.base)}", (*self._find(path, call.keywords.get("dir_fd")), None))

    def _linked(self, call: Call, _: Any) -> None:
        source, target = call.arguments[:2]
        self._change(f"link {short(target, self.base)}", (*self._find(target), self._inode(source)))

    def _renamed(self, call: Call, _: Any) -> None:
        source, target = call.arguments[:2]
        (old, name), (new, new_name) = self._find(source), self._find(target)
        says = f"rename {short(source, self.base)} to {short(target, self.base)}"
        self._change(says, (new, new_name, self._tree[old][name]), (old, name, None))

    def _exchanged(self, call: Call, result: int) -> None:
        if result != 0:
            return
        first, second = call.arguments[1], call.arguments[3]
        (left, name), (right, other) = self._find(first), self._find(second)
        says = f"exchange {short(first, self.base)} and {short(second, self.base)}"
        self._change(says, (left, name, self._tree[right][other]), (right, other, self._tree[left][name]))


def short(path: Any, base: Path) -> str:
    """A path in the reports: below the base, without the run directory's own name and the numbers of temporaries."""
    text = os.path.relpath(os.fsdecode(path), base) if os.path.isabs(os.fsdecode(path)) else os.fsdecode(path)
    text = text.removesuffix(" (deleted)").removeprefix("run/").removeprefix("checkpoints/")
    return re.sub(r"step-0*(\d)", r"step-\1", _NUMBERED.sub(r"\1", text))
