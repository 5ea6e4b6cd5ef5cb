"""What a reader has to know, in one sentence, and the few numbers below it."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from resilient.accounts import Run
from resilient.report import ends, words
from resilient.report.facts import Facts
from resilient.status import State


@dataclasses.dataclass(frozen=True)
class Number:
    """One of the big numbers: what, how much, and a line of explanation."""

    name: str
    value: str
    note: str


_GOOD = {State.FINISHED}
_BAD = {State.CRASHED, State.GAVE_UP, State.NEEDS_HUMAN, State.HUNG}


def state(facts: Facts) -> str:
    """What the run is doing, in a word or two."""
    word = facts.status.state
    return "Nothing trained yet" if word is State.NEW else word.value.capitalize()


def sentence(facts: Facts) -> str:
    """The verdict: Finished: 14 attempts; 13 interruptions cost 41 steps (0.3 %); goodput 97.1 %."""
    run = facts.run
    if run is None:
        return f"{state(facts)}."
    attempts = words.count(len(run.attempts), "attempt")
    at = f" at step {words.integer(facts.latest.step)}" if facts.latest is not None and facts.status.state is not State.FINISHED else ""
    goodput = f"; goodput {words.percent(run.goodput)}" if run.goodput is not None else ""
    return f"{state(facts)}{at}: {attempts}; {_cost(run, alive=facts.alive)}{goodput}."


def _cost(run: Run, *, alive: bool) -> str:
    count = ends.interruptions(run.attempts, alive=alive)
    if count == 0:
        return "no interruption"
    least = "" if run.lost_exactly else "at least "
    share = f" ({words.percent(_lost_share(run))})" if run.lost_steps else ""
    cost = f"{least}{words.count(run.lost_steps, 'step')}{share}" if run.lost_steps or least else "no step"
    return f"{words.count(count, 'interruption')} cost {cost}"


def _lost_share(run: Run) -> float:
    """Of all steps that were trained."""
    trained = sum(max(0, (attempt.reached or 0) - (attempt.start or 0)) for attempt in run.attempts)
    return run.lost_steps / trained if trained else 0.0


def is_good(facts: Facts) -> bool | None:
    """Whether the run has finished; False where it needs somebody, None while it is under way."""
    return True if facts.status.state in _GOOD else False if facts.status.state in _BAD else None


def remarks(facts: Facts) -> list[str]:
    """What else there is to say of the present."""
    told = [facts.status.why] if facts.status.why else []
    if facts.status.left is not None:
        told.append(f"about {words.duration(facts.status.left)} left at {words.number(round(facts.status.speed or 0, 2))} steps/s")
    return told


def numbers(facts: Facts) -> Sequence[Number]:
    """The big numbers, the most important first."""
    run = facts.run
    if run is None:
        return [_on_disk(facts)]
    time = run.time
    return [
        Number("goodput", words.percent(run.goodput) if run.goodput is not None else words.NOTHING, "of the time was training that counts"),
        Number("steps lost", words.lost(run.lost_steps, exactly=run.lost_exactly), f"{words.duration(time.lost)} of training done again"),
        Number("elapsed", words.duration(time.total), f"since {words.moment(run.began)} UTC"),
        Number("attempts", words.integer(len(run.attempts)), _interrupted(run, alive=facts.alive)),
        _saves(run),
        _on_disk(facts),
    ]


def _interrupted(run: Run, *, alive: bool) -> str:
    count = ends.interruptions(run.attempts, alive=alive)
    uptime = (run.time.total - run.time.down - run.time.unknown) / count if count else 0.0
    return f"{words.count(count, 'interruption')}, one per {words.duration(uptime)}" if count else "never interrupted"


def _saves(run: Run) -> Number:
    saves = run.saves
    note = f"{words.duration(statistics.median(save.stall for save in saves))} of training each (median)" if saves else "nothing saved yet"
    return Number("saves", words.integer(len(saves)), note)


def _on_disk(facts: Facts) -> Number:
    latest = facts.latest
    if latest is None:
        return Number("step on disk", words.NOTHING, "no checkpoint yet")
    return Number("step on disk", words.integer(latest.step), f"epoch {latest.epoch}, batch {latest.batch}; {words.size(latest.nbytes)}")
