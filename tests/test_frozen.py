"""What training does not change, through `fit`: written once, also over a resume, and written again as soon as somebody changes it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import resilient
from resilient.state import State
from resilient.state.callbacks import CallbackStates
from resilient.state.frozen import RESTORED, UntouchedArrays
from resilient.state.host_copies import Headroom
from resilient.store import Store

WIDTH = 1024
X = np.random.default_rng(0).normal(size=(32, WIDTH)).astype("float32")
Y = X[:, :2]
PART = "model.frozen.safetensors"


class StoppedError(Exception):
    """The end of an attempt."""


class AtBatch(keras.callbacks.Callback):
    """Does something after a batch of this attempt."""

    def __init__(self, batch: int, action: Any) -> None:
        super().__init__()
        self.batch, self.action, self.seen = batch, action, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        if self.seen == self.batch:
            self.action(self.model)


def stop(model: Any) -> None:
    raise StoppedError


def never(action: Any) -> AtBatch:
    """The callback of an attempt that is not disturbed: a run keeps its callbacks."""
    return AtBatch(10**9, action)


def backbone() -> Any:
    """A frozen layer, a trained normalization, which has weights that are not trained and change all the same, and a trained head."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            keras.layers.Dense(WIDTH, name="frozen", trainable=False),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
    )
    model.compile("adam", "mse")
    return model


def train(directory: Path, *callbacks: Any) -> Any:
    model = backbone()
    resilient.fit(
        model, X, Y, batch_size=4, epochs=2, directory=directory, save_every=1, callbacks=list(callbacks), monitor="loss",
        keep=resilient.Keep(last=50), verbose=0,
    )  # fmt: skip
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]


def bits(values: list[Any]) -> list[bytes]:
    return [value.tobytes() for value in values]


def parts(directory: Path) -> list[int]:
    """Inode of each checkpoint's frozen part, oldest first."""
    return [os.stat(info.path / PART).st_ino for info in resilient.checkpoints(directory)]


def test_a_frozen_backbone_is_written_once_and_a_resume_goes_on_sharing_it(tmp_path: Path) -> None:
    """One file for all checkpoints of both attempts, the same bits in the end, and little else to write from the second save on."""
    whole = train(tmp_path / "whole", never(stop))
    with pytest.raises(StoppedError):
        train(tmp_path / "run", AtBatch(12, stop))  # in the second epoch: the end of the first is always saved
    stopped = parts(tmp_path / "run")
    assert bits(train(tmp_path / "run", never(stop))) == bits(whole)
    shared = parts(tmp_path / "run")
    assert len(stopped) >= 2 and len(shared) > len(stopped) and len(set(shared)) == 1
    newest = resilient.checkpoints(tmp_path / "run")[-1]
    assert newest.nbytes - (newest.path / PART).stat().st_size < 0.11 * newest.nbytes
    assert resilient.verify(tmp_path / "run") == []


def test_a_frozen_weight_that_somebody_writes_to_is_saved_as_it_is(tmp_path: Path) -> None:
    """By hand, in a callback; the next checkpoint has the new values, and the end is that of a run that was not stopped."""

    def overwrite(model: Any) -> None:
        model.get_layer("frozen").bias.assign(np.arange(WIDTH, dtype="float32"))
        model.get_layer("frozen").kernel.assign(2 * model.get_layer("frozen").kernel)

    whole = train(tmp_path / "whole", AtBatch(3, overwrite), never(stop))
    with pytest.raises(StoppedError):
        train(tmp_path / "run", AtBatch(3, overwrite), AtBatch(12, stop))
    assert not (resilient.checkpoints(tmp_path / "run")[-1].path / PART).exists()  # both of its weights change: nothing is left
    assert bits(train(tmp_path / "run", never(overwrite), never(stop))) == bits(whole)


