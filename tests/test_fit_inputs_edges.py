"""Sequences of events around the edges of epochs, passes and calls, for inputs that have a position."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import resilient
from resilient.callback import RunCallbacks
from resilient.data import EpochPlan, choose
from resilient.data.choice import Use
from resilient.data.progress import Replay
from resilient.state import plain, rng
from tests.cli_samples import cli
from tests.exactness import digests, run_until_done
from tests.test_fit_exact import X, Y, small
from tests.test_fit_inputs import Noisy, Pairs, Reshuffled, batches, filtered, from_a_function, program, shuffled, slices


class AsksToStop(keras.callbacks.Callback):  # type: ignore[misc]
    """By a signal in the seventh batch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 6:
            os.kill(os.getpid(), signal.SIGTERM)


class FailsOnce(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises before the n-th batch that this process trains: what is left then is the last save."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.left = batch

    def get_state(self) -> None:
        return None

    def set_state(self, state: None) -> None:
        pass

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("stopped")


def end_after_failures(make: Any, directory: Path, failures: list[int]) -> dict[str, str]:
    for batch in failures:
        with pytest.raises(RuntimeError, match="stopped"):
            make(directory, [FailsOnce(batch)])
    return digests(*make(directory, [FailsOnce(10**9)]))


STEPS = {"steps_per_epoch": 7}


def test_a_run_that_dies_after_its_last_batch_leaves_the_dataset_as_the_training_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left to train, and what the caller's object remembers of its passes comes back all the same."""

    def train() -> Any:
        data = Reshuffled()
        resilient.fit(small(), data, epochs=2, verbose=0, monitor="loss", directory=tmp_path)
        return data.indices.tolist()

    def die(*_: Any) -> None:
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(RunCallbacks, "capture_final", die)
        with pytest.raises(RuntimeError, match="stopped"):
            train()
    resumed = train()
    shutil.rmtree(tmp_path)
    assert resumed == train()


@pytest.mark.filterwarnings("ignore:If this training is interrupted")
@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (batches, STEPS),
        (Noisy, STEPS),
        (Pairs, {**STEPS, "shuffle": True}),
        (Reshuffled, {}),
        (shuffled, {}),
        (filtered, STEPS),
    ],
    ids=["generator", "PyDataset that draws", "PyDataset shuffled", "PyDataset that reshuffles", "dataset", "dataset of unknown length"],
)
def test_a_run_that_dies_before_its_first_batch_goes_on_from_the_start(
    make: Callable[[], Any], arguments: dict[str, Any], tmp_path: Path
) -> None:
    """Only step 0 is on disk, where no pass has begun; dying there twice changes nothing."""
    run = program(make, epochs=2, **arguments) if "epochs" not in arguments else program(make, **arguments)
    assert end_after_failures(run, tmp_path / "failed", [1, 1, 2]) == end_after_failures(run, tmp_path / "whole", [])


def test_validation_of_one_epoch_may_be_stopped_again_and_again(tmp_path: Path) -> None:
    """The length of the epoch, found by reading it, is known at every resume."""
    run = program(filtered, epochs=2)
    undisturbed, _ = run_until_done(run, tmp_path / "undisturbed", [])
    stopped, stops = run_until_done(run, tmp_path / "stopped", [("on_test_batch_end", 1)] * 3)
    assert stops == 3 and stopped == undisturbed


