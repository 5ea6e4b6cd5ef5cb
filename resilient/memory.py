"""The host's memory: what is left of it, how often somebody was killed for it, and whether it holds a second copy of the state."""

from __future__ import annotations

import ctypes
import dataclasses
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
    """A memory cgroup: its folder, and what its version calls the limit, the use, and the page cache's part of that."""

    folder: Path
    limit: str
    used: str
    cached: tuple[str, ...]


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))


def usage(root: Path = _ROOT) -> Usage | None:
    """The present figures, under the strictest limit; None where the system does not tell them.

    Args:
        root: where /proc and /sys are.
    """
    machine = _fields(root / "proc/meminfo", "MemTotal:", "MemAvailable:")
    own = _fields(root / "proc/self/status", "VmRSS:", "VmHWM:")
    if len(machine) < 2 or len(own) < 2:
        return None
    total, free = 1024 * machine["MemTotal:"], 1024 * machine["MemAvailable:"]
    for group in _groups(root):
        most = _number(group.folder / group.limit)
        if most is not None and most < total:
            cached = sum(_fields(group.folder / "memory.stat", *group.cached).values())  # gives way to whoever needs it
            total, free = most, min(free, most - (_number(group.folder / group.used) or 0) + cached)
    return Usage(total, free, 1024 * own["VmRSS:"], 1024 * own["VmHWM:"])


def limit(root: Path = _ROOT) -> int | None:
    """Bytes that this process' memory cgroup, or one above it, may use (version 2 or 1); None where there is no limit."""
    limits = (_number(group.folder / group.limit) for group in _groups(root))
    return min((found for found in limits if found is not None), default=None)


def oom_kills(root: Path = _ROOT) -> int:
    """Out-of-memory kills so far, in our own memory cgroup where it counts them (version 2 or 1), else on the whole machine."""
    return next((count for path in _counters(root) for count in _fields(path, "oom_kill").values()), 0)


def give_back() -> None:
    """Return to the system what the C library keeps of freed memory, where it is one that can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Room:
    """Whether host memory has room for what training copies while a save is written: the state once more.

    At the first save nothing is known of what a step needs, and the answer is no unless half of all memory stays free. Later it needs what
    was resident at the most, without the copies.

    Args:
        tell: called with a sentence for people, once, when saves find no room.
        never: an attempt before has died of such copies.
        look, give_back: the functions of this module.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        never: bool = False,
        look: Callable[[], Usage | None] = usage,
        give_back: Callable[[], None] = give_back,
    ) -> None:
        self._tell: Callable[[str], None] | None = tell
        self._never = never
        self._look = look
        self._give_back = give_back
        self._asked = False
        self._copied = False  # since memory was given back
        self._training = self._copies = 0  # bytes: at the most resident without copies, and what these may have taken

    def holds(self, nbytes: int) -> bool:
        """Whether it has room for copies of so many bytes. Asked before each save; after a yes they are made."""
        if nbytes < _NEGLIGIBLE:
            return True
        known = self._asked
        holds = not self._never and self._has_room(nbytes)
        if not holds and (known or self._never):
            self._complain(nbytes)
        return holds

    def _has_room(self, nbytes: int) -> bool:
        fits = self._fits(nbytes)
        if not fits and self._copied:  # perhaps it is only what earlier copies have left behind
            self._give_back()
            fits = self._fits(nbytes)
        self._asked, self._copied = True, fits
        if fits:
            self._copies = max(self._copies, int(_SPREAD * nbytes))
        return fits

    def _fits(self, nbytes: int) -> bool:
        found = self._look()
        if found is None:
            return True
        self._training = max(self._training, found.peak - self._copies)
        for_steps = max(0, self._training - found.resident)
        unknown = 0 if self._asked else found.total // 2
        return found.free - for_steps - unknown >= _SPREAD * nbytes

    def _complain(self, nbytes: int) -> None:
        if self._tell is None:
            return
        if self._never:
            why = "An earlier attempt was killed for lack of memory while a save was being written"
        else:
            why = f"Host memory has no room for a second copy of the {size(nbytes)} that training changes"
        self._tell(f"{why}: training waits for what is saved. Give it more memory, or save less often, if that is too slow.")
        self._tell = None


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


def _counters(root: Path) -> Iterator[Path]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield root / "sys/fs/cgroup" / group.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            mounted = root / "sys/fs/cgroup/memory"
            yield mounted / group.lstrip("/") / "memory.oom_control"
            yield mounted / "memory.oom_control"  # in a container that sees its own group as the root
    yield root / "proc/vmstat"


def _fields(path: Path, *names: str) -> dict[str, int]:
    """The first number of those lines that begin with one of the names, as far as the file has them."""
    found = (line.split() for line in _lines(path) if line.startswith(names))
    return {words[0]: int(words[1]) for words in found if words[0] in names}


def _number(path: Path) -> int | None:
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb", buffering=0) as file:  # half of the time of `read_text`
            return file.readall().decode("ascii", "replace").splitlines()
    except OSError:
        return []
