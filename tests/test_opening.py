from __future__ import annotations

import pytest
from store_samples import commit, is_sample, prepared

from resilient.heartbeat import Heartbeat
from resilient.journal import Journal
from resilient.opening import Opening
from resilient.store import Store
from resilient.store import store as room

STATE = {"best_score": None, "settings": {}}


def opened(directory, monkeypatch, resume):
    """What the run in `directory` goes on from, and which checkpoints were read for it, each as often as it was."""
    genuine, read = room.read_checkpoint, []
    monkeypatch.setattr(room, "read_checkpoint", lambda path: (read.append(path.name[-1]), genuine(path))[1])
    journal = Journal(directory)
    try:
        start = Opening(Store(directory), journal, resume, lambda resume: None, Heartbeat()).open(dict)
    finally:
        journal.close()
    return start, [name for name in read if name.isdigit()]


@pytest.mark.parametrize(
    ("resume", "best", "step", "read"),
    [("latest", 1, 2, ["2"]), ("best", 2, 2, ["2"]), ("best", 1, 1, ["2", "1"]), (1, 2, 1, ["1", "2"])],
)
def test_each_checkpoint_is_read_once(tmp_path, monkeypatch, resume, best, step, read):
    """Reading all of a state takes its time: what was verified is not verified again. The latest is read in any case: it may be damaged."""
    store = prepared(tmp_path)
    for number in (1, 2):
        commit(store, number, score=0.1 if number == best else 0.2, mode="min", state=STATE)
    start, found = opened(tmp_path, monkeypatch, resume)
    assert start.checkpoint.manifest.progress.step == step and is_sample(start.checkpoint)
    assert found == read
