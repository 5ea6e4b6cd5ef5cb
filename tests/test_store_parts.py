"""Files that checkpoints share: linked where the bits are the same, written where they are not, read back as one file."""

from __future__ import annotations

import dataclasses
import errno
import os

import numpy as np
import pytest
from store_samples import MODEL, manifest, placed, prepared, same

from resilient.errors import CheckpointCorruptError
from resilient.keep import Keep
from resilient.manifest import Frozen, decode
from resilient.store import CommitCancelled, Store, WriteOptions

PART = "model.frozen.safetensors"


def files(changing=0.0, still=1.0):
    """A backbone between two trained tensors: their order has to survive."""
    return {
        MODEL: {
            "first": np.full(3, changing, np.float32),
            "backbone": np.full((4, 4), still, np.float32),
            "last": np.full(2, changing, np.float32),
        }
    }


def frozen(generation):
    return {MODEL: Frozen(("backbone",), generation)}


def twice(generation):
    return {MODEL: Frozen(("backbone",), generation, twice=True)}


def part(store: Store, step):
    return os.stat(store.directory / "checkpoints" / f"step-{step:012d}" / PART)


def test_frozen_tensors_are_written_once_and_read_in_their_place(tmp_path):
    """Three checkpoints, one file; each reads as if it had been written whole."""
    store = prepared(tmp_path)
    for step in (1, 2, 3):
        store.commit(manifest(step), files(step), frozen(7))
    assert len({part(store, step).st_ino for step in (1, 2, 3)}) == 1
    for step in (1, 2, 3):
        assert same(store.load(step).tensors, files(step))
    assert store.load(2).frozen == {MODEL: ("backbone",)}
    assert store.verify() == []


def test_another_generation_is_written_anew(tmp_path):
    """Somebody has written to a frozen weight."""
    store = prepared(tmp_path)
    store.commit(manifest(1), files(1, still=1.0), frozen(1))
    store.commit(manifest(2), files(2, still=5.0), frozen(2))
    assert part(store, 1).st_ino != part(store, 2).st_ino
    assert same(store.load(1).tensors, files(1, 1.0)) and same(store.load(2).tensors, files(2, 5.0))


def test_a_part_of_other_tensors_is_not_linked(tmp_path):
    """Of the same generation, and of some of the earlier part's tensors only: a link would bring tensors that are in the other file too."""
    store = prepared(tmp_path)
    store.commit(manifest(1), files(1), {MODEL: Frozen(("backbone", "last"), 0)})
    store.commit(manifest(2), files(1), {MODEL: Frozen(("backbone",), 0)})
    assert part(store, 1).st_ino != part(store, 2).st_ino
    assert same(store.load(2).tensors, files(1)) and store.verify() == []


@pytest.mark.parametrize(("still", "shared"), [(1.0, True), (5.0, False)])
def test_without_a_generation_the_content_decides(tmp_path, still, shared):
    """Where the framework cannot tell whether a buffer was written to, equal bytes are not stored twice all the same."""
    store = prepared(tmp_path)
    store.commit(manifest(1), files(1, still=1.0), frozen(None))
    store.commit(manifest(2), files(2, still=still), frozen(None))
    assert (part(store, 1).st_ino == part(store, 2).st_ino) is shared
    assert same(store.load(2).tensors, files(2, still))


def test_a_part_that_is_known_by_its_content_is_shared_wherever_it_lies(tmp_path):
    """The fastest order for the disk is another one at every place in memory."""
    store, still = prepared(tmp_path), np.random.default_rng(0).integers(0, 256, 2**21, np.uint8)
    for step in (1, 2, 3):
        backbone = {f"backbone{number}": placed(still + number, 64 * (step * (number + 1) % 7)) for number in range(3)}
        store.commit(manifest(step), {MODEL: {**backbone, "last": np.full(2, step)}}, {MODEL: Frozen(tuple(backbone), None)})
    assert len({part(store, step).st_ino for step in (1, 2, 3)}) == 1


def test_the_next_process_shares_with_the_checkpoint_that_it_restored(tmp_path):
    """As long as the generation is the one it was told."""
    prepared(tmp_path).commit(manifest(1), files(1), frozen(3))
    store = prepared(tmp_path)
    store.continue_from(store.load(1), 0)
    store.commit(manifest(2), files(2), frozen(0))
    store.commit(manifest(3), files(3, still=9.0), frozen(1))
    assert part(store, 1).st_ino == part(store, 2).st_ino != part(store, 3).st_ino
    assert same(store.load(3).tensors, files(3, 9.0))


def test_the_final_state_shares_as_well(tmp_path):
    """And a checkpoint that is removed takes nothing from those that share with it."""
    store = prepared(tmp_path)
    for step in (1, 2):
        store.commit(manifest(step), files(step), frozen(1))
    store.commit_final(manifest(3), files(3), frozen(1))
    store.prune(Keep(last=1, best=0))
    assert part(store, 2).st_ino == os.stat(tmp_path / "final" / PART).st_ino
    assert same(store.load(2).tensors, files(2)) and same(store.load_final().tensors, files(3))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.ENOENT, errno.EXDEV])
def test_where_a_link_cannot_be_made_the_file_is_written(tmp_path, monkeypatch, number):
    """A file system without links, one link too many, an earlier checkpoint that is gone."""

    def link(source, target, *, follow_symlinks=True):
        raise OSError(number, os.strerror(number))

    store = prepared(tmp_path)
    store.commit(manifest(1), files(1), frozen(1))
    monkeypatch.setattr(os, "link", link)
    store.commit(manifest(2), files(2), frozen(1))
    assert part(store, 1).st_ino != part(store, 2).st_ino
    assert same(store.load(2).tensors, files(2))


