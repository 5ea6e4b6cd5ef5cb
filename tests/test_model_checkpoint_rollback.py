"""`resilient.ModelCheckpoint` after a rollback: no file of a step that never came to be, and every older one back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_model_checkpoint import begun, build, content, epoch, fit

from resilient import ModelCheckpoint, model_checkpoint
from resilient.store import published
from resilient.store.published import Ledger


def best_of(directory, name="best.weights.h5", **kwargs):
    options = {"monitor": "loss", "save_best_only": True, "save_weights_only": True, **kwargs}
    return begun(ModelCheckpoint(directory / name, **options))


def taken(callback):
    """The state as it comes back from a manifest."""
    return json.loads(json.dumps(callback.get_state()))


@pytest.mark.parametrize("same_process", [True, False])
@pytest.mark.parametrize("later", [1, 2, 3])
def test_the_older_best_comes_back(tmp_path, same_process, later):
    """best.weights.h5 was overwritten by better models of steps that a rollback undoes: it holds again what `best` speaks of."""
    callback = best_of(tmp_path)
    epoch(callback, 0, loss=0.5)
    epoch(callback, 1, loss=0.4)
    callback.flush()
    state = taken(callback)
    for number in range(later):
        epoch(callback, 2 + number, loss=0.3 - number / 10)
        callback.flush()
        taken(callback)
    assert content(tmp_path / "best.weights.h5") == 2 + later
    after = callback if same_process else best_of(tmp_path)
    after.set_state(state)
    assert content(tmp_path / "best.weights.h5") == 2
    assert after.best == 0.4
    epoch(after, 5, loss=0.45)
    after.flush()
    assert content(tmp_path / "best.weights.h5") == 2
    epoch(after, 6, loss=0.35)
    after.on_train_end()
    assert content(tmp_path / "best.weights.h5") == 7
    assert not list(tmp_path.rglob("*.kept"))


def test_later_files_go_earlier_ones_stay_and_the_callers_own_are_not_touched(tmp_path):
    """What was written after the point gone back to is removed if, and only if, it still is what this run wrote."""
    callback = best_of(tmp_path, "{epoch}-{loss:.1f}.weights.h5")
    start = taken(callback)
    for number, loss in enumerate((0.5, 0.4)):
        epoch(callback, number, loss=loss)
    callback.flush()
    state = taken(callback)
    for number, loss in enumerate((0.3, 0.2), start=2):
        epoch(callback, number, loss=loss)
    callback.flush()
    (tmp_path / "4-0.2.weights.h5").write_text("the caller's own by now")
    (tmp_path / "5-0.1.weights.h5").write_text("the caller's own")
    again = best_of(tmp_path, "{epoch}-{loss:.1f}.weights.h5")
    again.set_state(state)
    assert sorted(path.name for path in tmp_path.glob("[0-9]*")) == [f"{n}.weights.h5" for n in ("1-0.5", "2-0.4", "4-0.2", "5-0.1")]
    again.set_state(start)
    assert sorted(path.name for path in tmp_path.glob("[0-9]*")) == ["4-0.2.weights.h5", "5-0.1.weights.h5"]
    assert again.best is None


def test_a_directory_that_was_moved_is_rolled_back_where_it_is_now(tmp_path):
    """Names in the ledger are relative."""
    (tmp_path / "here").mkdir()
    callback = best_of(tmp_path / "here")
    epoch(callback, 0, loss=0.5)
    callback.flush()
    state = taken(callback)
    epoch(callback, 1, loss=0.4)
    callback.flush()
    (tmp_path / "here").rename(tmp_path / "there")
    best_of(tmp_path / "there").set_state(state)
    assert content(tmp_path / "there" / "best.weights.h5") == 1


def crash_with_a_write_under_way(callback, monkeypatch, *events):
    """The state that was committed while the newest file was still to be written, which then never was."""
    with monkeypatch.context() as dying:
        dying.setattr(model_checkpoint._BackgroundWriter, "submit", lambda self, file: None)
        dying.setattr(model_checkpoint._BackgroundWriter, "wait", lambda self, timeout=None: False)
        for event in events:
            event(callback)
        return taken(callback)


@pytest.mark.parametrize("batches_left", [True, False])
def test_a_file_that_the_crash_swallowed_is_made_again(tmp_path, monkeypatch, batches_left):
    """The checkpoint says best=0.3 and was committed before the file: the restored model is that very one, so it is saved now."""
    callback = best_of(tmp_path)
    epoch(callback, 0, loss=0.5)
    callback.flush()
    taken(callback)
    state = crash_with_a_write_under_way(callback, monkeypatch, lambda c: epoch(c, 1, loss=0.3))
    again = best_of(tmp_path)
    again.set_state(state)
    again.model.trainable_variables[0].assign(callback.model.trainable_variables[0])  # what the checkpoint holds
    if batches_left:
        epoch(again, 2, loss=0.4)
    again.on_train_end()
    assert content(tmp_path / "best.weights.h5") == 2
    assert again.best == 0.3


def test_a_swallowed_file_that_cannot_be_made_again_gives_its_place_to_the_one_before(tmp_path, monkeypatch):
    """Batches were trained since: `best` speaks of the file that is there, not of one that nobody has."""
    callback = best_of(tmp_path)
    taken(callback)
    epoch(callback, 0, loss=0.5)
    callback.flush()
    taken(callback)
    state = crash_with_a_write_under_way(callback, monkeypatch, lambda c: epoch(c, 1, loss=0.3), lambda c: c.on_train_batch_begin(0))
    again = best_of(tmp_path)
    with pytest.warns(UserWarning, match="is gone"):
        again.set_state(state)
    assert again.best == 0.5
    epoch(again, 2, loss=0.4)
    again.on_train_end()
    assert content(tmp_path / "best.weights.h5") == 3


def test_where_the_very_first_file_was_swallowed_nothing_has_to_be_beaten(tmp_path, monkeypatch):
    """A run that has no file yet saves the next model, however bad."""
    callback = best_of(tmp_path)
    state = crash_with_a_write_under_way(callback, monkeypatch, lambda c: epoch(c, 0, loss=0.3), lambda c: c.on_train_batch_begin(0))
    again = best_of(tmp_path)
    with pytest.warns(UserWarning, match="is gone"):
        again.set_state(state)
    epoch(again, 2, loss=0.4)
    again.on_train_end()
    assert content(tmp_path / "best.weights.h5") == 3


def test_where_the_older_file_is_kept_no_longer_nothing_is_destroyed(tmp_path):
    """After the end of training nothing is kept; going back further leaves the newer file, says so, and counts it as the best."""
    callback = best_of(tmp_path)
    epoch(callback, 0, loss=0.5)
    callback.flush()
    state = taken(callback)
    epoch(callback, 1, loss=0.3)
    callback.on_train_end()
    again = best_of(tmp_path)
    with pytest.warns(UserWarning, match=r"best\.weights\.h5: the file of the point"):
        again.set_state(state)
    assert content(tmp_path / "best.weights.h5") == 2
    assert again.best == 0.3


def test_counters_go_on(tmp_path):
    """`save_freq` and `period` count over a restart as if there had been none."""
    callback = begun(ModelCheckpoint(tmp_path / "{epoch}-{batch}.weights.h5", save_freq=3, save_weights_only=True))
    callback.on_epoch_begin(0)
    for batch in range(2):
        callback.on_train_batch_end(batch, {})
    again = begun(ModelCheckpoint(tmp_path / "{epoch}-{batch}.weights.h5", save_freq=3, save_weights_only=True))
    again.set_state(taken(callback))
    again.on_train_batch_end(2, {})
    again.on_train_end()
    periodic = begun(ModelCheckpoint(tmp_path / "p{epoch}.weights.h5", period=2, save_weights_only=True))
    epoch(periodic, 0)
    later = begun(ModelCheckpoint(tmp_path / "p{epoch}.weights.h5", period=2, save_weights_only=True))
    later.set_state(taken(periodic))
    epoch(later, 1)
    later.on_train_end()
    assert sorted(path.name for path in tmp_path.glob("*.h5")) == ["1-3.weights.h5", "p2.weights.h5"]


def test_a_fit_that_takes_no_states_leaves_nothing_but_the_files(tmp_path):
    """Under plain model.fit there is no ledger and nothing is kept."""
    fit(build(), ModelCheckpoint(tmp_path / "m.keras", save_freq=1))
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]


def test_another_run_and_a_forged_or_torn_journal_remove_nothing(tmp_path):
    """Only what the journal of this very run proves to be its own is touched, and never anything outside the files' directory."""
    (tmp_path / "in").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("x")
    ledger = Ledger(tmp_path / "in", "m", "run")
    ledger.mark(0)
    written(ledger, "a", b"1", 1)
    journal = ledger.directory / "written.jsonl"
    for path in ("../victim", str(victim)):
        line = {"serial": 2, "path": path, "checksum": published.checksum(victim), "best": None}
        journal.write_bytes(journal.read_bytes() + json.dumps(line).encode() + b"\n")
    journal.write_bytes(journal.read_bytes() + b'{"serial": 3, "pa')
    assert Ledger(tmp_path / "in", "m", "other").roll_back(0) is None
    assert (tmp_path / "in" / "a").exists()
    assert Ledger(tmp_path / "in", "m", "run").roll_back(0) == published.RolledBack(True, None, None)
    assert victim.exists() and not (tmp_path / "in" / "a").exists()


