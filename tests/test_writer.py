"""The background writer, and the plan of epochs."""

from __future__ import annotations

import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.data.plan import EpochPlan
from resilient.errors import StorageError
from resilient.policy import Backoff, Haste
from resilient.writer import Writer

FAST = Backoff(first=0.001, longest=0.001, urgent=0.001)


class Disk:
    """Notes what is committed; a gate holds a commit, a list of errors makes commits fail."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.errors: list[Exception] = []
        self.written: list[int] = []
        self.failures: list[int] = []

    def commit(self, snapshot: int) -> None:
        self.entered.release()
        self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.written.append(snapshot)

    def failed(self, error: BaseException, count: int) -> None:
        self.failures.append(count)


FIRST = 1


def at_work() -> tuple[Disk, Writer[int]]:
    """A writer in the midst of writing `FIRST`, which the disk's gate holds."""
    disk = Disk()
    writer = Writer(disk.commit, disk.failed, FAST)
    disk.gate.clear()
    writer.submit(FIRST)
    disk.entered.acquire()
    return disk, writer


def test_a_newer_snapshot_takes_the_place_of_one_not_yet_begun():
    """At most one waits."""
    disk, writer = at_work()
    for snapshot in (2, 3, 4):
        writer.submit(snapshot)
    disk.gate.set()
    assert writer.wait()
    writer.close()
    assert disk.written == [1, 4]


def test_what_is_written_although_a_newer_one_waits_is_superseded():
    """Unless it must be written, or nothing newer waits."""
    disk, writer = at_work()
    assert writer.superseded is None
    writer.submit(2, must=True)
    assert writer.superseded == 1
    disk.gate.set()
    assert writer.wait()
    disk.gate.clear()
    writer.submit(3, must=True)
    disk.entered.acquire()
    disk.entered.acquire()
    writer.submit(4)
    assert writer.superseded is None
    disk.gate.set()
    assert writer.wait()
    writer.close()
    assert disk.written == [1, 2, 3, 4]


def test_what_is_handed_over_while_it_is_being_written_is_written_once():
    """A stop hands over the moment before a validation, which may be on its way to the disk already; and it is not superseded by itself."""
    disk, writer = at_work()
    writer.submit(FIRST)
    assert writer.superseded is None
    disk.gate.set()
    assert writer.wait()
    writer.close()
    assert disk.written == [FIRST]


def test_it_knows_whether_somebody_waits():
    """What is under way then is written in another way."""
    disk, writer = at_work()
    assert not writer.awaited
    waiting = threading.Thread(target=writer.wait, args=(time.monotonic() + 30,))
    waiting.start()
    while not writer.awaited and waiting.is_alive():
        time.sleep(0.001)
    disk.gate.set()
    waiting.join()
    assert disk.written == [FIRST] and not writer.awaited
    writer.close()


@pytest.mark.parametrize(
    ("writing", "left", "gives_up"),
    [(1.0, 1.4, False), (1.0, 1.5, True), (None, 9.0, False), (None, math.inf, True), (9.0, math.inf, True)],
)
def test_a_commit_is_given_up_only_for_one_that_can_be_finished(writing, left, gives_up):
    """With half as much time again as the last one took; without a deadline always."""
    assert Haste(writing).gives_up(left) is gives_up


def test_a_snapshot_that_must_be_written_is_not_displaced():
    """The next one waits for its turn instead."""
    disk, writer = at_work()
    writer.submit(2, must=True)
    late = threading.Thread(target=writer.submit, args=(3,))
    late.start()
    assert late.is_alive()
    disk.gate.set()
    late.join()
    assert writer.wait()
    writer.close()
    assert disk.written == [1, 2, 3]


def test_a_failure_is_tried_again_and_forgotten_after_success():
    """The same snapshot, until it is written."""
    disk = Disk()
    disk.errors = [StorageError("full"), OSError("odd")]
    writer = Writer(disk.commit, disk.failed, FAST)
    writer.submit(1)
    assert writer.wait()
    disk.errors = [StorageError("full")]
    writer.submit(2)
    assert writer.wait()
    writer.close()
    assert disk.written == [1, 2] and disk.failures == [1, 2, 1]


def test_what_the_writing_consumes_is_not_tried_again_but_owed():
    """Until another is submitted; nobody who waits is told that all is durable. The failures still count as a row."""
    disk = Disk()
    disk.errors = [StorageError("full"), StorageError("full")]
    writer = Writer(disk.commit, disk.failed, FAST)
    for snapshot in (1, 2):
        writer.submit(snapshot, once=True)
        assert not writer.wait()
        assert writer.owing and writer.idle
    writer.submit(3, once=True)
    assert writer.wait() and not writer.owing
    writer.close()
    assert disk.written == [3] and disk.failures == [1, 2]