class Counted(Pairs):
    """Gives other data each epoch, by a counter that its hook moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return x + self.epoch, y

    def on_epoch_end(self) -> None:
        self.epoch += 1


def test_a_hook_between_epochs_takes_part_in_the_first_batch_of_the_next(tmp_path: Path) -> None:
    """Also where the pass goes on, so that the next batch could have been fetched before the hook."""
    run = program(Counted, steps_per_epoch=4, epochs=4)
    undisturbed, _ = run_until_done(run, tmp_path / "undisturbed", [])
    stopped, stops = run_until_done(run, tmp_path / "stopped", [("on_epoch_end", 1), ("on_train_batch_end", 4), ("on_train_batch_end", 1)])
    assert stops == 3 and stopped == undisturbed


def test_a_dataset_object_may_be_used_by_two_calls_of_one_run(tmp_path: Path) -> None:
    """With larger epochs the second call goes on as one call would have."""
    ends = []
    for name, epochs in (("two calls", (1, 3)), ("one call", (3,))):
        keras.utils.set_random_seed(7)
        dataset = shuffled()
        for count in epochs:
            keras.utils.set_random_seed(7)
            model = small()
            history = resilient.fit(model, dataset, epochs=count, verbose=0, shuffle=False, directory=tmp_path / name, monitor="loss")
        ends.append(digests(model, history))
    assert ends[0] == ends[1]


def test_a_generator_that_was_read_before_is_refused_for_a_resume(tmp_path: Path) -> None:
    """It cannot be read from its start again; a new one is what helps."""
    generator = batches()
    arguments = {"steps_per_epoch": 4, "verbose": 0, "shuffle": False, "directory": tmp_path, "monitor": "loss"}
    with pytest.warns(UserWarning, match="If this training is interrupted"):
        resilient.fit(small(), generator, epochs=1, **arguments)
    with pytest.warns(UserWarning, match="."), pytest.raises(resilient.ConfigurationError, match="Make a new one"):
        resilient.fit(small(), generator, epochs=2, **arguments)


def test_a_callback_may_set_the_epoch_on_the_data(tmp_path: Path) -> None:
    """Callbacks see an epoch begin before its first batch is fetched, as with Keras."""
    ends = []
    for own in ({}, {"directory": tmp_path / "run", "monitor": "loss"}):
        keras.utils.set_random_seed(7)
        data, model = Counted(), small()
        data.on_epoch_end = lambda: None

        def set_epoch(epoch: int, logs: Any, data: Any = data) -> None:
            data.epoch = epoch

        fit = resilient.fit if own else keras.Model.fit
        told = [keras.callbacks.LambdaCallback(on_epoch_begin=set_epoch)]
        fit(model, data, epochs=3, verbose=0, shuffle=False, callbacks=told, **own)
        ends.append([weight.tobytes() for weight in model.get_weights()])
    assert ends[0] == ends[1]


@pytest.mark.filterwarnings("ignore:If this training is interrupted")
def test_an_error_in_the_data_comes_with_the_batch_that_it_belongs_to(tmp_path: Path) -> None:
    """Batches are fetched ahead; those before the bad one are trained all the same."""

    def failing() -> Iterator[Any]:
        for number, batch in enumerate(batches()):
            if number == 5:
                raise ValueError("bad record")
            yield batch

    trained: list[int] = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: trained.append(batch))
    with pytest.raises(Exception, match="bad record"):
        resilient.fit(small(), failing(), steps_per_epoch=9, verbose=0, shuffle=False, callbacks=[count], directory=tmp_path)
    assert trained == [0, 1, 2, 3, 4]


def test_hooks_of_validation_data_are_called_as_by_keras(tmp_path: Path) -> None:
    """Once more at the beginning of each evaluation."""

    class Told(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.calls = ""

        def on_epoch_begin(self) -> None:
            self.calls += "b"

        def on_epoch_end(self) -> None:
            self.calls += "e"

    calls = []
    for own in ({}, {"directory": tmp_path / "run"}):
        training, validation = Told(), Told()
        fit = resilient.fit if own else keras.Model.fit
        fit(small(), training, validation_data=validation, epochs=3, verbose=0, shuffle=False, **own)
        calls.append((training.calls, validation.calls))
    assert calls[0] == calls[1]


def test_a_dataset_without_a_batch_is_refused_by_name(tmp_path: Path) -> None:
    """A filter that leaves nothing: one sentence, and not an error from inside of Keras."""
    empty = slices().filter(lambda x, y: y > 99).batch(4)
    with pytest.raises(resilient.ConfigurationError, match="gave no batch"):
        resilient.fit(small(), empty, verbose=0, shuffle=False, directory=tmp_path)


def test_many_file_names_on_a_dataset_cost_nothing_per_batch() -> None:
    """What is large is looked at between epochs only, also where it is no array."""
    from resilient.data.objects import ObjectState
    from resilient.state import plain

    class Files(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.files = [f"image-{number}.png" for number in range(20_000)]
            self.table = {"x": np.zeros((400, 400))}

    data = Files()
    looked: list[Any] = []

    def fingerprint(value: Any) -> str | None:
        looked.append(value)
        return plain.fingerprint(value)

    state = ObjectState(data, fingerprint)
    looked.clear()
    data.files.reverse()
    state.small()
    assert not any(value is data.files or value is data.table for value in looked)
    state.boundary()
    assert list(state.large()) == ["files"]


def test_tensors_in_a_dataset_of_ragged_rows_train_and_resume(tmp_path: Path) -> None:
    """A ragged batch is no symbol that Keras could build with; the step is traced instead."""
    rows = tf.ragged.constant([[1.0, 2.0], [3.0], [4.0, 5.0, 6.0], [7.0]] * 6, dtype=tf.float32)
    labels = np.arange(24) % 3

    def make() -> Any:
        return tf.data.Dataset.from_tensor_slices((rows, labels)).batch(4)

    class Summed(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.dense(tf.reduce_sum(x.to_tensor(), axis=1, keepdims=True))

    def build() -> Any:
        model = Summed()
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    run = program(make, build, validation=lambda: None)
    undisturbed, _ = run_until_done(run, tmp_path / "undisturbed", [])
    stopped, stops = run_until_done(run, tmp_path / "stopped", [("on_train_batch_end", 3), ("on_train_batch_end", 2)])
    assert stops == 2 and stopped == undisturbed


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: slices().batch(4).take(0), "has no batch"),
        (lambda: iter(()), "has no batch"),
        (lambda: ({"x": X[:4]} for _ in range(3)), "Yield tuples"),
        (lambda: batches, "call it"),
        (lambda: [object()], "numpy.array"),
    ],
    ids=["empty dataset", "empty iterator", "dicts", "function", "list"],
)
def test_what_cannot_be_trained_on_is_refused_with_the_remedy(make: Callable[[], Any], match: str, tmp_path: Path) -> None:
    """One sentence in place of an error from inside of Keras."""
    with pytest.raises(resilient.ConfigurationError, match=match):
        resilient.fit(small(), make(), verbose=0, shuffle=False, directory=tmp_path)


def test_a_validation_split_of_a_dataset_is_refused(tmp_path: Path) -> None:
    """As Keras does: it would be left out without a word."""
    with pytest.raises(resilient.ConfigurationError, match="validation_data"):
        resilient.fit(small(), slices().batch(4), validation_split=0.2, verbose=0, shuffle=False, directory=tmp_path)


@pytest.mark.parametrize("other", [lambda: slices().batch(16), Pairs, lambda: slices().batch(4)], ids=["size", "kind", "size again"])
def test_another_input_is_no_continuation(other: Callable[[], Any], tmp_path: Path) -> None:
    """Another kind, or another size of the batches: an error that says what was, and nothing is lost."""
    arguments = {"verbose": 0, "shuffle": False, "directory": tmp_path, "monitor": "loss"}
    resilient.fit(small(), slices().repeat().batch(8), steps_per_epoch=5, epochs=1, **arguments)
    with pytest.raises(resilient.CheckpointMismatchError, match="was"):
        resilient.fit(small(), other(), steps_per_epoch=5, epochs=2, **arguments)
    assert resilient.verify(tmp_path) == []


def test_arrays_after_another_input_and_the_other_way_round_are_refused(tmp_path: Path) -> None:
    """The kind of the data belongs to the run."""
    arguments = {"verbose": 0, "shuffle": False, "monitor": "loss"}
    resilient.fit(small(), X, Y, batch_size=8, epochs=1, directory=tmp_path / "arrays", **arguments)
    with pytest.raises(resilient.CheckpointMismatchError, match="data was 'arrays'"):
        resilient.fit(small(), slices().batch(8), epochs=2, directory=tmp_path / "arrays", **arguments)


def test_an_audit_knows_the_arguments_of_fit() -> None:
    """A misspelt one is an error, as it is for fit."""
    with pytest.raises(resilient.ConfigurationError, match=r"has no argument save_evry\. Did you mean save_every\?"):
        resilient.audit(small(), X, Y, save_evry=2)
    assert resilient.audit(small(), X, Y, save_every=2, epochs=3, directory="runs/none") == []


def test_how_the_place_is_found_stands_in_the_journal_and_under_the_table(tmp_path: Path) -> None:
    """By index, by the iterator's state, or by reading again: at the start, at the resume, and for whoever looks."""
    inputs: dict[str, tuple[Callable[[], Any], str]] = {
        "PyDataset": (Pairs, "by index"),
        "tf.data": (shuffled, "by the iterator's own state"),
        "tf.data from a function": (from_a_function, "by reading again what went before"),
    }
    words = {"by index": "seek", "by the iterator's own state": "iterator", "by reading again what went before": "replay"}
    for name, (make, how) in inputs.items():
        directory = tmp_path / name
        run_until_done(program(make, epochs=1), directory, [("on_train_batch_end", 3)])
        events = [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]
        assert [event["positioning"] for event in events if event["event"] == "started"] == [words[how]] * 2
        assert [event["data"] for event in events if event["event"] == "restored"] == [words[how]]
        assert f"position {how}" in cli("ls", directory).stdout