def written(ledger, name, data, serial):
    target = ledger.base / name
    published.publish(target, lambda path: path.write_bytes(data), "", lambda path: ledger.record(path, target, serial, None))


def files_in(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@given(st.lists(st.one_of(st.sampled_from("ab"), st.just("state"), st.tuples(st.sampled_from(["back", "crash"]), st.integers(1, 2)))))
def test_any_history_of_writes_and_rollbacks_ends_with_the_files_of_that_point(events):
    """Going back to either of the last two states, in the same process or a new one, gives exactly the files of that moment."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "mine").write_bytes(b"mine")
        ledger, serial, states, count = Ledger(base, "m", "run"), 0, [(0, {"mine": b"mine"})], 0
        ledger.mark(0)
        for event in events:
            if event == "state":
                ledger.mark(serial)
                states.append((serial, files_in(base)))
            elif isinstance(event, tuple):
                serial, expected = states[-event[1] :][0]
                del states[len(states) - min(event[1], len(states)) + 1 :]
                ledger = Ledger(base, "m", "run") if event[0] == "crash" else ledger
                ledger.mark(serial)
                ledger.roll_back(serial)
                assert files_in(base) == expected
            else:
                serial, count = serial + 1, count + 1
                written(ledger, event, b"%d" % count, serial)