def test_what_waits_behind_a_consumed_snapshot_that_failed_is_written_and_nothing_is_owed():
    """It is newer."""
    disk = Disk()
    writer = Writer(disk.commit, disk.failed, FAST)
    disk.gate.clear()
    disk.errors = [StorageError("full")]
    writer.submit(1, once=True)
    disk.entered.acquire()
    writer.submit(2, must=True)
    disk.gate.set()
    assert writer.wait() and not writer.owing
    writer.close()
    assert disk.written == [2] and disk.failures == [1]


def test_who_waits_for_an_attempt_waits_until_it_is_over_and_no_longer():
    """Until it is durable, in haste; or until the disk has refused it, however long it is before it is tried again."""
    disk, writer = at_work()
    waiting = threading.Thread(target=writer.wait_for_attempt)
    waiting.start()
    while not writer.awaited:
        time.sleep(0.001)
    assert waiting.is_alive() and disk.written == []
    disk.gate.set()
    waiting.join()
    assert disk.written == [FIRST] and not writer.awaited
    writer.close()

    disk = Disk()
    disk.errors = [StorageError("full")]
    writer = Writer(disk.commit, disk.failed, Backoff(first=600.0, longest=600.0))
    writer.submit(FIRST)
    writer.wait_for_attempt()
    assert disk.failures == [1] and not writer.idle
    writer.close()
    assert disk.written == []


def test_too_many_failures_of_consumed_snapshots_end_the_writing_too():
    """The fifth in a row, whichever snapshots they were."""
    disk = Disk()
    disk.errors = [StorageError(f"full {n}") for n in range(5)]
    writer = Writer(disk.commit, disk.failed, FAST)
    for snapshot in range(5):
        writer.submit(snapshot, once=True)
        assert not writer.wait()
    with pytest.raises(StorageError, match="5 saves in a row failed, the last one so: full 4"):
        writer.submit(6)
    writer.close()


def test_too_many_failures_in_a_row_end_the_writing_with_an_error():
    """Raised on the training thread, at the next submit."""
    disk = Disk()
    disk.errors = [StorageError(f"full {n}") for n in range(9)]
    writer = Writer(disk.commit, disk.failed, FAST)
    writer.submit(1)
    assert not writer.wait()
    with pytest.raises(StorageError, match="5 saves in a row failed, the last one so: full 4"):
        writer.submit(2)
    writer.close()
    assert disk.written == []


def test_against_a_deadline_it_is_tried_until_then():
    """An emergency save has its whole grace period, not five attempts."""
    disk = Disk()
    disk.errors = [StorageError(f"full {n}") for n in range(20)]
    writer = Writer(disk.commit, disk.failed, Backoff(first=60.0, urgent=0.001))
    writer.submit(1)
    assert writer.wait(time.monotonic() + 30)
    writer.close()
    assert disk.written == [1] and disk.failures[-1] == 20


def test_waiting_ends_at_the_deadline():
    """An emergency save must not outlast the grace period."""
    disk = Disk()
    writer = Writer(disk.commit, disk.failed, FAST)
    disk.gate.clear()
    writer.submit(1)
    assert not writer.wait(time.monotonic() + 0.05)
    disk.gate.set()
    assert writer.wait()
    writer.close()


def test_nothing_of_a_snapshot_is_kept_once_it_is_written():
    """Or it would pin a copy of the whole state."""
    import gc
    import weakref

    class Snapshot:
        pass

    writer: Writer[Snapshot] = Writer(lambda _: None, lambda *_: None, FAST)
    snapshot = Snapshot()
    gone = weakref.ref(snapshot)
    writer.submit(snapshot)
    del snapshot
    assert writer.wait()
    gc.collect()
    assert gone() is None
    writer.close()


@given(st.integers(1, 40), st.one_of(st.none(), st.integers(1, 60)), st.integers(1, 7), st.integers(0, 3), st.integers(1, 12), st.data())
def test_phases_train_every_batch_of_the_plan_once(batches, steps, execution, first, count, data):
    """From any position that an execution can end at, the phases cover exactly what is left, in order."""
    plan = EpochPlan(batches, steps, execution, first)
    epochs = first + count
    whole = [(e, b) for e in range(first, epochs) for b in range(plan.span(e).count)]
    epoch = data.draw(st.integers(first, epochs - 1))
    batch = data.draw(st.integers(0, plan.span(epoch).count))
    covered = []
    for phase in plan.phases(epoch, batch, epochs):
        for e in range(phase.first, phase.last + 1):
            skip = phase.skip if e == phase.first else 0
            assert skip + phase.count == plan.span(e).count
            covered += [(e, b) for b in range(skip, skip + phase.count)]
    assert covered == [position for position in whole if position >= (epoch, batch)]


@given(st.integers(1, 40), st.one_of(st.none(), st.integers(1, 60)), st.integers(1, 7))
def test_consecutive_epochs_read_the_data_in_order_without_gaps(batches, steps, execution):
    """Each pass is read from its beginning to its end before the next one begins."""
    plan = EpochPlan(batches, steps, execution, 0)
    position = 0
    for epoch in range(12):
        span = plan.span(epoch)
        assert span.pass_index * batches + span.first == position
        position += span.count
        assert span.count >= 1
