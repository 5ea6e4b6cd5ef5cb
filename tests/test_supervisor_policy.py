"""Restarts and hangs as decisions: months of attempts and of looks, with time and chance as arguments."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.heartbeat import Beat, Section
from resilient.restarts import Ending, Record, Restart, RestartPolicy, Stop, Verdict
from resilient.supervisor.patience import LOOK, Patience, Silence

signals = st.sampled_from([None, "SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGINT"])
endings = st.builds(
    lambda signal, code, **rest: Ending(code=code if signal is None else None, signal=signal, **rest),
    signals,
    st.sampled_from([1, 2, 3, 75, 127]),
    hung=st.booleans(),
    out_of_memory=st.booleans(),
    place=st.none() | st.tuples(st.integers(0, 2), st.integers(0, 2)),
    resumed=st.none() | st.integers(0, 5),
    progressed=st.booleans(),
    evicted_in=st.none() | st.floats(-1e9, 1e9),
)
chances = st.floats(0, 1, exclude_max=True)
policies = st.builds(RestartPolicy, st.integers(1, 6), st.none() | st.integers(0, 6), st.booleans())


def failed(**changes):
    return dataclasses.replace(Ending(code=1), **changes)


def decide(policy, *several, chance=0.5):
    """The last decision of several endings in a row, none of which but the last may end it."""
    record, outcome = Record(), Restart(0.0)
    for ending in several:
        assert isinstance(outcome, Restart)
        record, outcome = policy.decide(record, ending, chance)
    return record, outcome


@given(policies, st.lists(st.tuples(endings, chances), max_size=300))
def test_months_of_attempts_keep_every_promise(policy, months):
    """Whatever the order of endings: bounded delays, none after progress, 93 at the promised failure and never for a preemption."""
    record, streak, spent = Record(), 0, 0
    for ending, chance in months:
        counts = ending.verdict is Verdict.FAILED and not ending.progressed
        streak = 0 if ending.progressed else streak + counts
        spent += counts
        record, outcome = policy.decide(record, ending, chance)
        over = counts and (streak >= policy.give_up or (policy.max_restarts is not None and spent > policy.max_restarts))
        if over:
            assert outcome == Stop(93)
            return
        assert isinstance(outcome, Restart)
        evicted = ending.evicted_in is not None
        assert 0.0 <= outcome.delay <= policy.longest + (policy.after_eviction if evicted else 0.0)
        assert outcome.delay == 0.0 or evicted or not ending.progressed
        if outcome.resume_at_most is not None:
            assert ending.blames_program and 0 <= outcome.resume_at_most < ending.resumed
        if record.skip:
            assert policy.skip_poison_batch


@given(st.integers(0, 2**32), policies)
@settings(max_examples=30, deadline=None)
def test_simulated_months_with_thousands_of_failures_go_on_as_long_as_there_is_progress(seed, policy):
    """Ten thousand attempts, each of which gets further now and then: given up exactly when promised, and nobody waits in vain."""
    chance = random.Random(seed)
    record, streak, spent, days = Record(), 0, 0, 0.0
    for _ in range(10_000):
        progressed = chance.random() < 0.4
        ending = Ending(**chance.choice([{"code": 1}, {"code": 75}, {"signal": "SIGKILL"}, {"signal": "SIGSEGV"}]), progressed=progressed)
        counts = ending.verdict is Verdict.FAILED and not progressed
        streak, spent = (0 if progressed else streak + counts), spent + counts
        record, outcome = policy.decide(record, ending, chance.random())
        days += chance.expovariate(1 / 3600) / 86400
        if isinstance(outcome, Stop):
            assert outcome == Stop(93)
            assert streak >= policy.give_up or spent > policy.max_restarts
            record, streak, spent = Record(), 0, 0  # whoever comes and looks starts it again
        else:
            assert streak < policy.give_up and (policy.max_restarts is None or spent <= policy.max_restarts)
            assert (outcome.delay == 0.0) or not progressed
            days += outcome.delay / 86400
    assert days > 300


@given(endings, st.builds(Record, st.integers(0, 9), st.integers(0, 9), st.integers(0, 2000)), policies, chances)
def test_final_codes_and_an_operator_s_stop_always_end_it(ending, record, policy, chance):
    """0, 78 and 93 are passed on, and a stop that was asked for is never followed by a restart."""
    for code in (0, 78, 93):
        assert policy.decide(record, Ending(code=code), chance)[1] == Stop(code)
    assert policy.decide(record, dataclasses.replace(ending, asked=True), chance)[1] == Stop(75)


@given(st.integers(0, 3000), chances)
def test_preemptions_are_free_but_do_not_spin(count, chance):
    """Any number of them in a row is no failure; without progress between them the wait grows to its bound."""
    policy = RestartPolicy(give_up=1, max_restarts=0)
    record, outcome = policy.decide(Record(idle=count), Ending(code=75), chance)
    assert (record.failures, record.spent) == (0, 0)
    assert outcome.delay == chance * min(300.0, 2.0 ** min(count, 9))


@given(st.floats(-1e9, 1e9), st.builds(Record, idle=st.integers(0, 2000)), st.booleans(), chances)
def test_a_machine_that_is_about_to_go_is_given_the_time_to(evicted_in, record, progressed, chance):
    """No attempt is begun into a standing notice: half a minute after the announced end at the earliest, and at once never."""
    ending = Ending(code=75, progressed=progressed, evicted_in=evicted_in)
    delay = RestartPolicy().decide(record, ending, chance)[1].delay
    assert delay >= 30.0 + min(max(evicted_in, 0.0), 300.0)
    assert delay <= 330.0


def test_the_back_off_doubles_from_one_second_to_five_minutes():
    """The upper ends of the jitter, after 1, 2, 3 … failures without progress."""
    policy, record, delays = RestartPolicy(give_up=100), Record(), []
    for _ in range(11):
        record, outcome = policy.decide(record, failed(), 1.0)
        delays.append(outcome.delay)
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


@pytest.mark.parametrize(
    ("ending", "verdict"),
    [
        (Ending(code=0), Verdict.DONE),
        (Ending(code=0, asked=True), Verdict.DONE),
        (Ending(code=0, unfinished=True), Verdict.DONE),
        (Ending(code=0, asked=True, unfinished=True), Verdict.PREEMPTED),
        (Ending(code=0, evicted_in=90.0, unfinished=True), Verdict.PREEMPTED),
        (Ending(code=0, evicted_in=90.0), Verdict.DONE),
        (Ending(code=75), Verdict.PREEMPTED),
        (Ending(signal="SIGTERM"), Verdict.PREEMPTED),
        (Ending(signal="SIGUSR1", asked=True), Verdict.PREEMPTED),
        (Ending(code=75, hung=True), Verdict.FAILED),
        (Ending(signal="SIGTERM", hung=True), Verdict.FAILED),
        (Ending(signal="SIGKILL"), Verdict.FAILED),
        (Ending(code=78), Verdict.NEEDS_HUMAN),
        (Ending(code=93), Verdict.GAVE_UP),
        (Ending(code=1), Verdict.FAILED),
    ],
)
def test_what_an_ending_means(ending, verdict):
    """The contract's exit codes, and what signals and hangs make of them."""
    assert ending.verdict is verdict


