"""The tables of the page."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence

from resilient.accounts import Attempt, Run, Save, Time, fields
from resilient.manifest import CheckpointInfo
from resilient.report import ends, words
from resilient.report.elapsed import Stretch
from resilient.report.facts import Facts
from resilient.report.markup import Safe, element, joined, table

NEWEST, COSTLIEST = 40, 10  # attempts that get a row where there are more of them

# The name of a share of the time, its class in the pictures, and what it is.
SHARES = (
    ("training", "training", "batches, validation and callbacks whose result is in the run"),
    ("saving", "saving", "what taking and writing checkpoints took away from training"),
    ("lost", "lost", "training after the last checkpoint that anything went on from; it was done again"),
    ("starting", "starting", "from the start of a process until it trained: imports, building, restoring, finding the place in the data"),
    ("down", "down", "nothing ran: from the end of an attempt to the start of the next"),
    ("unknown", "unknown", "an attempt ended and nobody wrote when"),
)


def shares(time: Time) -> list[tuple[str, str, float, str]]:
    """Name, class, seconds and explanation of every share of the time that there is."""
    found = [(name, kind, getattr(time, name), meaning) for name, kind, meaning in SHARES]
    return [share for share in found if share[2] > 0 or share[0] in ("training", "saving", "lost")]


def where_the_time_went(time: Time) -> Safe:
    """Seconds and percent of every share."""
    total = time.total or 1.0
    rows = [
        (
            joined([element("span", element("i", class_=kind), name, class_="key"), element("small", meaning)], " "),
            words.duration(seconds),
            words.percent(seconds / total),
        )
        for name, kind, seconds, meaning in shares(time)
    ]
    whole = element("small", "from the start of the first attempt to the end of the last")
    last = (joined([element("span", "in all", class_="key"), whole], " "), words.duration(time.total), "")
    return table(("what", "time", "share"), [*rows, last], wrap=0, caption="Where the time went")


def ways_to_end(attempts: Sequence[Attempt], *, alive: bool) -> Safe:
    """One row for each way in which attempts ended, the most frequent first."""
    groups: dict[ends.Way, list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault(ends.way(attempt, alive=alive), []).append(attempt)
    rows = [
        (
            element("span", element("i", class_=f"mark {way.sign}"), way.word, class_="key"),
            words.integer(len(group)),
            words.lost(sum(attempt.lost_steps for attempt in group), exactly=all(attempt.lost_exactly for attempt in group)),
            words.duration(statistics.median(_lasted(attempt) for attempt in group)),
        )
        for way, group in sorted(groups.items(), key=lambda pair: -len(pair[1]))
    ]
    return table(("how attempts ended", "attempts", "steps lost", "median length"), rows, caption="How attempts ended", close=True)


def chosen(runs_on: Sequence[Stretch]) -> list[tuple[int, Stretch]]:
    """Attempts that get a row, with their numbers from 1: all, or the newest and those that cost most."""
    numbered = list(enumerate(runs_on, start=1))
    if len(numbered) <= NEWEST + COSTLIEST:
        return numbered
    costly = sorted(numbered[:-NEWEST], key=lambda pair: (-pair[1].attempt.lost_steps, -pair[1].attempt.time.lost))[:COSTLIEST]
    return sorted(costly, key=lambda pair: pair[0]) + numbered[-NEWEST:]


def attempts(rows: Iterable[tuple[int, Stretch]], *, alive: bool) -> Safe:
    """One row an attempt."""
    columns = ("#", "began (UTC)", "lasted", "ended", "from step", "to step", "lost", "saves", "next after", "memory", "in words")
    return table(columns, [_attempt(number, stretch, alive=alive) for number, stretch in rows], left=(1, 3), wrap=10, caption="Attempts")


def _attempt(number: int, stretch: Stretch, *, alive: bool) -> tuple[object, ...]:
    attempt = stretch.attempt
    way = ends.way(attempt, alive=alive)
    skipped = max((len(fields.texts(event, "skip")) for event in attempt.events), default=0)
    about = "" if attempt.reached_exactly or attempt.reached is None else "≥ "
    return (
        words.integer(number),
        words.moment(attempt.began)[5:],
        words.duration(_lasted(attempt)),
        element("span", element("i", class_=f"mark {way.sign}"), way.word, class_="key"),
        words.NOTHING if attempt.start is None else words.integer(attempt.start),
        words.NOTHING if attempt.reached is None else f"{about}{words.integer(attempt.reached)}",
        words.lost(attempt.lost_steps, exactly=attempt.lost_exactly) if attempt.lost_steps or not attempt.lost_exactly else "",
        words.integer(len(attempt.saves)) + (f" ({attempt.failed_saves} failed)" if attempt.failed_saves else ""),
        words.duration(stretch.gap) if stretch.gap else "",
        words.size(attempt.peak_rss) if attempt.peak_rss is not None else "",
        element("span", attempt.reason + (f"; {words.count(skipped, 'poison batch')} left out" if skipped else ""), class_="words"),
    )


def _lasted(attempt: Attempt) -> float:
    return max(0.0, attempt.time.total - attempt.time.down - attempt.time.unknown)


def saves(found: Sequence[Save]) -> Safe:
    """Saves in numbers: how long they took and what they cost."""
    periodic = [save for save in found if not save.final] or found
    gaps = [max(0.0, (b.time - a.time).total_seconds()) for a, b in itertools.pairwise(periodic)]
    rows = [
        _spread("writing, in the background", [save.seconds for save in periodic], words.duration),
        _spread("what it cost training", [save.stall for save in periodic], words.duration),
        _spread("size", [float(save.nbytes) for save in periodic], words.size),
        *([_spread("from one to the next", gaps, words.duration)] if gaps else []),
    ]
    return table(("each save", "smallest", "median", "largest", "in all"), rows, caption="Saves in numbers", close=True)


def _spread(name: str, values: Sequence[float], shown: object) -> tuple[str, ...]:
    say = shown if callable(shown) else str
    return name, say(min(values)), say(statistics.median(values)), say(max(values)), say(sum(values))


def checkpoints(facts: Facts, most: int = 60) -> Safe:
    """The checkpoints on disk, oldest first; the newest `most` of them."""
    listed = list(facts.survey.checkpoints)[-most:]
    metric = facts.monitored if any(facts.monitored in info.metrics for info in listed) else "loss"
    rows = [_checkpoint(info.path.name, info, metric) for info in listed]
    if facts.survey.final is not None:
        rows.append(_checkpoint("final", facts.survey.final, metric))
    columns = ("checkpoint", "step", "epoch", "batch", metric, "size", "saved (UTC)", "")
    return table(columns, rows, left=(0, 6, 7), caption="Checkpoints", close=True)


def _checkpoint(name: str, info: CheckpointInfo, metric: str | None) -> tuple[object, ...]:
    value = info.metrics.get(metric or "")
    best = element("b", "best", class_="best") if info.best else ""
    shown = "" if value is None else words.number(value)
    position = (words.integer(info.step), info.epoch, info.batch)
    return (element("code", name), *position, shown, words.size(info.nbytes), words.moment(info.created), best)


def lines_of_history(runs: Sequence[Run]) -> Safe:
    """Earlier runs in the same directory."""
    rows = [
        (words.moment(run.began), words.integer(len(run.attempts)), _reached(run), "finished" if run.finished else "not finished")
        for run in runs
    ]
    return table(("began (UTC)", "attempts", "last step", "state"), rows, left=(0, 3), caption="Earlier lines of history", close=True)


def _reached(run: Run) -> str:
    return words.integer(max((attempt.reached or 0 for attempt in run.attempts), default=0))
