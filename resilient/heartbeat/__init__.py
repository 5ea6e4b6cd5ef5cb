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
import faulthandler
import fcntl
import mmap
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from resilient.errors import ResilientError
from resilient.heartbeat import page
from resilient.manifest import Progress
from resilient.signs import Beat, Eviction, Orders, Saves, Section

__all__ = ["ENVIRONMENT", "TRACE_SIGNAL", "Announcement", "Beat", "Eviction", "Heartbeat", "Orders", "Page", "Saves"]
__all__ += ["Section", "Sight", "home_of", "look", "sight_of"]

ENVIRONMENT = "RESILIENT_HEARTBEAT"
TRACE_SIGNAL = signal.SIGRTMIN + 7  # on it, a training process writes the stacks of its threads to stderr

_STDERR = 2
_NONE = -1
_SECTIONS = frozenset(Section)
_PIPE, _HEARD = 5, 6  # places beside the counts: the supervisor's descriptor to be woken by, and the last announcement that it has taken in
_TO_BE_HEARD = 2.0  # seconds a training waits for that: a supervisor that is suspended must not hold it up
# What frameworks read when they are imported: a spare interpreter needs what the program had set by then.
_FRAMEWORK_VARIABLES = ("CUDA_", "DNNL_", "JAX_", "KERAS_", "KMP_", "MKL_", "OMP_", "ONEDNN_", "PYTORCH_", "TF_", "XLA_")


@dataclasses.dataclass(frozen=True)
class Announcement:
    """Who trains where. `variables`: the environment that its framework was imported with."""

    pid: int
    directory: Path
    variables: Mapping[str, str]


class Sight:
    """What a page shows to everybody who may look into the memory of a process that has it.

    Args:
        descriptor: of the page; one that can only be read will do.

    Raises:
        ValueError: it is none.
    """

    def __init__(self, descriptor: int, access: int = mmap.ACCESS_READ) -> None:
        self._page = mmap.mmap(descriptor, page.SIZE, access=access)
        if self._page[: len(page.MAGIC)] != page.MAGIC:
            self._page.close()
            raise ValueError("This is no page of a training process, or one of another version.")
        self._records = page.Records(self._page)

    @property
    def orders(self) -> Orders:
        """What was asked of the attempt."""
        return self._records.read_orders()

    def beat(self) -> Beat:
        """The newest sign of life."""
        count, data = self._records.beat.read()
        section, *position = page.BEAT.unpack(data)
        progress = Progress(*position) if count and position[0] != _NONE else None
        known = Section(section) if section in _SECTIONS else Section.SILENT
        return Beat(count, known, progress, self._records.time_of_beat[0] / 1e9)

    def saves(self) -> Saves:
        """What is on disk."""
        count, data = self._records.saves.read()
        saving, resumed, committed = page.SAVES.unpack(data)
        return Saves(bool(saving), _known(resumed), _known(committed)) if count else Saves()

    def announcement(self) -> Announcement | None:
        """Who trains where, None as long as nobody does."""
        match self._records.announcement.read_json():
            case {"pid": int(pid), "directory": str(directory), "variables": dict(variables)}:
                return Announcement(pid, Path(directory), variables)
        return None

    def close(self) -> None:
        """Give the memory back."""
        self._records.release()
        self._page.close()


