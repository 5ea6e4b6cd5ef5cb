"""The saver by itself, with a clock of the test's."""

from __future__ import annotations

import time
import types
import weakref
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ours import Resilient
from benchmarks.workload import dense
from resilient import saver
from resilient.errors import StorageError
from resilient.journal import Journal, read
from resilient.memory import Room
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


class Full(Room):
    """Host memory without room for copies."""

    def claim(self, nbytes: int, tell: Any) -> None:
        if not self._told:
            tell(f"No room for {nbytes} bytes.")
        self._told = True


def test_where_memory_has_no_room_for_copies_a_save_pins_the_training_until_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Durable, or refused by the disk. What was refused is held by nobody, so that the next step copies nothing; it is owed."""
    real, errors, held = Store.commit, [StorageError("the disk is full")], []

    def commit(self: Any, manifest: Any, files: Any, *rest: Any, **options: Any) -> Any:
        tensors = [value for values in files.values() for value in values.values() if hasattr(value, "dtype")]
        held.extend(map(weakref.ref, tensors))
        time.sleep(0.2)
        if errors:
            try:
                raise OSError(errors[0])
            except OSError as error:
                raise errors.pop() from error
        return real(self, manifest, files, *rest, **options)

    monkeypatch.setattr(Store, "commit", commit)
    monkeypatch.setattr(saver.memory, "HOST", Full())
    method = Resilient(dense(0.1, 8).model, tmp_path)
    ours = method._saver
    method.save(1)
    assert ours.pinned
    ours.unpin()
    assert not ours.pinned and ours.durable is None and errors == []
    assert len(held) > 20 and not any(tensor() is not None for tensor in held)
    with pytest.warns(UserWarning, match="No room for 126740"), pytest.warns(UserWarning, match="could not be saved"):
        ours.tell()
    method.save(2)
    ours.unpin()
    assert [info.step for info in Store(tmp_path).infos()] == [2]
    method.close()
    assert [event["waited"] for event in read(tmp_path) if event["event"] == "saved"] == [True]


def test_what_an_attempt_had_that_was_killed_for_lack_of_memory_is_taken_into_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its supervisor has written into the journal."""
    remembered: list[int] = []
    monkeypatch.setattr(Room, "remember", lambda self, peak: remembered.append(peak))
    Journal(tmp_path).append("exited", out_of_memory=True, peak_rss=12345)
    Resilient(dense(0.1, 8).model, tmp_path).close()
    assert remembered == [12345]
