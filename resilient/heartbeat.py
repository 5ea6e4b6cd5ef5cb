"""The whole contract between a training process and its supervisor: one page of shared memory for each attempt.

The supervisor makes the page and names it in the environment of the program it starts. `fit` finds it there, says where it trains,
and writes its position after every batch: a microsecond, no system call, and nothing that could block. The page outlives the program,
so what is read after a death is where it died. Its name leads through the supervisor's /proc entry and not through an inherited
descriptor: launchers close those, and nothing is left behind on any disk.

Every record is there twice, and a count says which copy is whole: a writer that is killed midway leaves the one before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import faulthandler
import fcntl
import json
import mmap
import os
import signal
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resilient.manifest import Progress

ENVIRONMENT = "RESILIENT_HEARTBEAT"
TRACE_SIGNAL = signal.SIGRTMIN + 7  # on it, a training process writes the stacks of its threads to stderr

_MAGIC = b"resil\x00\x00\x01"  # the last byte is the version
_SIZE = 1 << 17
_TEXT = 24 << 10
_BEAT = struct.Struct("@qqqq")
_SAVES = struct.Struct("@qqq")
_STDERR = 2
_NONE = -1
# What frameworks read when they are imported: a spare interpreter needs what the program had set by then.
_FRAMEWORK_VARIABLES = ("CUDA_", "DNNL_", "JAX_", "KERAS_", "KMP_", "MKL_", "OMP_", "ONEDNN_", "PYTORCH_", "TF_", "XLA_")


class Section(enum.IntEnum):
    """What is under way until the next beat."""

    SILENT = 0  # there was no beat yet
    STARTING = 1  # until the first batch of the attempt, or of an epoch, has ended: restoring, compiling, filling buffers
    TRAINING = 2  # one batch
    BETWEEN = 3  # what happens once an epoch: the start of validation, callbacks, waiting for the disk
    VALIDATING = 4  # one batch of validation
    STOPPING = 5  # a stop was asked for: the emergency save, and the way out
    ENDED = 6  # fit has returned or raised; what the program does now is its own affair


@dataclasses.dataclass(frozen=True)
class Beat:
    """The newest sign of life: how many there were, what is under way, and the position (None before it is known)."""

    count: int = 0
    section: Section = Section.SILENT
    progress: Progress | None = None


@dataclasses.dataclass(frozen=True)
class Saves:
    """Whether a save is under way, the step that was restored and the newest that is committed; None where there is none."""

    saving: bool = False
    resumed: int | None = None
    committed: int | None = None


@dataclasses.dataclass(frozen=True)
class Announcement:
    """Who trains where. `variables`: the environment that its framework was imported with."""

    pid: int
    directory: Path
    variables: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Orders:
    """What the supervisor asks of the attempt; arguments of `fit` that say otherwise win.

    Attributes:
        attempt: its number.
        resume_at_most: go on from the newest checkpoint of at most this step, where there is one.
        skip: batches to leave out, as (epoch, batch).
        grace: seconds that the program has after a signal.
    """

    attempt: int = 1
    resume_at_most: int | None = None
    skip: tuple[tuple[int, int], ...] = ()
    grace: float | None = None


class _Record:
    """One record of the page: two copies of `size` bytes at `start`, and the count of writes, which is number `index` of `counts`."""

    def __init__(self, page: mmap.mmap, counts: memoryview, index: int, start: int, size: int) -> None:
        self._page, self._counts, self._index, self._start, self._size = page, counts, index, start, size
        self._count = counts[index]

    def write(self, layout: struct.Struct, *values: int) -> None:
        count = self._count = self._count + 1
        layout.pack_into(self._page, self._start + self._size * (count & 1), *values)
        self._counts[self._index] = count  # one store; pack_into would write zeros first, and a death could come between

    def write_json(self, document: Any) -> None:
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
        except ValueError:
            return None


class _Records:
    """Where everything lies in a page."""

    def __init__(self, page: mmap.mmap) -> None:
        self._whole = memoryview(page)
        self._counts = self._whole[8:40].cast("q")
        self.beat = _Record(page, self._counts, 0, 64, _BEAT.size)
        self.saves = _Record(page, self._counts, 1, 192, _SAVES.size)
        self.announcement = _Record(page, self._counts, 2, 4096, _TEXT)
        self._orders = _Record(page, self._counts, 3, 4096 + 2 * _TEXT, _TEXT)

    def release(self) -> None:
        """Let go of the page, so that it can be closed."""
        self._counts.release()
        self._whole.release()

    def write_orders(self, orders: Orders) -> None:
        self._orders.write_json(dataclasses.asdict(orders))

    def read_orders(self) -> Orders:
        found = self._orders.read_json() or {}
        return Orders(**{**found, "skip": tuple((epoch, batch) for epoch, batch in found.get("skip", ()))})


class Page:
    """The supervisor's side; `path` is for the environment of the program."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("resilient-heartbeat")
        os.ftruncate(self._descriptor, _SIZE)
        self._page = mmap.mmap(self._descriptor, _SIZE)
        self._records = _Records(self._page)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self._page[: len(_MAGIC)] = _MAGIC

    def give(self, orders: Orders) -> None:
        """Orders for a program that has not begun to train."""
        self._records.write_orders(orders)

    @property
    def orders(self) -> Orders:
        """What was asked of the attempt."""
        return self._records.read_orders()

    def beat(self) -> Beat:
        """The newest sign of life."""
        count, data = self._records.beat.read()
        section, *position = _BEAT.unpack(data)
        return Beat(count, Section(section), Progress(*position) if count and position[0] != _NONE else None)

    def saves(self) -> Saves:
        """What is on disk."""
        count, data = self._records.saves.read()
        saving, resumed, committed = _SAVES.unpack(data)
        return Saves(bool(saving), _known(resumed), _known(committed)) if count else Saves()

    def announcement(self) -> Announcement | None:
        """Who trains where, None as long as nobody does."""
        found = self._records.announcement.read_json()
        return Announcement(found["pid"], Path(found["directory"]), found["variables"]) if found else None

    def close(self) -> None:
        """Give the memory back."""
        self._records.release()
        self._page.close()
        os.close(self._descriptor)


