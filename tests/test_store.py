from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import tempfile
import threading
import weakref
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_samples import FAST, MODEL, OPTIMIZER, STATE, commit, is_sample, leftovers, manifest, placed, prepared, reports, same, tensors

from resilient.errors import CheckpointCorruptError, ConfigurationError, StorageError
from resilient.keep import Keep
from resilient.manifest import step_name
from resilient.store import Store, WriteOptions, kernel, reading

DTYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def steps(infos) -> list[int]:
    return [info.step for info in infos]


@st.composite
def any_array(draw):
    """An array of any dtype, order of bytes and memory layout, with any bits, NaN payloads included."""
    dtype = draw(
        st.sampled_from([*map(np.dtype, DTYPES), np.dtype(">f4"), np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)])
    )
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    count = int(np.prod(shape, dtype=int))
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    array = (np.frombuffer(raw, np.uint8) % 2 if dtype.kind == "b" else np.frombuffer(raw, np.uint8)).view(dtype).reshape(shape)
    return array.T if draw(st.booleans()) else array


any_file = st.dictionaries(st.text(max_size=6).filter(lambda name: name != "__metadata__"), any_array(), max_size=4)


@given(st.fixed_dictionaries({MODEL: any_file, STATE: any_file}))
@settings(max_examples=60)
def test_everything_comes_back_bit_for_bit_and_in_order(files):
    """Any names, dtypes, shapes, bits and memory layouts."""
    with tempfile.TemporaryDirectory(dir=FAST) as place:
        store = prepared(Path(place) / "run")
        written = store.commit(manifest(3), files)
        loaded = Store(Path(place) / "run").load(3)
        native = {
            file: {name: array.astype(array.dtype.newbyteorder("=")) for name, array in content.items()} for file, content in files.items()
        }
        assert loaded.manifest == written
        assert same(loaded.tensors, native)
        assert store.verify() == []
        assert leftovers(Path(place)) == []


def test_the_official_safetensors_package_reads_our_files(tmp_path):
    """The format is the one everybody's tools read."""
    files = {MODEL: {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "flag": np.array(True), "n": np.array(7, np.int64)}}
    store = prepared(tmp_path)
    store.commit(manifest(1), files)
    official = safetensors.numpy.load_file(tmp_path / "checkpoints" / step_name(1) / MODEL)
    assert official.keys() == files[MODEL].keys()
    assert all(np.array_equal(official[name], array) and official[name].dtype == array.dtype for name, array in files[MODEL].items())


def test_a_file_of_the_official_package_is_valid_content(tmp_path):
    """Our strict reader takes what the official writer writes."""
    safetensors.numpy.save_file({"a": np.arange(5, dtype=np.int16), "b": np.ones((2, 2))}, tmp_path / "x")
    from resilient.store.safetensors_format import parse

    back = parse((tmp_path / "x").read_bytes())
    assert back["a"].tolist() == [0, 1, 2, 3, 4] and back["b"].tolist() == [[1, 1], [1, 1]]


def test_loaded_tensors_are_read_only_and_outlive_the_checkpoint(tmp_path):
    """They are views on the mapped file, which pruning must not pull away."""
    store = prepared(tmp_path)
    commit(store, 1)
    commit(store, 2)
    loaded = store.load(1)
    store.prune(Keep(last=1))
    assert steps(store.infos()) == [2]
    assert is_sample(loaded)
    with pytest.raises(ValueError, match="read-only"):
        loaded.tensors[MODEL]["dense/kernel"][0, 0] = 1.0


def test_a_released_checkpoint_is_mapped_no_more(tmp_path):
    """Its pages would count as memory of the training until its end."""
    store = prepared(tmp_path)
    commit(store, 1)
    loaded = store.load(1)
    mapped = f"{tmp_path}/checkpoints"
    assert mapped in Path("/proc/self/maps").read_text()
    loaded.release()
    assert mapped not in Path("/proc/self/maps").read_text()
    assert loaded.info.step == 1 and store.verify() == []


def test_files_get_the_mode_that_the_umask_says(tmp_path):
    """A colleague who may read the run directory may read the checkpoint."""
    previous = os.umask(0o027)
    try:
        commit(prepared(tmp_path), 1)
    finally:
        os.umask(previous)
    assert (tmp_path / "checkpoints" / step_name(1) / MODEL).stat().st_mode & 0o777 == 0o640


