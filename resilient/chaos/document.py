"""An outcome as plain JSON values: `chaos.json`, and what `--json` prints."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from resilient.chaos.endings import Comparison
from resilient.chaos.proof import Outcome, RunOutcome
from resilient.chaos.strikes import KINDS
from resilient.chaos.striking import Blow
from resilient.chaos.trained import Attempt, Trained
from resilient.restarts import Verdict


@dataclasses.dataclass(frozen=True)
class Row:
    """A blow, and what came of it.

    Attributes:
        blow: what was delivered.
        ended: how the attempt ended, for people.
        resumed: the step that the run went on from after it, None if it was not gone on with or began afresh.
        lost: steps from there to where it had been; None where nobody can tell.
        afresh: whether it began afresh after it.
    """

    blow: Blow
    ended: str
    resumed: int | None
    lost: int | None
    afresh: bool = False


def rows(outcome: Outcome) -> list[Row]:
    """Every blow with what came of it, oldest first."""
    endings = {attempt.number: attempt for attempt in outcome.disturbed.attempts}
    return [_row(outcome, blow, endings[blow.attempt]) for blow in outcome.disturbed.blows]


def _row(outcome: Outcome, blow: Blow, struck: Attempt) -> Row:
    if not KINDS[blow.kind].ends:
        return Row(blow, "went on", None, 0)
    ended = struck.reason
    if struck.verdict is Verdict.DONE:  # it came too late to matter
        return Row(blow, ended, None, 0)
    if struck is outcome.disturbed.attempts[-1]:
        return Row(blow, ended, None, None)
    if blow.directory is None:  # nobody knew yet where it would train, so that nothing can be lost
        after = next((a for a in outcome.disturbed.attempts if a.number > blow.attempt and a.reached is not None), None)
        return Row(blow, ended, after.resumed if after is not None else None, 0, afresh=after is not None and after.resumed is None)
    attempts = next((run.attempts for run in outcome.runs if run.name == outcome.disturbed.name(blow.directory)), ())
    hit = next((attempt for attempt in attempts if attempt.number == blow.attempt), None)
    resumed = next((a.start for a in attempts if a.number is not None and a.number > blow.attempt and a.start is not None), None)
    return Row(blow, ended, resumed, None if hit is None else max(0, (hit.reached or 0) - (resumed or 0)))


def document(outcome: Outcome) -> dict[str, Any]:
    """Everything, in plain values."""
    time = outcome.time
    return {
        "verdict": outcome.verdict.value,
        "sentence": outcome.sentence,
        "command": list(outcome.command),
        "command_line": shlex.join(outcome.command),
        "schedule": outcome.schedule,
        "seed": outcome.seed,
        "undisturbed": {**dataclasses.asdict(outcome.facts), "place": str(outcome.undisturbed.place.root)},
        "disturbed": {
            "seconds": outcome.disturbed.seconds,
            "place": str(outcome.disturbed.place.root),
            "problem": outcome.disturbed.problem,
            "planned": outcome.planned,
            "delivered": len(outcome.disturbed.blows),
            "lost_steps": outcome.lost_steps,
            "time": {**dataclasses.asdict(time), "goodput": time.goodput},
            "attempts": [_attempt(attempt, outcome.disturbed) for attempt in outcome.disturbed.attempts],
            "blows": [_blow(row) for row in rows(outcome)],
        },
        "runs": [_run(run) for run in outcome.runs],
        "control": None if outcome.control is None else {name: _comparison(found) for name, found in outcome.control.items()},
    }


def _attempt(attempt: Attempt, trained: Trained) -> dict[str, Any]:
    return {
        **dataclasses.asdict(attempt),
        "began": attempt.began.isoformat(),
        "directory": _name(attempt.directory, trained),
        "verdict": attempt.verdict.value,
    }


def _name(directory: Path | None, trained: Trained) -> str | None:
    return None if directory is None else trained.name(directory)


def _blow(row: Row) -> dict[str, Any]:
    blow = row.blow
    return {
        "kind": blow.kind,
        "does": KINDS[blow.kind].does,
        "attempt": blow.attempt,
        "time": blow.time.isoformat(),
        "elapsed": blow.elapsed,
        "section": blow.section.name.lower(),
        **(dataclasses.asdict(blow.progress) if blow.progress is not None else {"epoch": None, "batch": None, "step": None}),
        "note": blow.note,
        "ended": row.ended,
        "resumed": row.resumed,
        "afresh": row.afresh,
        "lost_steps": row.lost,
    }


def _run(run: RunOutcome) -> dict[str, Any]:
    first = None if run.first is None else {**dataclasses.asdict(run.first), "sentence": str(run.first)}
    return {"directory": run.name, "first_difference": first, **_comparison(run.comparison)}


def _comparison(found: Comparison) -> dict[str, Any]:
    return {
        "equal": found.equal,
        "missing": found.missing,
        "compared": found.compared,
        "epochs": found.epochs,
        "tensors": [{**dataclasses.asdict(item.difference), "first": item.first} for item in found.tensors],
        "history": None if found.history is None else dataclasses.asdict(found.history),
        "beside": list(found.beside),
        "settings": list(found.settings),
    }
