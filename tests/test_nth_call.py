"""Fail the n-th call of everything that is done to a run directory, and what that has taught."""

from __future__ import annotations

import errno
import os
import warnings

import pytest
from store_samples import FROZEN, commit, is_sample, manifest, prepared, reports, tensors

from chaos.calls import met, path_of
from chaos.faults import fail_at, fail_from
from chaos.faults.disk import refuse
from chaos.nth_call import counting
from chaos.nth_call.errnos import ERRNOS, ONCE_ONLY
from chaos.nth_call.operations import OPERATIONS, Operation, named, two
from resilient.errors import StorageError
from resilient.heartbeat import Heartbeat
from resilient.journal import Journal, read
from resilient.keep import Keep
from resilient.manifest import step_name
from resilient.opening import Opening
from resilient.store import RunLock, Store
from resilient.store import store as room
from resilient.store.published import Ledger, publish


@pytest.mark.parametrize("name", [operation.name for operation in OPERATIONS])
def test_any_call_may_fail(name):
    """Once or for good: it goes on or says one clear thing; the newest durable checkpoint is there; nothing is left behind."""
    found = list(counting.outcomes(named(name), every_errno=False, stride=12))
    assert [f"{outcome.case}: {outcome.wrong}" for outcome in found if outcome.wrong is not None] == []
    assert len(found) > 10


def test_every_call_has_its_errors():
    """No operation makes a call for which no error is known, so none is passed over."""
    for operation in OPERATIONS:
        assert set(counting.calls_of(operation)) <= set(ERRNOS), operation.name
    assert set(ONCE_ONLY) <= set(ERRNOS)


def test_a_signal_during_a_call_past_python_is_not_an_error(tmp_path):
    """EINTR from fallocate: the call is made again."""
    store, fault = two(tmp_path), fail_at(1)
    with met(refuse(errno.EINTR, fault, ("fallocate",)), tmp_path):
        commit(store, 3)
    assert fault.struck == [1] and is_sample(store.load(3))


def forgets(place) -> None:
    """An operation that drops what it has before it has something else."""
    store = Store(place)
    store.prune(Keep(last=1, best=0))
    os.rename(place / "checkpoints" / step_name(2), place / "checkpoints" / ".tmp-mine")
    (place / "checkpoints" / step_name(2)).mkdir()
    for path in (place / "checkpoints" / ".tmp-mine").iterdir():
        path.rename(place / "checkpoints" / step_name(2) / path.name)
    os.rmdir(place / "checkpoints" / ".tmp-mine")


