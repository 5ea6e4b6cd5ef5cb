"""The failures that a journal tells of."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.failures import observed_failures, peak_of_the_killed
from resilient.journal import EVENTS, Journal, read
from resilient.policy import Failures

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def journal(text: str) -> list[dict[str, object]]:
    """Events from words like `60:saved@12`: 60 seconds after the start, step 12; `+` marks a preemption with a save, or a finished run."""
    events = []
    for word in text.split():
        when, _, rest = word.partition(":")
        name, _, step = rest.rstrip("+").partition("@")
        event: dict[str, object] = {"event": name, "time": (START + dt.timedelta(seconds=float(when))).isoformat()}
        if step:
            event["step"] = int(step)
        if rest.endswith("+"):
            event["saved" if name == "preempted" else "finished"] = True
        events.append(event)
    return events


BEGUN = "0:started 10:saved@0 "
NOW = " 9000:started 9010:restored@5"


@pytest.mark.parametrize(
    ("before", "seen"),
    [
        ("", Failures()),
        (BEGUN + "70:saved@5", Failures(1, 60.0, 0)),  # killed: nothing tells of it but the attempt after it
        (BEGUN + "70:failed@5", Failures(1, 60.0, 1)),  # an error, with five batches that were not saved
        (BEGUN + "70:saved@5 80:failed@5", Failures(0, 70.0, 0)),  # an error that lost nothing
        (BEGUN + "70:saved@5 80:preempted@5+", Failures(0, 70.0, 0)),
        (BEGUN + "70:saved@5 80:preempted@7", Failures(1, 70.0, 0)),  # no time to save
        (BEGUN + "70:saved@5 80:preempted@7 81:saved@7", Failures(1, 70.0, 0)),  # written on the way out
        (BEGUN + "70:saved@5 80:finished@5", Failures(0, 70.0, 0)),
        (BEGUN + "70:saved@5 100:exited", Failures(1, 90.0, 0)),  # a supervisor knows when
        (BEGUN + "70:saved@5 80:preempted@5+ 90:exited", Failures(0, 70.0, 0)),
        (BEGUN + "70:saved@5 100:exited 3000:attempt", Failures(1, 90.0, 0)),
        (BEGUN + "70:saved@5 3000:attempt", Failures(1, 60.0, 0)),
        ("0:started 5:failed", Failures()),  # refused before it trained
        ("0:started", Failures()),  # killed before it trained
        ("0:failed", Failures()),
        (BEGUN + "70:saved@5 80:finished@5 90:started 91:restored@5+", Failures(0, 70.0, 0)),  # the same call after the end
        ("0:saved@4 60:saved@5", Failures(1, 60.0, 0)),  # the newest part of a long journal
    ],
)
def test_how_an_attempt_ended_decides_whether_it_was_a_failure(before, seen):
    """What counts is that batches were trained and lost. The present attempt counts neither as failure nor as time."""
    assert observed_failures(journal(before + NOW)) == seen


def test_the_most_that_a_killed_attempt_had_is_remembered():
    """Of those that were killed for lack of memory, as far as their peak is known."""
    died = {"event": "exited", "out_of_memory": True, "peak_rss": 7}
    assert peak_of_the_killed([]) == 0
    assert peak_of_the_killed([{**died, "event": "saved"}, {**died, "out_of_memory": False}, {**died, "out_of_memory": 1}]) == 0
    assert peak_of_the_killed([{**died, "peak_rss": None}, {**died, "peak_rss": "8"}, {"event": "exited", "out_of_memory": True}]) == 0
    assert peak_of_the_killed([{**died, "peak_rss": 5}, died, {**died, "peak_rss": 9, "out_of_memory": False}]) == 7


def test_attempts_in_a_row_that_died_before_they_saved_are_counted_until_one_saves():
    """What an attempt begins with, a restored checkpoint or the save of step 0, is not its own save."""
    killed = "{0}:started {0}:restored@5 "
    saved = "{0}:started {0}:restored@5 {0}:saved@9 "
    text = BEGUN + killed.format(100) + killed.format(200)
    assert observed_failures(journal(text + NOW)).in_vain == 3
    assert observed_failures(journal(text + saved.format(300) + NOW)).in_vain == 0
    assert observed_failures(journal(text + saved.format(300) + killed.format(400) + NOW)).in_vain == 1
    assert observed_failures(journal(text + "300:started 300:restored@5 310:preempted@5+ " + NOW)).in_vain == 0


def test_a_clock_that_is_set_counts_for_an_hour_at_most_and_back_for_nothing():
    """A machine that slept for a week has not trained for a week."""
    assert observed_failures(journal(BEGUN + "700000:saved@5 800:saved@6" + NOW)).uptime == 3600.0


@given(st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.floats(-1e6, 1e6), st.integers(0, 9) | st.none() | st.text(max_size=2))))
def test_any_events_in_any_order_give_a_count(rows):
    """A journal with gaps, foreign lines and a clock that jumps never stops a training."""
    events = [{"event": name, "time": (START + dt.timedelta(seconds=when)).isoformat(), "step": step} for name, when, step in rows]
    seen = observed_failures(events)
    assert 0 <= seen.in_vain <= seen.count <= len(rows) and 0.0 <= seen.uptime <= 3600.0 * len(rows)
    assert seen.mean_time_between > 0


def test_what_a_real_journal_holds_can_be_read(tmp_path):
    """The events as the journal writes and reads them."""
    diary = Journal(tmp_path)
    diary.append("started", pid=1)
    for step in (0, 5):
        diary.append("saved", step=step)
    diary.append("started", pid=2)
    diary.close()
    seen = observed_failures(read(tmp_path))
    assert (seen.count, seen.in_vain) == (1, 0)
