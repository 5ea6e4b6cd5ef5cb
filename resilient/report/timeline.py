"""The run from its beginning to now: how far it was when, what ended each attempt, when it saved and what went wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from resilient.accounts import fields
from resilient.report import drawing, ends, scales, words
from resilient.report.elapsed import Stretch
from resilient.report.markup import Safe, element
from resilient.report.storm import Kill

_POINTS = 1500  # of one line; a screen has fewer columns
_MARKS = 60  # on the line; more would hide it, and get lanes of their own
Place = tuple[float, float]


class Timeline:
    """Everything on one axis of time.

    Args:
        runs_on: the attempts, at least one.
        alive: whether the last of them runs now.
        faults: what was done to the run on purpose.
    """

    def __init__(self, runs_on: Sequence[Stretch], *, alive: bool, faults: Sequence[Kill] = ()) -> None:
        self._faults = faults
        self._stretches = runs_on
        self._alive = alive
        self.length = max(runs_on[-1].ended, 1e-3)
        reached = [stretch.attempt.reached or 0 for stretch in runs_on]
        self._steps = scales.from_zero(map(float, reached))

    def picture(self) -> Safe:
        """Steps over time, the lanes below it, and what the colours and signs mean."""
        return element("div", self._progress(), self._lanes(), self._legend(), class_="timeline")

    def across(self) -> list[scales.Tick]:
        """Ticks of the axis of time, 0 to 1."""
        return [(value / self.length, name) for value, name in scales.time_ticks(self.length)]

    # -- steps over time -------------------------------------------------------------------------------------------------------

    def _progress(self) -> Safe:
        trained: list[Place] = []
        lost: list[Place] = []
        for stretch in self._stretches:
            kept, given_up = self._line(stretch)
            trained += [*kept, _LIFTED]
            lost += [*given_up, _LIFTED]
        return drawing.plot(
            [drawing.line(_thin(lost), "lost") if len(self._stretches) <= _POINTS else Safe(""), drawing.line(_thin(trained), "line")],
            label=self._said(),
            across=self.across(),
            up=[(self._steps.place(value), name) for value, name in self._steps.ticks(4)],
            over=self._marks(),
            kind="tall",
            unit="time since the run began",
        )

    def _line(self, stretch: Stretch) -> tuple[list[Place], list[Place]]:
        """An attempt's way up: what counts, and what was trained for nothing."""
        attempt = stretch.attempt
        if attempt.start is None or attempt.trained_from is None:
            return [], []
        reached = attempt.reached or attempt.start
        top = max(attempt.start, reached - attempt.lost_steps)
        saves = [(stretch.at(save.time), save.step) for save in attempt.saves if attempt.start < save.step <= top]
        way = [(stretch.at(attempt.trained_from), attempt.start), *saves]
        if attempt.lost_steps == 0:
            return [self._place(*point) for point in [*way, (stretch.ended, reached)]], []
        # The journal does not say when a lost step was trained: from the last save on, they are taken to be evenly spread.
        return [self._place(*point) for point in way], [self._place(*point) for point in [way[-1], (stretch.ended, reached)]]

    def _place(self, elapsed: float, step: float) -> Place:
        return elapsed / self.length, self._steps.place(step)

    def _marks(self) -> list[Safe]:
        """What ended each attempt, at the place where it did; the last one alone where there are too many."""
        numbered = list(enumerate(self._stretches, start=1))
        return [self._mark(number, stretch) for number, stretch in (numbered if len(numbered) <= _MARKS else numbered[-1:])]

    def _mark(self, number: int, stretch: Stretch) -> Safe:
        way = ends.way(stretch.attempt, alive=self._alive)
        at = self._place(stretch.ended, self._standing(number))
        return drawing.mark(at, way.sign, f"attempt {number}: {way.word} at {words.duration(stretch.ended)}")

    def _standing(self, number: int) -> int:
        """The step that the run was at when attempt `number` ended: where it never came to train, that of the attempt before."""
        before = reversed(self._stretches[:number])
        return next((stretch.attempt.reached for stretch in before if stretch.attempt.reached is not None), 0)

    def _said(self) -> str:
        count = words.count(len(self._stretches), "attempt")
        return f"Steps over time: {count} in {words.duration(self.length)}, up to step {words.integer(int(self._steps.high))}."

    # -- lanes -----------------------------------------------------------------------------------------------------------------

    def _lanes(self) -> Safe:
        lanes = [
            drawing.lane("process", [self._bars(self._starting(), "starting"), self._bars(self._training(), "training")]),
            drawing.lane("saves", [self._ticks((s.at(save.time) for s in self._stretches for save in s.attempt.saves), "save")]),
        ]
        if len(self._stretches) > _MARKS:
            lanes += [drawing.lane(name, [self._ticks(times, f"end {name}")]) for name, times in self._ends().items()]
        if self._faults:
            lanes.append(drawing.lane("faults", [self._ticks(map(self._struck, self._faults), "trouble")]))
        hung, failed = list(self._hung()), list(self._failed_saves())
        if hung or failed:
            lanes.append(drawing.lane("trouble", [self._bars(hung, "hung"), self._ticks(failed, "trouble")]))
        return element("div", *lanes, class_="lanes")

    def _bars(self, spans: Iterable[tuple[float, float]], kind: str) -> Safe:
        return drawing.bars(drawing.merged((a / self.length, b / self.length) for a, b in spans), kind, 0.15, 0.85)

    def _ticks(self, times: Iterable[float], kind: str) -> Safe:
        return drawing.ticks(drawing.distinct(time / self.length for time in times), kind, 0.15, 0.85)

    def _starting(self) -> Iterable[tuple[float, float]]:
        return ((s.began, s.began + s.attempt.time.starting) for s in self._stretches if s.attempt.time.starting > 0)

    def _training(self) -> Iterable[tuple[float, float]]:
        return ((s.began + s.attempt.time.starting, s.ended) for s in self._stretches if s.attempt.trained_from is not None)

    def _ends(self) -> dict[str, list[float]]:
        """When attempts were interrupted, by the sign of how."""
        found: dict[str, list[float]] = {}
        for stretch in self._stretches:
            way = ends.way(stretch.attempt, alive=self._alive)
            if way.unwanted:
                found.setdefault(way.sign, []).append(stretch.ended)
        return found

    def _struck(self, fault: Kill) -> float:
        """When a fault was delivered: within the last stretch of its attempt that had begun by then, or of any."""
        began = [stretch for stretch in self._stretches if stretch.attempt.began <= fault.time] or self._stretches[:1]
        of_attempt = [stretch for stretch in began if stretch.attempt.number == fault.attempt]
        return (of_attempt or began)[-1].at(fault.time)

    def _hung(self) -> Iterable[tuple[float, float]]:
        """The time in which a program gave no sign of life before it was stopped for that."""
        for stretch in self._stretches:
            for event in stretch.attempt.events:
                if event["event"] == "hung":
                    found = stretch.at(fields.time(event))
                    yield max(stretch.began, found - (fields.real(event, "silent") or 0.0)), found

    def _failed_saves(self) -> Iterable[float]:
        return (s.at(fields.time(event)) for s in self._stretches for event in s.attempt.events if event["event"] == "save_failed")

    def _legend(self) -> Safe:
        counts: dict[ends.Way, int] = {}
        for stretch in self._stretches:
            way = ends.way(stretch.attempt, alive=self._alive)
            counts[way] = counts.get(way, 0) + 1
        signs = [(f"mark {way.sign}", f"{way.word} {words.integer(count)}") for way, count in counts.items()]
        lost = [("lost", "trained, but not on disk when it ended")] if any(s.attempt.lost_steps for s in self._stretches) else []
        return drawing.legend([("line", "training"), *lost, ("starting", "starting"), *signs])


_LIFTED = (math.nan, math.nan)


def _thin(points: Sequence[Place]) -> list[Place]:
    """Few enough points for any number of attempts, with the breaks where they were."""
    if len(points) <= _POINTS * 2:
        return list(points)
    pieces: list[list[Place]] = [[]]
    for point in points:
        if point[0] != point[0]:
            pieces.append([])
        else:
            pieces[-1].append(point)
    pieces = [piece for piece in pieces if piece]
    if len(pieces) > _POINTS:  # no break could be seen any more
        return scales.thinned([point for piece in pieces for point in piece], lambda x: x, _POINTS)
    each = max(4, _POINTS // max(1, len(pieces)))
    return [point for piece in pieces for point in [*scales.thinned(piece, lambda x: x, each), _LIFTED]]
