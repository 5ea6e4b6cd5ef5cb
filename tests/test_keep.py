from __future__ import annotations

import datetime as dt
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_samples import START, manifest

from resilient.errors import ConfigurationError
from resilient.keep import Keep, ranked
from resilient.manifest import Progress


def epoch_end(epoch, sequence, **changes):
    return manifest(10 * epoch, sequence, progress=Progress(epoch, 0, 10 * epoch), **changes)


scores = st.none() | st.floats(allow_nan=True, allow_infinity=True)
histories = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), scores, st.integers(0, 10_000)), min_size=1, max_size=25).map(
    lambda rows: [
        manifest(
            position,
            position,
            progress=Progress(epoch, batch, position),
            score=score,
            mode=None if score is None else "max",
            created=START + dt.timedelta(seconds=second),
        )
        for position, (epoch, batch, score, second) in enumerate(rows)
    ]
)
rules = st.builds(
    Keep, last=st.integers(1, 5), best=st.integers(0, 3), every=st.none() | st.integers(1, 4) | st.sampled_from(["30s", "10m", "1h"])
)


@given(rules, histories)
def test_the_newest_always_survives_and_survivors_come_from_the_history(keep, history):
    """Whatever the rules and the history, there is something to resume from."""
    survivors = keep.survivors(history)
    assert history[-1].sequence in survivors
    assert survivors <= {one.sequence for one in history}


@given(rules, histories)
def test_pruning_what_was_pruned_removes_nothing(keep, history):
    """The decision does not depend on those it removed before."""
    survivors = keep.survivors(history)
    assert keep.survivors([one for one in history if one.sequence in survivors]) == survivors


@given(rules, histories, st.randoms())
def test_the_order_of_the_input_does_not_matter(keep, history, random):
    """A directory listing has no order."""
    shuffled = list(history)
    random.shuffle(shuffled)
    assert keep.survivors(shuffled) == keep.survivors(history)


@given(st.integers(1, 5), st.integers(0, 3), histories)
def test_last_and_best_bound_the_number_of_survivors(last, best, history):
    """Disk use is bounded by what was asked for."""
    survivors = Keep(last, best).survivors(history)
    assert min(last, len(history)) <= len(survivors) <= last + best
    assert {one.sequence for one in history[-last:]} <= survivors


@given(histories)
def test_ranking_puts_no_worse_score_before_a_better_and_leaves_out_what_has_none(history):
    """NaN and None are no candidates; of equal scores the earlier one is the better."""
    order = ranked(history)
    assert all(one.score is not None and not math.isnan(one.score) for one in order)
    keys = [(-one.score, one.sequence) for one in order]
    assert keys == sorted(keys)


def test_min_mode_prefers_the_smaller_score():
    """The mode decides which direction is better."""
    history = [manifest(step, score=score, mode="min") for step, score in enumerate([0.3, 0.1, math.nan, 0.1, 0.2])]
    assert [one.step for one in (m.progress for m in ranked(history))] == [1, 3, 4, 0]


def test_scores_of_the_opposite_direction_do_not_compare():
    """After `monitor` was changed from a loss to an accuracy, the old losses are no candidates."""
    history = [manifest(0, score=-5.0, mode="min"), manifest(1, score=9.0, mode="min"), manifest(2, score=0.5, mode="max")]
    assert [one.sequence for one in ranked(history)] == [2]


def test_every_int_keeps_epoch_ends_and_not_the_start():
    """every=2 keeps the ends of epochs 2, 4, … and nothing from inside an epoch."""
    history = [epoch_end(epoch, epoch) for epoch in range(6)] + [manifest(99, 7, progress=Progress(6, 3, 99)), epoch_end(7, 8)]
    assert Keep(last=1, best=0, every=2).survivors(history) == {2, 4, 8}


def test_every_duration_keeps_a_chain_with_at_least_that_distance():
    """Each kept one is at least the duration later than the one kept before."""
    history = [manifest(minute, created=START + dt.timedelta(minutes=minute)) for minute in (0, 4, 9, 10, 19, 20, 21, 45)]
    assert Keep(last=1, best=0, every="10m").survivors(history) == {0, 10, 20, 45}
    assert Keep(last=1, best=0, every=dt.timedelta(minutes=10)).survivors(history) == {0, 10, 20, 45}


def test_a_clock_that_was_set_back_does_not_end_the_chain():
    """One checkpoint dated in the future must not stop the periodic ones for ever."""
    future = START + dt.timedelta(days=900)
    history = [manifest(0, created=future)] + [manifest(step, created=START + dt.timedelta(hours=step)) for step in range(1, 5)]
    assert Keep(last=1, best=0, every="2h").survivors(history) == {0, 1, 3, 4}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"last": 0}, "last"),
        ({"last": -1}, "last"),
        ({"last": 2.0}, "last"),
        ({"last": True}, "last"),
        ({"last": None}, "last"),
        ({"last": "3"}, "last"),
        ({"best": -1}, "best"),
        ({"best": None}, "best"),
        ({"every": 0}, "every"),
        ({"every": -2}, "every"),
        ({"every": 1.5}, "every"),
        ({"every": True}, "every"),
        ({"every": "10"}, "every"),
        ({"every": "soon"}, "every"),
        ({"every": dt.timedelta(0)}, "every"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence_naming_the_field(arguments, name):
    """Every field, every kind of wrong value."""
    with pytest.raises(ConfigurationError, match=rf"^keep\.{name}=.*\.$"):
        Keep(**arguments)


def test_defaults_are_the_documented_ones():
    """Keep() is Keep(last=3, best=1, every=None)."""
    assert Keep() == Keep(last=3, best=1, every=None)
