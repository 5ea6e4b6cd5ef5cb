"""The saver by itself, with a clock of the test's."""

from __future__ import annotations

import time
import types
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ours import Resilient
from benchmarks.workload import dense
from resilient import memory, saver
from resilient.errors import StorageError
from resilient.journal import Journal, read
from resilient.policy import Auto, Backoff
from resilient.store import Store


class EveryThirtySeconds(Auto):
    """Whatever a save costs."""

    def retuned(self, *_: Any) -> Auto:
        return self


def test_what_makes_a_failed_save_good_does_not_put_off_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes at once, but it is no save before its time, as an end of an epoch is."""
    clock, real, failed = [0.0], Store.commit, []

    def commit(self: Any, *arguments: Any, **options: Any) -> Any:
        if not failed:
            failed.append(clock[0])
            raise StorageError("the disk is full")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Store, "commit", commit)
    monkeypatch.setattr(saver, "Backoff", lambda: Backoff(first=0.001))
    monkeypatch.setattr(saver, "time", types.SimpleNamespace(**{**vars(time), "monotonic": lambda: clock[0]}))
    method = Resilient(dense(0.1, 8).model, tmp_path)
    ours = method._saver
    ours._cadence = EveryThirtySeconds(interval=30.0, reason="the test's")
    clock[0] = 30.0
    assert ours.due(1)
    method.save(1)
    assert not ours.wait() and failed == [30.0]
    clock[0] = 30.5
    assert ours.owing and ours.due(2)
    method.save(2)
    assert ours.wait() and not ours.owing
    due = {}
    for seconds in (60.0, 61.0):
        clock[0] = seconds
        due[seconds] = ours.due(3)
    method.close()
    assert due == {60.0: False, 61.0: True}
    assert [info.step for info in Store(tmp_path).infos()] == [2]


def test_where_copies_have_killed_an_attempt_training_waits_until_a_save_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durable when `submit` returns, or refused by the disk: then training goes on, and what was lost is owed."""
    real, errors = Store.commit, [StorageError("the disk is full")]

    def commit(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.2)
        if errors:
            raise errors.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(Store, "commit", commit)
    monkeypatch.setattr(memory, "_NEGLIGIBLE", 0)
    Journal(tmp_path).append("exited", out_of_memory=True, saving=True)
    method = Resilient(dense(0.1, 8).model, tmp_path)
    method.save(1)
    assert not method._saver.durable and errors == []
    with pytest.warns(UserWarning, match="killed for lack of memory"), pytest.warns(UserWarning, match="could not be saved"):
        method._saver.tell()
    method.save(2)
    assert [info.step for info in Store(tmp_path).infos()] == [2]
    method.close()
    assert [event["waited"] for event in read(tmp_path) if event["event"] == "saved"] == [True]
