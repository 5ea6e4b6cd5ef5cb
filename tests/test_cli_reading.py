"""Reading a run from a program: `checkpoints`, `verify`, and which checkpoint `restore` takes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from cli_samples import MODEL, OPTIMIZER, a_run, flip, manifest, place, snapshot, tensors

from resilient import reading
from resilient.errors import CheckpointCorruptError, ConfigurationError
from resilient.store import RunLock, Store


@pytest.fixture
def run(tmp_path):
    return a_run(tmp_path / "run", final=True)


def chosen(run, which="latest"):
    """Step that is chosen, without any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return reading.choose(run, which).manifest.progress.step


def test_checkpoints_are_listed_oldest_first_and_exactly_one_is_best(run):
    """What `CheckpointInfo` promises is there for each."""
    infos = reading.checkpoints(run)
    assert [info.step for info in infos] == [0, 10, 20, 25]
    assert [info.step for info in infos if info.best] == [10]
    assert infos[1].path == place(run, 10) and infos[1].created.tzinfo is not None


def test_each_word_and_number_means_its_checkpoint(run):
    """Latest is the end of training where there is one; a step may be any integer type."""
    assert [chosen(run, which) for which in ("latest", "best", "final", 20, np.int64(25), 0)] == [30, 10, 30, 20, 25, 0]


def test_a_continued_run_s_newest_checkpoint_wins_over_its_old_final_state(run):
    """After more epochs were asked for, the final state is the past, until the run ends again."""
    Store(run).commit(manifest(35, sequence=31), tensors(35))
    assert (chosen(run), chosen(run, "final")) == (35, 30)


def test_latest_is_the_latest_saved_and_not_the_highest_step(tmp_path):
    """A run that was sent back to an older step continues from there."""
    run = a_run(tmp_path)
    Store(run).commit(manifest(12, sequence=26), tensors(12))
    assert chosen(run) == 12


@pytest.mark.parametrize("which", [True, False, -1, 1.0, None, "newest", "LATEST", b"latest", [1], ""])
def test_anything_else_is_refused_before_the_model_is_looked_at(run, which):
    """A Boolean is no step, and the sentence says what is accepted."""
    with pytest.raises(ConfigurationError, match='"latest", "best", or the number of a step'):
        reading.restore(None, run, which)


@pytest.mark.parametrize("directory", [None, 3, "", b"run"])
def test_a_directory_that_is_no_path_is_refused(directory):
    """The same for the directory."""
    with pytest.raises(ConfigurationError, match="run directory"):
        reading.checkpoints(directory)


def test_a_run_that_has_only_begun_has_no_checkpoints_and_no_problems(tmp_path):
    """The lock file alone makes it a run."""
    with RunLock(tmp_path):
        assert reading.checkpoints(tmp_path) == [] and reading.verify(tmp_path) == []
        for which, words in (("latest", "no checkpoint"), ("best", "no checkpoint"), ("final", "no final state")):
            with pytest.raises(ConfigurationError, match=words):
                reading.choose(tmp_path, which)


def test_best_without_any_score_is_refused(tmp_path):
    """A run in its first epoch has no best one, and nothing else is passed off as it."""
    store = Store(tmp_path)
    store.prepare()
    store.commit(manifest(1), tensors(1))
    with pytest.raises(ConfigurationError, match="monitored metric"):
        reading.choose(tmp_path, "best")


@pytest.mark.parametrize("file", [MODEL, OPTIMIZER, "manifest.json"])
def test_latest_falls_back_over_every_kind_of_damage_and_moves_nothing(run, file):
    """Final state and newest checkpoint damaged: the next older one, a warning for each, and not a byte of the run changed."""
    flip(place(run, "final") / file, 50)
    flip(place(run, 25) / file, 50)
    before = snapshot(run)
    with pytest.warns(UserWarning, match="step 20 is used instead") as caught:
        assert reading.choose(run, "latest").manifest.progress.step == 20
    assert len(caught) == 2
    assert snapshot(run) == before


def test_damage_that_does_not_matter_is_not_warned_of(run):
    """An old damaged checkpoint is for `verify`; "latest" and a healthy "best" are what was asked for."""
    flip(place(run, 20) / MODEL)
    assert chosen(run) == 30 and chosen(run, "best") == 10
    flip(place(run, 0) / "manifest.json", 50)
    assert chosen(run) == 30


def test_best_falls_back_to_the_next_best(run):
    """With the best one damaged, the second best is taken, and it is said."""
    flip(place(run, 10) / MODEL)
    with pytest.warns(UserWarning, match="step 20 is used instead"):
        assert reading.choose(run, "best").manifest.progress.step == 20


def test_a_named_step_that_is_damaged_is_an_error_and_not_another_step(run):
    """Who names a step gets that one or none."""
    flip(place(run, 20) / MODEL)
    with pytest.raises(CheckpointCorruptError, match="damaged"):
        reading.choose(run, 20)


@pytest.mark.parametrize("which", ["latest", "best"])
def test_nothing_valid_is_an_error_that_names_each(run, which):
    """Damaged checkpoints are never taken for an empty run."""
    for step in (0, 10, 20, 25, "final"):
        flip(place(run, step) / MODEL)
    with pytest.raises(CheckpointCorruptError, match="step-000000000010"):
        reading.choose(run, which)
    assert len(reading.verify(run)) == 5


def test_a_checkpoint_pruned_while_it_is_chosen_leads_to_a_newer_one(run, monkeypatch):
    """A live run removes old checkpoints at any moment; the reader looks again instead of failing."""
    place(run, "final").rename(run / "gone")
    load, removed = Store.load, []

    def prune_then_load(store, step):
        if not removed:
            removed.append(step)
            Store(run).commit(manifest(40), tensors(40))
            place(run, step).rename(run / "also-gone")
        return load(store, step)

    monkeypatch.setattr(Store, "load", prune_then_load)
    assert chosen(run) == 40
    assert removed == [25]
