"""A run's status as text, as JSON, and as one line."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from resilient.accounts import Attempt, End, Run, Save, Time
from resilient.cli import tables
from resilient.cli.outcome import printable
from resilient.manifest import Progress
from resilient.observing import Observation
from resilient.status import Holder, State, Status

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_ATTEMPTS = 5
_CELL = 76  # characters, two lines of the table
_STEP = re.compile(r" \(step \d+\)")  # which has a column of its own
_STYLES = {
    **dict.fromkeys((State.TRAINING, State.VALIDATING, State.BETWEEN, State.RUNNING, State.FINISHED), "bold green"),
    **dict.fromkeys((State.NEW, State.STARTING, State.STOPPING, State.WAITING, State.SUSPENDED, State.PREEMPTED), "bold yellow"),
    **dict.fromkeys((State.HUNG, State.CRASHED, State.NEEDS_HUMAN, State.GAVE_UP), "bold red"),
}
_WORDS = {State.NEEDS_HUMAN: "stopped, needs a human", State.WAITING: "waiting for a restart", State.PREEMPTED: "stopped"}


def word(state: State) -> str:
    """The state for people."""
    return _WORDS.get(state, state.value)


# -- as text ---------------------------------------------------------------------------------------------------------------------------


def text(seen: Observation) -> RenderableType:
    """All that there is to tell, at most as wide as the terminal."""
    from rich.console import Group
    from rich.text import Text

    rows = [("state", _state(seen.status))]
    rows += [(name, Text(printable(line))) for name, line in _lines(seen)]
    rows += [("warning", Text(printable(warning), "yellow")) for warning in seen.status.warnings]
    parts: list[RenderableType] = [tables.pairs(rows)]
    if seen.run is not None:
        parts += [Text(), _attempts(seen.run, seen)]
    return Group(*parts)


def _state(status: Status) -> Text:
    from rich.text import Text

    line = Text(word(status.state), _STYLES[status.state])
    return line.append(printable(f": {status.why}") if status.why else "", "default not bold")


def _lines(seen: Observation) -> Iterator[tuple[str, str]]:
    status, live, now = seen.status, seen.facts.live, seen.facts.now
    if status.progress is not None:
        yield "position", position(status)
    if status.speed is not None:
        yield (
            "speed",
            f"{status.speed:.3g} steps/s" + (f"; about {tables.duration(status.left)} to the end" if status.left is not None else ""),
        )
    if seen.facts.trainer is not None:
        memory = f", {tables.size(live.rss)} of memory" if live is not None and live.rss is not None else ""
        sign = f"; last sign of life {tables.duration(live.silent)} ago" if live is not None and live.silent >= 1 else ""
        yield "process", f"{_who(seen.facts.trainer, now)}{memory}{sign}"
    if seen.facts.supervisor is not None:
        yield "supervisor", _who(seen.facts.supervisor, now)
    elif seen.facts.trainer is not None:
        yield "supervisor", "none: if it dies, nobody starts it again"
    yield from _saves(seen)
    yield from _account(seen)


def position(status: Status) -> str:
    """Where the run stands."""
    progress = status.progress or Progress(0, 0, 0)
    of_steps = of_batches = share = ""
    if status.epochs is not None and status.steps is not None and status.state is not State.FINISHED:
        total = progress.step + max(0, (status.epochs - progress.epoch) * status.steps - progress.batch)
        of_steps, of_batches = f" of {total}", f" of {status.steps}"
        share = f" ({100 * progress.step / total:.0f} %)" if total else ""
    at_least = "at least " if status.at_least else ""
    return f"{at_least}step {progress.step}{of_steps}{share}: epoch {progress.epoch}, batch {progress.batch}{of_batches}"


def _who(holder: Holder, now: dt.datetime) -> str:
    host = "" if holder.ours else f" on {holder.host}"
    since = f", for {tables.age(holder.since, now)}" if holder.since else ""
    return f"pid {holder.pid or 'unknown'}{host}{since}"


def _saves(seen: Observation) -> Iterator[tuple[str, str]]:
    status, run = seen.status, seen.run
    save = next(reversed(run.saves), None) if run is not None else None
    if save is not None:
        yield "last save", _save(save, seen.facts.now)
    if seen.facts.live is not None and seen.facts.live.saving:
        yield "saving", "a checkpoint is being written"
    if status.unsaved is not None and seen.facts.trainer is not None and status.state is not State.FINISHED:
        due = "" if status.next_save is None else f"; the next save is due {_in(status.next_save)}, or when the epoch ends"
        yield "unsaved", f"{tables.count(status.unsaved, 'step')}{due}"
    infos = [*seen.survey.checkpoints, *([seen.survey.final] if seen.survey.final else [])]
    best = "".join(f", best: step {info.step}" for info in infos if info.best)
    final = ", and the final state" if seen.survey.final else ""
    yield "on disk", f"{tables.count(len(seen.survey.checkpoints), 'checkpoint')}{final}, {tables.size(sum(i.nbytes for i in infos))}{best}"
    for problem in seen.survey.damaged:
        yield "damaged", str(problem)
    if seen.quarantine:
        yield "quarantine", ", ".join(seen.quarantine)


def _save(save: Save, now: dt.datetime) -> str:
    cost = f", which cost training {tables.duration(save.stall)}" if not save.final else ""
    kind = ", the final state" if save.final else ""
    return f"step {save.step}{kind}, {tables.age(save.time, now)} ago: {tables.size(save.nbytes)} in {tables.duration(save.seconds)}{cost}"


def _in(seconds: float) -> str:
    return f"in {tables.duration(seconds)}" if seconds >= 1 else "now"


def _account(seen: Observation) -> Iterator[tuple[str, str]]:
    run = seen.run
    if run is None or run.goodput is None:
        return
    parts = [f"{name} {tables.duration(seconds)}" for name, seconds in dataclasses.asdict(run.time).items() if seconds >= 0.05]
    part = " (of the newest part of a long journal)" if seen.skipped else ""
    yield "goodput", f"{100 * run.goodput:.0f} % of {tables.duration(run.time.total)}{part}: {', '.join(parts)}"
    least = "" if run.lost_exactly else "at least "
    yield "lost work", f"{least}{tables.count(run.lost_steps, 'step')} in {tables.count(len(run.attempts), 'attempt')}"


def _attempts(run: Run, seen: Observation) -> RenderableType:
    shown = list(enumerate(run.attempts, 1))[-_ATTEMPTS:]
    rows = [_row(number, attempt, seen) for number, attempt in shown]
    return tables.table(["attempt", "began", "lasted", "steps", "lost", "ended"], rows, left=["ended"], folded=["ended"])


def _row(number: int, attempt: Attempt, seen: Observation) -> list[str]:
    now, place = seen.facts.now, seen.status.progress
    reached = place.step if attempt.end is End.OPEN and place is not None and seen.facts.live is not None else attempt.reached
    steps = "" if attempt.start is None else f"{attempt.start}-{reached}"
    own = dataclasses.replace(attempt.time, down=0.0, unknown=0.0).total
    return [
        str(number),
        f"{tables.age(attempt.began, now)} ago",
        tables.duration(own),
        steps,
        _lost(attempt),
        ended(attempt),
    ]


def _lost(attempt: Attempt) -> str:
    if attempt.lost_exactly:
        return str(attempt.lost_steps) if attempt.lost_steps or attempt.reached_exactly else ""
    return f"at least {attempt.lost_steps}" if attempt.lost_steps else "unknown"


def ended(attempt: Attempt) -> str:
    """How it ended, in a few words."""
    match attempt.end:
        case End.OPEN:
            return ""
        case End.FINISHED:
            return "finished"
        case End.PREEMPTED:
            return f"stopped: {_in_short(attempt.reason)}"
        case End.VANISHED:
            return "killed, and nobody saw it"
        case End.OUT_OF_MEMORY:
            return "out of memory" + (f" (peak {tables.size(attempt.peak_rss)})" if attempt.peak_rss else "")
        case End.HUNG:
            return f"hung{_in_short(attempt.reason.partition('hung')[2]) or f': {_in_short(attempt.reason)}'}"
    return _in_short(_STEP.sub("", attempt.reason.removeprefix("was ")))


def _in_short(reason: str) -> str:
    """For a cell of a table; the whole error stands in the state."""
    return reason if len(reason) <= _CELL else f"{reason[: _CELL - 1].rstrip()}…"


# -- as one line, and as JSON ----------------------------------------------------------------------------------------------------------


def line(seen: Observation) -> str:
    """For a log: when, and what."""
    status, run = seen.status, seen.run
    parts = [f"{seen.facts.now.astimezone():%Y-%m-%d %H:%M:%S} {word(status.state)}"]
    parts += [f"attempt {len(run.attempts)}"] if run is not None else []
    parts += [position(status)] if status.progress is not None else []
    parts += [status.why] if status.why else []
    return "; ".join([*parts, *status.warnings])


def change(seen: Observation) -> tuple[Any, ...]:
    """What makes another line of it. Not every batch and every save does, every epoch does."""
    status, run = seen.status, seen.run
    epoch = status.progress.epoch if status.progress else None
    attempts = (len(run.attempts), run.attempts[-1].failed_saves) if run is not None else ()
    return status.state, epoch, attempts, len(status.warnings), len(seen.survey.damaged), tuple(seen.quarantine), status.next_attempt


def document(seen: Observation) -> dict[str, Any]:
    """Everything, in seconds, bytes and ISO times."""
    status, facts, run = seen.status, seen.facts, seen.run
    live = facts.live
    return {
        "time": facts.now.isoformat(),
        "state": status.state.value,
        "why": status.why,
        "position": None if status.progress is None else {**dataclasses.asdict(status.progress), "at_least": status.at_least},
        "epochs": status.epochs,
        "steps_per_epoch": status.steps,
        "steps_per_second": status.speed,
        "seconds_left": status.left,
        "next_save_in": status.next_save,
        "unsaved_steps": status.unsaved,
        "next_attempt": status.next_attempt.isoformat() if status.next_attempt else None,
        "process": None if facts.trainer is None else _holder(facts.trainer),
        "sign_of_life": None
        if live is None
        else {
            **dataclasses.asdict(live),
            "section": live.section.name.lower(),
            "progress": live.progress and dataclasses.asdict(live.progress),
        },
        "supervisor": None if facts.supervisor is None else _holder(facts.supervisor),
        "last_save": _saved(run.saves[-1]) if run is not None and run.saves else None,
        "checkpoints": [tables.as_json(info) for info in seen.survey.checkpoints],
        "final": tables.as_json(seen.survey.final) if seen.survey.final else None,
        "damaged": [{"path": str(problem.path), "reason": problem.reason} for problem in seen.survey.damaged],
        "quarantine": list(seen.quarantine),
        "goodput": run.goodput if run is not None else None,
        "seconds": dataclasses.asdict(run.time if run is not None else Time()),
        "lost_steps": run.lost_steps if run is not None else 0,
        "lost_exactly": run.lost_exactly if run is not None else True,
        "attempts": [_attempt(number, attempt) for number, attempt in enumerate(run.attempts, 1)] if run is not None else [],
        "earlier_runs": max(0, len(seen.runs) - 1),
        "journal_bytes_skipped": seen.skipped,
        "warnings": list(status.warnings),
    }


def _holder(holder: Holder) -> dict[str, Any]:
    return {**dataclasses.asdict(holder), "since": holder.since.isoformat() if holder.since else None}


def _saved(save: Save) -> dict[str, Any]:
    return {**dataclasses.asdict(save), "time": save.time.isoformat()}


def _attempt(number: int, attempt: Attempt) -> dict[str, Any]:
    """`number`: in the line of all attempts; `supervisor_number`: what its supervisor calls it, which begins with 1 each time."""
    left_out = {"events", "saves", "time", "end"}
    plain = {f.name: getattr(attempt, f.name) for f in dataclasses.fields(attempt) if f.name not in left_out}
    times = {name: value.isoformat() for name, value in plain.items() if isinstance(value, dt.datetime)}
    numbers = {"number": number, "supervisor_number": attempt.number}
    return {**plain, **times, **numbers, "end": attempt.end.value, "saves": len(attempt.saves), "seconds": dataclasses.asdict(attempt.time)}