def test_layers_that_are_unfrozen_between_two_attempts_are_saved_as_trained(tmp_path: Path) -> None:
    """Plain SGD has no slots that would tell the two programs apart, so the run goes on; all that it saves can be read again."""

    def go_on(epochs: int, *frozen: str) -> Any:
        keras.utils.set_random_seed(3)
        layers = [keras.layers.Dense(WIDTH, name=name, trainable=name not in frozen) for name in ("first", "second")]
        model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        resilient.fit(model, X, Y, batch_size=8, epochs=epochs, directory=tmp_path, monitor="loss", verbose=0)
        return model

    go_on(1, "first", "second")
    model = go_on(2, "first")
    assert resilient.verify(tmp_path) == []
    saved = Store(tmp_path).load_final().tensors["model.safetensors"]
    assert bits(list(saved.values())) == bits([variable.numpy() for variable in model.variables])


def test_small_models_keep_one_file(tmp_path: Path) -> None:
    """A file of its own is for weights whose writing would be felt."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, trainable=False), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    resilient.fit(model, X[:, :4], Y, epochs=1, directory=tmp_path, monitor="loss", verbose=0)
    assert list(tmp_path.rglob(PART)) == []


def test_a_weight_that_is_not_trained_and_changes_is_found_out(tmp_path: Path) -> None:
    """No gradient reaches a momentum encoder's weights, but each step writes to them: they leave the frozen part by the second save."""
    model = backbone()
    state = State(model, CallbackStates([]))
    model.get_layer("frozen").bias.assign(np.ones(WIDTH))
    first = state.capture().frozen["model.safetensors"]
    model.get_layer("frozen").bias.assign(np.zeros(WIDTH))
    second = state.capture().frozen["model.safetensors"]
    third = state.capture().frozen["model.safetensors"]
    assert set(first.names) - set(second.names) == {model.get_layer("frozen").bias.path}
    assert second == third and second.generation != first.generation


def test_what_a_step_writes_to_is_never_taken_for_the_same(tmp_path: Path) -> None:
    """Every way to write to a variable gives it another buffer while a snapshot holds the old one."""
    framework = State(backbone(), CallbackStates([]))._framework
    writes = [
        lambda variable: variable.assign(np.ones((512, 512))),
        lambda variable: variable.assign_add(np.ones((512, 512))),
        lambda variable: variable.value.assign_sub(tf.ones((512, 512))),
        lambda variable: variable.value.scatter_nd_add([[0]], tf.ones((1, 512))),
        lambda variable: variable.value[0, 0].assign(5.0),
        lambda variable: tf.function(lambda: variable.assign(variable + 1), jit_compile=True)(),
    ]
    for write in writes:
        variable = keras.Variable(np.zeros((512, 512), "float32"), trainable=False)
        (before,) = framework.snapshot(None, (variable,))
        bytes_before = np.array(before).tobytes()
        assert framework.same(before, framework.snapshot(None, (variable,))[0]) is True
        write(variable)
        assert framework.same(before, framework.snapshot(None, (variable,))[0]) is False
        assert np.asarray(before).tobytes() == bytes_before


def test_memory_is_shared_with_what_a_step_writes_to() -> None:
    """All but a frozen layer, which is never copied."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(WIDTH * WIDTH, trainable=False), keras.layers.Dense(10)])
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    variables = [*model.layers[1].variables, *model.optimizer.variables, *model.metrics_variables]
    assert State(model, CallbackStates([])).capture().shared == sum(variable.numpy().nbytes for variable in variables)


def test_a_snapshot_stays_on_the_device_only_where_a_step_leaves_room() -> None:
    """The first goes to the host, because no step has shown yet what it needs; what the second finds stays so, and a no is said once."""
    roomy, tight = Headroom(), Headroom()
    assert [roomy.allows(lambda: True), roomy.allows(lambda: True), roomy.allows(lambda: False)] == [False, True, True]
    assert tight.allows(lambda: False) is False
    with pytest.warns(UserWarning, match="no memory left for a second copy"):
        assert tight.allows(lambda: False) is False
    assert tight.allows(lambda: True) is False


def test_the_parts_of_a_run_can_be_read_by_other_tools(tmp_path: Path) -> None:
    """Each part is a safetensors file of its own; our reader shows the model's variables in their order."""
    from safetensors.numpy import load_file

    train(tmp_path)
    newest = resilient.checkpoints(tmp_path)[-1]
    names = [variable.path for variable in backbone().variables]
    merged = Store(tmp_path).load(newest.step).tensors["model.safetensors"]
    assert len(merged) == len(names) and list(load_file(newest.path / PART))
    assert sum(len(load_file(newest.path / name)) for name in (PART, "model.safetensors")) == len(merged)


