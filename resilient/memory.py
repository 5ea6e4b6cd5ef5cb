"""The host's memory: what is left of it, how often somebody was killed for it, and whether it holds a second copy of the state."""

from __future__ import annotations

import ctypes
import dataclasses
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from resilient.amounts import size

_ROOT = Path("/")
_NEGLIGIBLE = 2**25  # bytes: where so little is left, training does not go on by itself either
# The C library keeps a store of memory for each of training's threads, so copies take more than their bytes: up to 1.4 times were measured.
_SPREAD = 1.5


@dataclasses.dataclass(frozen=True)
class Usage:
    """Bytes of host memory.

    Attributes:
        total: what this process may use, together with all that share its limits.
        free: what is left of that.
        resident: what this process has.
        peak: the most it has ever had.
    """

    total: int
    free: int
    resident: int
    peak: int


class _Group(NamedTuple):
    """A memory cgroup: its folder, and what its version calls the limits, the use, the page cache's part of that, and the kills."""

    folder: Path
    limits: tuple[str, ...]
    used: str
    cached: tuple[str, ...]
    events: str

    def limit(self) -> int | None:
        found = (next(iter(_lines(self.folder / name)), "") for name in self.limits)
        return min((int(text) for text in found if text.isdecimal()), default=None)

    def free(self, limit: int) -> int:
        """The page cache gives way to whoever needs memory."""
        used = next(iter(_lines(self.folder / self.used)), "0")
        return limit - int(used) + sum(_fields(self.folder / "memory.stat", *self.cached).values())


_V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"), "memory.oom_control")
_V2 = (("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"), "memory.events")


def usage(root: Path = _ROOT) -> Usage | None:
    """The present figures, under the limits of all groups; None where the system does not tell them.

    Args:
        root: where /proc and /sys are.
    """
    machine = _fields(root / "proc/meminfo", "MemTotal:", "MemAvailable:")
    own = _fields(root / "proc/self/status", "VmRSS:", "VmHWM:")
    if len(machine) < 2 or len(own) < 2:
        return None
    total = 1024 * machine["MemTotal:"]
    limited = [(most, group.free(most)) for group in _groups(root) if (most := group.limit()) is not None and most < total]
    free = min([1024 * machine["MemAvailable:"], *(left for _, left in limited)])
    return Usage(min([total, *(most for most, _ in limited)]), free, 1024 * own["VmRSS:"], 1024 * own["VmHWM:"])


def limit(root: Path = _ROOT) -> int | None:
    """Bytes that this process' memory cgroup, or one above it, may use (version 2 or 1); None where there is no limit."""
    return min((found for group in _groups(root) if (found := group.limit()) is not None), default=None)


def oom_kills(root: Path = _ROOT) -> int:
    """Out-of-memory kills so far, in our own memory cgroup where it counts them (version 2 or 1), else on the whole machine."""
    counters = [*(group.folder / group.events for group in _groups(root)), root / "proc/vmstat"]
    return next((count for path in counters for count in _fields(path, "oom_kill").values()), 0)


def give_back() -> None:
    """Return to the system what the C library keeps of freed memory, where it is one that can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Copies:
    """Room for copies. It is taken as long as this object lives: what is to be written refers to it.

    Attributes:
        nbytes: bytes of memory that they may take.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


class Room:
    """Whether host memory has room for what training copies while a save is written: the state once more.

    At the first save nothing is known of what a step needs, and there is room only if half of all memory stays free. Later a step needs
    what was resident at the most, less the copies; where the first save found room, nobody knows whether these are in it, and all counts.

    Args:
        look, give_back: the functions of this module.
    """

    def __init__(self, look: Callable[[], Usage | None] = usage, give_back: Callable[[], None] = give_back) -> None:
        self._look = look
        self._give_back = give_back
        self._alive: weakref.WeakSet[Copies] = weakref.WeakSet()
        self._asked = self._told = self._blind = False
        self._kept = False  # the C library may have kept memory of copies
        self._training = self._copies = 0  # bytes: resident at the most without copies, and what these may have taken of the peak

    def remember(self, peak: int) -> None:
        """An attempt that had so many bytes at its fullest was killed for lack of memory."""
        self._training = max(self._training, peak)

    def after_restoring(self) -> None:
        """Where memory is short, give back what building a model and restoring it have left behind, before training takes more."""
        found = self._look()
        if found is not None and found.free < found.total // 2:
            self._give_back()

    def claim(self, nbytes: int, tell: Callable[[str], None]) -> Copies | None:
        """Asked before each save.

        Args:
            nbytes: of what training will write into.
            tell: called with a sentence for people the first time that memory is too short, but for the very first save.

        Returns:
            None where training has to wait until the save is written.
        """
        known, copies = self._asked, Copies(int(_SPREAD * nbytes))
        if nbytes >= _NEGLIGIBLE and not self._has_room(copies.nbytes):
            if known and not self._told:
                self._told = True
                tell(
                    f"Host memory has no room for a second copy of the {size(nbytes)} that training changes: where that is so, training "
                    "waits for the save. Give it more memory, or save less often, if that is too slow."
                )
            return None
        self._alive.add(copies)
        self._copies = max(self._copies, self._taken)
        return copies

    @property
    def _taken(self) -> int:
        return sum(copies.nbytes for copies in self._alive)

    def _has_room(self, nbytes: int) -> bool:
        fits = self._fits(nbytes)
        if not fits and self._kept:
            self._give_back()
            fits = self._fits(nbytes)
        self._blind = self._blind or (fits and not self._asked)
        self._asked, self._kept = True, fits or bool(self._alive)
        return fits

    def _fits(self, nbytes: int) -> bool:
        found = self._look()
        if found is None:
            return True
        self._training = max(self._training, found.peak - (0 if self._blind else self._copies))
        for_steps = max(0, self._training - max(0, found.resident - self._taken))
        unknown = 0 if self._asked else found.total // 2
        return found.free - for_steps - unknown >= nbytes


HOST = Room()  # this process': whoever saves in it shares it


def _groups(root: Path) -> Iterator[_Group]:
    """The memory cgroups that this process is in: its own and those above."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mounted, files = (root / "sys/fs/cgroup/memory", _V1) if controllers else (root / "sys/fs/cgroup", _V2)
        folder = mounted / name.lstrip("/")
        while folder != mounted.parent:
            yield _Group(folder, *files)
            folder = folder.parent


def _fields(path: Path, *names: str) -> dict[str, int]:
    """The first number of those lines that begin with one of the names, as far as the file has them."""
    found = (line.split() for line in _lines(path) if line.startswith(names))
    return {words[0]: int(words[1]) for words in found if words[0] in names}


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb", buffering=0) as file:  # half of the time of `read_text`
            return file.readall().decode("ascii", "replace").splitlines()
    except OSError:
        return []
