"""What is watched: a supervisor whose program dies again and again, and one training that saves after every batch."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from chaos import kill
from chaos.soak.leaks import Trend
from chaos.soak.watching import Watcher, of_directory, of_process
from resilient import journal
from resilient.errors import EXIT_PREEMPTED

STARTUP = 120.0  # seconds until something that has not begun to save counts as hung
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
_LONGEST_LIFE = 1.5  # seconds from one kill to the next
_LOOK = 0.01


@dataclasses.dataclass
class Seen:
    """What a scene came to.

    Attributes:
        name: of the scene.
        kills: delivered, by signal.
        events: of the journal, by name.
        trends: what became of each measure, by who was measured and what; None where it was too short to tell.
        problems: one sentence each.
    """

    name: str
    kills: Counter[str] = dataclasses.field(default_factory=Counter)
    events: Counter[str] = dataclasses.field(default_factory=Counter)
    trends: dict[str, Trend | None] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)

    def judge(self, who: str, watcher: Watcher, *, whole: bool) -> None:
        """Take in what was watched; `whole`: long enough that too few samples are a problem."""
        for measure, trend in watcher.trends().items():
            self.trends[f"{who}: {measure}"] = trend
            if trend is None and whole:
                self.problems.append(f"{self.name}: the {measure} of the {who} could not be watched")
            elif trend is not None and trend.leaks:
                grown = f"from {trend.first:.1f} to {trend.last:.1f} within {trend.seconds:.0f} s"
                self.problems.append(f"{self.name}: the {measure} of the {who} grows, {grown}")


class Scene:
    """One program in a directory of its own, watched for `seconds` after it has begun to save."""

    name: str

    def __init__(self, root: Path, seconds: float, seed: int) -> None:
        self.run = root / self.name.replace(" ", "-") / "run"
        self.run.parent.mkdir(parents=True)
        self._output = self.run.parent / "output.txt"
        self._seconds = seconds
        self._chance = random.Random(f"{seed}/{self.name}")
        self._interval = min(max(seconds / 600, 0.1), 10.0)
        self.seen = Seen(self.name)

    def command(self) -> list[str]:
        """Of the program."""
        raise NotImplementedError

    def live(self, child: kill.Child, end: float) -> None:
        """Whatever is done to it until then."""
        raise NotImplementedError

    def play(self) -> Seen:
        """From the start to a stop that was asked for."""
        child = kill.start(self.command(), self._output)
        try:
            if not self._until(lambda: self._saved() > 0, time.monotonic() + STARTUP, child):
                self.seen.problems.append(f"{self.name}: nothing was saved within {STARTUP:.0f} s. See {self._output}")
                return self.seen
            self._watched(child)
        finally:
            child.send(signal.SIGKILL)  # nothing if it is gone
        self.seen.events = Counter(event["event"] for event in journal.read(self.run))
        return self.seen

    def _watched(self, child: kill.Child) -> None:
        process = Watcher(lambda: of_process(child.process.pid), self._interval)
        directory = Watcher(lambda: of_directory(self.run), self._interval)
        process.start()
        directory.start()
        self.live(child, time.monotonic() + self._seconds)
        process.stop()
        directory.stop()
        whole = self._seconds >= 30
        self.seen.judge(self.measured, process, whole=whole)
        self.seen.judge("run directory", directory, whole=whole)
        self._stop(child)

    measured = "training"

    def _stop(self, child: kill.Child) -> None:
        """Ask the program, and nobody below it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(child.process.pid).terminate()
        try:
            code = child.wait(STARTUP)
        except subprocess.TimeoutExpired:
            self.seen.problems.append(f"{self.name}: it does not stop when it is asked")
            return
        if code != EXIT_PREEMPTED:
            self.seen.problems.append(f"{self.name}: asked to stop it ended with {code}. See {self._output}")

    def _saved(self) -> int:
        return sum(event["event"] == "saved" for event in journal.read(self.run))

    @staticmethod
    def _until(condition: Callable[[], bool], end: float, child: kill.Child) -> bool:
        while time.monotonic() < end and child.alive():
            if condition():
                return True
            time.sleep(_LOOK)
        return False


class Killed(Scene):
    """`resilient run` for as long as it takes, around a program that is killed at random."""

    name = "killed and started again"
    measured = "supervisor"

    def command(self) -> list[str]:
        """The supervisor's; the program starts in a fraction of a second."""
        program = [sys.executable, "-m", "chaos.soak.small", "--directory", str(self.run)]
        return [sys.executable, "-m", "resilient", "run", "--give-up", "50", "--", *program]

    def live(self, child: kill.Child, end: float) -> None:
        """One kill after the other, each after a save of the attempt, as restarts without progress have to wait."""
        killed: psutil.Process | None = None
        while time.monotonic() < end and child.alive():
            patience = time.monotonic() + STARTUP
            if not self._until(functools.partial(_is_gone, killed), patience, child):
                self.seen.problems.append(f"{self.name}: a program that was killed lives. See {self._output}")
                return
            before = self._offset()
            if not self._until(functools.partial(self._saved_since, before), patience, child):
                self.seen.problems.append(f"{self.name}: nothing was saved for {STARTUP:.0f} s. See {self._output}")
                return
            time.sleep(self._chance.uniform(0, _LONGEST_LIFE))
            number = self._chance.choice(SIGNALS)
            killed = self._kill(child.process.pid, number)
            self.seen.kills[number.name] += killed is not None

    def _offset(self) -> int:
        path = self.run / journal.JOURNAL_NAME
        return path.stat().st_size if path.exists() else 0

    def _saved_since(self, offset: int) -> bool:
        grown = self._offset() - offset
        return grown > 0 and any(event["event"] == "saved" for event in journal.read(self.run, newest=grown))

    def _kill(self, supervisor: int, number: signal.Signals) -> psutil.Process | None:
        """The training below the supervisor, which is then returned; None where there is none at this moment."""
        try:
            below = psutil.Process(supervisor).children(recursive=True)
            # The guardian's words are those of the supervisor, which end with the program's.
            training = [process for process in below if process.cmdline()[1:3] == ["-m", "chaos.soak.small"]]
        except psutil.Error:
            return None
        for process in training[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                return process
        return None


def _is_gone(process: psutil.Process | None) -> bool:
    try:
        return process is None or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Long(Scene):
    """One `resilient.fit`, a save after every batch."""

    name = "a save after every batch"

    def command(self) -> list[str]:
        """The training's."""
        return [sys.executable, "-m", "chaos.soak.long", "--directory", str(self.run)]

    def live(self, child: kill.Child, end: float) -> None:
        """Nothing is done to it."""
        self._until(lambda: False, end, child)
        if not child.alive():
            self.seen.problems.append(f"{self.name}: it ended by itself. See {self._output}")


SCENES: tuple[type[Scene], ...] = (Killed, Long)
