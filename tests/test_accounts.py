"""The account of a run from its journal: attempts, lost work, and where the time went."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.accounts import End, Run, Time, accounts
from resilient.journal import EVENTS

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def at(seconds: float) -> dt.datetime:
    """So many seconds after the beginning."""
    return START + dt.timedelta(seconds=seconds)


def event(when: float, name: str, /, **fields: object) -> dict[str, object]:
    """An event at so many seconds; `began` is told in seconds, too."""
    if "began" in fields:
        fields["began"] = at(float(fields["began"])).isoformat()  # type: ignore[arg-type]
    return {"event": name, "time": at(when).isoformat(), **fields}


def saved(when: float, step: int, seconds: float = 1.0, stall: float = 0.5, **fields: object) -> dict[str, object]:
    """A save that took so long to write."""
    return event(when, "saved", step=step, seconds=seconds, training_seconds=stall, nbytes=100, **fields)


def one(*events: dict[str, object], now: float | None = None) -> Run:
    """The account of the only run."""
    (run,) = accounts(events, None if now is None else at(now))
    return run


FRESH = (event(2, "started", pid=7, run_id="a"), saved(3, 0, 0.0, 0.0))


def test_a_run_that_nobody_disturbed_is_training_but_for_its_start_and_its_saves():
    """From the start of fit to its end; the final save is waited for, and so it counts in full."""
    run = one(*FRESH, saved(23, 10), saved(43, 20), saved(46, 20, 2.0, 0.0, final=True), event(46, "finished", step=20))
    assert run.finished and run.lost_steps == 0 and run.run_id == "a"
    assert run.time == Time(training=40.0, saving=3.0, starting=1.0)
    assert run.goodput == pytest.approx(40 / 44)
    (attempt,) = run.attempts
    assert (attempt.end, attempt.start, attempt.reached, attempt.pid) == (End.FINISHED, 0, 20, 7)
    assert [save.step for save in run.saves] == [0, 10, 20, 20] and run.began == at(2)


KILL = event(40, "exited", attempt=1, pid=7, signal="SIGKILL", reason="was ended by SIGKILL", verdict="failed", step=18,
             lost_steps=8, seconds=40.0, failures=1, restart_in=5.0, peak_rss=9)  # fmt: skip
FIRST = event(2.5, "attempt", attempt=1, pid=7, supervisor=5, began=0)


def test_what_a_kill_has_lost_begins_where_the_last_checkpoint_was_captured():
    """In steps by the supervisor's word, in seconds from the capture of the save that the next attempt goes on from."""
    run = one(
        *FRESH, FIRST, saved(23, 10), KILL,
        event(46, "attempt", attempt=2, pid=8, supervisor=5, began=45), event(49, "started", pid=8, run_id="a"),
        event(50, "restored", step=10), saved(60, 20), event(60, "finished", step=20),
    )  # fmt: skip
    first, second = run.attempts
    assert (first.end, first.reason, first.verdict, first.number, first.supervisor) == (End.KILLED, "was ended by SIGKILL", "failed", 1, 5)
    assert (first.began, first.ended, first.lost_steps, first.peak_rss, first.restart_in) == (at(0), at(40), 8, 9, 5.0)
    assert first.time == Time(training=18.5, saving=0.5, lost=18.0, starting=3.0, down=5.0) and first.down == 5.0
    assert (second.start, second.number, second.began) == (10, 2, at(45))
    assert run.lost_steps == 8 and run.finished


@pytest.mark.parametrize("late", [False, True])
def test_the_supervisors_word_may_come_before_or_after_the_programs(late):
    """They write independently, and it is one attempt all the same."""
    started, first = event(2, "started", pid=7, run_id="a"), FIRST
    run = one(*((started, first) if late else (first, started)), saved(3, 0), now=10)
    (attempt,) = run.attempts
    assert (attempt.number, attempt.began, attempt.trained_from, attempt.end) == (1, at(0), at(3), End.OPEN)