class Heartbeat:
    """The training process' side; see `claim`. Beats come from one thread, what concerns saves from another.

    Where nobody listens the page is the process' own, so that nobody has to ask at every batch whether somebody does.

    Args:
        descriptor: of the supervisor's page, -1 for one of our own.
    """

    def __init__(self, descriptor: int = -1) -> None:
        self._descriptor = descriptor
        self._page = mmap.mmap(descriptor, _SIZE)
        self._records = _Records(self._page)
        self._section, self._position = Section.SILENT, Progress(_NONE, _NONE, _NONE)
        self._resumed = self._committed = _NONE

    @classmethod
    def claim(cls, environment: Mapping[str, str] = os.environ) -> Heartbeat:
        """On the page that the environment names, until it is closed; on a page of our own where nobody supervises us.

        So it is too where another process of the program beats already: a supervisor listens to one.
        """
        with contextlib.suppress(OSError):  # no such page: the supervisor is gone, or belongs to somebody else
            descriptor = os.open(environment.get(ENVIRONMENT, ""), os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.pread(descriptor, len(_MAGIC), 0) == _MAGIC:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return cls(descriptor)
            except OSError:
                pass
            os.close(descriptor)
        return cls()

    @property
    def supervised(self) -> bool:
        """Whether somebody listens."""
        return self._descriptor >= 0

    @property
    def orders(self) -> Orders:
        """What the supervisor asks of this attempt."""
        return self._records.read_orders()

    def announce(self, directory: Path) -> None:
        """Say that this process is about to train in `directory`. From now on it answers `TRACE_SIGNAL`."""
        if self.supervised:
            faulthandler.register(TRACE_SIGNAL, file=_STDERR, all_threads=True)  # for good: it may hang on the way out too
        variables = {name: value for name, value in os.environ.items() if name.startswith(_FRAMEWORK_VARIABLES)}
        self._records.saves.write(_SAVES, False, _NONE, _NONE)  # before its directory changes: they are those of an earlier fit
        self._records.announcement.write_json({"pid": os.getpid(), "directory": str(directory), "variables": variables})
        self.beat(Section.STARTING, self._position)

    def beat(self, section: Section, progress: Progress) -> None:
        """A sign of life: what comes now, and where the run stands."""
        self._section, self._position = section, progress
        self._records.beat.write(_BEAT, section, progress.epoch, progress.batch, progress.step)

    def resumed(self, step: int) -> None:
        """The run goes on from this committed step."""
        self._resumed = self._committed = step
        self._records.saves.write(_SAVES, False, step, step)

    def saving(self) -> None:
        """A save has begun."""
        self._records.saves.write(_SAVES, True, self._resumed, self._committed)

    def saved(self, step: int | None) -> None:
        """The save is over; `step` is committed, None where it failed."""
        self._committed = self._committed if step is None else step
        self._records.saves.write(_SAVES, False, self._resumed, self._committed)

    def close(self) -> None:
        """`fit` is left. A process that was asked to stop has yet to end; any other may go on with what it likes."""
        if self._section is not Section.STOPPING:
            self.beat(Section.ENDED, self._position)
        self._records.release()
        self._page.close()
        if self.supervised:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # data workers that were forked meanwhile have it open too
            os.close(self._descriptor)


def _known(step: int) -> int | None:
    return None if step == _NONE else step