# -- arrays that callbacks replace -----------------------------------------------------------------------------------------------------

STATE_PART = "state.frozen.safetensors"


class Counting(keras.callbacks.Callback):
    """Has some state."""

    batches = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches += 1


def remembered(directory: Path, stopping: Any, *callbacks: Any) -> list[bytes]:
    """Bits of the model and of the best weights after three epochs of eight batches."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(512), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(1e-4), "mse")
    resilient.fit(
        model, X, Y, batch_size=4, epochs=3, directory=directory, save_every=1, callbacks=[*callbacks, stopping], monitor="loss",
        keep=resilient.Keep(last=50), verbose=0,
    )  # fmt: skip
    return bits([*(variable.numpy() for variable in model.variables), *stopping.best_weights])


def early(**options: Any) -> Any:
    return keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True, **options)


def state_parts(directory: Path) -> dict[int, int]:
    """Step -> inode of the state's part, of the checkpoints that have one."""
    found = {info.step: info.path / STATE_PART for info in resilient.checkpoints(directory)}
    return {step: path.stat().st_ino for step, path in found.items() if path.exists()}


def test_best_weights_that_stay_the_same_are_written_once_and_a_resume_goes_on_sharing_them(tmp_path: Path) -> None:
    """EarlyStopping's are as large as the model, and every save holds them. There are two files, so that damage to one leaves the other."""
    once = {"min_delta": 1e9}  # the first epoch is the best, whatever follows
    whole = remembered(tmp_path / "whole", early(**once), never(stop))
    with pytest.raises(StoppedError):
        remembered(tmp_path / "run", early(**once), AtBatch(20, stop))  # in the third epoch
    stopped = state_parts(tmp_path / "run")
    assert remembered(tmp_path / "run", early(**once), never(stop)) == whole
    shared = state_parts(tmp_path / "run")
    assert max(shared) > max(stopped) > 12 and len(set(stopped.values())) == 2 and len(set(shared.values())) == 3
    newest = resilient.checkpoints(tmp_path / "run")[-1]
    assert (newest.path / STATE_PART).stat().st_size > 0.45 * newest.nbytes
    assert resilient.verify(tmp_path / "run") == []
    damaged = (newest.path / STATE_PART).read_bytes()
    (newest.path / STATE_PART).write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))  # in place: in all that share it
    found = Store(tmp_path / "run").latest(lambda name, reason: None)
    assert found is not None and found.manifest.progress.step == sorted(shared)[-2]


def test_best_weights_that_change_are_written_as_they_are(tmp_path: Path) -> None:
    """Each epoch is better than the one before: each has a part of its own, which the end and a resume get back."""
    whole = remembered(tmp_path / "whole", early(), never(stop))
    with pytest.raises(StoppedError):
        remembered(tmp_path / "run", early(), AtBatch(20, stop))
    assert remembered(tmp_path / "run", early(), never(stop)) == whole
    found = state_parts(tmp_path / "run")
    second, third = ({inode for step, inode in found.items() if first < step <= first + 7} for first in (8, 16))
    assert second and third and not second & third


def test_best_weights_are_written_anew_where_they_have_another_name(tmp_path: Path) -> None:
    """A callback more before them, and they are not what the earlier part calls them: linked to it they would never be found again."""
    with pytest.raises(StoppedError):
        remembered(tmp_path, early(min_delta=1e9), AtBatch(12, stop))
    before = state_parts(tmp_path)
    with pytest.raises(StoppedError), pytest.warns(UserWarning, match="callbacks changed"):
        remembered(tmp_path, early(min_delta=1e9), Counting(), AtBatch(15, stop))
    again = early(min_delta=1e9)
    remembered(tmp_path, again, Counting(), never(stop))
    assert again.best_weights is not None and resilient.verify(tmp_path) == []
    found = state_parts(tmp_path)
    after = {inode for step, inode in found.items() if step > max(before)}
    assert before and after and not after & set(before.values())


