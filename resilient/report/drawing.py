"""Pictures as SVG that takes its colours from the page and fits any width.

The drawing is stretched to its box, its strokes are not (`non-scaling-stroke`), and the labels are HTML beside it: so text has one size
on a phone, on a desk and on paper. A place is a number from 0 to 1, y upwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from resilient.report.markup import Safe, element, text
from resilient.report.scales import Tick

Point = tuple[float, float]
_SIDE = 1000  # units of the drawing, each way


def line(points: Sequence[Point], kind: str) -> Safe:
    """A line through the places; where a place is not finite, it is broken."""
    return _path(" ".join(f"{'M' if first else 'L'}{_at(point)}" for point, first in _with_starts(points)), kind)


def dots(points: Iterable[Point], kind: str) -> Safe:
    """A round dot at each place: a line of no length with round ends, which no stretching makes an ellipse."""
    return _path(" ".join(f"M{_at(point)}h0" for point in points if _finite(point)), kind)


def bars(spans: Iterable[Point], kind: str, low: float = 0.0, high: float = 1.0) -> Safe:
    """A bar from x to x for each span, between the heights `low` and `high`; none is too thin to be seen."""
    top, height = _unit(1 - high), _unit(high - low)
    return _path("".join(f"M{_unit(a)} {top}h{max(_unit(b - a), 1.5)}v{height}h-{max(_unit(b - a), 1.5)}z" for a, b in spans), kind)


def ticks(places: Iterable[float], kind: str, low: float = 0.0, high: float = 1.0) -> Safe:
    """An upright line at each x, between the heights `low` and `high`."""
    top, height = _unit(1 - high), _unit(high - low)
    return _path(" ".join(f"M{_unit(x)} {top}v{height}" for x in places), kind)


def merged(spans: Iterable[Point], closer: float = 0.002) -> list[Point]:
    """Spans in order, those that lie closer together than the eye can see made one: however many there are, at most 1 / `closer` stay."""
    found: list[Point] = []
    for begin, end in sorted(spans):
        if found and begin - found[-1][1] < closer:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def distinct(places: Iterable[float], closer: float = 0.002) -> list[float]:
    """Places that the eye can tell apart."""
    found: list[float] = []
    for place in sorted(places):
        if not found or place - found[-1] >= closer:
            found.append(place)
    return found


def plot(
    shapes: Iterable[Safe],
    *,
    label: str,
    across: Sequence[Tick],
    up: Sequence[Tick],
    over: Iterable[Safe] = (),
    kind: str = "",
    unit: str = "",
) -> Safe:
    """A picture with its axes; the places of `across` and `up` are 0 to 1. `label` says what it shows to those who do not see it."""
    grid = _path(" ".join(f"M0 {_unit(1 - place)}h{_SIDE}" for place, _ in up), "grid")
    svg = element("svg", grid, *shapes, viewBox=f"0 0 {_SIDE} {_SIDE}", preserveAspectRatio="none", aria_hidden="true", focusable="false")
    inner = element(
        "div",
        element("div", *(_label(name, f"bottom:{place:.2%}") for place, name in up), class_="ys"),
        element("div", svg, *over, class_="area"),
        element("div", *(_label(name, _across(place)) for place, name in across), _unit_name(unit), class_="xs"),
        class_=f"plot {kind}".strip(), role="img", aria_label=label,
    )  # fmt: skip
    return element("div", inner, class_="frame")


def lane(name: str, shapes: Iterable[Safe]) -> Safe:
    """One row of a timeline: its name and what happened."""
    svg = element("svg", *shapes, viewBox=f"0 0 {_SIDE} {_SIDE}", preserveAspectRatio="none", aria_hidden="true", focusable="false")
    return element("div", element("div", name, class_="name"), element("div", svg, class_="area"), class_="lane")


def mark(place: Point, sign: str, title: str) -> Safe:
    """A sign at a place, over the picture."""
    style = f"left:{min(max(place[0], 0), 1):.2%};bottom:{min(max(place[1], 0), 1):.2%}"
    return element("span", class_=f"mark {sign}", style=style, title=title)


def legend(entries: Iterable[tuple[str, object]]) -> Safe:
    """What the colours mean."""
    return element("div", *(element("span", element("i", class_=kind), text(name)) for kind, name in entries), class_="legend")


def _across(place: float) -> str:
    """Where the label of a tick stands: below it, but within the picture."""
    return f"left:{place:.2%}" if place < 0.95 else "right:0;transform:none"


def _label(name: str, style: str) -> Safe:
    return element("span", name, style=style)


def _unit_name(unit: str) -> Safe:
    return element("em", unit) if unit else Safe("")


def _path(data: str, kind: str) -> Safe:
    return element("path", d=Safe(data), class_=kind) if data else Safe("")


def _with_starts(points: Iterable[Point]) -> Iterable[tuple[Point, bool]]:
    pen_down = False
    for point in points:
        if _finite(point):
            yield point, not pen_down
        pen_down = _finite(point)


def _finite(point: Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _at(point: Point) -> str:
    return f"{_unit(point[0])} {_unit(1 - point[1])}"


def _unit(place: float) -> str | float:
    number = round(min(max(place, -1.0), 2.0) * _SIDE, 1)
    return int(number) if number == int(number) else number
