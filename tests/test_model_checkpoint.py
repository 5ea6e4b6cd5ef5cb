"""`resilient.ModelCheckpoint`: Keras' files, whole at every moment, off the training thread, and right after a rollback."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from resilient import ConfigurationError, ModelCheckpoint, StorageError
from resilient.memory import Room
from resilient.store import published, temporaries

X = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")
ROOT = Path(__file__).resolve().parent.parent


@keras.saving.register_keras_serializable("resilient_tests")
class Counting(keras.layers.Layer):
    """Saves something that is no variable, from a buffer that it goes on writing into."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = np.zeros(3)

    def call(self, inputs):
        return inputs * 1.0

    def save_own_variables(self, store):
        self.seen += 1
        store["seen"] = self.seen
        assert "seen" in store and len(store) == 1 and list(store.keys()) == ["seen"] and store["seen"][0] == self.seen[0]

    def load_own_variables(self, store):
        self.seen = np.array(store["seen"])


def build(dtype="float32"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="relu", dtype=dtype)(inputs)
    hidden = keras.layers.Dropout(0.2)(keras.layers.BatchNormalization()(Counting()(hidden)))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", dtype="float32")(hidden))
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    return model


def fit(model, *callbacks, epochs=2, **kwargs):
    return model.fit(X, Y, batch_size=10, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks), **kwargs)


def begun(callback, model=None):
    """The callback as fit hands it its hooks, so that a test can call them one by one."""
    callback.set_model(model or build())
    callback.set_params({"epochs": 9, "steps": 4})
    callback.on_train_begin()
    return callback


def epoch(callback, number, **logs):
    """One epoch in which one variable takes a value that names it."""
    callback.on_epoch_begin(number)
    callback.on_train_batch_begin(0)
    callback.model.trainable_variables[0].assign(np.full((6, 8), number + 1, "float32"))
    callback.on_train_batch_end(0, logs)
    callback.on_epoch_end(number, logs)


def content(path):
    """Which epoch's model the file holds, None if there is no file."""
    if not Path(path).exists():
        return None
    with h5py.File(path) as file:
        return int(file["layers/dense/vars/0"][0, 0])


def hidden(directory):
    return sorted(path.name for path in Path(directory).rglob(".*") if not path.name.endswith(".resilient"))


def inside(path):
    """Everything a reader can see of a model file, without the time it was saved."""
    if str(path).endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist() if name != "metadata.json"}
        weights = h5py.File(io.BytesIO(parts.pop("model.weights.h5")), "r")
    else:
        parts, weights = {}, h5py.File(path, "r")
    found = []
    weights.visititems(
        lambda name, item: found.append((name, dict(item.attrs), np.array(item).tobytes() if hasattr(item, "dtype") else None))
    )
    return parts, found


class SaveAsKeras(keras.callbacks.Callback):
    """Keras' own file of the same batch, for comparison."""

    def __init__(self, path, batch):
        super().__init__()
        self.path, self.batch = path, batch

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            counting = next(layer for layer in self.model.layers if isinstance(layer, Counting))
            counting.seen -= 1
            (self.model.save if self.path.endswith(".keras") else self.model.save_weights)(self.path)


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_file_holds_exactly_what_keras_would_have_saved_at_that_batch(tmp_path, monkeypatch, name, dtype):
    """The file is begun when the epoch is over, and nothing of the later batch is in it: variables, optimizer, configuration."""
    epoch_over = threading.Event()
    original = published.publish
    monkeypatch.setattr(published, "publish", lambda *args: epoch_over.wait(60) and original(*args))
    path, reference = str(tmp_path / name), str(tmp_path / f"keras-{name}")
    weights_only = name.endswith(".h5")
    over = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epoch_over.set())
    fit(build(dtype), ModelCheckpoint(path, save_freq=3, save_weights_only=weights_only), SaveAsKeras(reference, 2), over, epochs=1)
    assert inside(path) == inside(reference)
    assert hidden(tmp_path) == []


def test_assets_of_layers_are_in_the_file(tmp_path):
    """A vocabulary is no variable; Keras saves it as a file inside the file."""
    vectorize = keras.layers.TextVectorization(output_mode="multi_hot")
    vectorize.adapt(["red green", "blue"])
    model = keras.Sequential([vectorize])
    callback = begun(ModelCheckpoint(tmp_path / "m.keras"), model)
    model.build((None,))
    callback.on_epoch_end(0, {})
    callback.flush()
    assert keras.saving.load_model(tmp_path / "m.keras").layers[0].get_vocabulary() == vectorize.get_vocabulary()


