"""What a run is doing now, and why: a function of its account, of who holds its locks, and of its last sign of life."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import re
from collections.abc import Sequence

from resilient.accounts import Attempt, End, Event, Run, fields
from resilient.errors import EXIT_DONE, EXIT_FAILED, EXIT_GAVE_UP, EXIT_NEEDS_HUMAN, EXIT_PREEMPTED
from resilient.manifest import Progress
from resilient.signs import Section

_WINDOW = 600.0  # seconds over which the speed is taken
_SHORTEST = 1.0  # seconds that tell a speed
_QUIET = 60.0  # seconds of silence that are worth a word, and
_MANY = 20.0  # times as long as a batch takes
_ATTEMPT = re.compile(r"^attempt (\d+)")  # as a supervisor numbers it


class State(enum.Enum):
    """In a word."""

    NEW = "new"
    STARTING = "starting"
    TRAINING = "training"
    VALIDATING = "validating"
    BETWEEN = "between epochs"
    STOPPING = "stopping"
    RUNNING = "running"
    SUSPENDED = "suspended"
    HUNG = "hung"
    WAITING = "waiting"
    FINISHED = "finished"
    PREEMPTED = "preempted"
    CRASHED = "crashed"
    NEEDS_HUMAN = "needs a human"
    GAVE_UP = "gave up"

    @property
    def exit_code(self) -> int:
        """0 where it runs, is about to, or has finished; else what its program's or its supervisor's exit code means."""
        return _EXIT_CODES.get(self, EXIT_DONE)


_EXIT_CODES = {
    State.NEW: EXIT_FAILED,
    State.CRASHED: EXIT_FAILED,
    State.PREEMPTED: EXIT_PREEMPTED,
    State.NEEDS_HUMAN: EXIT_NEEDS_HUMAN,
    State.GAVE_UP: EXIT_GAVE_UP,
}
_BY_SECTION = {
    Section.SILENT: (State.STARTING, "nothing was heard of it yet"),
    Section.STARTING: (State.STARTING, "restoring, compiling, or waiting for its first batch"),
    Section.TRAINING: (State.TRAINING, ""),
    Section.BETWEEN: (State.BETWEEN, "callbacks, the start of validation, or waiting for the disk"),
    Section.VALIDATING: (State.VALIDATING, ""),
    Section.STOPPING: (State.STOPPING, "it was asked to stop, and saves its state"),
    Section.ENDED: (State.FINISHED, "fit is over, and the program goes on"),
    Section.FAILED: (State.STOPPING, "fit has raised an error, and the program is on its way out"),
    Section.RAISED: (State.STOPPING, "fit has raised an error, and the program is on its way out"),
}


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who has a lock: process, host, and since when where that is known. `ours`: on this machine, where it can be asked."""

    pid: int | None
    host: str | None = None
    since: dt.datetime | None = None
    ours: bool = True