def test_a_store_that_is_only_read_creates_nothing(tmp_path):
    """Looking at a directory that does not exist is no way to create it."""
    store = Store(tmp_path / "none")
    seen, report = reports()
    assert store.manifests() == store.infos() == store.verify() == seen == []
    assert store.latest(report) is store.best(report) is store.load_final() is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("exchange", [True, False])
def test_a_step_committed_again_is_replaced(tmp_path, monkeypatch, exchange):
    """A run sent back passes the same step again, with and without the atomic exchange of names."""
    if not exchange:
        monkeypatch.setattr(kernel, "exchange", lambda first, second: False)
    store = prepared(tmp_path)
    commit(store, 5, 1)
    commit(store, 5, 2)
    loaded = Store(tmp_path).load(5)
    assert loaded.manifest.sequence == 2 and is_sample(loaded)
    assert leftovers(tmp_path) == [] and store.verify() == []


def test_the_final_state_is_stored_apart_and_replaced(tmp_path):
    """A finished run that goes on finishes again."""
    store = prepared(tmp_path)
    assert store.load_final() is None
    for sequence in (3, 4):
        store.commit_final(manifest(9, sequence), tensors(sequence))
        final = store.load_final()
        assert final.manifest.sequence == sequence and is_sample(final)
    assert store.manifests() == [] and leftovers(tmp_path) == [] and store.verify() == []


def test_latest_goes_by_sequence_and_not_by_step(tmp_path):
    """After a run was sent back, its newest state has a lower step than what it left."""
    store = prepared(tmp_path)
    for step, sequence in ((10, 1), (20, 2), (15, 3)):
        commit(store, step, sequence)
    seen, report = reports()
    assert store.latest(report).manifest.progress.step == 15
    assert steps(store.infos()) == [10, 20, 15] and seen == []


def test_best_is_the_best_score_and_flagged(tmp_path):
    """One notion of best in the list, in loading and in the loaded checkpoint's info."""
    store = prepared(tmp_path)
    for step, score in enumerate([0.5, 0.2, None, 0.3, float("nan")]):
        commit(store, step, score=score, mode=None if score is None else "min")
    best = store.best(reports()[1])
    assert best.manifest.progress.step == 1 and best.info == store.infos()[1]
    assert [info.best for info in store.infos()] == [False, True, False, False, False]


def test_infos_describe_the_checkpoint(tmp_path):
    """Everything a reader of the run is promised."""
    store = prepared(tmp_path)
    written = commit(store, 4, metrics={"loss": 0.25})
    (info,) = store.infos()
    assert (info.step, info.epoch, info.batch, info.metrics) == (4, 0, 4, {"loss": 0.25})
    assert info.path == tmp_path / "checkpoints" / step_name(4) and info.created == written.created
    assert info.nbytes == sum(path.stat().st_size for path in info.path.glob("*.safetensors"))


def test_a_step_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    """The message is what the caller needs for the next try."""
    store = prepared(tmp_path)
    with pytest.raises(ConfigurationError, match=r"no checkpoint of step 7 .*Nothing was saved"):
        store.load(7)
    commit(store, 3)
    commit(store, 12)
    with pytest.raises(ConfigurationError, match=r"no checkpoint of step 7 .*3, 12"):
        store.load(7)


@pytest.mark.parametrize(
    ("files", "changes"),
    [
        ({"../evil.safetensors": {}}, {}),
        ({"/tmp/evil.safetensors": {}}, {}),
        ({"manifest.json": {}}, {}),
        ({"model.bin": {}}, {}),
        ({MODEL: {"z": np.zeros(1, np.complex128)}}, {}),
        ({MODEL: {"z": np.array(["text"])}}, {}),
        ({MODEL: {"z": np.array([{}], object)}}, {}),
        ({MODEL: {1: np.zeros(1)}}, {}),
        ({}, {"metrics": {"loss": 1}}),
        ({}, {"state": {"x": np.float32(1)}}),
        ({}, {"state": {"x": {1, 2}}}),
        ({}, {"sequence": -1}),
    ],
)
def test_what_could_not_be_read_back_is_refused_before_anything_is_written(tmp_path, files, changes):
    """A checkpoint that would look damaged at the next start must not be committed."""
    store = prepared(tmp_path / "run")
    with pytest.raises(ConfigurationError):
        store.commit(manifest(1, **changes) if "sequence" not in changes else dataclasses.replace(manifest(1), **changes), files)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "checkpoints"]