def leaks(place) -> None:
    """An operation that leaves a file open where a call fails."""
    fd = os.open(place / "checkpoints", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


@pytest.mark.parametrize(("act", "why"), [(forgets, "lost"), (leaks, "leaked")])
def test_the_judge_notices(act, why):
    """Negative control: an operation that loses the newest checkpoint, and one that leaks a descriptor."""
    found = list(counting.outcomes(Operation("bad", act, two, (OSError,)), every_errno=False, stride=2))
    assert any(outcome.wrong is not None and why in outcome.wrong for outcome in found)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if path_of(fd).endswith("/run/checkpoints (deleted)"):
            os.close(fd)


# -- defects that this has found ------------------------------------------------------------------------------------------------------


def test_a_close_that_fails_says_nothing_about_what_was_read(tmp_path):
    """As on a lost file server: no error escapes raw, and no checkpoint is taken for a damaged one."""
    two(tmp_path)
    seen, report = reports()
    fault = fail_from(1)
    with met(refuse(errno.EIO, fault, ("close",)), tmp_path):
        assert Store(tmp_path).latest(report).manifest.sequence == 2
        assert Store(tmp_path).verify() == []
        assert [info.step for info in Store(tmp_path).infos()] == [1, 2]
    assert seen == [] and len(fault.struck) > 5


def test_a_lock_is_given_back_although_closing_its_file_fails(tmp_path):
    """The next one gets it, in the same process too."""
    with met(refuse(errno.EIO, fail_from(1), ("close",)), tmp_path), RunLock(tmp_path):
        assert (tmp_path / "run.lock").exists()
    with RunLock(tmp_path) as lock:
        assert lock.held


def test_a_journal_that_cannot_be_read_does_not_keep_a_run_from_beginning(tmp_path):
    """It is read to warn of lost checkpoints; where it says nothing there is nothing to warn of."""
    store, journal = prepared(tmp_path), Journal(tmp_path)
    journal.append("saved", step=7)

    def begin():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            start = Opening(store, journal, "latest", lambda resume: None, Heartbeat()).open(dict)
        return start.checkpoint, [str(warning.message) for warning in caught]

    assert begin()[0] is None and "step 7" in begin()[1][0]
    fault = fail_from(1)
    with met(refuse(errno.EIO, fault, ("read",)), tmp_path):
        assert begin() == (None, [])
    assert fault.struck
    journal.close()


def test_what_cannot_be_tidied_up_at_the_end_does_not_end_a_training(tmp_path):
    """All is saved by then: kept versions of a ModelCheckpoint file that cannot be removed stay."""
    place = tmp_path / "best.bin"
    ledger = Ledger(tmp_path, place.name, "run")
    for serial in (1, 2):
        ledger.mark(serial - 1)
        publish(
            place, lambda to: to.write_bytes(b"x"), before=lambda temporary, serial=serial: ledger.record(temporary, place, serial, None)
        )
    assert list(ledger.directory.glob("*.kept"))
    for call in ("scandir", "unlink"):
        fault = fail_from(1)
        with met(refuse(errno.EIO, fault, (call,)), tmp_path):
            ledger.finish()
        assert fault.struck and list(ledger.directory.glob("*.kept"))
    ledger.finish()
    assert not list(ledger.directory.glob("*.kept"))


def test_a_journal_is_closed_although_that_fails(tmp_path):
    """Each event has said whether it was written; the end of a training is no place for one more error."""
    journal = Journal(tmp_path)
    assert journal.append("saved", step=1, durable=True)
    with met(refuse(errno.EIO, fail_from(1), ("close",)), tmp_path):
        journal.close()
    assert journal.append("saved", step=2) and [event["step"] for event in read(tmp_path)] == [1, 2]
    journal.close()


@pytest.mark.parametrize("final", [False, True])
def test_what_is_damaged_is_in_quarantine_before_its_name_is_taken(tmp_path, monkeypatch, final):
    """A process killed just after a new checkpoint has taken the name of a damaged one leaves the damaged one whole, whatever is swept."""
    store = two(tmp_path)
    store.commit_final(manifest(2, 4), tensors(4), FROZEN)
    damaged = tmp_path / "final" if final else tmp_path / "checkpoints" / step_name(2)
    (damaged / "model.safetensors").write_bytes(b"evidence")

    def publish(*arguments):
        raise KeyboardInterrupt  # the process ends here

    monkeypatch.setattr(room, "write_checkpoint", publish)
    with pytest.raises(KeyboardInterrupt):
        store.commit_final(manifest(2, 5), tensors(5)) if final else commit(store, 2, 5)
    prepared(tmp_path)
    assert (tmp_path / "quarantine" / damaged.name / "model.safetensors").read_bytes() == b"evidence"
    assert not damaged.exists()


def test_where_the_damaged_cannot_be_kept_the_save_fails(tmp_path):
    """It would be lost; and what is valid stays."""
    store = two(tmp_path)
    (tmp_path / "checkpoints" / step_name(2) / "model.safetensors").write_bytes(b"evidence")
    (tmp_path / "quarantine").write_text("in the way")
    with pytest.raises(StorageError, match="move a damaged checkpoint to quarantine"):
        commit(store, 2, 5)
    assert (tmp_path / "checkpoints" / step_name(2) / "model.safetensors").read_bytes() == b"evidence"
    assert Store(tmp_path).load(1).manifest.sequence == 1
