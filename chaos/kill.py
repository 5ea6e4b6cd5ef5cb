"""Processes that die at a chosen moment.

A moment is a question about the world ("is a commit under way?"), asked until it is true. To kill *at* that moment and
not just after it, the process is frozen first (SIGSTOP), the question is asked again while nothing moves, and only then is the
signal sent: "killed inside a commit" is a fact, not a hope.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos import oracle

Moment = Callable[[], bool]

POLL = 0.001  # seconds between two questions: a commit of a small model takes a few milliseconds
TAIL = 4096  # bytes of a log that hold its last whole line


@dataclasses.dataclass(frozen=True)
class Child:
    """A program in a session of its own, so that a signal meets it and all its children, and nobody else."""

    process: subprocess.Popen[bytes]

    def alive(self) -> bool:
        """Whether the program is still running."""
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Signal to the whole session; nothing if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def freeze(self) -> None:
        """Stop the program and wait until none of its threads runs."""
        self.send(signal.SIGSTOP)
        while self.alive() and not _stopped(self.process.pid):
            time.sleep(POLL / 10)

    def wait(self, timeout: float) -> int:
        """Exit code as `subprocess` gives it (-9 for SIGKILL).

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds. It is killed before this is raised.
        """
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.process.wait()
            raise


def _stopped(pid: int) -> bool:
    # Each thread by itself: one that sits in an fsync or a rename stops only when that has returned.
    try:
        threads = [Path(task.path, "stat").read_text() for task in os.scandir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return all(line.rpartition(")")[2].split()[0] in "tTZX" for line in threads)


def start(command: Sequence[str], output: Path, env: Mapping[str, str] | None = None) -> Child:
    """Start `command` with its standard output and error appended to the file `output`."""
    with output.open("ab") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True, env={**os.environ, **(env or {})}
        )
    return Child(process)


def kill_at(child: Child, moment: Moment, number: signal.Signals, timeout: float) -> bool:
    """Send `number` at `moment`.

    Returns:
        True if the signal was sent while the moment held; False if the program ended before it came.

    Raises:
        TimeoutError: the moment did not come within `timeout` seconds, though the program lives. It is killed before this is raised.
    """
    end = time.monotonic() + timeout
    while child.alive():
        if moment():
            child.freeze()
            held = child.alive() and moment()
            if held:
                child.send(number)
            child.send(signal.SIGCONT)
            if held:
                return True
        if time.monotonic() > end:
            child.send(signal.SIGKILL)
            child.process.wait()
            raise TimeoutError(f"The moment to kill at did not come within {timeout:.0f} s.")
        time.sleep(POLL)
    return False


def after(moment: Moment, seconds: float) -> Moment:
    """True once `moment` was true for the first time `seconds` ago or longer."""
    first: list[float] = []

    def passed() -> bool:
        if not first and moment():
            first.append(time.monotonic())
        return bool(first) and time.monotonic() - first[0] >= seconds

    return passed


def both(first: Moment, second: Moment) -> Moment:
    """True while the two are, `second` being asked only once `first` holds."""
    return lambda: first() and second()


def at_once() -> bool:
    """The moment the program was started."""
    return True


def never() -> bool:
    """A moment that does not come."""
    return False


def training(log: Path, attempt: int) -> Moment:
    """True while the last thing the program logged is a batch that `attempt` trained."""
    return lambda: is_batch(last_event(log), attempt)


def is_batch(line: Mapping[str, Any], attempt: int) -> bool:
    """Whether a line of the log is a trained batch of that attempt."""
    return bool(line.get("event") == oracle.BATCH and line.get("attempt") == attempt)


def inside_validation(log: Path) -> Moment:
    """True while the last thing the program logged is that validation began."""
    return lambda: bool(last_event(log).get("event") == oracle.VALIDATION_BEGIN)


def inside_commit(directory: Path) -> Moment:
    """True while the run directory holds a temporary that was not there when this was called: a checkpoint is being written."""
    before = set(temporaries(directory))
    return lambda: bool(set(temporaries(directory)) - before)


def temporaries(directory: Path) -> list[str]:
    """Names of unfinished checkpoints in a run directory."""
    try:
        return [entry.name for entry in os.scandir(directory / "checkpoints") if entry.name.startswith(".tmp-")]
    except FileNotFoundError:
        return []


def journaled(directory: Path, event: str, count: int = 1) -> Moment:
    """True once the run's journal holds `event` at least `count` times."""

    def reached() -> bool:
        return sum(bool(line.get("event") == event) for line in oracle.read_log(directory / "journal.jsonl")) >= count

    return reached


def last_event(log: Path) -> dict[str, Any]:
    """The last whole line of a log, {} if there is none."""
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL))
            lines = stream.read().split(b"\n")[:-1]  # what follows the last newline is still being written
        event: dict[str, Any] = json.loads(lines[-1])
    except (FileNotFoundError, IndexError, ValueError):
        return {}
    return event
