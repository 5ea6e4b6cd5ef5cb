"""What a save costs training, told from the times of batches."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.overhead import Overhead, known_costs
from resilient.policy import OVERHEAD_BUDGET, Auto, Costs, Failures, Since


class Training:
    """Batches on a virtual clock, saved by `save_every="auto"` with the budget alone, where a save slows the batches beside it.

    Attributes:
        spent: seconds that saves took from training, in truth; without the first one, at step 0.
        saves: their number, without the first.
    """

    def __init__(self, *, batch: float, copies: float, writing: float, noise: float = 0.03, seed: int = 0) -> None:
        self._batch, self.copies, self.writing, self._noise = batch, copies, writing, noise
        self._chance = random.Random(seed)
        self.now = self.spent = self._captured = self._durable = self._in_flight = 0.0
        self.saves = self.batches = 0
        self.overhead = Overhead()
        self.cadence: Auto = Auto()
        self._save(first=True)
        self.overhead.new_stretch()

    @property
    def true_cost(self) -> float:
        """Capture, copies, and a tenth of the time that writing takes."""
        return 0.01 * self.copies + self.copies + 0.1 * self.writing

    def train(self, until: float, *, every: int = 0, pause: float = 0.0, stretch: int = 0) -> None:
        """Go on; every so many batches there is a `pause` within the batch; after so many batches in a `stretch` an epoch ends."""
        while self.now < until:
            self.batches += 1
            self._one_batch(pause if every and self.batches % every == 0 else 0.0)
            if stretch and self.batches % stretch == 0:
                self.now += 3.0
                self.overhead.new_stretch()

    def _one_batch(self, pause: float) -> None:
        plain = self._batch * math.exp(self._chance.gauss(0, self._noise)) + pause
        slower = 0.1 * max(0.0, min(self._durable - self.now, plain)) + self._in_flight
        self._in_flight = 0.0
        self.spent += slower if self.saves else 0.0
        self.now += plain + slower
        saving = self.overhead.saving and self.now < self._durable
        if self.overhead.saving and not saving:
            # Eight cores: the writer's own processor time is far from what it takes from training.
            self.overhead.written(capture=0.01 * self.copies, processor=3 * self.true_cost, writing=self.writing)
            self.cadence = self.cadence.retuned(self.overhead.costs, Failures(10**9, 1.0))
        self.overhead.batch(self.now, saving=saving)
        if not saving and self.cadence.due(Since(self.now - self._captured, 0, 1)):
            self._save()

    def _save(self, *, first: bool = False) -> None:
        self._captured = self.now
        self.now += 0.01 * self.copies
        self.spent += 0.0 if first else 0.01 * self.copies
        self.saves += not first
        self._in_flight = self.copies
        self._durable = self.now + self.writing
        self.overhead.begin()


KINDS = {
    "0.4 GB": {"batch": 0.136, "copies": 0.06, "writing": 0.3},
    "a small model": {"batch": 0.001, "copies": 0.012, "writing": 0.03},
    "60 GB": {"batch": 0.5, "copies": 6.0, "writing": 60.0},
    "a slow disk": {"batch": 0.2, "copies": 0.02, "writing": 20.0},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_measured_cost_is_the_true_one(kind, seed):
    """Within a fifth after a dozen saves, whatever the size, though the writer's processor time says three times as much."""
    training = Training(**KINDS[kind], seed=seed)
    training.train(until=14 * max(1.0, 150 * training.true_cost))
    assert training.overhead.costs.training == pytest.approx(training.true_cost, rel=0.2)
    assert training.overhead.costs.writing == pytest.approx(training.writing)


@settings(max_examples=15)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**32), st.sampled_from([0.1, 10.0]))
def test_all_saves_together_keep_the_budget_also_when_costs_change_tenfold(kind, seed, change):
    """One per cent, and a few saves that it takes to find out; afterwards the interval is that of the new costs."""
    training = Training(**KINDS[kind], seed=seed)
    worst = training.true_cost * max(1.0, change)
    half = 12 * max(1.0, 150 * training.true_cost)
    training.train(until=half)
    training.copies *= change
    training.writing *= change
    training.train(until=half + 16 * max(1.0, 150 * worst))
    assert training.spent <= OVERHEAD_BUDGET * training.now + 6 * worst
    needed = max(1.0, training.true_cost / OVERHEAD_BUDGET, training.writing / 0.8)
    assert 0.8 * needed <= training.cadence.interval <= 1.6 * needed