# -- what the disk refuses -------------------------------------------------------------------------------------------------------


def test_prepare_sweeps_what_a_killed_process_left_and_nothing_else(tmp_path):
    """Temporaries and trash go; the owner's own files stay, whatever they are called."""
    store = prepared(tmp_path)
    commit(store, 1)
    gone = [tmp_path / "checkpoints" / f".tmp-{'a' * 32}", tmp_path / "checkpoints" / f".trash-{'0' * 32}", tmp_path / f".tmp-{'b' * 32}"]
    for path in gone:
        path.mkdir()
        (path / MODEL).write_bytes(b"torn")
    kept = [tmp_path / ".tmp-mine", tmp_path / "checkpoints" / ".trash-mine", tmp_path / f"x.tmp-{'a' * 32}"]
    for path in kept:
        path.mkdir()
    Store(tmp_path).prepare()
    assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)
    assert is_sample(store.load(1))


def test_a_file_in_the_directorys_place_is_one_sentence(tmp_path):
    """At every level of the path."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("mine")
    for directory in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "run"):
        with pytest.raises(StorageError, match=r"^Could not .*\.$"):
            Store(directory).prepare()
    assert (tmp_path / "file").read_text() == (tmp_path / "run" / "checkpoints").read_text() == "mine"


FAULTS = {"open": errno.EACCES, "write": errno.ENOSPC, "fsync": errno.EIO, "mkdir": errno.ENOSPC, "rename": errno.EROFS}


@pytest.mark.parametrize("call", FAULTS)
@pytest.mark.parametrize("replaces", [False, True])
def test_a_commit_that_the_disk_refuses_leaves_everything_as_it_was(tmp_path, monkeypatch, call, replaces):
    """Whichever call fails, at whichever repetition: a StorageError, the older state intact, no temporary after the next start."""
    store = prepared(tmp_path)
    commit(store, 1)
    commit(store, 2)
    for nth in range(1, 40):
        with monkeypatch.context() as patch:
            left = fail_at(patch, call, nth, FAULTS[call])
            failure = failure_of(lambda nth=nth: commit(store, 2 if replaces else 2 + nth, 2 + nth))
            # Without a failure the commit was over before the n-th call, or the call was one of the removal of what was replaced.
            assert failure is None or (str(failure).startswith("Could not save the checkpoint") and failure.__cause__ is not None)
            if failure is None and left() > 0:
                break
        newest = Store(tmp_path).latest(reports()[1])
        assert is_sample(newest) and newest.manifest.sequence >= 2
        assert store.verify() == []
        store.prepare()
        assert leftovers(tmp_path) == []
    assert 1 < nth < 39


def failure_of(action) -> StorageError | None:
    try:
        action()
    except StorageError as error:
        return error
    return None


def fail_at(patch, call, nth, number):
    """Lets the n-th call of `os.<call>` fail, once; returns how to ask how many are left until then."""
    real, state = getattr(os, call), [nth]

    def counted(*arguments, **keywords):
        state[0] -= 1
        if state[0] == 0:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **keywords)

    patch.setattr(os, call, counted)
    return lambda: state[0]


def test_an_error_before_the_rename_leaves_no_temporary(tmp_path, monkeypatch):
    """A full disk must not be filled further by failed attempts."""
    store = prepared(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(StorageError, match=r"disk is full. Free space"):
        commit(store, 1)
    assert leftovers(tmp_path) == [] and store.manifests() == []


def test_no_file_is_synced_twice_and_the_manifest_is_last(tmp_path, monkeypatch):
    """After a failed fsync a second one says success over lost data; and what is not synced before the rename may be lost after it."""
    store = prepared(tmp_path)
    synced, renames = [], []
    real_fsync, real_rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real_fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda *names, **k: (renames.append(len(synced)), real_rename(*names, **k)))
    commit(store, 1)
    names = [Path(path).name for path in synced]
    assert names[:5] == ["model.frozen.safetensors", MODEL, OPTIMIZER, STATE, "manifest.json"]
    assert names[5].startswith(".tmp-") and names[6:] == ["checkpoints"] and renames == [6]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False).returncode == 0
    )
    if not mounted:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_keeps_the_older_checkpoint_and_leaves_nothing(small_disk):
    """Real ENOSPC; as soon as there is space again, the next commit succeeds."""
    store = prepared(small_disk / "run")
    commit(store, 1)
    with pytest.raises(StorageError, match="the disk is full"):
        store.commit(manifest(2), {MODEL: {"big": np.zeros(2**18, np.float64)}})
    assert leftovers(small_disk) == [] and store.verify() == []
    assert is_sample(store.latest(reports()[1]))
    commit(store, 2)
    assert steps(store.infos()) == [1, 2]


def test_what_fills_a_disk_and_is_removed_already_makes_room(tmp_path, monkeypatch):
    """A run that was stopped left it: the next start must not fail for want of the room that it is about to make."""
    commit(prepared(tmp_path), 1)
    trash = tmp_path / "checkpoints" / f".trash-{'0' * 32}"
    (tmp_path / "checkpoints" / step_name(1)).rename(trash)
    genuine = Path.mkdir

    def mkdir(self, *how, **more):
        if trash.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        genuine(self, *how, **more)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert leftovers(prepared(tmp_path).directory) == []


def test_a_read_only_disk_is_one_sentence_and_can_still_be_read(small_disk):
    """Restoring from a read-only copy works, also past a damaged checkpoint that cannot be moved."""
    store = prepared(small_disk / "run")
    commit(store, 1)
    commit(store, 2)
    (small_disk / "run" / "checkpoints" / step_name(2) / MODEL).write_bytes(b"damage")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageError, match="file system is read-only"):
        store.prepare()
    with pytest.raises(StorageError, match="file system is read-only"):
        commit(store, 3)
    seen, report = reports()
    assert is_sample(Store(small_disk / "run").latest(report))
    assert [name for name, _ in seen] == [step_name(2)] and "stays where it is" in seen[0][1]


# -- retention -------------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.none() | st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=7),
    st.integers(1, 3),
    st.integers(0, 2),
    st.sets(st.integers(0, 6)),
    st.booleans(),
)
@settings(max_examples=40)
def test_prune_never_removes_the_newest_valid_one_nor_a_damaged_one(scores, last, best, damaged, truncated):
    """Whatever is damaged, the state to resume from is the same before and after."""
    with tempfile.TemporaryDirectory(dir=FAST) as place:
        store = prepared(Path(place))
        for step, score in enumerate(scores):
            commit(store, step, score=score, mode=None if score is None else "min")
        broken = sorted(step for step in damaged if step < len(scores))
        for step in broken:
            path = Path(place) / "checkpoints" / step_name(step) / MODEL
            content = path.read_bytes()
            path.write_bytes(content[:-1] if truncated else content[:-1] + bytes([content[-1] ^ 1]))
        removed = Store(Path(place)).prune(Keep(last=last, best=best))
        remaining = steps(Store(Path(place)).infos())
        intact = [step for step in range(len(scores)) if step not in broken]
        assert sorted(remaining + steps(removed)) == list(range(len(scores)))
        assert all(step in remaining for step in intact[-1:])
        if truncated:
            assert all(step in remaining for step in broken) and set(intact[-last:]) <= set(remaining)
        assert leftovers(Path(place)) == []


def test_prune_verifies_before_it_trusts_the_newest(tmp_path):
    """A bit flipped in the newest, keep one: the older one is all there is, and stays."""
    store = prepared(tmp_path)
    for step in (1, 2, 3):
        commit(store, step)
    flip(tmp_path / "checkpoints" / step_name(3) / OPTIMIZER)
    assert steps(Store(tmp_path).prune(Keep(last=1, best=0))) == [1]
    assert steps(store.infos()) == [2, 3]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x10
    path.write_bytes(content)


def test_prune_removes_nothing_where_nothing_is_valid(tmp_path):
    """Somebody may still repair them by hand."""
    store = prepared(tmp_path)
    for step in (1, 2, 3):
        commit(store, step)
        flip(tmp_path / "checkpoints" / step_name(step) / STATE)
    assert Store(tmp_path).prune(Keep(last=1)) == [] and steps(store.infos()) == [1, 2, 3]


def test_retention_notices_a_manifest_that_is_not_what_it_was(tmp_path):
    """Also one that this very object has looked at before, and of the same size: a damaged checkpoint does not count."""
    store = prepared(tmp_path)
    for step in range(4):
        commit(store, step)
        store.prune(Keep(last=3, best=0))
    damaged = tmp_path / "checkpoints" / step_name(2)
    flip(damaged / "manifest.json")
    assert steps(store.prune(Keep(last=2, best=0))) == [] and damaged.exists()
    assert steps(store.infos()) == [1, 3]


def test_retention_decodes_nothing_that_this_object_has_written(tmp_path, monkeypatch):
    """It is asked after every save, on the writer's thread beside the training."""
    store, decoded = prepared(tmp_path), []
    genuine = reading.decode
    monkeypatch.setattr(reading, "decode", lambda data, where: (decoded.append(where), genuine(data, where))[1])
    for step in range(4):
        commit(store, step)
        store.prune(Keep(last=2, best=0))
    assert decoded == [] and steps(store.infos()) == [2, 3]