class Noise(keras.layers.Layer):  # type: ignore[misc]
    """Draws from a kernel whose place nobody can read."""

    def call(self, x: Any) -> Any:
        return x + tf.random.normal(tf.shape(x))


def noisy_model() -> Any:
    model = keras.Sequential([keras.Input((6,)), Noise(), keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_fit_says_before_the_first_batch_what_could_not_be_exact(tmp_path: Path) -> None:
    """One warning that lists all of it; with exact="require" an error, and nothing is trained."""
    trained: list[int] = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: trained.append(batch))
    arguments = {"batch_size": 25, "verbose": 0, "monitor": "loss", "callbacks": [count], "directory": tmp_path}
    with pytest.raises(resilient.ConfigurationError, match="RandomStandardNormal"):
        resilient.fit(noisy_model(), X, Y, exact="require", **arguments)
    assert trained == []
    with pytest.warns(UserWarning, match="RandomStandardNormal") as warned:
        resilient.fit(noisy_model(), X, Y, **arguments)
    assert len(warned) == 1 and len(trained) == 3


def changing(value: float) -> Any:
    """A generator that gives something else in another attempt."""

    def rows() -> Iterator[Any]:
        for x, y in batches():
            yield x + value, y

    return rows()


@pytest.mark.filterwarnings("ignore:If this training is interrupted")
def test_data_that_come_differently_when_read_again_are_reported(tmp_path: Path) -> None:
    """A warning at the resume that says so, and an error where exactness is required."""
    arguments = {"steps_per_epoch": 7, "epochs": 1, "verbose": 0, "shuffle": False, "monitor": "loss", "directory": tmp_path}
    with pytest.raises(RuntimeError, match="stopped"):
        resilient.fit(small(), changing(0.0), save_every=1, callbacks=[FailsOnce(5)], **arguments)
    with pytest.warns(UserWarning, match="did not give the batches again"):
        resilient.fit(small(), changing(1.0), callbacks=[FailsOnce(10**9)], **arguments)


def test_a_place_with_a_state_of_its_own_is_found_without_reading_what_went_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is read again by an index or a fresh iterator state."""
    read_again: list[int] = []
    step = Replay.step
    monkeypatch.setattr(Replay, "step", lambda self: (read_again.append(1), step(self))[1])
    monkeypatch.setattr("resilient.data.anchors._SHARE", 1e9)  # a state at every save
    plan = EpochPlan(10, None, 1, 0)
    first, second = (choose(shuffled(), None, None, use()) for _ in range(2))
    for data in (first, second):
        data.open(plan, 7)
    first.seek(0, 0)
    source = first.present()
    rest = [next(source)[1].numpy().tolist() for _ in range(4)][4:]
    first.trained(4)
    position = first.position()
    assert position["at"] == 4
    rest = [batch[1].numpy().tolist() for batch in source]
    second.restore(position)
    second.seek(0, 4)
    assert [batch[1].numpy().tolist() for batch in second.present()] == rest
    assert read_again == []


def use() -> Use:
    return Use(
        batch_size=None, shuffle=False, class_weight=None, steps=None, validates=False, steps_per_execution=1, strategy=None,
        fingerprint=plain.fingerprint, generators=rng,
    )  # fmt: skip


class Recording(Pairs):
    """Notes what is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched = Fetched()

    def __getitem__(self, index: int) -> Any:
        self.fetched.append(index)
        return super().__getitem__(index)


class Fetched(list[int]):
    """Not plain data, and none of the run's."""

    def __call__(self) -> None:
        """Callable, as what is no state is."""


def test_a_py_dataset_is_entered_in_the_middle(tmp_path: Path) -> None:
    """But for the two batches from which shapes are learned, nothing before the place is fetched."""
    arguments = {"epochs": 1, "verbose": 0, "shuffle": False, "monitor": "loss", "directory": tmp_path, "on_preempt": "return"}
    resilient.fit(small(), Recording(), callbacks=[AsksToStop()], **arguments)
    data = Recording()
    at = resilient.checkpoints(tmp_path)[-1].batch
    assert at >= 7
    resilient.fit(small(), data, callbacks=[AsksToStop()], **arguments)
    assert list(data.fetched) == [0, 1, *range(at, 10)]


def test_a_long_replay_says_how_far_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, now and then and at its end; a short one says nothing."""
    now = [0.0]
    monkeypatch.setattr("resilient.data.progress.time.monotonic", lambda: now[0])
    with Replay(4, "generator") as replay:
        for _ in replay:
            now[0] += 4.0
    said = capsys.readouterr().err.splitlines()
    assert "1 of 4 batches of the generator" not in said[0] and said[-1].endswith("4 of 4 batches of the generator read again")
    with Replay(4, "generator") as replay:
        for _ in replay:
            now[0] += 0.1
    assert capsys.readouterr().err == ""


class DrawsFromTensorFlow(Pairs):
    """Draws by an eager operation, whose seed comes from TensorFlow's global one."""

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return x + tf.random.normal(x.shape).numpy(), y


def test_batches_drawn_with_tensorflows_generator_come_again(tmp_path: Path) -> None:
    """All generators of the process are put back for the batch that was fetched ahead, not only Python's and NumPy's."""
    run = program(DrawsFromTensorFlow, epochs=2)
    undisturbed, _ = run_until_done(run, tmp_path / "undisturbed", [])
    stopped, stops = run_until_done(run, tmp_path / "stopped", [("on_train_batch_end", 3), ("on_train_batch_end", 4), ("on_epoch_end", 1)])
    assert stops == 3 and stopped == undisturbed


class DrawsFromKeras(Pairs):
    """Draws with Keras' shared generator, of which every thread has its own."""

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return x + keras.ops.convert_to_numpy(keras.random.normal(x.shape)), y


def test_batches_drawn_with_keras_shared_generator_are_named_by_the_audit() -> None:
    """They depend on the thread that fetches them, with and without a resume; drawn with a seed they do not."""
    (finding,) = resilient.audit(small(), DrawsFromKeras(), shuffle=False)
    assert "keras.random without a seed" in finding.what and "seed of your own" in finding.remedy
    assert resilient.audit(small(), DrawsFromTensorFlow(), shuffle=False) == []
