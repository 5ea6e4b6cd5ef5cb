"""A process dies of a signal: at a time, at a step, inside a phase of a commit, at its n-th system call, or in the middle of a write.

From outside, `chaos.kill.kill_at` strikes at a moment: `at_step` and `in_phase` are such moments beside those of `chaos.kill`. From
inside, `before_call` is for `chaos.calls.met`. `by_strace` does the same to a program of any language, where strace is installed.
"""

from __future__ import annotations

import enum
import fcntl
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chaos import oracle
from chaos.calls import Call, Met
from chaos.faults import strace
from chaos.faults.schedule import Schedule
from chaos.kill import Moment, is_batch, last_event


def before_call(schedule: Schedule, number: signal.Signals = signal.SIGKILL) -> Met:
    """This process gets the signal just before the calls at which the schedule strikes."""

    def around(call: Call, go: Callable[[], Any]) -> Any:
        if schedule.strikes():
            os.kill(os.getpid(), number)
        return go()

    return around


def within_write(schedule: Schedule) -> Met:
    """This process dies when half of a write is done."""

    def around(call: Call, go: Callable[[], Any]) -> Any:
        if call.name in ("write", "writev", "pwrite") and schedule.strikes():
            half = call.first_bytes(call.size // 2)
            fd, place = call.arguments[0], call.arguments[2:]  # pwrite has one
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)  # half of it need not be whole blocks
            (os.pwritev if place else os.writev)(fd, half, *place)
            os.kill(os.getpid(), signal.SIGKILL)
        return go()

    return around


def at_step(log: Path, attempt: int, step: int) -> Moment:
    """True once `attempt` has trained the batch with this number in its epoch."""

    def reached() -> bool:
        line = last_event(log)
        return is_batch(line, attempt) and int(line.get("batch", -1)) >= step

    return reached


class Phase(enum.Enum):
    """What a save is doing, as the run directory shows it."""

    BEGUN = "the temporary directory is there, and nothing in it"
    TENSORS = "tensors are being written"
    MANIFEST = "the manifest is written"
    NAMED = "a checkpoint has its name, and the journal does not tell of it yet"
    REMOVING = "an old checkpoint is being removed"


def in_phase(directory: Path, phase: Phase) -> Moment:
    """True while a save that began after this call is in that phase."""
    before = set(_entries(directory))
    return lambda: phase in _phases(directory, before)


def _phases(directory: Path, before: set[Path]) -> set[Phase]:
    found = set()
    for path in set(_entries(directory)) - before:
        if path.name.startswith(".tmp-"):
            names = {inner.name for inner in _listed(path)}
            found.add(Phase.MANIFEST if "manifest.json" in names else Phase.TENSORS if names else Phase.BEGUN)
        elif path.name.startswith((".trash-", ".replaced-")):
            found.add(Phase.REMOVING)
        elif path.name.startswith("step-") and not _journaled(directory, int(path.name.removeprefix("step-"))):
            found.add(Phase.NAMED)
    return found


def _journaled(directory: Path, step: int) -> bool:
    events = oracle.read_log(directory / "journal.jsonl")
    return any(event.get("event") == "saved" and event.get("step") == step for event in events)


def _entries(directory: Path) -> list[Path]:
    return _listed(directory / "checkpoints")


def _listed(directory: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(directory)]
    except (FileNotFoundError, NotADirectoryError):  # it came and went
        return []


def by_strace(command: Sequence[str], call: str, occasion: int, number: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command, unmodified, under strace, which sends the signal at the n-th call of this name by any of its threads.

    Raises:
        FileNotFoundError: strace is not installed.
    """
    return strace.under(command, [strace.Injection(call, f"signal={number.name}", str(occasion))])