def test_a_process_that_vanished_leaves_time_that_nobody_knows():
    """Without a supervisor nobody writes when it died; the next start shows that it has."""
    run = one(*FRESH, saved(23, 10), event(100, "started", pid=8, run_id="a"), event(101, "restored", step=10), now=111)
    first, second = run.attempts
    assert (first.end, first.ended, first.last, first.reached_exactly) == (End.VANISHED, None, at(23), False)
    assert run.time == Time(training=19.5 + 10.0, saving=0.5, starting=2.0, unknown=77.0)
    assert (second.end, second.reached_exactly) == (End.OPEN, False)
    assert (first.lost_exactly, second.lost_exactly, run.lost_exactly) == (False, True, False)  # the second lives, and loses nothing
    assert not one(*FRESH, saved(23, 10)).lost_exactly and one(*FRESH, saved(23, 10), now=30).lost_exactly
    assert one(*FRESH, FIRST, saved(23, 10), KILL).lost_exactly


def test_an_open_attempt_counts_until_now_and_until_its_last_event_where_its_process_is_gone():
    """Whether it lives is for others to know."""
    assert one(*FRESH, saved(23, 10), now=33).time.training == 29.5
    assert one(*FRESH, saved(23, 10)).time.training == 19.5


def test_a_run_that_is_sent_back_has_lost_what_it_had_saved_beyond():
    """An operator's `resume=step`, or the supervisor's, in steps and seconds of both attempts before it, none counted twice."""
    run = one(
        *FRESH, saved(23, 10), saved(43, 20), event(43, "preempted", step=20, reason="SIGTERM"),
        event(50, "started", pid=8, run_id="a"), event(50, "restored", step=20), saved(70, 30), event(70, "failed", step=34, error="E"),
        event(80, "started", pid=9, run_id="a"), event(80, "restored", step=10), now=80,
    )  # fmt: skip
    assert [attempt.lost_steps for attempt in run.attempts] == [10, 14, 0] and run.lost_steps == 24
    assert [attempt.time.lost for attempt in run.attempts] == [21.0, 20.0, 0.0]
    assert run.attempts[1].reason == "E"


def test_another_line_of_history_is_another_run():
    """`resume=False` begins anew; what went before is an account of its own."""
    runs = accounts(
        [*FRESH, saved(23, 10), event(30, "failed", step=12, error="E"), event(40, "started", run_id="b"), saved(41, 0)], at(50)
    )
    assert [run.run_id for run in runs] == ["a", "b"]
    assert [run.lost_steps for run in runs] == [2, 0] and runs[1].time.total == 10.0


def test_attempts_that_never_trained_belong_to_the_run_and_cost_it_time():
    """A crash at import is told later than it happened: the supervisor holds it back until it knows where to write."""
    run = one(
        event(20, "attempt", attempt=1, pid=6, began=0),
        event(20, "exited", attempt=1, code=1, verdict="failed", reason="exited with code 1", seconds=4.0),
        event(20, "attempt", attempt=2, pid=7, began=5), event(20, "started", pid=7, run_id="a"), saved(20, 0), saved(31, 10), now=31,
    )  # fmt: skip
    first, second = run.attempts
    assert (first.end, first.start, first.ended, first.time) == (End.FAILED, None, at(4), Time(starting=4.0, down=1.0))
    assert (second.time.starting, run.run_id) == (15.0, "a")


def test_an_error_before_the_start_is_an_attempt_of_its_own():
    """A model that does not match fails before anything is written but that; the attempt before it has ended long ago."""
    run = one(*FRESH, event(9, "finished", step=0), event(99, "failed", error="CheckpointMismatchError: ..."))
    assert [attempt.end for attempt in run.attempts] == [End.FINISHED, End.FAILED] and run.finished
    run = one(*FRESH, FIRST, saved(9, 5), KILL, event(42, "attempt", attempt=2, pid=8, began=41), event(44, "failed", error="E"))
    assert [attempt.number for attempt in run.attempts] == [1, 2] and run.attempts[1].reason == "E"