@dataclasses.dataclass(frozen=True)
class Live:
    """The last sign of life of the process that trains.

    Attributes:
        section, progress: what is under way, and where.
        saving: a checkpoint is being written.
        committed: the newest step on disk.
        silent: seconds since then.
        suspended: somebody has stopped it (SIGSTOP).
        rss: bytes of memory.
    """

    section: Section
    progress: Progress | None
    saving: bool
    committed: int | None
    silent: float
    suspended: bool = False
    rss: int | None = None


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known: the account (None: an empty journal), who trains and who supervises (None: nobody), and the sign of life.

    That is None where none is seen. `refusal`: why the next start would fail, `onward`: the step that it would go on from; None: neither.
    """

    now: dt.datetime
    run: Run | None
    trainer: Holder | None
    supervisor: Holder | None
    live: Live | None
    refusal: str | None = None
    onward: int | None = None


@dataclasses.dataclass(frozen=True)
class Status:
    """What the run is doing.

    Attributes:
        state, why: in a word, and in a sentence ("" where the word says it all).
        progress: the newest position that is known; `at_least`: it may be further by now.
        epochs, steps: how many epochs it was asked for, and batches in each; None where nobody knows.
        speed: steps a second, over all that it did in the last minutes; None where it does not train.
        left: seconds to the end at this speed, None where nobody knows.
        next_save: seconds until a checkpoint is due, where the run chose the interval itself. The end of an epoch may come before.
        unsaved: steps that would be lost now; None where nobody knows.
        next_attempt: when the supervisor starts it again.
        warnings: sentences.
    """

    state: State
    why: str
    progress: Progress | None = None
    at_least: bool = False
    epochs: int | None = None
    steps: int | None = None
    speed: float | None = None
    left: float | None = None
    next_save: float | None = None
    unsaved: int | None = None
    next_attempt: dt.datetime | None = None
    warnings: Sequence[str] = ()


def status(facts: Facts) -> Status:
    """What follows from the facts."""
    state, why = _state(facts)
    if facts.run is None:
        return Status(state, why, facts.live.progress if facts.live else None)
    attempt, live = facts.run.attempts[-1], facts.live
    begun = attempt.end is End.OPEN and attempt.start is None
    progress = live.progress if live and live.progress else _last_position(facts.run, begun=begun)
    epochs, steps = _asked_for(facts.run)
    speed = _speed(attempt, facts) if facts.trainer and state is not State.FINISHED else None
    return Status(
        state,
        why,
        progress=progress,
        at_least=facts.trainer is not None and live is None,
        epochs=epochs,
        steps=steps,
        speed=speed,
        left=_left(progress, epochs, steps, speed),
        next_save=_next_save(attempt, facts.now) if state is State.TRAINING else None,
        unsaved=max(0, live.progress.step - (live.committed or 0)) if live and live.progress else None,
        next_attempt=_restart(attempt) if state is State.WAITING else None,
        warnings=_warnings(facts, state, speed),
    )


# -- the state -------------------------------------------------------------------------------------------------------------------------


def _state(facts: Facts) -> tuple[State, str]:
    attempt = facts.run.attempts[-1] if facts.run else None
    if facts.trainer is not None:
        return _while_it_lives(facts, attempt)
    if facts.refusal is not None and (facts.supervisor is None or attempt is None):
        return State.NEEDS_HUMAN, facts.refusal
    if attempt is None and facts.onward is not None:
        return State.NEW, f"the journal tells nothing; the next start goes on from step {facts.onward}"
    if attempt is None:
        return State.NEW, "nothing has been trained here yet"
    if facts.supervisor is not None:
        return _between_attempts(facts, attempt)
    return _afterwards(facts, attempt)


def _while_it_lives(facts: Facts, attempt: Attempt | None) -> tuple[State, str]:
    live = facts.live
    if attempt is not None and attempt.end is End.HUNG and attempt.ended is None:
        return State.HUNG, f"the supervisor ends it: {attempt.reason}"
    if live is None:
        return State.RUNNING, "its process lives; what it does cannot be seen from here, so what follows is the journal's word"
    if live.suspended:
        return State.SUSPENDED, "somebody has stopped its process (SIGSTOP); kill -CONT lets it go on"
    return _BY_SECTION[live.section]


def _between_attempts(facts: Facts, attempt: Attempt) -> tuple[State, str]:
    """The supervisor lives, and nobody trains."""
    place = _number(facts)
    due = _restart(attempt)
    if due is not None and due > facts.now:
        return State.WAITING, f"{_how(attempt, place)}; the next attempt begins in {(due - facts.now).total_seconds():.0f} s"
    if due is not None or attempt.end in (End.OPEN, End.VANISHED):
        name = "the next attempt" if due is not None else f"attempt {place}" if attempt.number else "the program"
        return State.STARTING, f"{name} has begun and does not train yet: it is being imported"
    if attempt.verdict is None and attempt.end is End.FINISHED:
        return _BY_SECTION[Section.ENDED]
    if attempt.verdict is None:
        return State.STOPPING, f"{_how(attempt, place)}, and is on its way out"
    return _afterwards(facts, attempt)


def _afterwards(facts: Facts, attempt: Attempt) -> tuple[State, str]:
    """Nobody is left."""
    run, again, place = facts.run, "Start it again to go on", _number(facts)
    if run is not None and run.gave_up is not None:
        return State.GAVE_UP, f"the supervisor gave up: {'; '.join(_failures(run)) or _how(attempt, place)}. {again} once the cause is gone"
    if run is not None and run.finished and attempt.end in (End.FINISHED, End.PREEMPTED):
        return State.FINISHED, "all epochs are trained"
    if attempt.verdict == "needs a human" or (attempt.end is End.FAILED and _needs_human(attempt)):
        return State.NEEDS_HUMAN, attempt.reason
    if attempt.end is End.PREEMPTED:
        return State.PREEMPTED, f"it was stopped by {attempt.reason}. {again}"
    if attempt.end is End.FINISHED:
        return State.FINISHED, attempt.reason
    return State.CRASHED, f"{_how(attempt, place)}, and nobody starts it again. {again}"


def _number(facts: Facts) -> int:
    """Of the last attempt, in the line of all that the journal tells of; every supervisor counts its own from 1."""
    return len(facts.run.attempts) if facts.run else 0


def _failures(run: Run) -> list[str]:
    """What the supervisor gave up for, with the numbers of that line."""
    places = {str(attempt.number): place for place, attempt in enumerate(run.attempts, 1)}
    return [_ATTEMPT.sub(lambda found: f"attempt {places.get(found[1], found[1])}", text, count=1) for text in run.gave_up or ()]


def _how(attempt: Attempt, place: int) -> str:
    name = f"attempt {place}" if attempt.number else "it"
    if attempt.reason.startswith("its "):
        return f"{name} was ended because {attempt.reason}"
    if attempt.end is End.FAILED and not attempt.reason.startswith("exited"):
        return f"{name} failed with {attempt.reason}".rstrip(".")
    if attempt.end is End.PREEMPTED:
        return f"{name} was stopped by {attempt.reason}"
    if attempt.end in (End.OPEN, End.VANISHED):
        return f"{name} was killed, or its machine was: nobody wrote how it ended"
    return f"{name} {attempt.reason}" if attempt.reason else f"{name} {attempt.end.value}"


def _needs_human(attempt: Attempt) -> bool:
    return attempt.reason.startswith(("CheckpointMismatchError", "CheckpointCorruptError", "ConfigurationError", "RunInUseError"))


def _restart(attempt: Attempt) -> dt.datetime | None:
    exited = _newest(attempt, "exited")
    if exited is None or attempt.restart_in is None:
        return None
    return dt.datetime.fromisoformat(exited["time"]) + dt.timedelta(seconds=min(attempt.restart_in, 1e6))


# -- numbers ---------------------------------------------------------------------------------------------------------------------------


def _newest(attempt: Attempt, name: str) -> Event | None:
    return next((event for event in reversed(attempt.events) if event["event"] == name), None)


def _last_position(run: Run, *, begun: bool) -> Progress | None:
    """That of the highest step in the newest attempt that tells of any; the end of an epoch and the beginning of the next are one step.

    Where another attempt has `begun`, what the one before it lost is no position of the run any more: the last save is.
    """
    for attempt in reversed(run.attempts):
        told = [event for event in attempt.events if not begun or event["event"] in ("restored", "saved")]
        found = [place for event in told if (place := _place(event)) is not None]
        if found:
            return max(found, key=lambda place: (place.step, place.epoch, place.batch))
    return None


def _place(event: Event) -> Progress | None:
    values = [_count(event, name) for name in ("epoch", "batch", "step")]
    known = [value for value in values if value is not None]
    return Progress(*known) if len(known) == len(values) else None


def _asked_for(run: Run) -> tuple[int | None, int | None]:
    """Epochs and batches of each, as the newest attempt was asked for."""
    for attempt in reversed(run.attempts):
        started = _newest(attempt, "started")
        if started is not None:
            return _count(started, "epochs"), _count(started, "steps")
    return None, None


def _count(event: Event, name: str) -> int | None:
    value = fields.whole(event, name)
    return value if value is not None and value >= 0 else None


def _speed(attempt: Attempt, facts: Facts) -> float | None:
    """Steps a second since some minutes; without the attempt's first moments, which compile, where there are others."""
    points = [] if attempt.trained_from is None or attempt.start is None else [(attempt.trained_from, attempt.start)]
    points += [(save.time - dt.timedelta(seconds=min(save.seconds, 1e6)), save.step) for save in attempt.saves if not save.final]
    if facts.live is not None and facts.live.progress is not None:
        points.append((facts.now - dt.timedelta(seconds=min(facts.live.silent, 1e6)), facts.live.progress.step))
    if not points:
        return None
    end, reached = points[-1]
    useful = [(moment, step) for moment, step in points[:-1] if (end - moment).total_seconds() >= _SHORTEST and step < reached]
    useful = [point for point in useful if (end - point[0]).total_seconds() <= _WINDOW] or useful[-1:]
    useful = [point for point in useful if point[1] > points[0][1]] or useful
    return (reached - useful[0][1]) / (end - useful[0][0]).total_seconds() if useful else None