def test_a_dry_run_says_what_would_go_and_touches_nothing(tmp_path):
    """The same answer as the real one."""
    store = prepared(tmp_path)
    for step in range(5):
        commit(store, step)
    would = store.prune(Keep(last=2, best=0), dry_run=True)
    assert steps(store.infos()) == [0, 1, 2, 3, 4]
    assert store.prune(Keep(last=2, best=0)) == would and steps(would) == [0, 1, 2]


def test_in_haste_names_go_at_once_and_data_at_the_next_start(tmp_path):
    """To delete what is in the page cache takes longer than a process may have that has to end."""
    store = prepared(tmp_path)
    for step in range(3):
        commit(store, step)
    assert steps(store.prune(Keep(last=1, best=0), hastily=True)) == [0, 1] and steps(store.infos()) == [2]
    trash = list((tmp_path / "checkpoints").glob(".trash-*"))
    assert len(trash) == 2 and all((path / STATE).exists() for path in trash)
    prepared(tmp_path)
    assert os.listdir(tmp_path / "checkpoints") == [step_name(2)]


def test_what_a_run_left_when_it_was_sent_back_is_dropped(tmp_path):
    """Ancestors stay: the same run's checkpoints up to the step it was sent back to. Everything newer stays as well."""
    store = prepared(tmp_path)
    for step, sequence, run in ((10, 1, "a"), (20, 2, "a"), (30, 3, "a"), (5, 4, "b"), (25, 5, "a"), (40, 6, "b")):
        commit(store, step, sequence, run_id=run)
    assert steps(store.drop_abandoned("a", 5, 20)) == [30, 5]
    assert steps(store.infos()) == [10, 20, 25, 40]
    assert leftovers(tmp_path) == [] and store.verify() == []


