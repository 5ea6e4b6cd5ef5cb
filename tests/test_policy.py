"""When to save: the rules one by one, and `save_every="auto"` through simulated months."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.failures import observed_failures
from resilient.policy import OVERHEAD_BUDGET, Auto, Backoff, Costs, EveryBatches, EveryEpoch, EverySeconds, Failures, Since

HOUR, DAY = 3600.0, 86400.0
seconds = st.floats(0, 1e4)
costs = st.builds(Costs, seconds, seconds)
failures = st.builds(Failures, st.integers(0, 1000), st.floats(0, 1e8))


@given(st.integers(1, 50), st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_every_n_batches_saves_each_time_a_multiple_is_passed(n, jumps):
    """Also where an execution of several steps jumps over it."""
    saved = now = 0
    for jump in jumps:
        before, now = now, now + jump
        due = EveryBatches(n).due(Since(0.0, saved, now))
        assert due == (now // n > saved // n)
        saved = now if due else saved
        assert now - saved < n + max(jumps) or before == 0


def test_the_other_cadences_wait_for_their_time():
    """A duration, an epoch's end, and auto's interval; auto never saves the same step twice."""
    assert EverySeconds(3.0).due(Since(3.0, 0, 1)) and not EverySeconds(3.0).due(Since(2.9, 0, 1))
    assert not EveryEpoch().due(Since(1e9, 0, 10**9))
    assert Auto(7.0).due(Since(7.0, 0, 1)) and not Auto(7.0).due(Since(6.9, 0, 1)) and not Auto(7.0).due(Since(9.0, 4, 4))


@pytest.mark.parametrize("cadence", [EveryEpoch(), EveryBatches(10), EverySeconds(3.0)])
def test_what_the_caller_chose_is_not_tuned(cadence):
    """Whatever it costs."""
    assert cadence.retuned(Costs(100.0, 100.0), Failures(9, 1.0)) is cadence
    assert cadence.choice == {} and cadence.early(Since(0.0, 0, 1)) == 0.0


@given(costs, failures, st.floats(1, 1e6))
def test_auto_keeps_the_budget_and_lets_the_disk_keep_up(costs, failures, before):
    """Whatever it had chosen before: cost over interval stays within one per cent, and writing leaves a fifth of the time free."""
    interval = Auto(before).retuned(costs, failures).interval
    assert costs.training <= OVERHEAD_BUDGET * interval * (1 + 1e-9)
    assert costs.writing <= 0.8 * interval * (1 + 1e-9) and interval >= 1.0


@given(costs, failures, st.integers(1, 100), st.floats(0, 1e7))
def test_a_failure_never_makes_auto_save_less_often_and_time_without_one_never_more_often(costs, failures, more, longer):
    """The two kinds of news about the failure rate each pull their own way."""
    now = Auto().retuned(costs, failures).interval
    assert Auto().retuned(costs, Failures(failures.count + more, failures.uptime)).interval <= now
    assert Auto().retuned(costs, Failures(failures.count, failures.uptime + longer)).interval >= now


@given(costs)
def test_before_anything_is_seen_the_budget_alone_decides(costs):
    """As often as it allows, whatever a save costs."""
    interval = Auto().retuned(costs, Failures()).interval
    assert interval == pytest.approx(1.1 * max(1.0, 100 * costs.training, costs.writing / 0.8)) or interval == 1.0


@given(costs, failures, st.floats(0.92, 1.07))
def test_auto_does_not_change_its_mind_for_a_breath(costs, failures, breath):
    """Costs that move by less than a tenth give the very same choice, so that the journal tells of real changes only."""
    chosen = Auto().retuned(costs, failures)
    assert chosen.retuned(Costs(costs.training * breath, costs.writing * breath), failures) is chosen


def test_auto_says_what_decided():
    """The reason is of the one that is the largest: the shortest interval, the disk, the budget, or the failures."""
    rare = Failures(0, 1e9)
    assert Auto().choice == {"interval": 1.0, "interval_reason": "never more often than this"}
    assert Auto().retuned(None, rare).choice == Auto().choice
    assert Auto().retuned(Costs(0.0, 8.0), rare).choice == {"interval": 11.0, "interval_reason": "writing takes 8 s"}
    assert Auto().retuned(Costs(2.0, 8.0), rare).choice == {
        "interval": 220.0,
        "interval_reason": "a save costs training 2 s, and 1% is allowed",
    }
    assert Auto().retuned(Costs(0.05, 0.2), Failures(2, 2950.0)).choice == {
        "interval": round(1.1 * math.sqrt(2 * 0.05 * 1000), 3),
        "interval_reason": "one failure in 1000 s (seen: 2 in 2950 s): to save more often costs more",
    }


@given(costs, failures, st.integers(1, 2000))
def test_attempts_that_die_before_they_save_save_earlier_and_earlier(costs, failures, attempts):
    """Down to the shortest interval: a training that repeats the same batches for ever keeps any budget."""
    starving = Failures(failures.count, failures.uptime, attempts)
    interval, usual = Auto(1e9).retuned(costs, starving).interval, Auto(1e9).retuned(costs, failures).interval
    assert interval == pytest.approx(max(1.1, usual * 0.5**attempts))


@given(st.floats(1, 100), st.floats(0.1, 10), st.integers(1, 50))
def test_ends_of_epochs_are_saved_out_of_the_same_budget(interval, ratio, epochs):
    """The saves at the ends and those between come to one per interval, as far as the ends leave a choice."""
    auto, now, early, between = Auto(interval), 0.0, 0.0, 0
    for epoch in range(1, epochs + 1):
        end = epoch * ratio * interval
        while now + early + interval < end:
            now, early, between = now + early + interval, 0.0, between + 1
        early, now = auto.early(Since(end - now - early, 0, 1)), end
        assert 0 <= early <= interval
    assert between + epochs <= max(epochs, epochs * ratio + 2)


# -- months --------------------------------------------------------------------------------------------------------------------


class Life:
    """A training that saves by `save_every="auto"`, dies by chance and starts again, on a clock that is set now and then.

    Attributes:
        overhead: seconds that saving cost.
        risk: seconds that were lost, in expectation: deaths come by chance, and the luck of a few must not decide between two intervals.
        starving: attempts that began after one that had died before it saved.
    """

    def __init__(self, cost: Callable[[float], float], writing: float, between: float, *, until: float, seed: int) -> None:
        self._cost, self._writing, self._between, self._until = cost, writing, between, until
        self._chance = random.Random(seed)
        self._now, self._wall = 0.0, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        self._events: list[dict[str, object]] = []
        self._known: Costs | None = None
        self.overhead = self.risk = 0.0
        self.starving = 0
        while self._now < until:
            self._attempt(min(until, self._now + self._chance.expovariate(1 / between)))

    def _attempt(self, death: float) -> None:
        began = captured = self._now
        self._note("started")
        self._note("restored")
        seen = observed_failures(self._events[-200:])
        self.starving += seen.in_vain > 0
        cadence = Auto().retuned(self._known, seen)
        while (due := captured + cadence.interval) < death:
            self._known = Costs(self._cost(due), self._writing)
            captured = due + self._known.training
            self.overhead += self._known.training
            self._pass(captured)
            self._note("saved")
            cadence = cadence.retuned(self._known, Failures(seen.count, seen.uptime + captured - began))
        self._pass(max(captured, death))
        if self._chance.random() < 0.1:
            self._wall += dt.timedelta(days=self._chance.uniform(-3, 3))

    def _pass(self, now: float) -> None:
        passed = now - self._now
        self.risk += passed * (passed / 2 + self._writing) / self._between
        self._wall += dt.timedelta(seconds=passed)
        self._now = now

    def _note(self, event: str) -> None:
        self._events.append({"event": event, "time": self._wall.isoformat(), "step": int(self._now)})


def span(cost: float, between: float) -> float:
    """Two hundred failures, or as long as ten thousand saves take."""
    return min(200 * between, 10_000 * max(1.0, cost / OVERHEAD_BUDGET))


# Saves that cost training from 3 ms to half a minute; failures from every half minute to every four days.
magnitudes = st.tuples(st.floats(-2.5, 1.5), st.floats(1.5, 5.5)).map(lambda powers: (10 ** powers[0], 10 ** powers[1]))


@settings(max_examples=30)
@given(magnitudes, st.floats(0.1, 3), st.integers(0, 2**32))
def test_a_life_with_auto_wastes_little_more_than_with_the_best_interval_that_is_allowed(magnitude, slowness, seed):
    """Overhead and lost work together, beside a grid search over intervals by someone who knows the failure rate from the start."""
    cost, between = magnitude
    writing = slowness * cost
    until = span(cost, between)
    life = Life(lambda _: cost, writing, between, until=until, seed=seed)

    def waste(interval: float) -> float:
        return until * (cost / interval + (interval / 2 + writing) / between)

    shortest = max(1.0, cost / OVERHEAD_BUDGET, writing / 0.8)
    best = min(waste(shortest * (max(shortest, 60.0) / shortest) ** (step / 20)) for step in range(21))
    learning = OVERHEAD_BUDGET * min(until, 2 * between)  # while the rate is unknown, it saves as often as is allowed
    assert life.overhead + life.risk <= 1.1 * best + learning


@settings(max_examples=30)
@given(magnitudes, st.floats(0.1, 3), st.sampled_from([0.1, 10.0]), st.integers(0, 2**32))
def test_a_life_with_auto_stays_within_the_budget_also_when_costs_change_tenfold(magnitude, slowness, change, seed):
    """One per cent in all, but for the save that shows the new costs, and one early save after each attempt that came to nothing."""
    cost, between = magnitude
    until = span(cost * max(1.0, change), between)
    life = Life(lambda now: cost if now < until / 2 else change * cost, slowness * cost, between, until=until, seed=seed)
    assert life.overhead <= OVERHEAD_BUDGET * until + (1 + life.starving) * cost * max(1.0, change)


@given(st.integers(1, 10))
def test_backing_off_doubles_up_to_its_longest_and_gives_up(failures):
    """Nobody waits against a deadline for half a minute: there it is tried again soon, and as often as the deadline allows."""
    backoff = Backoff(first=0.5, longest=3.0, attempts=5)
    assert backoff.wait(failures) == (min(3.0, 0.5 * 2 ** (failures - 1)) if failures < 5 else None)
    assert backoff.wait(failures, hurry=True) == 0.2