def test_a_layer_unfrozen_after_the_capture_is_still_frozen_in_the_file(tmp_path, monkeypatch):
    """What is Python in a model belongs to the moment of the save as much as its numbers do."""
    gate = threading.Event()
    original = published.publish
    monkeypatch.setattr(published, "publish", lambda *args: gate.wait(60) and original(*args))
    model = build()
    model.layers[1].trainable = False
    callback = begun(ModelCheckpoint(tmp_path / "m.keras"), model)
    callback.on_epoch_end(0, {})
    model.layers[1].trainable = True
    gate.set()
    callback.flush()
    assert keras.saving.load_model(tmp_path / "m.keras", compile=False).layers[1].trainable is False


def test_training_does_not_wait_for_the_disk_but_the_end_of_training_does(tmp_path, monkeypatch):
    """A disk that stands still for three batches stops none of them; fit returns when the file is durable."""
    gate, fsyncs = threading.Event(), []
    monkeypatch.setattr(os, "fsync", lambda fd, fsync=os.fsync: gate.wait(60) and (fsyncs.append(fd), fsync(fd)))
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((batch, (tmp_path / "m.keras").exists()))

        def on_epoch_end(self, epoch, logs=None):
            gate.set()

    fit(build(), ModelCheckpoint(tmp_path / "m.keras", save_freq=1), Watch(), epochs=1)
    assert seen == [(0, False), (1, False), (2, False), (3, False)]
    assert (tmp_path / "m.keras").exists() and len(fsyncs) >= 2


def test_where_memory_has_no_room_for_copies_training_waits_for_the_file(tmp_path, monkeypatch):
    """The room is asked for the weights and the optimizer's variables."""
    asked, seen, publish = [], [], published.publish

    def slowly(*arguments):
        time.sleep(0.1)
        publish(*arguments)

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(batch == 0 or (tmp_path / f"{batch}.keras").exists())

    monkeypatch.setattr(published, "publish", slowly)
    monkeypatch.setattr(Room, "claim", lambda self, nbytes, tell: asked.append(nbytes))
    model = build()
    fit(model, ModelCheckpoint(tmp_path / "{batch}.keras", save_freq=1), Watch(), epochs=1)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    assert seen == [True] * 4
    assert set(asked) == {sum(variable.numpy().nbytes for variable in variables)}


def test_the_writing_thread_leaves_the_processor_to_others(tmp_path, monkeypatch):
    """It and what it starts; the thread that trains keeps its own priority."""
    seen = {}

    def sync(fd, fsync=os.fsync):
        seen[threading.current_thread().name] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        fsync(fd)

    monkeypatch.setattr(os, "fsync", sync)
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    fit(build(), ModelCheckpoint(tmp_path / "m.keras", save_freq=1), epochs=1)
    assert seen["resilient-model-checkpoint"] == min(19, own + 10)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


def test_a_newer_file_takes_the_place_of_one_not_yet_begun_and_other_names_are_all_written(tmp_path, monkeypatch):
    """At most one write per name waits; nothing is lost of files with names of their own, and memory stays bounded."""
    gate, started, names = threading.Event(), threading.Event(), []
    original = published.publish

    def slow(target, *args):
        names.append(target.name)
        started.set()
        gate.wait(60)
        original(target, *args)

    monkeypatch.setattr(published, "publish", slow)
    callback = begun(ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True))
    epoch(callback, 0)
    assert started.wait(60)
    for number in (1, 2, 3):
        epoch(callback, number)
    gate.set()
    callback.on_train_end()
    assert names == ["m.weights.h5", "m.weights.h5"] and content(tmp_path / "m.weights.h5") == 4
    numbered = begun(ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True))
    for number in range(5):
        epoch(numbered, number)
    numbered.on_train_end()
    assert [content(tmp_path / f"{number}.weights.h5") for number in (1, 2, 3, 4, 5)] == [1, 2, 3, 4, 5]


CHILD = """
import os, signal, sys
sys.path.insert(0, "tests")
from test_model_checkpoint import ModelCheckpoint, begun, epoch
callback = begun(ModelCheckpoint(sys.argv[1], save_weights_only=True))
epoch(callback, 0)
callback.flush()
os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
epoch(callback, 1)
callback.flush()
"""


