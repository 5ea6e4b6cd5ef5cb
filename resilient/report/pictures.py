"""The pictures of the page but for the timeline: where the time went, metrics, saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from resilient.accounts import Time
from resilient.report import drawing, scales, tables, words
from resilient.report.curves import Curve, Point
from resilient.report.elapsed import Stretch
from resilient.report.markup import Safe, element, joined

_POINTS = 800  # of one line
_DOTS = 400


def time_bar(time: Time) -> Safe:
    """All of the time as one bar, a piece for each share."""
    total = time.total or 1.0
    pieces = [(kind, seconds / total, name) for name, kind, seconds, _ in tables.shares(time) if seconds > 0]
    said = ", ".join(f"{name} {words.percent(share)}" for _, share, name in pieces)
    spans = (
        element("span", class_=kind, style=f"flex-grow:{share:.5f}", title=f"{name} {words.percent(share)}") for kind, share, name in pieces
    )
    return element("div", *spans, class_="timebar", role="img", aria_label=f"Where the time went: {said}.")


def over_steps(curves: Sequence[Curve]) -> Safe:
    """A metric and its twin over the steps trained."""
    last = max((point.step for curve in curves for point in curve.points), default=1.0)
    across = scales.Scale(0.0, max(float(last), 1.0))
    ticks = [(across.place(value), name) for value, name in across.ticks(5)]
    return _metric(curves, across, lambda point: point.step, ticks, "step")


def over_time(curves: Sequence[Curve], length: float, ticks: Sequence[scales.Tick], runs_on: Sequence[Stretch]) -> Safe:
    """The same over the time since the run began; `ticks` is its axis. The time in which nothing was trained is shaded."""
    known = [Curve(curve.name, [point for point in curve.points if point.elapsed is not None]) for curve in curves]
    across = scales.Scale(0.0, max(length, 1e-3))
    pauses = [(max(0.0, one.began - before), one.began + one.attempt.time.starting) for one, before in _with_gaps(runs_on)]
    shade = drawing.bars(drawing.merged((across.place(a), across.place(b)) for a, b in pauses if b - a > length * 0.002), "pause")
    return _metric(known, across, lambda point: point.elapsed or 0.0, ticks, "time since the run began", under=shade)


def _with_gaps(runs_on: Sequence[Stretch]) -> Iterator[tuple[Stretch, float]]:
    """Each attempt with the gap before it."""
    yield from zip(runs_on, [0.0, *(stretch.gap for stretch in runs_on)], strict=False)


def _metric(
    curves: Sequence[Curve],
    across: scales.Scale,
    at: Callable[[Point], float],
    ticks: Sequence[scales.Tick],
    unit: str,
    *,
    under: Safe = Safe(""),  # noqa: B008  an immutable string
) -> Safe:
    up = scales.around(_telling(curves))
    shapes = [under]
    for index, curve in enumerate(curves[:2]):
        kind = ("line", "twin")[index]

        def place(point: Point) -> drawing.Point:
            return across.place(at(point)), up.place(point.value) if math.isfinite(point.value) else math.nan

        shapes.append(drawing.dots(_some([place(point) for point in curve.within()]), f"{kind} faint"))
        line = [place(point) for point in curve.kept()]
        shapes.append(drawing.line(_thin(line), kind))
        if len(line) <= 60:
            shapes.append(drawing.dots(line, f"{kind} points"))
        shapes.append(drawing.dots(_some([place(point) for point in curve.lost()]), "again"))
    return drawing.plot(
        shapes,
        label=f"{' and '.join(curve.name for curve in curves[:2])} over {unit}: {_said(curves)}",
        across=ticks,
        up=[(up.place(value), name) for value, name in up.ticks(4)],
        unit=unit,
    )


def _telling(curves: Iterable[Curve]) -> list[float]:
    """The values that the axis has to show. The first few of a run may be so large that nothing else could be seen: they may leave it."""
    values = sorted(point.value for curve in curves for point in curve.points if math.isfinite(point.value))
    if len(values) < 20:
        return values
    low, middle, high = values[0], values[len(values) // 2], values[int(len(values) * 0.98)]
    far = values[-1] - middle > 20 * max(high - low, 1e-300)
    return [low, high] if far else [low, values[-1]]


def _said(curves: Sequence[Curve]) -> str:
    ends = [(curve.name, kept[0].value, kept[-1].value) for curve in curves[:2] if (kept := curve.kept())]
    return "; ".join(f"{name} from {words.number(first)} to {words.number(last)}" for name, first, last in ends) or "no values"


def metric_legend(curves: Sequence[Curve]) -> Safe:
    """What the lines and dots are, with the last values."""
    entries: list[tuple[str, object]] = []
    for kind, curve in zip(("line", "twin"), curves, strict=False):
        kept = [point for point in curve.kept() if math.isfinite(point.value)]
        last = f" (last {words.number(kept[-1].value)})" if kept else ""
        entries.append((kind, joined([element("b", curve.name), last])))
    if any(curve.within() for curve in curves[:2]):
        entries.append(("line faint dot", "mean of an epoch so far"))
    if any(curve.lost() for curve in curves[:2]):
        entries.append(("again dot", "saved, but done again later"))
    return drawing.legend(entries)


def save_costs(runs_on: Sequence[Stretch], length: float, ticks: Sequence[scales.Tick]) -> Safe:
    """Each save when it was made: how long it was written, and what it cost training."""
    found = [(stretch.at(save.time), save) for stretch in runs_on for save in stretch.attempt.saves]
    writing = [(at, save.seconds) for at, save in found if save.seconds > 0]
    costs = [(at, save.stall) for at, save in found if save.stall > 0]
    up = scales.around(seconds for _, seconds in [*writing, *costs])

    def places(pairs: Sequence[tuple[float, float]]) -> list[drawing.Point]:
        return _some([(at / length, up.place(seconds)) for at, seconds in pairs])

    return drawing.plot(
        [drawing.dots(places(writing), "writing"), drawing.dots(places(costs), "stall")],
        label=f"Seconds that each of {len(found)} saves took to write, and what it cost training, over time.",
        across=ticks,
        up=[(up.place(value), words.duration(value)) for value, _ in up.ticks(4)],
        unit="time since the run began",
        kind="low",
    )


def _thin(line: Sequence[drawing.Point]) -> list[drawing.Point]:
    return scales.thinned(line, lambda x: x, _POINTS)


def _some(points: Sequence[drawing.Point]) -> list[drawing.Point]:
    """Dots that do not all lie on each other: evenly taken from those that are finite."""
    seen = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    if len(seen) <= _DOTS:
        return seen
    return scales.thinned(sorted(seen), lambda x: x, _DOTS)
