"""What a run is doing, from facts alone: every state, and the numbers beside it."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_accounts import FIRST, FRESH, KILL, at, event, odd_events, saved

from resilient.accounts import accounts
from resilient.manifest import Progress
from resilient.signs import Section
from resilient.status import Facts, Holder, Live, State, Status, status

TRAINER, SUPERVISOR = Holder(7, "here"), Holder(5, "here")
STARTED = event(2, "started", pid=7, run_id="a", epochs=10, steps=20)


def live(section: Section = Section.TRAINING, step: int = 30, silent: float = 0.0, **more: object) -> Live:
    """A sign of life in the second epoch of twenty batches."""
    return Live(section, Progress(1, step - 20, step), saving=False, committed=20, silent=silent, **more)  # type: ignore[arg-type]


def told(
    *events: dict[str, object],
    now: float = 100,
    trainer: Holder | None = None,
    supervisor: Holder | None = None,
    seen: Live | None = None,
) -> Status:
    """The status of a journal and what else is known."""
    runs = accounts(events, at(now) if trainer else None)
    return status(Facts(at(now), runs[-1] if runs else None, trainer, supervisor, seen))


@pytest.mark.parametrize(
    ("section", "state"),
    [
        (Section.SILENT, State.STARTING),
        (Section.STARTING, State.STARTING),
        (Section.TRAINING, State.TRAINING),
        (Section.BETWEEN, State.BETWEEN),
        (Section.VALIDATING, State.VALIDATING),
        (Section.STOPPING, State.STOPPING),
        (Section.ENDED, State.FINISHED),
    ],
)
def test_a_process_that_lives_does_what_its_last_sign_of_life_says(section, state):
    """And the position is that of the sign, not that of the last save."""
    found = told(*FRESH, trainer=TRAINER, seen=live(section))
    assert (found.state, found.progress, found.at_least, found.state.exit_code) == (state, Progress(1, 10, 30), False, 0)
    assert found.unsaved == 10


def test_where_the_sign_of_life_cannot_be_seen_the_journal_has_the_word():
    """Another user, another host: it lives, and is at least where it saved last."""
    found = told(*FRESH, saved(90, 12, epoch=0, batch=12), trainer=TRAINER)
    assert (found.state, found.progress, found.at_least, found.unsaved) == (State.RUNNING, Progress(0, 12, 12), True, None)
    found = told(*FRESH, trainer=Holder(7, "there", ours=False))
    assert found.state is State.RUNNING and "host there" in found.warnings[0]


def test_speed_and_time_left_come_from_the_last_minutes_without_the_first_moments():
    """Compiling is over after the first save; the rest is two steps a second here."""
    found = told(STARTED, saved(3, 0, 0.0, 0.0), saved(60, 10, 0.0), saved(80, 20, 0.0), now=85, trainer=TRAINER, seen=live(step=60))
    assert found.speed == pytest.approx((60 - 10) / (85 - 60))
    assert found.left == pytest.approx(((10 - 1) * 20 - 40) / 2.0)
    assert (found.epochs, found.steps) == (10, 20)
    assert told(STARTED, now=4, trainer=TRAINER, seen=live(Section.STARTING)).left is None


def test_the_next_save_is_due_after_the_interval_that_the_run_chose():
    """Counted from the moment the last one was captured; unknown where the caller chose."""
    chosen = (*FRESH, saved(10, 5, interval=8.0), saved(20, 10, 1.0))
    assert told(*chosen, now=24, trainer=TRAINER, seen=live()).next_save == pytest.approx(19 + 8 - 24)
    assert told(*chosen, now=99, trainer=TRAINER, seen=live()).next_save == 0.0
    assert told(*FRESH, saved(20, 10), now=24, trainer=TRAINER, seen=live()).next_save is None


def test_a_silence_is_told_before_it_is_called_a_hang():
    """Long for this run, and no less than a minute; who will end it is told as well."""
    events = (STARTED, saved(3, 0, 0.0), saved(20, 10, 0.0), saved(40, 20, 0.0))
    (text,) = told(*events, now=150, trainer=TRAINER, supervisor=SUPERVISOR, seen=live(silent=90)).warnings
    assert "90 s ago" in text and "its supervisor will end it" in text
    (text,) = told(*events, now=150, trainer=TRAINER, seen=live(silent=90)).warnings
    assert "nothing supervises it" in text
    assert not told(*events, now=110, trainer=TRAINER, seen=live(silent=50)).warnings
    assert not told(*events, now=150, trainer=TRAINER, seen=live(Section.STARTING, silent=90)).warnings


def test_saves_that_fail_are_told_until_one_succeeds():
    """The disk is full, and training goes on."""
    failed = event(50, "save_failed", error="the disk is full", failures=2)
    assert "2 in a row" in told(*FRESH, failed, trainer=TRAINER, seen=live()).warnings[0]
    assert not told(*FRESH, failed, saved(60, 9), trainer=TRAINER, seen=live()).warnings


def test_a_process_that_somebody_stopped_is_suspended_and_one_that_hung_is_being_ended():
    """SIGSTOP is no hang; a hang that the supervisor has found is one until the process is gone."""
    assert told(*FRESH, trainer=TRAINER, seen=live(suspended=True)).state is State.SUSPENDED
    hung = event(90, "hung", attempt=1, silent=120.0, section="training")
    found = told(*FRESH, FIRST, hung, trainer=TRAINER, supervisor=SUPERVISOR, seen=live())
    assert found.state is State.HUNG and "120 s" in found.why


def test_between_two_attempts_the_supervisor_waits_and_then_imports():
    """When the next one begins is known to the second."""
    found = told(*FRESH, FIRST, KILL, now=42, supervisor=SUPERVISOR)
    assert (found.state, found.next_attempt) == (State.WAITING, at(45)) and "SIGKILL" in found.why and "in 3 s" in found.why
    assert told(*FRESH, FIRST, KILL, now=46, supervisor=SUPERVISOR).state is State.STARTING
    second = event(45, "attempt", attempt=2, pid=8, supervisor=5, began=45)
    found = told(*FRESH, FIRST, KILL, second, now=47, supervisor=SUPERVISOR)
    assert found.state is State.STARTING and "attempt 2" in found.why


@pytest.mark.parametrize(
    ("events", "state", "words"),
    [
        ([event(30, "finished", step=9)], State.FINISHED, "all epochs"),
        ([event(30, "preempted", step=9, reason="SIGTERM", saved=True)], State.PREEMPTED, "stopped by SIGTERM. Start it again"),
        ([event(30, "failed", step=9, error="ValueError: x")], State.CRASHED, "failed with ValueError: x, and nobody"),
        ([event(30, "failed", error="CheckpointMismatchError: kernel")], State.NEEDS_HUMAN, "kernel"),
        ([event(30, "exited", code=78, verdict="needs a human", reason="exited with code 78")], State.NEEDS_HUMAN, "78"),
        ([KILL], State.CRASHED, "attempt 1 was ended by SIGKILL"),
        ([KILL, event(41, "gave_up", failures=["attempt 1 was ended by SIGKILL"])], State.GAVE_UP, "once the cause is gone"),
        ([event(30, "exited", reason="its supervisor died")], State.CRASHED, "its supervisor died"),
        ([], State.CRASHED, "nobody wrote how it ended"),
    ],
)
def test_where_nobody_is_left_the_state_is_how_it_ended(events, state, words):
    """With what to do next; the exit code is that of the program, or of its supervisor."""
    found = told(*FRESH, FIRST, *events)
    assert found.state is state and words in found.why
    codes = {State.FINISHED: 0, State.PREEMPTED: 75, State.NEEDS_HUMAN: 78, State.GAVE_UP: 93, State.CRASHED: 1}
    assert found.state.exit_code == codes[state]


def test_before_anything_was_trained_there_is_nothing_to_tell():
    """An empty directory of a run."""
    assert told().state is State.NEW and told().state.exit_code == 1
    assert told(trainer=TRAINER, seen=live(Section.STARTING)).state is State.STARTING


def test_after_fit_the_program_may_go_on():
    """It evaluates, say; the supervisor lives, and the lock is free."""
    assert told(*FRESH, FIRST, event(30, "finished", step=9), supervisor=SUPERVISOR).state is State.FINISHED
    assert told(*FRESH, FIRST, event(30, "preempted", step=9, reason="SIGTERM"), supervisor=SUPERVISOR).state is State.STOPPING


holders = st.none() | st.builds(Holder, st.none() | st.integers(), st.text(max_size=3), st.none() | st.datetimes(timezones=st.just(dt.UTC)))
places = st.none() | st.builds(Progress, *[st.integers(0, 100)] * 3)
signs = st.none() | st.builds(Live, st.sampled_from(Section), places, st.booleans(), st.none() | st.integers(0, 99), st.floats(0, 1e9))


@given(st.lists(odd_events, max_size=10), st.floats(-1e6, 1e6), holders, holders, signs)
def test_any_facts_give_a_status(events, now, trainer, supervisor, seen):
    """Whatever the journal says, no number is negative and no question is left open."""
    runs = accounts(events, at(now) if trainer else None)
    found = status(Facts(at(now), runs[-1] if runs else None, trainer, supervisor, seen))
    assert all(number is None or number >= 0 for number in (found.speed, found.left, found.next_save, found.unsaved))
    assert found.state.exit_code in (0, 1, 75, 78, 93)


def test_the_speed_is_known_also_where_saves_are_far_between():
    """An epoch of an hour, and nothing saved for half of it."""
    saves = [saved(3 + 3600 * hour, 100 * hour) for hour in range(3)]
    found = told(STARTED, *saves, now=9000, trainer=TRAINER, seen=live(step=250))
    assert found.speed == pytest.approx((250 - 200) / (9000 - 7202), rel=0.01)


@pytest.mark.parametrize("huge", [10**400, -(10**400)])
def test_absurd_numbers_of_a_journal_are_no_numbers(huge):
    """Whoever wrote them."""
    started = STARTED | {"epochs": huge, "steps": huge}
    found = told(started, saved(3, 0), saved(13, 10, interval=huge), now=20, trainer=TRAINER, seen=live(step=15))
    assert found.left is None and found.next_save is None


def test_attempts_have_one_numbering_although_every_supervisor_begins_with_1():
    """The place in the line of attempts, in all sentences."""
    again = event(50, "attempt", attempt=1, pid=8, supervisor=6, began=49)
    events = (*FRESH, FIRST, KILL, again, event(60, "exited", attempt=1, pid=8, code=1, reason="exited with code 1", verdict="failed"))
    assert told(*events).why.startswith("attempt 2 exited with code 1")
    assert "gave up: attempt 2 exited" in told(*events, event(61, "gave_up", failures=["attempt 1 exited with code 1"])).why


def test_an_attempt_whose_supervisor_died_is_told_in_a_sentence():
    """The guardian's word for it."""
    died = event(30, "exited", reason="its supervisor died")
    assert told(*FRESH, FIRST, died).why.startswith("attempt 1 was ended because its supervisor died,")


def test_right_after_a_restart_the_position_is_what_it_goes_on_from():
    """What the attempt before has lost is done again."""
    second = event(45, "attempt", attempt=2, pid=8, supervisor=5, began=45)
    events = (*FRESH, FIRST, saved(23, 10, epoch=0, batch=10), KILL | {"epoch": 0, "batch": 18}, second)
    assert told(*events, now=47, supervisor=SUPERVISOR).progress == Progress(0, 10, 10)
    assert told(*events[:-1], now=42, supervisor=SUPERVISOR).progress == Progress(0, 18, 18)