def test_a_process_killed_in_a_save_leaves_the_old_file_whole_and_a_temporary_that_the_next_one_sweeps(tmp_path):
    """SIGKILL one system call before the new file would have taken the name; a live process' temporary is not touched."""
    path = tmp_path / "m.weights.h5"
    died = subprocess.run([sys.executable, "-c", CHILD, str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert died.returncode == -9, died.stderr
    assert content(path) == 1
    assert len(hidden(tmp_path)) == 1
    mine = temporaries.name_beside(path)
    mine.touch()
    callback = begun(ModelCheckpoint(path, save_weights_only=True))
    epoch(callback, 2)
    callback.on_train_end()
    assert content(path) == 3
    assert hidden(tmp_path) == [mine.name]


def test_a_reader_meets_only_whole_files(tmp_path):
    """The file is read as fast as possible while it is replaced many times."""
    path, done, torn = tmp_path / "m.keras", threading.Event(), []

    def read():
        while not done.is_set():
            if path.exists():
                with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                    torn.append(archive.testzip())

    reader = threading.Thread(target=read)
    reader.start()
    fit(build(), ModelCheckpoint(path, save_freq=1), epochs=6)
    done.set()
    reader.join()
    assert torn and set(torn) == {None}


def test_an_error_of_the_disk_is_raised_at_the_next_hook_and_leaves_the_old_file(tmp_path, monkeypatch):
    """A failed write is never swallowed, and costs neither the old file nor a temporary."""
    path = tmp_path / "m.weights.h5"
    callback = begun(ModelCheckpoint(path, save_weights_only=True))
    epoch(callback, 0)
    callback.flush()

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        epoch(callback, 1)
        callback.wait()
    with pytest.raises(StorageError, match=r"m\.weights\.h5: the disk is full\. Free space"):
        callback.on_epoch_begin(2)
    callback.on_train_end()
    assert content(path) == 1 and hidden(tmp_path) == []


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_files_have_the_mode_that_the_umask_gives_and_links_are_followed(tmp_path, name):
    """A group that may read the old file may read the new one; a link to another disk stays a link. The legacy format is no exception."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    before = os.umask(0o027)
    try:
        fit(build(), ModelCheckpoint(tmp_path / name), epochs=1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "elsewhere" / name).stat().st_mode) == 0o640
    assert (tmp_path / name).is_symlink() and hidden(tmp_path) == []


def test_a_model_that_saves_itself_is_asked_to(tmp_path):
    """A `save_weights` of the caller's own decides what is in the file."""

    class Own(keras.Sequential):
        def save_weights(self, filepath, overwrite=True):
            Path(filepath).write_text("mine")

    model = Own([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    fit(model, ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True), epochs=1)
    assert (tmp_path / "m.weights.h5").read_text() == "mine"


def test_a_nan_is_never_the_best_and_blocks_nothing(tmp_path):
    """Keras takes a NaN in the first epoch for the best value for ever."""
    callback = begun(ModelCheckpoint(tmp_path / "m.weights.h5", monitor="loss", save_best_only=True, save_weights_only=True))
    epoch(callback, 0, loss=float("nan"))
    callback.flush()
    assert content(tmp_path / "m.weights.h5") is None and callback.best is None
    for number, loss in enumerate((2.0, float("nan"), 1.0, 1.5), start=1):
        epoch(callback, number, loss=loss)
    callback.on_train_end()
    assert content(tmp_path / "m.weights.h5") == 4 and callback.best == 1.0


def test_the_best_is_judged_between_batches_too(tmp_path):
    """Keras dies of `monitor_op` None in the first epoch; the direction of `accuracy` is found where it is needed."""
    callback = ModelCheckpoint(tmp_path / "m.keras", monitor="accuracy", save_freq=1, save_best_only=True, initial_value_threshold=0.01)
    history = fit(build(), callback, epochs=1)
    assert callback.best >= history.history["accuracy"][0] and (tmp_path / "m.keras").exists()


def test_period_saves_every_so_many_epochs(tmp_path):
    """As in older versions of Keras; Keras 3 has nothing in its place."""
    fit(build(), ModelCheckpoint(tmp_path / "{epoch}.keras", period=2), epochs=5)
    assert sorted(os.listdir(tmp_path)) == ["2.keras", "4.keras"]


def test_verbose_says_finished_only_of_files_on_disk(tmp_path, capsys):
    """One line announces the file, one says that it is there."""
    fit(build(), ModelCheckpoint(tmp_path / "m.keras", verbose=1), epochs=1)
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert said == [f"Epoch 1: saving model to {tmp_path}/m.keras", f"Epoch 1: finished saving model to {tmp_path}/m.keras"]


@pytest.mark.parametrize(
    "wrong", [{"save_freq": 0}, {"save_freq": False}, {"save_freq": True}, {"save_freq": -3}, {"save_freq": 1.5}, {"save_freq": "batch"},
              {"period": 0}, {"period": True}, {"period": 2.0}, {"period": 2, "save_freq": 5}],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(wrong):
    """Keras takes 0 and False for "after every batch"."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))) as caught:
        ModelCheckpoint("m.keras", **wrong)
    assert isinstance(caught.value, ValueError)


def test_a_directory_in_the_way_is_named(tmp_path):
    """The same error as Keras'."""
    (tmp_path / "m.keras").mkdir()
    with pytest.raises(IOError, match="Please specify a non-directory filepath"):
        fit(build(), ModelCheckpoint(tmp_path / "m.keras"), epochs=1)


def test_keras_still_has_the_methods_that_are_replaced():
    """A Keras that renames one would go round it silently."""
    own = vars(keras.callbacks.ModelCheckpoint)
    assert {"_save_model", "_should_save_model", "_get_file_path", "_should_save_on_batch"} <= own.keys()
    assert {"_is_improvement", "_set_monitor_op"} <= vars(keras.callbacks.ModelCheckpoint.__base__).keys()