def test_a_shared_file_that_was_cut_short_is_not_shared_on(tmp_path):
    """Its size is looked at; what is in the checkpoints before it is for `verify` to find."""
    store = prepared(tmp_path)
    store.commit(manifest(1), files(1), frozen(1))
    os.truncate(store.directory / "checkpoints" / "step-000000000001" / PART, 10)
    store.commit(manifest(2), files(2), frozen(1))
    assert same(store.load(2).tensors, files(2))
    assert len(store.verify()) == 1


def test_a_file_all_of_whose_tensors_are_frozen_is_shared_as_a_whole(tmp_path):
    """As the state of a shuffle buffer that no batch was drawn from since."""
    store = prepared(tmp_path)
    whole = {MODEL: Frozen(("first", "backbone", "last"), None)}
    for step in (1, 2):
        store.commit(manifest(step), files(1), whole)
    assert part(store, 1).st_ino == part(store, 2).st_ino
    assert sorted(path.name for path in store.load(2).path.iterdir()) == ["manifest.json", PART]
    assert same(store.load(2).tensors, files(1))


@pytest.mark.parametrize("positions", [[0], [0, 1], [5], [1, 1]])
def test_positions_that_do_not_fit_are_damage(tmp_path, positions):
    """A manifest with a valid checksum that no writer of ours has made."""
    store = prepared(tmp_path)
    store.commit(manifest(1), files(1), frozen(1))
    path = store.load(1).path / "manifest.json"
    written = decode(path.read_bytes(), "here")
    entries = {**written.files, PART: dataclasses.replace(written.files[PART], positions=tuple(positions))}
    path.write_bytes(dataclasses.replace(written, files=entries).encode())
    if positions == [0]:
        assert list(store.load(1).tensors[MODEL]) == ["backbone", "first", "last"]  # fits, if not ours
        return
    with pytest.raises(CheckpointCorruptError, match="positions"):
        store.load(1)


def test_a_commit_that_is_given_up_leaves_nothing(tmp_path):
    """Neither a checkpoint nor a temporary, and what was there stays."""
    store = prepared(tmp_path)
    store.commit(manifest(1), files(1), frozen(1))
    answers = iter([False, True])
    with pytest.raises(CommitCancelled):
        store.commit(manifest(2), files(2), frozen(2), options=WriteOptions(cancelled=lambda: next(answers)))
    assert [info.step for info in store.infos()] == [1]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000000001"]


# -- two files in turn -----------------------------------------------------------------------------------------------------------------


def inodes(store: Store, *steps):
    return [part(store, step).st_ino for step in steps]


def test_two_files_are_shared_in_turn_and_damage_to_one_leaves_every_second_checkpoint(tmp_path):
    """What exists nowhere else is there twice."""
    store = prepared(tmp_path)
    for step in range(1, 7):
        store.commit(manifest(step), files(step), twice(1))
    found = inodes(store, *range(1, 7))
    assert found[0] != found[1] and found == found[:2] * 3
    path = tmp_path / "checkpoints" / f"step-{6:012d}" / PART
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert sorted(problem.path.name for problem in store.verify()) == [f"step-{step:012d}" for step in (2, 4, 6)]


@pytest.mark.parametrize("again", [3, 4])
def test_a_step_that_is_saved_twice_stays_with_its_own_file(tmp_path, again):
    """As the end of an epoch is: linked to the other one, it would leave one file for all that follow."""
    store = prepared(tmp_path)
    for step in (1, 2, 3, 4, again, 5, 6, 7):
        store.commit(manifest(step), files(step), twice(1))
    assert len(set(inodes(store, 1, 2, 3, 4))) == len(set(inodes(store, 5, 6))) == len(set(inodes(store, 6, 7))) == 2
    assert store.verify() == []


def test_a_restored_step_that_is_saved_again_is_there_twice_too(tmp_path):
    """The first commits after a resume."""
    prepared(tmp_path).commit(manifest(4), files(4), twice(1))
    store = prepared(tmp_path)
    store.continue_from(store.load(4), 0)
    for step in (4, 5, 6, 7):
        store.commit(manifest(step), files(step), twice(0))
    assert len(set(inodes(store, 4, 5))) == len(set(inodes(store, 6, 7))) == 2
    assert store.verify() == []


@pytest.mark.parametrize("last", [1, 2, 3])
def test_whatever_is_kept_nothing_is_written_a_third_time(tmp_path, last):
    """Where one checkpoint is kept there is one file in the end; where two or more are, there are two."""
    store = prepared(tmp_path)
    found = []
    for step in range(1, 9):
        store.commit(manifest(step), files(step), twice(1))
        store.prune(Keep(last=last, best=0))
        found.append(part(store, step).st_ino)
    assert len(set(found)) == 2 and len(set(found[-2:])) == min(last, 2)
    assert store.verify() == []


def test_a_file_that_was_replaced_is_linked_to_no_more(tmp_path):
    """A step was saved again with another tensor of the same shape in its part, and a later one has the first tensor there."""
    store = prepared(tmp_path)
    twins = {MODEL: {"a": np.full((4, 4), 1, np.float32), "b": np.full((4, 4), 2, np.float32), "c": np.ones(3, np.float32)}}
    for step, name in ((4, "a"), (4, "b"), (5, "a")):
        store.commit(manifest(step), twins, {MODEL: Frozen((name,), None)})
    assert store.verify() == [] and same(store.load(5).tensors, twins)
