"""When the faults of `resilient chaos` come: pure values, with chance as an argument."""

from __future__ import annotations

import collections
import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.chaos.lifetimes import SHAPES, Bathtub, Early, Exponential
from resilient.chaos.line import Stretch, stretches
from resilient.chaos.schedules import Facts, Lives, Replay, Spread, parse_trace
from resilient.chaos.strikes import DEFAULT_MIX, KINDS, Situation, Strike, apportioned, parse_mix
from resilient.errors import ConfigurationError
from resilient.heartbeat import Section

FACTS = Facts(seconds=20.0, startup=5.0, steps=500, epoch_steps=50, validates=True)
mixes = st.dictionaries(st.sampled_from(sorted(KINDS)), st.integers(1, 20), min_size=1)
seeds = st.integers(0, 2**32)


@given(mixes, st.integers(0, 200))
def test_each_kind_comes_as_often_as_its_share_says(mix, count):
    """Rounded one way or the other, never further off, and all together as many as were asked for."""
    dealt = collections.Counter(apportioned(mix, count))
    assert dealt.total() == count
    total = sum(mix.values())
    assert all(abs(dealt[name] - count * share / total) < 1 for name, share in mix.items())


@given(st.integers(1, 60), mixes, seeds)
def test_spread_faults_lie_one_in_each_stretch_of_the_steps(kills, mix, seed):
    """So no part of the training is left out, and the same seed gives the same faults."""
    schedule = Spread(kills, mix)
    strikes = list(schedule.strikes(FACTS, random.Random(seed)))
    assert strikes == list(schedule.strikes(FACTS, random.Random(seed)))
    assert len(strikes) == kills == schedule.planned
    for index, strike in enumerate(strikes):
        if strike.step is not None:
            assert max(1, math.floor(index * FACTS.steps / kills)) <= strike.step <= (index + 1) * FACTS.steps / kills
        else:
            assert strike.kind == "startup" and 0 <= strike.lifetime <= FACTS.startup
            assert index == 0 or KINDS[strikes[index - 1].kind].ends


def test_a_moment_that_never_comes_is_not_waited_for():
    """A program that does not validate is not killed in validation, but as often."""
    facts = Facts(20.0, 5.0, 500, 50, validates=False)
    kinds = [strike.kind for strike in Spread(12, {"validation": 1, "sigterm": 1}).strikes(facts, random.Random(0))]
    assert collections.Counter(kinds) == {"sigkill": 6, "sigterm": 6}
    assert next(Replay(((1.0, "validation"),)).strikes(facts, random.Random(0))).kind == "sigkill"


@given(st.sampled_from(sorted(SHAPES)), st.floats(0.01, 1e6), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_the_luckier_live_longer(shape, mean, first, second):
    """Quantiles rise with chance, are finite, and never negative."""
    lifetime = SHAPES[shape](mean)
    low, high = sorted((first, second))
    assert 0 <= lifetime.quantile(low) <= lifetime.quantile(high) < math.inf


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_lifetimes_have_the_mean_that_was_asked_for(shape):
    """The mean of the quantiles in the middle of each of many equal parts of chance."""
    lifetime = SHAPES[shape](30.0)
    parts = 20_000
    assert sum(lifetime.quantile((index + 0.5) / parts) for index in range(parts)) / parts == pytest.approx(30.0, rel=0.01)


def test_shapes_are_what_their_names_say():
    """Half of an early population is dead after 0.47 of the mean; in a bathtub few die in the middle."""
    assert Exponential(1.0).quantile(0.5) == pytest.approx(math.log(2))
    assert Early(1.0).quantile(0.5) == pytest.approx(0.468, abs=0.001)
    tub = Bathtub(12.0)
    assert tub.longest == pytest.approx(23.8, abs=0.01)
    assert tub.quantile(0.45) < 0.1 * tub.longest and tub.quantile(0.53) > 0.9 * tub.longest
    assert tub.quantile(1 - 1e-12) <= tub.longest


@given(mixes, seeds, st.integers(0, 20))
def test_lives_end_in_ways_that_end_them(mix, seed, most):
    """No pause, no start-up that would have to be waited for; and no more than were allowed."""
    strikes = list(Lives(Exponential(10.0), mix, most).strikes(FACTS, random.Random(seed)))
    assert len(strikes) == most
    assert all(KINDS[strike.kind].ends and strike.kind != "startup" and strike.lifetime >= 0 for strike in strikes)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.sampled_from(["", "SIGKILL", *KINDS])), min_size=1), st.floats(0.001, 1000))