def test_a_run_that_began_afresh_has_no_ancestors(tmp_path):
    """Only what the new line has committed stays."""
    store = prepared(tmp_path)
    for step, sequence, run in ((10, 1, "a"), (20, 2, "b"), (0, 3, "b"), (1, 4, "b")):
        commit(store, step, sequence, run_id=run)
    assert steps(store.drop_abandoned("b", 3, None)) == [10, 20]
    assert steps(store.infos()) == [0, 1]


def test_a_reader_in_another_thread_never_sees_half_a_checkpoint(tmp_path):
    """Commits and pruning run in the background while others list and load."""
    store = prepared(tmp_path)
    commit(store, 0)
    failures, done = [], threading.Event()

    def write():
        try:
            for step in range(1, 25):
                commit(store, step)
                commit(store, step, step)  # replaced
                store.prune(Keep(last=2))
        except BaseException as error:  # noqa: BLE001 (told to the main thread)
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    newest = 0
    while not done.is_set():
        found = Store(tmp_path).latest(lambda name, reason: failures.append(f"{name}: {reason}"))
        if found is not None:
            assert is_sample(found)
            newest = max(newest, found.manifest.sequence)
        assert all(info.nbytes > 0 for info in store.infos())
    thread.join()
    assert failures == [] and newest > 0 and store.verify() == [] and leftovers(tmp_path) == []