def test_the_same_arrays_are_of_one_generation_and_others_of_the_next() -> None:
    """By identity: equal bits in another array are of another one, and so is an array in the place of one that is gone."""
    follower = UntouchedArrays()
    arrays = {"a": np.zeros(2**18), "small": np.zeros(3)}
    first = follower.find(arrays)
    assert first is not None and first.names == ("a",) and first.generation not in (None, RESTORED)
    assert follower.find(dict(arrays)) == first
    arrays["a"] = np.zeros(2**18)
    second = follower.find(arrays)
    assert second is not None and second.generation != first.generation
    del arrays["a"]
    assert follower.find(arrays) is None
    arrays["a"] = np.zeros(2**18)
    assert follower.find(arrays) not in (first, second)
    follower.restored(arrays, ["a"])
    assert follower.find(arrays).generation == RESTORED
    follower.restored(arrays, ["b"])
    assert follower.find(arrays).generation != RESTORED


class Buffering(keras.callbacks.EarlyStopping):
    """Writes into arrays of its own."""

    def __init__(self) -> None:
        super().__init__("loss", patience=9)
        self.buffer = np.zeros(2**18)
        self.best_weights = [np.zeros(2**18)]

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin()
        self.best_weights = [np.zeros(2**18)]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.buffer += 1
        self.best_weights[0] += 1


def test_arrays_that_a_callback_writes_into_come_back_as_they_were_saved(tmp_path: Path) -> None:
    """A subclass', those of a `LambdaCallback`, and those that somebody has given to EarlyStopping: identity tells nothing of them."""
    seen: list[list[float]] = []

    def callbacks() -> list[Any]:
        counting = keras.callbacks.LambdaCallback(buffer=np.zeros(2**18))
        stopping = early(min_delta=1e9)
        stopping.buffer = np.zeros(2**18)
        subclass = Buffering()

        def count(batch: int, logs: Any) -> None:
            time.sleep(0.05)  # long enough to save after most batches
            counting.buffer += 1
            stopping.buffer += 1
            seen.append([array[0] for array in (counting.buffer, stopping.buffer, subclass.buffer, subclass.best_weights[0])])

        counting.on_train_batch_end = count
        return [subclass, counting, stopping]

    whole = remembered(tmp_path / "whole", callbacks()[-1], never(stop))
    subclass, counting, stopping = callbacks()
    with pytest.raises(StoppedError):
        remembered(tmp_path / "run", stopping, subclass, counting, AtBatch(16, stop))
    subclass, counting, stopping = callbacks()
    assert remembered(tmp_path / "run", stopping, subclass, counting, never(stop)) == whole
    assert seen[-1] == [24.0, 24.0, 24.0, 24.0]


def test_a_finished_run_asks_no_callback_for_its_state(tmp_path: Path) -> None:
    """on_train_begin, where many make it, is not called either."""

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            self.time = 1.0

        def get_state(self) -> Any:
            return {"time": self.time}

        def set_state(self, state: Any) -> None:
            pass

    first = remembered(tmp_path, early(), Clock())
    assert remembered(tmp_path, early(), Clock()) == first


def test_what_is_not_saved_is_in_no_part(tmp_path: Path) -> None:
    """Best weights that are no plain data are left out of a checkpoint, as any such attribute; the other arrays are in it."""
    stopping = early()
    stopping.best_weights = [np.array(["text"]), np.zeros(2**18)]
    capture = State(backbone(), CallbackStates([stopping])).capture()
    assert "state.safetensors" not in capture.frozen
    del stopping.best_weights[0]
    assert State(backbone(), CallbackStates([stopping])).capture().frozen["state.safetensors"].names == ("callbacks/0/best_weights/0",)
