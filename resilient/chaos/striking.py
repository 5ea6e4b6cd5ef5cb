"""Delivers strikes to a living program, and knows for sure at which moment each one met it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from resilient.chaos.strikes import KINDS, Kind, Situation, Strike
from resilient.heartbeat import Beat, Section
from resilient.manifest import Progress
from resilient.supervisor.child import Child
from resilient.supervisor.vigil import Vigil

_HOLD = 0.5  # seconds to wait until every thread of a stopped program stands still: one may sit in a system call
_LONGEST_PAUSE = 2.0
_SHORTEST_PAUSE = 0.2
_KILL_AFTER_TERM = 0.3  # seconds at most
# Seconds between two looks. A commit of a small model takes milliseconds, so where one is waited for we look often.
_SOON, _USUALLY, _RARELY = 0.001, 0.005, 0.05


@dataclasses.dataclass(frozen=True)
class Blow:
    """A strike that was delivered.

    Attributes:
        kind: of the strike.
        attempt: that it met.
        time: when (aware, UTC).
        elapsed: seconds since the training began.
        section, progress: what was under way, and the position; None before it was known.
        directory: of the run that was trained, None before it was known.
        note: what else there is to say of it.
    """

    kind: str
    attempt: int
    time: dt.datetime
    elapsed: float
    section: Section
    progress: Progress | None
    directory: Path | None
    note: str = ""


class Target:
    """The program of one attempt, as something that can be hit."""

    def __init__(self, child: Child, vigil: Vigil) -> None:
        self.child, self._vigil = child, vigil

    @property
    def directory(self) -> Path | None:
        """Of the run that it trains."""
        return self._vigil.announced.directory if self._vigil.announced else None

    def kill(self) -> None:
        """SIGKILL to all that belongs to it, as when its machine is gone."""
        self.child.guardian.kill()

    def terminate(self) -> None:
        """SIGTERM, and SIGKILL once the supervisor's grace period is over."""
        self._vigil.forward(signal.SIGTERM)

    def hold(self) -> None:
        """Stop the process that trains; returns when none of its threads runs, or soon after."""
        self._signal(signal.SIGSTOP)
        end = time.monotonic() + _HOLD
        while not _stands_still(self._vigil.trainer) and time.monotonic() < end:
            time.sleep(_SOON / 5)

    def release(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def moment(self, kind: Kind) -> Beat | None:
        """The sign of life if this is a moment for that kind, None if it is not."""
        beat = self.child.page.beat()
        return beat if kind.holds(beat.section, saving=self.child.page.saves().saving) else None

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self._vigil.trainer, number)


class Striker:
    """Delivers strikes one after the other, over the attempts of one training.

    Attributes:
        blows: what was delivered, oldest first.
    """

    def __init__(self, strikes: Iterator[Strike]) -> None:
        self._strikes = strikes
        self._next = next(strikes, None)
        self._release_at: float | None = None
        self._kill_at: float | None = None
        self.blows: list[Blow] = []
        self.struck = False

    @property
    def holds(self) -> bool:
        """Whether the program is stopped, to go on later."""
        return self._release_at is not None

    def begin(self) -> None:
        """A new attempt: nothing has hit it yet."""
        self.struck, self._release_at, self._kill_at = False, None, None

    def look(self, target: Target, now: Situation, attempt: int) -> float:
        """Deliver what is due; seconds until the next look."""
        self._finish_what_was_begun(target)
        if self.struck or self.holds or self._next is None:
            return _RARELY if self._kill_at is None else _USUALLY
        strike, kind = self._next, KINDS[self._next.kind]
        if not strike.due(now):
            return _USUALLY
        delivered = self._deliver(target, strike, kind, now, attempt)
        if not delivered and strike.late(now):
            self._deliver(target, strike, KINDS["sigkill"], now, attempt, f"{kind.name} meant: its moment did not come")
        return _SOON if kind.narrow else _USUALLY

    def _deliver(self, target: Target, strike: Strike, kind: Kind, now: Situation, attempt: int, note: str = "") -> bool:
        """Deliver it if this is its moment; whether it was."""
        beat = self._moment(target, strike, kind)
        if beat is not None and kind.narrow:
            target.hold()
            beat = target.moment(kind)
            if beat is None:  # it has passed in between
                target.release()
        if beat is None:
            return False
        blow = Blow(kind.name, attempt, dt.datetime.now(dt.UTC), now.elapsed, beat.section, beat.progress, target.directory, note)
        self.blows.append(blow)
        self.struck = kind.ends
        self._act(target, kind, strike.chance)
        self._next = next(self._strikes, None)
        return True

    def _moment(self, target: Target, strike: Strike, kind: Kind) -> Beat | None:
        # Machines die at any moment of a program: only where steps say when, the moment has to be one of training.
        anywhere = strike.step is None and not kind.narrow
        return target.child.page.beat() if anywhere else target.moment(kind)

    def _act(self, target: Target, kind: Kind, chance: float) -> None:
        if kind.name == "sigstop":
            target.hold()
            self._release_at = time.monotonic() + _SHORTEST_PAUSE + chance * (_LONGEST_PAUSE - _SHORTEST_PAUSE)
        elif kind.name in ("sigterm", "both"):
            target.terminate()
            self._kill_at = time.monotonic() + chance * _KILL_AFTER_TERM if kind.name == "both" else None
        else:
            target.kill()

    def _finish_what_was_begun(self, target: Target) -> None:
        now = time.monotonic()
        if self._release_at is not None and now >= self._release_at:
            self._release_at = None
            target.release()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            target.kill()


def generator(seed: int, *words: object) -> random.Random:
    """Chance that depends on nothing but these."""
    return random.Random(" ".join(map(str, (seed, *words))))


def _stands_still(pid: int) -> bool:
    # Each thread by itself: one that sits in an fsync or a rename stops only when that has returned.
    try:
        threads = [Path(task.path, "stat").read_text("utf-8", "replace") for task in os.scandir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return all(line.rpartition(")")[2].split()[0] in "tTZX" for line in threads)