def test_a_batch_is_poison_when_the_program_fails_there_twice_by_itself():
    """Other failures, preemptions and SIGKILLs between the two do not acquit it, nor do they convict one."""
    here, elsewhere = {"place": (1, 7), "resumed": 15}, {"place": (1, 8), "resumed": 15}
    policy = RestartPolicy(give_up=100, skip_poison_batch=True)
    assert decide(policy, failed(**here), Ending(signal="SIGKILL", **elsewhere), Ending(code=75), failed(**here))[1].resume_at_most == 14
    assert decide(policy, failed(**here), failed(**elsewhere))[1].resume_at_most is None
    killed = Ending(signal="SIGKILL", **here)
    assert decide(policy, killed, killed, killed) == (Record(3, 3, 3), Restart(2.0))
    assert decide(policy, *[dataclasses.replace(killed, out_of_memory=True)] * 2)[0].skip == ((1, 7),)
    assert decide(RestartPolicy(), failed(**here), failed(**here))[0].skip == ()


def test_where_there_is_no_older_checkpoint_none_is_ordered_again():
    """Until it fails elsewhere or gets further: no order that fit cannot obey, and no going to and fro."""
    policy, record, orders = RestartPolicy(give_up=100), Record(), []
    for place, resumed, progressed in [(7, 88, True), (7, 88, False), (7, 44, False), (7, 88, False), (7, 88, False)]:
        record, outcome = policy.decide(record, failed(place=(0, place), resumed=resumed, progressed=progressed), 0.5)
        orders.append(outcome.resume_at_most)
    assert orders == [None, 87, 43, None, None]
    assert record.none_before == 44
    assert policy.decide(record, failed(place=(0, 8), resumed=88), 0.5)[0].none_before is None
    further = policy.decide(record, failed(place=(0, 7), resumed=88, progressed=True), 0.5)
    assert (further[0].none_before, further[1].resume_at_most) == (None, 87)


# -- hangs ---------------------------------------------------------------------------------------------------------------------