@pytest.mark.parametrize("seed", range(3))
def test_what_happens_every_hundred_batches_is_not_blamed_on_saving(seed):
    """An evaluation of two seconds in a callback, now and then during a save, moves the measured cost by less than a third."""
    training = Training(**KINDS["0.4 GB"], seed=seed)
    training.train(until=600, every=100, pause=2.0)
    assert training.overhead.costs.training == pytest.approx(training.true_cost, rel=0.33)


def after_saves(*during: float, capture: float = 0.0) -> Overhead:
    """What is known after saves during each of which one batch took so many seconds, with ten of one second before it."""
    overhead, now = Overhead(), 0.0
    for seconds in during:
        for _ in range(10):
            overhead.batch(now := now + 1.0, saving=False)
        overhead.begin()
        overhead.batch(now := now + seconds, saving=False)
        overhead.written(capture=capture, processor=5.0, writing=2.0)
    return overhead


def test_two_odd_saves_of_eight_change_nothing():
    """Something slow that fell together with a save and will not do so again, such as a machine that slept."""
    assert after_saves(1.25, 1.25, 60.0, 1.25, 1.25, 60.0, 1.25, 1.25).costs == Costs(0.25, 2.0)


def test_what_is_unsure_is_taken_for_more():
    """Four saves between two others: their mean, and its standard error on top."""
    overhead = after_saves(1.0, 1.0, 1.125, 1.375, 1.125, 1.375, 1.5, 1.5)
    assert overhead.costs == Costs(0.25 + 0.125 / 4**0.5, 2.0)


def test_epochs_ends_are_not_measured():
    """The pause between two epochs has nothing to do with saving: it is neither a usual batch nor a slow one."""
    training = Training(**KINDS["0.4 GB"])
    training.train(until=600, stretch=20)
    assert training.overhead.costs.training == pytest.approx(training.true_cost, rel=0.2)


def test_before_anything_is_measured_half_of_the_processor_time_is_the_guess():
    """Nothing is known before the first save, unless an earlier attempt tells."""
    overhead = Overhead()
    assert overhead.costs is None
    overhead.written(capture=0.1, processor=0.9, writing=2.0)
    assert overhead.costs == Costs(0.5, 2.0)
    told = Overhead(Costs(0.2, 3.0))
    assert told.costs == Costs(0.2, 3.0)
    told.written(capture=0.1, processor=0.9, writing=2.0)
    assert told.costs == Costs(0.2, 2.0)  # how long writing takes is known from the first save on


def test_a_save_whose_first_batch_was_not_seen_is_left_out():
    """The batch after the capture pays for the copies: none is measured at an epoch's end, nor one that replaced another or failed."""
    for spoil in (Overhead.new_stretch, Overhead.begin, Overhead.failed):
        overhead = Overhead(Costs(0.2, 3.0))
        now = 0.0
        for _ in range(5):
            for _ in range(10):
                overhead.batch(now := now + 1.0, saving=False)
            overhead.begin()
            spoil(overhead)
            overhead.batch(now := now + 9.0, saving=True)
            overhead.batch(now := now + 9.0, saving=False)
            overhead.written(capture=0.1, processor=0.1, writing=2.0)
        assert overhead.costs == Costs(0.2, 2.0)


def test_the_capture_is_the_least_that_a_save_costs():
    """Also where the batches beside it happened to be fast."""
    assert after_saves(0.5, 0.5, 0.5, 0.5, capture=0.1).costs == Costs(0.1, 2.0)


def saved(writing: object, training: object) -> dict[str, object]:
    return {"event": "saved", "seconds": writing, "training_seconds": training}


@pytest.mark.parametrize(
    ("events", "known"),
    [
        ([], None),
        ([{"event": "saved", "seconds": 1.0}], None),  # of a version that did not tell
        ([saved(1.0, 0.1), {"event": "started"}], Costs(0.1, 1.0)),
        ([saved(1.0, 0.1), saved(2.0, 0.3)], Costs(0.3, 2.0)),
        ([saved(1.0, 0.1), saved(1.0, None)], Costs(0.1, 1.0)),
        ([saved(math.inf, 1.0), saved(1.0, -1.0), saved("x", 1.0)], None),
    ],
)
def test_costs_are_taken_over_from_an_earlier_attempt(events, known):
    """Those of the newest save that tells; nonsense tells nothing."""
    assert known_costs(events) == known