def test_names_that_are_no_checkpoint_cannot_be_quarantined(tmp_path):
    """No path leads out of the run directory."""
    store = prepared(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    for name in ("../mine", "../../mine", "", ".", "mine", "/tmp"):
        with pytest.raises(ConfigurationError):
            store.quarantine(name, "why")
    assert (tmp_path / "mine").exists()


def test_quarantine_keeps_everything_under_unique_names_with_the_reason(tmp_path):
    """The same step may be damaged more than once."""
    store = prepared(tmp_path)
    places = []
    for sequence in (1, 2, 3):
        commit(store, 1, sequence)
        places.append(store.quarantine(step_name(1), f"reason {sequence}"))
    assert len(set(places)) == 3 and all((place / MODEL).is_file() for place in places)
    assert [place.with_name(place.name + ".reason.txt").read_text() for place in places] == ["reason 1\n", "reason 2\n", "reason 3\n"]
    store.commit_final(manifest(1), tensors(1))
    assert store.quarantine("final", "why").parent == tmp_path / "quarantine" and store.load_final() is None


def test_a_damaged_final_state_is_an_error_and_stays(tmp_path):
    """It is the caller who decides to go back to the checkpoints."""
    store = prepared(tmp_path)
    store.commit_final(manifest(9), tensors(9))
    flip(tmp_path / "final" / MODEL)
    with pytest.raises(CheckpointCorruptError, match=r"final state .*model.safetensors does not match its checksum"):
        store.load_final()
    assert [problem.path for problem in store.verify()] == [tmp_path / "final"]


def test_the_old_one_is_brought_back_if_the_process_died_between_two_renames(tmp_path, monkeypatch):
    """Where names cannot be exchanged, the replaced checkpoint has no name of its own for a moment."""
    store = prepared(tmp_path)
    commit(store, 1)
    monkeypatch.setattr(kernel, "exchange", lambda first, second: False)
    (tmp_path / "checkpoints" / step_name(1)).rename(tmp_path / "checkpoints" / f".replaced-{step_name(1)}")
    Store(tmp_path).prepare()
    assert is_sample(store.load(1)) and leftovers(tmp_path) == []


@pytest.mark.parametrize("awaited", [False, True])
def test_a_large_tensor_is_let_go_when_it_is_written_from_where_it_lies(tmp_path, awaited):
    """When the last of six is asked for, it and the one before are there still, and at most two more that the disk reads."""
    store = prepared(tmp_path)
    big = {f"layer_{number}": placed(np.full(2**20, number, np.float32), 64) for number in range(6)}
    gone, alive = [weakref.ref(array.base) for array in big.values()], []  # their memory
    options = WriteOptions(
        cancelled=lambda: alive.append(sum(ref() is not None for ref in gone)), awaited=lambda: awaited, planned=big.clear
    )
    store.commit(manifest(step=1), {"model.safetensors": big}, options=options)
    assert alive[-6] == 6 and alive[-1] <= (4 if awaited else 2)
    read = store.load(1).tensors["model.safetensors"]
    assert all(np.array_equal(read[f"layer_{number}"], np.full(2**20, number, np.float32)) for number in range(6))


def test_a_tensor_that_nobody_else_holds_is_let_go_when_it_is_written(tmp_path):
    """So that a training step need not copy it any more; one that the caller holds stays his. Both are written as they were."""
    store = prepared(tmp_path)
    big = {f"layer_{number}": np.full(2**18, number, np.float32) for number in range(6)}
    kept, alive = dict(big), []
    gone = [weakref.ref(array) for array in big.values()]
    options = WriteOptions(cancelled=lambda: alive.append([ref() is not None for ref in gone]), planned=big.clear)
    del kept["layer_0"], kept["layer_1"], kept["layer_2"]
    store.commit(manifest(step=1), {"model.safetensors": big}, options=options)
    # Asked before each of the six tensors is written, when the one before it is being let go.
    assert alive[-6] == [True] * 6 and alive[-4] == [False] + [True] * 5 and alive[-1] == [False] * 3 + [True] * 3
    read = store.load(1).tensors["model.safetensors"]
    assert all(np.array_equal(read[f"layer_{number}"], np.full(2**18, number, np.float32)) for number in range(6))