def _left(progress: Progress | None, epochs: int | None, steps: int | None, speed: float | None) -> float | None:
    if progress is None or epochs is None or steps is None or not speed:
        return None
    return max(0, (epochs - progress.epoch) * steps - progress.batch) / speed


def _next_save(attempt: Attempt, now: dt.datetime) -> float | None:
    told = (fields.real(event, "interval") for event in reversed(attempt.events) if event["event"] == "saved" and "interval" in event)
    interval = next(told, None)
    if not attempt.saves or interval is None:
        return None
    save = attempt.saves[-1]
    return max(0.0, interval - save.seconds - (now - save.time).total_seconds())


def _warnings(facts: Facts, state: State, speed: float | None) -> list[str]:
    found, live = [], facts.live
    if live is not None and state in (State.TRAINING, State.VALIDATING) and live.silent > max(_QUIET, _MANY / speed if speed else 0.0):
        word = "its supervisor will end it if that goes on" if facts.supervisor else "kill it if that goes on; nothing supervises it"
        found.append(f"The last batch ended {live.silent:.0f} s ago, which is long for this run: it may hang ({word}).")
    attempt = facts.run.attempts[-1] if facts.run else None
    newest = next((event for event in reversed(attempt.events) if event["event"] in ("saved", "save_failed")), None) if attempt else None
    if newest is not None and newest["event"] == "save_failed":
        found.append(f"The last save failed ({newest.get('failures')} in a row): {newest.get('error')}")
    if facts.trainer is not None and not facts.trainer.ours:
        found.append(f"It is on host {facts.trainer.host}, which cannot be asked from here.")
    return found