def test_a_trace_is_replayed_in_the_order_of_time(events, scale):
    """Whatever the order of its lines; an empty kind is a kill."""
    replay = parse_trace(["seconds,zone,kind", *(f"{seconds!r},a,{kind}" for seconds, kind in events)], "trace.csv", scale)
    assert [seconds for seconds, _ in replay.events] == [seconds * scale for seconds in sorted(seconds for seconds, _ in events)]
    assert collections.Counter(kind for _, kind in replay.events) == collections.Counter((kind or "sigkill").lower() for _, kind in events)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "no column seconds"),
        (["time,kind", "1,sigkill"], "no column seconds"),
        (["seconds,kind"], "no line with a fault"),
        (["seconds,kind", "soon,sigkill"], "line 2: seconds 'soon'"),
        (["seconds", "nan"], "line 2: seconds 'nan'"),
        (["seconds", "-1"], "line 2: seconds '-1'"),
        (["seconds,kind", "1,sigkill", "2,flood"], "line 3: kind 'flood'"),
    ],
)
def test_what_is_wrong_in_a_trace_is_told_with_its_line(lines, told):
    """Nobody has to guess which of a thousand lines it is."""
    with pytest.raises(ConfigurationError, match=told):
        parse_trace(lines, "trace.csv")


def test_a_mix_is_read_as_it_is_written():
    """Kinds with a share of 0 are left out."""
    assert parse_mix("sigkill=6, commit=2,sigterm=0") == {"sigkill": 6, "commit": 2}
    assert set(DEFAULT_MIX) == set(KINDS)


@pytest.mark.parametrize("text", ["", "sigkill", "sigkill=", "sigkill=-1", "sigkill=1.5", "flood=1", "sigkill=0", "=3", "sigkill=²"])
def test_a_mix_that_says_nothing_is_refused(text):
    """With what is accepted."""
    with pytest.raises(ConfigurationError, match="sigkill"):
        parse_mix(text)


@given(st.one_of(st.none(), st.integers(0, 100)), st.floats(0, 100), st.floats(0, 100), st.integers(0, 100), st.floats(0, 50))
def test_a_strike_is_due_before_it_is_late(step, lifetime, elapsed, when, slack):
    """Whatever its clock is."""
    now = Situation(lifetime, elapsed, step)
    for strike in (Strike("commit", step=when, slack=slack), Strike("commit", lifetime=when, slack=slack), Strike("commit", elapsed=when)):
        assert strike.due(now) or not strike.late(now)


def test_moments_are_told_apart():
    """A commit may be under way in any section; a kill in training belongs into training."""
    assert KINDS["commit"].holds(Section.VALIDATING, saving=True) and not KINDS["commit"].holds(Section.TRAINING, saving=False)
    assert KINDS["sigkill"].holds(Section.TRAINING, saving=False) and not KINDS["sigkill"].holds(Section.STARTING, saving=False)
    assert KINDS["validation"].narrow and KINDS["commit"].narrow and not KINDS["sigterm"].narrow


def test_of_what_was_trained_twice_the_last_counts():
    """Attempt 2 went on from step 10 and came to 30, attempt 3 went back to 20."""
    assert stretches([(1, 0, 15), (2, 10, 30), (3, 20, 40)]) == [Stretch(1, 0, 10), Stretch(2, 10, 20), Stretch(3, 20, 40)]
    assert stretches([(1, 0, 15), (2, 0, 5), (3, 5, 5)]) == [Stretch(2, 0, 5)]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), max_size=12))
def test_the_line_has_no_step_twice(attempts):
    """Every step of the end's past has one attempt, the last that trained it and was gone on from."""
    line = stretches([(number, start, start + trained) for number, (start, trained) in enumerate(attempts)])
    assert all(a.end <= b.start for a, b in itertools.pairwise(line)) and all(part.start < part.end for part in line)