class Page(Sight):
    """The supervisor's side.

    Attributes:
        path: for the environment of the program.
        calls: a descriptor that can be read when the program waits for its announcement to be heard.
    """

    def __init__(self) -> None:
        self._descriptor = page.new_page()
        super().__init__(self._descriptor, mmap.ACCESS_WRITE)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self._taken = 0
        self.calls, self._pipe = os.pipe()
        os.set_blocking(self.calls, False)
        self._records.places[_PIPE] = self._pipe

    def give(self, orders: Orders) -> None:
        """Orders for a program that has not begun to train."""
        self._records.write_orders(orders)

    def answer(self) -> None:
        """`calls` can be read no more, until the program calls again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.calls, 64)

    def announcement(self) -> Announcement | None:
        """As for everybody, and remembered as what `hear` is about."""
        self._taken = self._records.announcement.read()[0]
        return super().announcement()

    def hear(self) -> None:
        """The announcement that `announcement` has returned last is taken in: the program may go on."""
        self._records.places[_HEARD] = self._taken

    def eviction(self) -> Eviction | None:
        """What the platform has announced to the program, None where it has announced nothing that ends it."""
        match self._records.eviction.read_json():
            case {"platform": str(platform), "kind": str(kind), "deadline": float(deadline)}:
                return Eviction(platform, kind, deadline)
        return None

    def close(self) -> None:
        """Give the memory back."""
        super().close()
        for descriptor in (self._descriptor, self.calls, self._pipe):
            os.close(descriptor)


class Heartbeat:
    """The training process' side; see `claim`. Beats come from one thread, what concerns saves from another.

    Where nobody listens the page is the process' own, so that nobody has to ask at every batch whether somebody does.

    Args:
        descriptor: of the supervisor's page, -1 for one of our own.
        descriptors: where the supervisor's own descriptors are found.
    """

    def __init__(self, descriptor: int = -1, descriptors: Path = Path()) -> None:
        self._descriptor, self._descriptors = descriptor, descriptors
        self._page = page.mapped(descriptor)
        self._records = page.Records(self._page)
        self._section, self._position = Section.SILENT, Progress(_NONE, _NONE, _NONE)
        self._resumed = self._committed = _NONE
        self._evictions = threading.Lock()

    @classmethod
    def claim(cls, environment: Mapping[str, str] = os.environ) -> Heartbeat:
        """On the page that the environment names, until it is closed; on a page of our own where nobody supervises us.

        So it is too where another process of the program beats already: a supervisor listens to one.
        """
        with contextlib.suppress(OSError):  # no such page: the supervisor is gone, or belongs to somebody else
            descriptor = os.open(environment.get(ENVIRONMENT, ""), os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.pread(descriptor, len(page.MAGIC), 0) == page.MAGIC:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return cls(descriptor, Path(environment[ENVIRONMENT]).parent)
            except (OSError, ValueError):  # taken, or no page: too short to be one
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
        self._records.saves.write(page.SAVES, False, _NONE, _NONE)  # before its directory changes: they are those of an earlier fit
        self._records.announcement.write_json({"pid": os.getpid(), "directory": str(directory), "variables": variables})
        self.beat(Section.STARTING, self._position)

    def wait_until_heard(self) -> None:
        """Let the supervisor take in where this trains, so that its journal tells of the attempt before the attempt tells anything.

        To be called once the directory exists. A supervisor that is suspended, or has just died, is waited for in vain, and not for long.
        """
        if not self.supervised:
            return
        with contextlib.suppress(OSError):
            pipe = os.open(self._descriptors / str(self._records.places[_PIPE]), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(pipe, b"\1")
            finally:
                os.close(pipe)
            count, end = self._records.announcement.read()[0], time.monotonic() + _TO_BE_HEARD
            while self._records.places[_HEARD] != count and time.monotonic() < end:
                time.sleep(0.001)

    def evicted(self, platform: str, kind: str, deadline: float) -> None:
        """The platform has announced that what this runs on ends at `deadline` (monotonic seconds). From any thread; the latest counts."""
        with self._evictions:
            known = self._records.eviction.read_json()
            if known is None or known["deadline"] < deadline:
                self._records.eviction.write_json(dataclasses.asdict(Eviction(platform, kind, deadline)))

    def beat(self, section: Section, progress: Progress) -> None:
        """A sign of life: what comes now, and where the run stands."""
        self._section, self._position = section, progress
        self._records.time_of_beat[0] = time.monotonic_ns()
        self._records.beat.write(page.BEAT, section, progress.epoch, progress.batch, progress.step)

    def resumed(self, step: int) -> None:
        """The run goes on from this committed step."""
        self._resumed = self._committed = step
        self._records.saves.write(page.SAVES, False, step, step)

    def saving(self) -> None:
        """A save has begun."""
        self._records.saves.write(page.SAVES, True, self._resumed, self._committed)

    def saved(self, step: int | None) -> None:
        """The save is over; `step` is committed, None where it failed."""
        self._committed = self._committed if step is None else step
        self._records.saves.write(page.SAVES, False, self._resumed, self._committed)

    def __enter__(self) -> Heartbeat:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # An error of our own (a full disk, a checkpoint of another model) says nothing against the batch, nor does a second Ctrl-C.
        innocent = kind is not None and issubclass(kind, ResilientError | KeyboardInterrupt)
        in_a_batch = self._section in (Section.STARTING, Section.TRAINING) and not innocent
        self.close(Section.ENDED if kind is None else Section.FAILED if in_a_batch else Section.RAISED)

    def close(self, left: Section = Section.ENDED) -> None:
        """`fit` is `left` in one of three ways. A process that was asked to stop has yet to end; any other may go on."""
        if self._section is not Section.STOPPING:
            self.beat(left, self._position)
        self._records.release()
        self._page.close()
        if self.supervised:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # data workers that were forked meanwhile have it open too
            os.close(self._descriptor)


def home_of(directory: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the run that `fit` was given `directory` for is kept: there, unless the supervisor orders to keep runs elsewhere.

    Every process of the program is told, also one that nobody listens to. Below the ordered folder a run has its own whole path.
    """
    root = _orders(environment).keep_runs_in
    whole = Path(os.path.abspath(directory))
    return directory if root is None or whole.is_relative_to(root) else Path(root, *whole.parts[1:])


def _orders(environment: Mapping[str, str]) -> Orders:
    """Those on the page that the environment names, without claiming it."""
    with contextlib.suppress(OSError, ValueError), contextlib.closing(look(environment.get(ENVIRONMENT, ""))) as sight:
        return sight.orders
    return Orders()


def look(path: str | os.PathLike[str]) -> Sight:
    """At the page that a process has open there. Raises OSError or ValueError where there is none, or it is not for our eyes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Sight(descriptor)
    finally:
        os.close(descriptor)


def sight_of(pid: int, directory: Path) -> Sight | None:
    """The page of the process that trains in `directory`; None where it has none, trains elsewhere, or is not for our eyes."""
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError, ValueError):  # closed meanwhile; or a page of another version
                if page.NAME in os.readlink(f"{folder}/{name}"):
                    sight = look(f"{folder}/{name}")
                    announced = sight.announcement()
                    if announced is not None and os.path.realpath(announced.directory) == os.path.realpath(directory):
                        return sight
                    sight.close()
    return None


def _known(step: int) -> int | None:
    return None if step == _NONE else step