@pytest.mark.parametrize(
    ("events", "end", "reason"),
    [
        ([event(30, "preempted", step=9, reason="aws terminate"), event(31, "exited", code=75)], End.PREEMPTED, "aws terminate"),
        ([event(31, "exited", code=75, verdict="preempted", reason="was preempted")], End.PREEMPTED, "was preempted"),
        ([event(31, "exited", out_of_memory=True, signal="SIGKILL", reason="lack")], End.OUT_OF_MEMORY, "lack"),
        ([event(31, "hung", silent=120.0), event(33, "exited", signal="SIGKILL", reason="hung")], End.HUNG, "hung"),
        ([event(31, "hung", silent=120.0)], End.HUNG, "was silent for 120 s"),
        ([event(31, "exited", code=3, reason="exited with code 3")], End.FAILED, "exited with code 3"),
        ([event(31, "exited", code=0, verdict="done")], End.FINISHED, ""),
        ([event(31, "exited", code=None, signal=None, reason="its supervisor died")], End.KILLED, "its supervisor died"),
        ([event(30, "finished", step=9), event(31, "preempted", step=9, reason="SIGTERM")], End.PREEMPTED, "SIGTERM"),
    ],
)
def test_the_end_of_an_attempt_is_told_by_the_one_who_knows_best(events, end, reason):
    """The supervisor for what it saw, the program for its own reasons."""
    attempt = one(*FRESH, FIRST, *events).attempts[-1]
    assert (attempt.end, attempt.reason) == (end, reason)


def test_giving_up_lasts_until_the_next_attempt():
    """And damage belongs to the run that has met it."""
    run = one(*FRESH, FIRST, KILL, event(41, "gave_up", failures=["attempt 1 died"]), event(50, "quarantined", name="x"))
    assert run.gave_up == ["attempt 1 died"] and [item["name"] for item in run.quarantined] == ["x"]
    assert len(run.attempts) == 1 and run.time.total == 40.0
    run = one(*FRESH, FIRST, KILL, event(41, "gave_up", failures=[]), event(50, "attempt", attempt=1, pid=9, began=50))
    assert run.gave_up is None


def test_a_process_that_calls_fit_again_is_one_attempt_of_the_supervisor_and_two_accounts_of_time():
    """With more epochs, after the end: the number stays."""
    run = one(*FRESH, FIRST, event(9, "finished", step=5), event(12, "started", pid=7, run_id="a"), event(13, "restored", step=5), now=20)
    assert [(attempt.number, attempt.end) for attempt in run.attempts] == [(1, End.FINISHED), (1, End.OPEN)]
    assert not run.finished


anything = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
names = ("step", "epoch", "pid", "attempt", "seconds", "training_seconds", "capture_seconds", "restart_in", "run_id", "began", "finished")
odd_events = st.builds(
    lambda name, when, fields: {"event": name, "time": at(when).isoformat(), **fields},
    st.sampled_from(sorted(EVENTS)) | st.just("something newer"),
    st.floats(-1e6, 1e6),
    st.dictionaries(st.sampled_from((*names, "metrics", "failures", "out_of_memory", "code", "reason", "verdict")), anything, max_size=6),
)


@given(st.lists(odd_events, max_size=12), st.none() | st.floats(-1e6, 1e6))
def test_whatever_stands_in_a_journal_gives_an_account(events, now):
    """Foreign fields, missing ones, clocks that jump: no error, no negative seconds or steps, and no event is left out."""
    runs = accounts(events, None if now is None else at(now))
    for run in runs:
        times = [attempt.time for attempt in run.attempts]
        assert all(value >= -1e-6 for time in times for value in dataclasses.astuple(time))
        assert run.lost_steps >= 0 and (run.goodput is None or -1e-9 <= run.goodput <= 1 + 1e-9)
    told = sum(len(attempt.events) for run in runs for attempt in run.attempts) + sum(len(run.quarantined) for run in runs)
    damaged_alone = not runs and all(item["event"] == "quarantined" for item in events)
    assert told == len(events) or damaged_alone