sections = st.sampled_from([Section.STARTING, Section.TRAINING, Section.BETWEEN, Section.VALIDATING, Section.STOPPING])
# What the clock shows at the next look: mostly a second later, sometimes days, sometimes earlier.
jumps = st.floats(0.5, 1.5) | st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(jumps, st.booleans(), sections, st.booleans()), max_size=200))
def test_clock_jumps_are_never_silence(looks):
    """No more than two looks' time is counted for one look, none while the program is suspended, and never less than nothing."""
    silence, count, now, bound = Silence(0.0), 0, 0.0, 0.0
    for jump, beats, section, suspended in looks:
        now, count = now + jump, count + beats
        moved = count != silence.beat.count
        bound = 0.0 if moved else bound + (0.0 if suspended else 2 * LOOK)
        before = silence.seconds
        silence = silence.after(now, Beat(count, section) if moved else silence.beat, suspended=suspended)
        assert 0.0 <= silence.seconds <= bound
        assert moved or silence.seconds >= before


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_a_day_of_clock_jumps_and_suspensions_is_no_hang_and_hides_none(seed):
    """A beat every half minute, clocks that are set by days in both directions, frozen machines; at last a program that stands still."""
    chance, now, silence = random.Random(seed), 0.0, Silence(0.0)
    for look in range(86_400 // 4):
        now += chance.choice([1e6, -1e6, 3600.0]) if chance.random() < 0.01 else 1.0
        suspended = chance.random() < 0.1
        silence = silence.after(now, Beat(1 + look // 30, Section.TRAINING), suspended=suspended)
        assert silence.seconds < Patience().limit(Section.TRAINING, silence.longest)
    limit, looks = Patience().limit(Section.TRAINING, silence.longest), 0
    while silence.seconds <= limit:
        now, looks = now + chance.choice([1.0, 1.0, 1.0, -1e6]), looks + 1
        silence = silence.after(now, silence.beat, suspended=False)
    assert looks <= 3 * limit


@given(sections, st.dictionaries(sections, st.floats(0, 250)), st.none() | st.floats(0.1, 2500))
def test_a_program_that_stands_still_hangs_within_the_limit(section, longest, explicit):
    """Looked at once a second, it is found out at the first look beyond the limit, and not before."""
    limit = Patience(explicit).limit(section, longest)
    silence = Silence(0.0, Beat(1, section), longest=longest)
    looks = 0
    while silence.seconds <= limit:
        looks += 1
        silence = silence.after(float(looks), Beat(1, section), suspended=False)
    assert limit < looks <= limit + 1.01


def test_hours_of_reading_batches_again_are_no_hang():
    """A resume that replays its data beats for each batch of it; only one that takes longer than anything has is a hang."""
    silence, hours = Silence(0.0, Beat(1, Section.STARTING)), 10
    for second in range(1, hours * 3600):
        silence = silence.after(float(second), Beat(1 + second // 1000, Section.STARTING), suspended=False)
        assert silence.seconds < Patience().limit(Section.STARTING, silence.longest)
    stuck = second
    while silence.seconds <= Patience().limit(Section.STARTING, silence.longest):
        second += 1
        silence = silence.after(float(second), silence.beat, suspended=False)
    assert 9000 < second - stuck < 10_100  # ten times the thousand seconds that one batch took


def test_the_limit_is_learned_from_the_run_s_own_batches():
    """Half an hour for the first, then ten times the longest but at least two minutes; a batch of validation is none of training."""
    silence, now = Silence(0.0), 0.0
    assert Patience().limit(Section.TRAINING, silence.longest) == 1800.0
    for count, seconds in enumerate((40, 30, 20), 1):
        for _ in range(seconds):
            now += 1.0
            silence = silence.after(now, silence.beat, suspended=False)
        silence = silence.after(now, Beat(count, Section.TRAINING), suspended=False)
    assert silence.longest == {Section.SILENT: 40.0, Section.TRAINING: 30.0}
    assert Patience().limit(Section.TRAINING, silence.longest) == 300.0
    assert Patience().limit(Section.VALIDATING, silence.longest) == 1800.0
    assert Patience().limit(Section.TRAINING, {Section.TRAINING: 0.01}) == 120.0
    assert Patience().limit(Section.TRAINING, {Section.TRAINING: 0.01, Section.STARTING: 300.0}) == 600.0  # another trace, another compile


def test_an_explicit_limit_is_for_batches_and_what_happens_once_stays_generous():
    """Compiling for minutes must not make a run with --hang-timeout 10s restart for ever; after fit nothing is watched."""
    patience = Patience(explicit=10.0)
    assert patience.limit(Section.TRAINING, {}) == patience.limit(Section.VALIDATING, {}) == 10.0
    assert patience.limit(Section.SILENT, {}) == patience.limit(Section.STARTING, {}) == patience.limit(Section.BETWEEN, {}) == 1800.0
    assert patience.limit(Section.STARTING, {Section.STARTING: 600.0}) == 6000.0
    assert Patience(explicit=1e4).limit(Section.STARTING, {}) == 1e4
    assert patience.limit(Section.ENDED, {}) == patience.limit(Section.FAILED, {}) == patience.limit(Section.RAISED, {}) == float("inf")


@pytest.mark.parametrize(
    ("how", "raised", "back"),
    [
        ({"signal": "SIGKILL"}, True, 20),
        ({"signal": "SIGTERM"}, True, 20),
        ({"signal": "SIGKILL"}, False, None),
        ({"signal": "SIGTERM"}, False, None),
        ({"code": 75}, True, None),
    ],
)
def test_a_program_that_fails_and_is_killed_or_asked_to_stop_on_its_way_out_has_failed_at_that_batch(how, raised, back):
    """It said so itself; a SIGKILL or a preemption alone says nothing about the batch, and 75 is what the program itself says last."""
    policy, record = RestartPolicy(), Record()
    killed = Ending(**how, place=(1, 3), resumed=21, raised=raised)
    for _ in range(2):
        record, outcome = policy.decide(record, killed, 0.5)
    assert outcome.resume_at_most == back
