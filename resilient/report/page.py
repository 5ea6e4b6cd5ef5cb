"""The page: its sections in the order in which a reader has questions."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterable, Iterator, Sequence

from resilient.accounts import Attempt, fields
from resilient.report import curves, pictures, tables, verdict, words
from resilient.report.elapsed import Stretch, stretches
from resilient.report.facts import Facts
from resilient.report.markup import Safe, element, folded, joined, table, text
from resilient.report.storm import Storm
from resilient.report.timeline import Timeline

_MOST_KILLS = 200
_MOST_PROBLEMS = 50

TERMS = (
    ("attempt", "one process of the program, from its start to its end, however it ended"),
    ("step", "one batch trained; steps are counted from the beginning of the run, over all attempts"),
    ("save", "one checkpoint, complete and durable on disk; it is written in the background while training goes on"),
    ("steps lost", "trained after the last checkpoint that was gone on from; the next attempt trained them again, with the same result"),
    ("goodput", "training that counts, as a share of all the time since the first attempt began"),
    ("interruption", "an attempt that ended before the training did: by a kill, a preemption, an error, a hang"),
    ("preempted", "it was asked to stop, by a signal or a notice of the platform, and saved first"),
    ("vanished", "the next attempt began and nobody had written how this one ended: it was killed, or its machine was"),
    ("best", "the checkpoint with the best value of the monitored metric among those on disk"),
    ("quarantine", "where damaged checkpoints are moved to; nothing is ever deleted there"),
)


def html(facts: Facts, storm: Storm | None) -> Safe:
    """The whole page."""
    name = facts.directory.resolve().name
    head = element(
        "head",
        Safe('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Safe('<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'),
        # Nothing is loaded and nothing runs, whatever a name of a metric may try.
        Safe("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"),
        Safe('<link rel="icon" href="data:,">'),
        element("title", f"{name}: {verdict.state(facts)}"),
        element("style", Safe(_style())),
    )
    body = element("body", _header(facts, name), element("main", *_sections(facts, storm)), _footer(facts))
    return Safe(f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n')


@functools.cache
def _style() -> str:
    return importlib.resources.files("resilient.report").joinpath("page.css").read_text(encoding="utf-8")


def _header(facts: Facts, name: str) -> Safe:
    mood = {True: "good", False: "bad", None: "open"}[verdict.is_good(facts)]
    numbers = [
        element("div", element("dt", number.name), element("dd", number.value, element("small", number.note)))
        for number in verdict.numbers(facts)
    ]
    return element(
        "header",
        element("p", "run ", element("b", name), class_="eyebrow"),
        element("h1", verdict.sentence(facts), class_=mood),
        *(element("p", remark, class_="lede") for remark in verdict.remarks(facts)),
        *(element("p", warning, class_="alert") for warning in facts.status.warnings),
        element("dl", *numbers, class_="numbers"),
    )


def _sections(facts: Facts, storm: Storm | None) -> Iterator[Safe]:
    run = facts.run
    if storm is not None:
        yield _section("Under fire", *_storm(storm))
    if run is not None:
        runs_on = stretches(run.attempts)
        timeline = Timeline(runs_on, alive=facts.alive, faults=storm.kills if storm is not None else ())
        yield _section("Timeline", timeline.picture())
        yield _section("Where the time went", pictures.time_bar(run.time), tables.where_the_time_went(run.time))
        yield from _metrics(facts, runs_on, timeline)
        yield _section("Attempts", *_attempts(facts, runs_on))
        if run.saves:
            yield _section("Saves", *_saves(runs_on, timeline, facts))
    yield _section("On disk", *_store(facts))
    if len(facts.runs) > 1:
        yield _section("Earlier in this directory", tables.lines_of_history(facts.runs[:-1]))
    yield _section("Words", _pairs(TERMS, "terms"))


def _pairs(rows: Iterable[tuple[object, object]], kind: str | None = None) -> Safe:
    """Names and what belongs to them."""
    return element("dl", *(joined([element("dt", name), element("dd", value)]) for name, value in rows), class_=kind)


def _section(title: str, *content: object) -> Safe:
    return element("section", element("h2", title), *content)


def _storm(storm: Storm) -> Iterator[Safe]:
    mood = {True: "good", False: "bad", None: "open"}[storm.identical]
    yield element("p", storm.verdict, class_=f"verdict {mood}")
    if storm.first_difference is not None:
        yield element("p", element("b", "First difference: "), storm.first_difference)
    if storm.details:
        rows = [(name, element("span", text(value, 2000), class_="words")) for name, value in storm.details]
        yield table(("what", "value"), rows, wrap=1, caption="The storm")
    if storm.kills:
        faults = [
            (number, words.moment(kill.time), kill.kind, words.NOTHING if kill.attempt is None else kill.attempt)
            for number, kill in enumerate(storm.kills[:_MOST_KILLS], start=1)
        ]
        yield folded(
            f"{words.count(len(storm.kills), 'fault')} delivered",
            table(("#", "when (UTC)", "what", "attempt"), faults, left=(1,), wrap=2, caption="Faults"),
            _more(len(storm.kills), _MOST_KILLS, "fault"),
        )


def _more(count: int, shown: int, noun: str) -> Safe:
    return element("p", f"The first {shown} of {words.count(count, noun)}.", class_="note") if count > shown else Safe("")


def _metrics(facts: Facts, runs_on: Sequence[Stretch], timeline: Timeline) -> Iterator[Safe]:
    found = curves.curves(runs_on, facts.newest)
    shown = curves.panels(found, facts.monitored)
    blocks = []
    for number, panel in enumerate(shown):
        drawn = [pictures.over_steps(panel)]
        if number == 0 and any(point.elapsed is not None for curve in panel for point in curve.points):
            drawn.append(pictures.over_time(panel, timeline.length, timeline.across(), runs_on))
        blocks.append(element("figure", pictures.metric_legend(panel), *drawn, _unusable(panel), class_="wide" if len(drawn) > 1 else None))
    if not blocks:
        yield _section("Loss", element("p", "No value of any metric was saved yet.", class_="note"))
        return
    left_out = sorted({curve.name for curve in found} - {curve.name for panel in shown for curve in panel})
    more = [element("p", "Not drawn: ", joined((element("code", name) for name in left_out[:20]), ", "), class_="note")] if left_out else []
    yield _section("Loss and metrics", element("div", *blocks, class_="figures"), *more)


def _unusable(panel: Sequence[curves.Curve]) -> Safe:
    bad = sum(curve.unusable for curve in panel)
    return element("p", f"{words.count(bad, 'value')} NaN or infinite: there the line is broken.", class_="note bad") if bad else Safe("")


def _attempts(facts: Facts, runs_on: Sequence[Stretch]) -> Iterator[Safe]:
    run = facts.run
    if run is None:
        return
    if run.gave_up is not None:
        items = [element("li", failure) for failure in run.gave_up[:20]]
        said = element("p", "The supervisor has given up, after these failures without progress:")
        yield element("div", said, element("ol", *items), class_="alert")
    yield tables.ways_to_end(run.attempts, alive=facts.alive)
    rows = tables.chosen(runs_on)
    listed = tables.attempts(rows, alive=facts.alive)
    if len(rows) < len(runs_on):
        note = f"The newest {tables.NEWEST} of {words.integer(len(runs_on))}, and before them the {tables.COSTLIEST} that lost most."
        listed = joined([element("p", note, class_="note"), listed])
    yield listed if len(rows) <= 12 else folded(f"{words.count(len(rows), 'attempt')} in detail", listed)


def _saves(runs_on: Sequence[Stretch], timeline: Timeline, facts: Facts) -> Iterator[Safe]:
    run = facts.run
    if run is None:
        return
    yield pictures.save_costs(runs_on, timeline.length, timeline.across())
    yield Safe(
        '<div class="legend"><span><i class="writing dot"></i>time to write, in the background</span>'
        '<span><i class="stall dot"></i>what it cost training</span></div>'
    )
    yield tables.saves(run.saves)
    failed = [event for stretch in runs_on for event in stretch.attempt.events if event["event"] == "save_failed"]
    if failed:
        rows = [(event["time"][:19].replace("T", " "), event.get("error", "")) for event in failed[-10:]]
        yield element("p", f"{words.count(len(failed), 'save')} failed; the newest:", class_="note bad")
        yield table(("when (UTC)", "why"), rows, wrap=1, caption="Failed saves")


def _store(facts: Facts) -> Iterator[Safe]:
    survey = facts.survey
    total = sum(info.nbytes for info in survey.checkpoints) + (survey.final.nbytes if survey.final else 0)
    if not survey.checkpoints and survey.final is None:
        yield element("p", "No checkpoint yet.", class_="note")
    else:
        kept = words.count(len(survey.checkpoints), "checkpoint")
        final = " and the final state" if survey.final else ""
        told = f"{kept}{final}, {words.size(total)}. Their sizes were looked at and not their content: that does "
        yield element("p", told, element("code", f"resilient verify {facts.directory}"), ".")
        yield tables.checkpoints(facts)
    problems = [*survey.damaged, *survey.newer]
    if problems:
        rows = [(element("code", problem.path.name), problem.reason) for problem in problems[:_MOST_PROBLEMS]]
        yield element("p", f"{words.count(len(problems), 'problem')} found:", class_="note bad")
        yield table(("where", "what"), rows, wrap=1, caption="Problems")
    if facts.quarantine:
        moved = [(element("code", item.name), words.size(item.nbytes), item.reason) for item in facts.quarantine[:_MOST_PROBLEMS]]
        yield element("p", f"{len(facts.quarantine)} in quarantine:", class_="note bad")
        yield table(("what", "size", "why"), moved, wrap=2, caption="Quarantine")
    elif not problems:
        yield element("p", "Nothing is damaged as far as that tells, and nothing is in quarantine.", class_="note")


def _footer(facts: Facts) -> Safe:
    run = facts.run
    rows = [("directory", str(facts.directory.resolve())), ("looked at", f"{words.moment(facts.taken)} UTC")]
    if run is not None and run.run_id:
        rows.append(("run id", run.run_id))
    command = _command(run.attempts[-1]) if run is not None else ""
    if command:
        rows.append(("command", command))
    return element("footer", _pairs([*rows, ("made by", "resilient report")]))


def _command(attempt: Attempt) -> str:
    """The command line that a supervisor was given; "" without one."""
    return next((" ".join(fields.texts(event, "command")) for event in attempt.events if event["event"] == "attempt"), "")