def simulated(seed: int) -> tuple[list[dict[str, object]], int, float]:
    """A supervised run of many attempts as it really went: its events, the steps it lost, the seconds of training that count."""
    chance = random.Random(seed)
    now = step = durable = lost_steps = 0
    useful = 0.0
    events: list[dict[str, object]] = []
    for number in range(1, 9):
        events += [event(now, "attempt", attempt=number, pid=number, began=now), event(now + 1, "started", pid=number, run_id="a")]
        now, step = now + 3, durable
        events.append(event(now, "restored", step=step) if number > 1 else saved(now, 0, 0.0, 0.0))
        since = 0
        for _ in range(chance.randint(1, 9)):
            work = chance.randint(1, 5)
            now, step, since = now + 2 * work, step + work, since + 2 * work
            if chance.random() < 0.5:
                events.append(saved(now, step, 0.0, 0.0))
                useful, durable, since = useful + since, step, 0
        lost_steps += step - durable
        events.append(event(now, "exited", attempt=number, code=1, reason="x", step=step, seconds=0.0))
        now += chance.randint(0, 4)
    return events, lost_steps, useful


@pytest.mark.parametrize("seed", range(30))
def test_the_account_of_a_simulated_run_is_what_happened(seed):
    """Steps lost and seconds of training that count, against a run whose truth is known."""
    events, lost_steps, useful = simulated(seed)
    run = one(*events)
    assert run.lost_steps == lost_steps
    assert run.time.training == pytest.approx(useful)
    assert run.time.starting == 8 * 3


def test_the_same_call_after_the_end_trains_nothing():
    """Its time is that of starting, and the run is still finished."""
    run = one(
        *FRESH, saved(23, 10), event(24, "finished", step=10), event(30, "started", pid=8, run_id="a"),
        event(34, "restored", step=10, finished=True),
    )  # fmt: skip
    assert run.finished and [attempt.end for attempt in run.attempts] == [End.FINISHED, End.FINISHED]
    assert run.attempts[1].time == Time(starting=4.0) and run.attempts[1].start == 10
    assert run.attempts[0].down == 0.0 and run.time.down == 0.0  # nobody was meant to run


@pytest.mark.parametrize("ended", [KILL | {"lost_steps": 0, "step": 10}, event(40, "hung", attempt=1, pid=7, silent=10.0)])
def test_time_that_a_hang_or_a_kill_has_cost_is_lost_although_no_step_is(ended):
    """A batch that never ended, a validation that has to be repeated."""
    run = one(
        *FRESH, FIRST, saved(23, 10), ended, event(46, "attempt", attempt=2, pid=8, supervisor=5, began=45), event(50, "restored", step=10)
    )
    assert run.attempts[0].lost_steps == 0 and run.attempts[0].time.lost >= 10.0


def test_the_save_that_a_stop_waits_for_is_no_training():
    """Training stands still until it is durable."""
    run = one(*FRESH, saved(23, 10), saved(60, 15, 20.0, 0.1), event(60, "preempted", step=15, reason="SIGTERM"))
    assert run.time.saving == pytest.approx(20.5) and run.time.lost == 0


def test_another_process_with_the_number_of_a_dead_one_is_an_attempt_of_its_own():
    """In a container every program may be process 7."""
    attempts = one(
        *FRESH, FIRST, event(60, "attempt", attempt=1, pid=7, supervisor=50, began=59), event(62, "started", pid=7, run_id="a"),
        event(63, "restored", step=0), now=70,
    ).attempts  # fmt: skip
    assert [(attempt.number, attempt.supervisor) for attempt in attempts] == [(1, 5), (1, 50)]
