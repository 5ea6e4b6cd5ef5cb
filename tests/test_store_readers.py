from __future__ import annotations

import threading

import pytest
from store_samples import commit, is_sample, prepared, reports

from resilient.errors import StorageError
from resilient.keep import Keep
from resilient.store import Store, reading
from resilient.store import store as room


def test_readers_beside_a_writer_see_only_whole_checkpoints_and_always_one(tmp_path):
    """While one thread commits, replaces and prunes, another lists, loads and verifies without ever meeting damage or nothing."""
    store = prepared(tmp_path)
    commit(store, 0, 0)
    done = threading.Event()
    failures: list[BaseException] = []

    def read():
        try:
            while not done.is_set():
                seen, report = reports()
                reader = Store(tmp_path)
                latest = reader.latest(report)
                assert latest is not None and is_sample(latest)
                assert seen == [] and reader.verify() == [] and reader.infos()
        except BaseException as error:  # noqa: BLE001 (told to the main thread)
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for sequence in range(1, 60):
            commit(store, sequence % 7, sequence)
            store.prune(Keep(last=2, best=0))
    finally:
        done.set()
        reader.join()
    assert failures == [] and store.verify() == []


def writer_between(store: Store, monkeypatch, function: str, times: int) -> None:
    """Has a writer replace everything by two newer checkpoints right before each of the first calls of `function`."""
    genuine, calls = getattr(room, function), iter(range(1, times + 1))

    def interrupted(path):
        number = next(calls, None)
        if number:
            for sequence in (10 * number, 10 * number + 1):
                commit(store, sequence)
            store.prune(Keep(last=2, best=0))
        return genuine(path)

    monkeypatch.setattr(room, function, interrupted)


@pytest.mark.parametrize("function", ["read_manifest", "read_checkpoint"])
def test_what_was_replaced_between_listing_and_reading_is_not_taken_for_nothing(tmp_path, monkeypatch, function):
    """All that was listed is gone when it is read: the answer is the newest of what is there now, not "there never was one"."""
    store = prepared(tmp_path)
    commit(store, 1)
    writer_between(store, monkeypatch, function, times=3)
    seen, report = reports()
    latest = Store(tmp_path).latest(report)
    assert latest.manifest.sequence >= 11 and is_sample(latest) and seen == []
    assert store.verify() == []


def test_a_run_that_changes_faster_than_it_can_be_read_is_said_to(tmp_path, monkeypatch):
    """The reader gives up with a sentence, not never."""
    store = prepared(tmp_path)
    commit(store, 1)
    monkeypatch.setattr(room, "_ATTEMPTS", 5)
    writer_between(store, monkeypatch, "read_manifest", times=1000)
    with pytest.raises(StorageError, match="change faster than they can be read"):
        Store(tmp_path).latest(reports()[1])


def test_the_largest_file_is_hashed_first(tmp_path, monkeypatch):
    """All are hashed side by side, so that the one that takes longest must not begin last."""
    store = prepared(tmp_path)
    commit(store, 1)
    (path,) = (tmp_path / "checkpoints").iterdir()
    genuine, begun = reading._read_tensors, []
    monkeypatch.setattr(reading, "_READERS", 1)
    monkeypatch.setattr(reading, "_read_tensors", lambda *where: (begun.append(where[-1].size), genuine(*where))[1])
    checkpoint = reading.read_checkpoint(path)
    assert len(set(begun)) > 1 and begun == sorted(begun, reverse=True)
    assert is_sample(checkpoint)
    sizes = [entry.size for entry in checkpoint.manifest.files.values()]
    assert sizes != begun
    for name in checkpoint.manifest.files:
        (path / name).write_bytes(b"")
    with pytest.raises(reading.Damaged, match=next(iter(checkpoint.manifest.files))):
        reading.read_checkpoint(path)
