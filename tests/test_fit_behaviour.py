"""What `fit` does beside training: endings, errors, resumes from elsewhere, and what callbacks see."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import resilient
from chaos.programs.features import Losses
from resilient import journal
from resilient.overhead import Overhead
from resilient.policy import Costs
from tests.exactness import StopAt

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(40, 1)).astype("float32")


def model(units: int = 3, optimizer: str = "adam") -> Any:
    built = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dropout(0.2), keras.layers.Dense(1)])
    built.compile(optimizer, "mse")
    return built


def train(directory: Path, given: Any = None, **arguments: Any) -> Any:
    chosen = {"x": X, "y": Y, "epochs": 2, "batch_size": 8, "verbose": 0, "monitor": "loss", "on_preempt": "raise", **arguments}
    return resilient.fit(given or model(), **chosen, directory=directory)


def events(directory: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in journal.read(directory) if event["event"] == name]


def values(given: Any) -> list[bytes]:
    return [v.numpy().tobytes() for v in [*given.variables, *given.optimizer.variables]]


def test_a_finished_run_trains_nothing_and_returns_its_whole_history(tmp_path: Path) -> None:
    """The same call again restores the final weights; a callback's state too."""
    first = model()
    history = train(tmp_path, first)
    second, counter = model(), Counter()
    again = train(tmp_path, second, callbacks=[counter])
    assert (again.history, again.epoch, counter.batches) == (history.history, history.epoch, 0)
    assert values(second) == values(first)
    assert again.preempted is False


@pytest.mark.parametrize(
    ("given", "named", "told"),
    [
        ((), {"directroy": "runs/a"}, "resilient.fit has no argument directroy. Did you mean directory?"),
        ((), {"directory": "runs/a", "use_multiprocessing": True}, "resilient.fit has no argument use_multiprocessing. Leave it out."),
        ((), {}, "resilient.fit cannot be called like this: missing a required argument: 'directory'. Correct the call."),
        ((X,), {"x": X, "directory": "runs/a"}, "multiple values for argument 'x'"),
    ],
)
def test_an_argument_that_fit_does_not_have_is_one_sentence(given: Any, named: Any, told: str) -> None:
    """It needs a human, as a wrong value does; and it still is the TypeError that Python would have raised."""
    with pytest.raises(resilient.ConfigurationError, match=re.escape(told)) as raised:
        resilient.fit(model(), *given, **named)
    assert isinstance(raised.value, TypeError) and raised.value.exit_code == 78


def test_a_long_history_is_the_same_after_a_resume_and_takes_little_of_the_manifest(tmp_path: Path) -> None:
    """Of 70 epochs, and of what a callback has gathered in 350 batches: bytes in place of decimal text."""
    keras.utils.set_random_seed(1)
    undisturbed = Losses()
    whole = train(tmp_path / "whole", epochs=70, callbacks=[undisturbed])
    keras.utils.set_random_seed(1)
    with pytest.raises(resilient.PreemptedError):
        train(tmp_path / "parts", epochs=70, callbacks=[Losses(), StopAt("on_train_batch_end", 347)])
    losses = Losses()
    parts = train(tmp_path / "parts", epochs=70, callbacks=[losses, StopAt("on_train_end", 9)])
    assert (parts.history, parts.epoch) == (whole.history, whole.epoch)
    assert len(losses.losses) == 350 and losses.losses == undisturbed.losses
    text = (resilient.checkpoints(tmp_path / "parts")[-1].path / "manifest.json").read_text()
    assert max(map(len, re.findall(r"\[[-+0-9.e, ]*\]", text))) < 100


def test_what_a_killed_process_left_goes_though_nothing_is_trained(tmp_path: Path) -> None:
    """It would be written over by the next save, but there is none: because the run is finished, and because the model is another one."""
    train(tmp_path)
    for given in (model(), model(units=5)):
        left = tmp_path / "checkpoints" / f".trash-{'0' * 32}"
        left.mkdir()
        (left / "model.safetensors").write_bytes(bytes(2**20))
        with contextlib.suppress(resilient.CheckpointMismatchError):
            train(tmp_path, given)
        assert not left.exists()


def test_a_finished_run_goes_on_with_more_epochs_as_if_it_had_been_asked_for_them_at_once(tmp_path: Path) -> None:
    """Raising `epochs` continues from the state before on_train_end."""
    keras.utils.set_random_seed(1)
    whole = model()
    history = train(tmp_path / "whole", whole, epochs=5, callbacks=[keras.callbacks.EarlyStopping("loss", 9, restore_best_weights=True)])
    keras.utils.set_random_seed(1)
    train(tmp_path / "parts", model(), epochs=2, callbacks=[keras.callbacks.EarlyStopping("loss", 9, restore_best_weights=True)])
    parts = model()
    longer = train(tmp_path / "parts", parts, epochs=5, callbacks=[keras.callbacks.EarlyStopping("loss", 9, restore_best_weights=True)])
    assert longer.history == history.history
    assert values(parts) == values(whole)


def test_a_run_ended_by_early_stopping_is_finished(tmp_path: Path) -> None:
    """It does not train the epochs that the stop left over."""
    stopping = {"callbacks": [keras.callbacks.EarlyStopping("loss", patience=0, min_delta=100.0)]}
    history = train(tmp_path, epochs=9, **stopping)
    assert len(history.epoch) == 2
    counter = Counter()
    again = train(tmp_path, epochs=9, callbacks=[keras.callbacks.EarlyStopping("loss", patience=0, min_delta=100.0), counter])
    assert again.epoch == history.epoch and counter.batches == 0


class Counter(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches += 1


@pytest.mark.parametrize(("how", "error"), [("exit", resilient.Preempted), ("raise", resilient.PreemptedError)])
def test_a_stop_ends_fit_the_way_the_caller_asked_for(how: str, error: type[BaseException], tmp_path: Path) -> None:
    """SIGTERM: the batch ends, its state is durable, the error says so; Preempted carries exit code 75."""
    with pytest.raises(error, match=r"step 3 .*its state is on disk") as raised:
        train(tmp_path, on_preempt=how, callbacks=[StopAt("on_train_batch_end", 3)])
    assert getattr(raised.value, "code", 75) == 75
    assert resilient.checkpoints(tmp_path)[-1].step == 3
    assert events(tmp_path, "preempted")[-1]["resume_step"] == 3


def test_a_stop_by_interrupt_is_a_keyboard_interrupt_after_the_save(tmp_path: Path) -> None:
    """Ctrl-C once: saved, then KeyboardInterrupt as every Python program expects."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_preempt="exit", callbacks=[StopAt("on_train_batch_end", 2, signal.SIGINT)])
    assert resilient.checkpoints(tmp_path)[-1].step == 2


def test_the_programs_own_handlers_are_called_and_put_back(tmp_path: Path) -> None:
    """Once each, after the state is safe; one that raises does not change how fit ends."""
    called = []

    def own(number: int, frame: Any) -> None:
        called.append((number, resilient.checkpoints(tmp_path)[-1].step))
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(resilient.PreemptedError):
            train(tmp_path, callbacks=[StopAt("on_train_batch_end", 2)])
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [(signal.SIGTERM, 2)]


def test_a_model_that_changed_is_refused_by_name_and_nothing_changes(tmp_path: Path) -> None:
    """Shapes, optimizer and data are compared before anything is touched."""
    train(tmp_path)
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    other = model(units=5)
    weights = values_of_weights(other)
    with pytest.raises(resilient.CheckpointMismatchError, match=r"kernel.*float32\[4, 3\].*float32\[4, 5\]"):
        train(tmp_path, other, epochs=4)
    assert values_of_weights(other) == weights
    with pytest.raises(resilient.CheckpointMismatchError, match="optimizer was 'Adam' and is 'SGD'"):
        train(tmp_path, model(optimizer="sgd"), epochs=4)
    with pytest.raises(resilient.CheckpointMismatchError, match="batch_size was 8 and is 4"):
        train(tmp_path, epochs=4, batch_size=4)
    with pytest.raises(resilient.CheckpointMismatchError, match="samples was 40 and is 32"):
        train(tmp_path, epochs=4, x=X[:32], y=Y[:32])
    with pytest.raises(resilient.CheckpointMismatchError, match="the values in x, y"):
        train(tmp_path, epochs=4, x=X + 1)
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def values_of_weights(given: Any) -> list[bytes]:
    return [w.tobytes() for w in given.get_weights()]


def test_resume_false_keeps_the_old_run_until_the_new_one_has_saved(tmp_path: Path) -> None:
    """Afterwards only the new line of history is there."""
    train(tmp_path)
    old = resilient.checkpoints(tmp_path)

    class Look(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            self.found = [info.created for info in resilient.checkpoints(tmp_path)]

    look = Look()
    train(tmp_path, resume=False, epochs=1, callbacks=[look])
    assert look.found == [info.created for info in old]
    assert {info.created for info in resilient.checkpoints(tmp_path)}.isdisjoint(look.found)


@pytest.mark.parametrize("where", ["best", 5])
def test_a_run_can_be_sent_back_to_an_older_checkpoint(where: Any, tmp_path: Path) -> None:
    """It goes on from there, and what lay beyond is dropped once it has saved."""
    arguments = {"epochs": 3, "keep": resilient.Keep(last=9), "mode": "max", "save_every": "epoch"}  # the loss falls: the first is "best"
    with contextlib.suppress(resilient.PreemptedError):
        train(tmp_path, keras_model_that_learns(), **arguments, callbacks=[StopAt("on_train_batch_end", 13)])
    train(tmp_path, keras_model_that_learns(), **arguments, resume=where, callbacks=[StopAt("never", 0)])
    assert events(tmp_path, "restored")[-1]["step"] == 5
    assert [info.step for info in resilient.checkpoints(tmp_path)] == [0, 5, 10, 15]


def test_a_damaged_checkpoint_is_set_aside_and_the_older_one_used(tmp_path: Path) -> None:
    """With a warning, an event in the journal, and the same end."""
    keras.utils.set_random_seed(2)
    whole = model()
    train(tmp_path / "whole", whole, epochs=3)
    keras.utils.set_random_seed(2)
    with contextlib.suppress(resilient.PreemptedError):
        train(tmp_path / "hurt", epochs=3, callbacks=[StopAt("on_train_batch_end", 13)])
    newest = resilient.checkpoints(tmp_path / "hurt")[-1]
    (newest.path / "model.safetensors").write_bytes(b"")
    hurt = model()
    with pytest.warns(UserWarning, match=r"step-000000000013 .*moved to quarantine"), contextlib.suppress(resilient.PreemptedError):
        train(tmp_path / "hurt", hurt, epochs=3, callbacks=[StopAt("never", 0)])
    assert values(hurt) == values(whole)
    assert (tmp_path / "hurt" / "quarantine" / "step-000000000013").is_dir()
    assert events(tmp_path / "hurt", "quarantined")


def test_two_fits_at_once_in_one_directory_are_refused(tmp_path: Path) -> None:
    """The second one within the process says so."""

    class Again(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            train(tmp_path)

    with pytest.raises(resilient.RunInUseError, match="already trains in"):
        train(tmp_path, callbacks=[Again()])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resume", True), ("resume", "newest"), ("resume", -1), ("save_every", 0), ("save_every", "often"), ("save_every", True),
        ("save_every", 2.5), ("keep", 3), ("monitor", ""), ("mode", "up"), ("seed", -1), ("seed", 1.5), ("on_preempt", "stop"),
        ("signals", ("SIGKILL",)), ("signals", 15), ("grace", 15), ("grace", "-1s"), ("exact", True), ("directory", ""), ("directory", 3),
        ("epochs", -1), ("epochs", "2"), ("batch_size", 0), ("steps_per_epoch", 0), ("shuffle", "epoch"), ("initial_epoch", -2),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_in_one_sentence_and_nothing_is_written(name: str, value: Any, tmp_path: Path) -> None:
    """The error derives from ResilientError, ValueError and TypeError."""
    directory = tmp_path / "run"
    arguments = {"x": X, "y": Y, "verbose": 0, "directory": directory, name: value}
    with pytest.raises(resilient.ConfigurationError, match=name) as raised:
        resilient.fit(model(), **arguments)
    assert isinstance(raised.value, ValueError) and isinstance(raised.value, TypeError) and "\n" not in str(raised.value)
    assert not directory.exists()


def test_a_directory_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    """And the file stays."""
    (tmp_path / "run").write_text("mine")
    with pytest.raises(resilient.StorageError, match="run"):
        train(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_failing_disk_does_not_stop_training_until_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failure warns and is journaled; five in a row raise StorageError, and the newest durable checkpoint is still there."""
    from resilient.store import Store

    real, failures = Store.commit, []

    def commit(self: Any, manifest: Any, *files: Any, **options: Any) -> Any:
        if manifest.progress.step >= 5:
            failures.append(manifest.progress.step)
            raise resilient.StorageError("the disk is full")
        return real(self, manifest, *files, **options)

    monkeypatch.setattr(Store, "commit", commit)
    with pytest.warns(UserWarning, match="could not be saved"), pytest.raises(resilient.StorageError, match="5 saves in a row"):
        train(tmp_path, epochs=3, save_every="epoch")
    assert len(failures) == 5
    assert len(events(tmp_path, "save_failed")) == 5
    assert [info.step for info in resilient.checkpoints(tmp_path)] == [0]


def test_a_save_that_failed_half_way_is_made_good_by_the_state_of_a_later_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own tensors are gone by then. It does not wait for the next save by the clock; and what is saved is what that batch left."""
    from resilient import saver
    from resilient.policy import Backoff
    from resilient.store import Store, commit

    real, failed = commit.write_file, []
    given, seen = model(), {}

    def write_file(path: Path, *rest: Any) -> Any:
        entry = real(path, *rest)
        if path.name == "state.safetensors" and resilient.checkpoints(tmp_path) and len(failed) < 3:
            failed.append(path)
            raise OSError(28, "No space left on device")
        return entry

    def note(batch: int, logs: Any) -> None:
        seen[batch + 1] = [v.numpy().tobytes() for v in given.variables]
        made_good = any(event["step"] > 15 for event in events(tmp_path, "saved"))
        time.sleep(0.2 if 15 <= batch < 30 and not made_good else 0.02)

    monkeypatch.setattr(commit, "write_file", write_file)
    monkeypatch.setattr(saver, "Backoff", lambda: Backoff(first=0.001, longest=0.001))
    noting = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    with pytest.warns(UserWarning, match="could not be saved"):
        train(tmp_path, given, epochs=1, batch_size=1, save_every=15, callbacks=[noting], keep=resilient.Keep(last=9))
    saved = [event["step"] for event in events(tmp_path, "saved")]
    assert len(events(tmp_path, "save_failed")) == 3
    assert saved[0] == 0 and 16 <= saved[1] < 30 and saved[2:] == [30, 40, 40]
    tensors = Store(tmp_path).load(saved[1]).tensors["model.safetensors"]
    assert [value.tobytes() for value in tensors.values()] == seen[saved[1]]


def test_only_a_periodic_save_lets_go_of_its_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of step 0, of an end of an epoch and of a stop are held, so that they can be tried again."""
    from resilient.store import Store

    real, held = Store.commit, {}

    def commit(self: Any, manifest: Any, files: Any, *rest: Any, **options: Any) -> Any:
        written = real(self, manifest, files, *rest, **options)
        held[manifest.progress.step] = any(files.values())
        return written

    def on_batch(batch: int, logs: Any) -> None:
        step = batch + 1 + steps[0]
        while step in (1, 3, 6) and max(held, default=-1) < {1: 0, 3: 2, 6: 5}[step]:  # what was handed over is written
            time.sleep(0.001)
        if step == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        if batch == 4:
            steps[0] += 5

    steps = [0]
    monkeypatch.setattr(Store, "commit", commit)
    with pytest.raises(resilient.PreemptedError):
        train(tmp_path, save_every=2, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=on_batch)])
    assert {step: held[step] for step in (0, 2, 5, 9)} == {0: True, 2: False, 5: True, 9: True}


def test_a_save_that_fails_during_validation_is_made_good_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the moment before it: the next batch may be an hour away."""
    from resilient import saver
    from resilient.policy import Backoff
    from resilient.store import commit

    real, gate, failed = commit.write_file, threading.Event(), []

    def write_file(path: Path, *rest: Any) -> Any:
        if path.name == "state.safetensors" and resilient.checkpoints(tmp_path) and not failed:
            failed.append(path)
            assert gate.wait(60)  # until the validation has begun
            raise OSError(28, "No space left on device")
        return real(path, *rest)

    class Validating(keras.callbacks.Callback):  # type: ignore[misc]
        """Lets the write fail, and notes what is on disk before the validation ends."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            while batch == 0 and not resilient.checkpoints(tmp_path):
                time.sleep(0.001)

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            gate.set()
            deadline = time.monotonic() + 5
            while batch and not found and time.monotonic() < deadline:
                found.extend(info.step for info in resilient.checkpoints(tmp_path) if info.step)
                time.sleep(0.001)

    found: list[int] = []
    monkeypatch.setattr(commit, "write_file", write_file)
    monkeypatch.setattr(saver, "Backoff", lambda: Backoff(first=0.001, longest=0.001))
    many = np.tile(X, (4, 1)), np.tile(Y, (4, 1))
    with pytest.warns(UserWarning, match="could not be saved"):
        train(tmp_path, epochs=1, save_every=4, validation_data=many, validation_batch_size=8, callbacks=[Validating()])
    assert found == [5]


def test_a_run_under_a_strategy_is_restored_into_a_model_without_one(tmp_path: Path) -> None:
    """Batch statistics have their plain name among the weights, and each replica's own beside the metrics."""
    import tensorflow as tf

    from resilient.store import Store

    def built() -> Any:
        made = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="normal"), keras.layers.Dense(1)])
        made.compile("sgd", "mse")
        return made

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        trained = built()
    resilient.fit(trained, X[:, :4], Y, batch_size=8, epochs=1, verbose=0, directory=tmp_path, monitor="loss")
    plain = built()
    resilient.restore(plain, tmp_path)
    assert [v.numpy().tobytes() for v in plain.variables] == [v.numpy().tobytes() for v in trained.variables]
    final = Store(tmp_path).load_final()
    assert final is not None
    for statistic in ("moving_mean", "moving_variance"):
        assert any(name.endswith(f"normal/{statistic}") for name in final.tensors["model.safetensors"])
        assert any(name.endswith(f"normal/{statistic}@0") for name in final.tensors["state.safetensors"])


def keras_model_that_learns() -> Any:
    built = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")])
    built.compile(keras.optimizers.SGD(0.05), "mse")
    return built


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes every call with its arguments, as plain data that is restored with the run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(["epoch begin", epoch])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(["epoch end", epoch, dict(logs)])

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.calls.append(["batch begin", batch])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.calls.append(["batch end", batch, dict(logs)])

    def on_test_begin(self, logs: Any = None) -> None:
        self.calls.append(["test begin"])

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.calls.append(["test batch end", batch, dict(logs)])

    def on_test_end(self, logs: Any = None) -> None:
        self.calls.append(["test end", dict(logs)])

    def on_train_end(self, logs: Any = None) -> None:
        self.calls.append(["train end", dict(logs)])


@contextlib.contextmanager
def closed(logger: keras.callbacks.CSVLogger) -> Iterator[None]:
    """Keras closes the file in on_train_end, which a training that is stopped never reaches."""
    try:
        yield
    finally:
        if logger.csv_file is not None:
            logger.csv_file.close()


def test_callbacks_see_one_run_across_attempts(tmp_path: Path) -> None:
    """The same hooks with the same arguments as without a stop, wherever the stops fall, and CSVLogger writes each row once."""
    seen, rows = [], []
    for name, stops in (("whole", []), ("parts", [("on_train_batch_end", 3), ("on_test_batch_end", 1), ("on_train_batch_end", 5)])):
        for stop in [*stops, ("never", 0)]:
            keras.utils.set_random_seed(4)
            recorder = Recorder()
            logger = keras.callbacks.CSVLogger(str(tmp_path / f"{name}.csv"))
            with contextlib.suppress(resilient.PreemptedError), closed(logger):
                train(tmp_path / name, validation_data=(X[:8], Y[:8]), epochs=3, callbacks=[recorder, logger, StopAt(*stop)])
        seen.append(recorder.calls)
        rows.append((tmp_path / f"{name}.csv").read_text())
    assert seen[0] == seen[1]
    assert rows[0] == rows[1] and len(rows[0].splitlines()) == 4


def test_a_resumed_attempt_reports_the_environment_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, or an error before the first batch with exact="require"."""
    with contextlib.suppress(resilient.PreemptedError):
        train(tmp_path, callbacks=[StopAt("on_train_batch_end", 2)])
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    with pytest.raises(resilient.CheckpointMismatchError, match="onednn was '' and is '0'"):
        train(tmp_path, exact="require", callbacks=[StopAt("never", 0)])
    with pytest.warns(UserWarning, match="onednn"):
        train(tmp_path, callbacks=[StopAt("never", 0)])


def test_a_monitor_that_is_never_logged_falls_back_to_the_loss_with_one_warning(tmp_path: Path) -> None:
    """And "best" is judged by it."""
    with pytest.warns(UserWarning, match="judged by 'loss'") as found:
        train(tmp_path, monitor="val_loss", epochs=3)
    assert len([w for w in found if "judged by" in str(w.message)]) == 1
    assert [info.best for info in resilient.checkpoints(tmp_path)].count(True) == 1


def test_restore_gives_a_model_the_weights_of_a_checkpoint(tmp_path: Path) -> None:
    """The latest is what fit left; a step is that step's; a model that does not fit is refused."""
    trained = model()
    train(tmp_path, trained)
    fresh = model()
    info = resilient.restore(fresh, tmp_path)
    assert values(fresh) == values(trained) and info.step == 10
    assert resilient.restore(fresh, tmp_path, which=0).step == 0
    assert values(fresh) != values(trained)
    with pytest.raises(resilient.CheckpointMismatchError):
        resilient.restore(model(units=7), tmp_path)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """No thread, no open file, no handler, no temporary file after fit."""
    before = (len(os.listdir("/proc/self/fd")), {t.name for t in threading.enumerate()}, signal.getsignal(signal.SIGTERM))
    train(tmp_path)
    resilient_threads = {t.name for t in threading.enumerate() if t.name.startswith("resilient")}
    after = (len(os.listdir("/proc/self/fd")), signal.getsignal(signal.SIGTERM))
    assert resilient_threads == set()
    assert after[1] is before[2] and after[0] <= before[0] + 2  # TensorFlow may open its own
    assert list(tmp_path.rglob(".*")) == []


def test_rows_that_stood_in_an_appended_csv_before_the_run_stay(tmp_path: Path) -> None:
    """CSVLogger(append=True) across several attempts: the old rows once, the run's rows once."""
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss,val_loss\n7,1.0,2.0\n")
    for stop in (("on_train_batch_end", 7), ("on_train_batch_end", 6), ("never", 0)):
        logger = keras.callbacks.CSVLogger(str(path), append=True)
        with contextlib.suppress(resilient.PreemptedError), closed(logger):
            train(tmp_path / "run", epochs=3, callbacks=[logger, StopAt(*stop)])
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["epoch", "7", "0", "1", "2"]


def test_fit_outside_the_main_thread_says_that_signals_do_not_reach_it(tmp_path: Path) -> None:
    """And trains all the same."""
    found = []
    thread = threading.Thread(target=lambda: found.append(train(tmp_path)))
    thread.start()
    with pytest.warns(UserWarning, match="outside the main thread"):
        thread.join()
    assert found[0].epoch == [0, 1]


def test_configuration_that_the_program_changes_between_attempts_is_respected(tmp_path: Path) -> None:
    """What fit never changed on a callback is configuration: a new patience counts, the counter of the old attempt is restored."""
    stopping = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=100.0)
    with contextlib.suppress(resilient.PreemptedError):
        train(tmp_path, epochs=9, callbacks=[stopping, StopAt("on_train_batch_end", 8)])
    patient = keras.callbacks.EarlyStopping("loss", patience=3, min_delta=100.0)
    history = train(tmp_path, epochs=9, callbacks=[patient, StopAt("never", 0)])
    assert len(history.epoch) == 4 and patient.stopped_epoch == 3


def test_a_model_trained_by_plain_fit_first_takes_a_checkpoint_with_loss_scaling(tmp_path: Path) -> None:
    """Keras names an optimizer's variables by where they were made; they are the same variables all the same."""

    def scaled() -> Any:
        built = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        built.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), "mse")
        return built

    trained, other = scaled(), scaled()
    train(tmp_path, trained)
    other.fit(X, Y, verbose=0)
    resilient.restore(other, tmp_path)
    assert values(other) == values(trained)


def test_a_callback_object_used_by_several_attempts_of_one_process_keeps_its_state(tmp_path: Path) -> None:
    """What an attribute was when fit was called again is not configuration."""
    whole = keras.callbacks.EarlyStopping("loss", patience=9, min_delta=100.0)
    train(tmp_path / "whole", epochs=5, callbacks=[whole])
    reused = keras.callbacks.EarlyStopping("loss", patience=9, min_delta=100.0)
    for stop in (7, 9):
        with contextlib.suppress(resilient.PreemptedError):
            train(tmp_path / "parts", epochs=5, callbacks=[reused, StopAt("on_train_batch_end", stop)])
    fresh = keras.callbacks.EarlyStopping("loss", patience=9, min_delta=100.0)
    train(tmp_path / "parts", epochs=5, callbacks=[fresh, StopAt("never", 0)])
    assert (fresh.wait, fresh.best_epoch) == (whole.wait, whole.best_epoch) == (4, 0)


class OnceActive(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.active = False
        self.epochs = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self.active = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs += self.active
        self.active = False


def test_what_on_train_begin_sets_does_not_outlive_the_restore(tmp_path: Path) -> None:
    """Also where the attribute had come back to its first value."""
    with contextlib.suppress(resilient.PreemptedError):
        train(tmp_path, epochs=3, callbacks=[OnceActive(), StopAt("on_train_batch_end", 7)])
    counter = OnceActive()
    train(tmp_path, epochs=3, callbacks=[counter, StopAt("never", 0)])
    assert counter.epochs == 1


class LogsRate(keras.callbacks.Callback):  # type: ignore[misc]
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["rate"] = keras.ops.convert_to_tensor(epoch / 4)


def test_tensors_in_the_history_are_not_lost(tmp_path: Path) -> None:
    """They come back as numbers."""
    with contextlib.suppress(resilient.PreemptedError):
        train(tmp_path, epochs=3, callbacks=[LogsRate(), StopAt("on_train_batch_end", 12)])
    history = train(tmp_path, epochs=3, callbacks=[LogsRate(), StopAt("never", 0)])
    assert [float(rate) for rate in history.history["rate"]] == [0.0, 0.25, 0.5]
    assert {len(values) for values in history.history.values()} == {3}


def test_the_loss_that_the_fallback_judges_by_is_better_when_smaller(tmp_path: Path) -> None:
    """Whatever direction the metric that is not there would have had."""
    with pytest.warns(UserWarning, match="judged by 'loss'"):
        history = train(tmp_path, keras_model_that_learns(), monitor="val_accuracy", mode="max", epochs=3)
    losses = history.history["loss"]
    best = next(info for info in resilient.checkpoints(tmp_path) if info.best)
    assert best.epoch - 1 == losses.index(min(losses))


def test_a_changed_loss_is_refused(tmp_path: Path) -> None:
    """Half an epoch by one loss and half by another is no run."""
    with contextlib.suppress(resilient.PreemptedError):
        train(tmp_path, callbacks=[StopAt("on_train_batch_end", 2)])
    other = model()
    other.compile("adam", "mae")
    with pytest.raises(resilient.CheckpointMismatchError, match="loss was"):
        train(tmp_path, other)


def test_sigterm_after_an_interrupt_still_has_its_deadline() -> None:
    """Of two notices the earlier deadline counts."""
    from resilient.preemption import Notice, StopRequest

    stop = StopRequest()
    stop.request(Notice("SIGINT", float("inf")))
    stop.request(Notice("SIGTERM", 5.0))
    stop.request(Notice("SIGTERM", 9.0))
    assert stop.notice == Notice("SIGTERM", 5.0)


def test_a_second_sigterm_while_leaving_changes_nothing(tmp_path: Path) -> None:
    """It is neither lost work nor a second call of the program's handler."""
    called = []

    def own(number: int, frame: Any) -> None:
        called.append(number)
        if len(called) == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # arrives while fit is on its way out

    before = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(resilient.PreemptedError):
            train(tmp_path, callbacks=[StopAt("on_train_batch_end", 2)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [signal.SIGTERM]


def test_a_stop_between_two_epochs_is_said_to_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the epoch before may still be on its way to the disk: leaving waits for it."""
    from resilient.data import ArrayInput
    from resilient.store import Store

    commit, seek, stopped = Store.commit, ArrayInput.seek, threading.Event()

    def slow(self: Any, manifest: Any, *files: Any, **options: Any) -> Any:
        if manifest.progress.step == 5:
            stopped.wait(10)
        return commit(self, manifest, *files, **options)

    def seek_and_stop(self: Any, epoch: int, batch: int) -> None:
        seek(self, epoch, batch)
        if epoch == 1:  # the epoch before is submitted and not yet written
            os.kill(os.getpid(), signal.SIGTERM)
            stopped.set()

    monkeypatch.setattr(Store, "commit", slow)
    monkeypatch.setattr(ArrayInput, "seek", seek_and_stop)
    with pytest.raises(resilient.PreemptedError, match="its state is on disk"):
        train(tmp_path)
    left = events(tmp_path, "preempted")[-1]
    assert left["saved"] is True and left["resume_step"] == 5


def test_only_a_save_that_a_stop_waits_for_is_written_in_haste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others leave the processors to training."""
    from resilient.store import Store

    commit, haste = Store.commit, {}

    def watched(self: Any, manifest: Any, *files: Any, options: Any) -> Any:
        deadline = time.monotonic() + 30
        while manifest.progress.step == 2 and not options.awaited() and time.monotonic() < deadline:
            time.sleep(0.001)
        haste[manifest.progress.step] = options.awaited()
        return commit(self, manifest, *files, options=options)

    monkeypatch.setattr(Store, "commit", watched)
    with pytest.raises(resilient.PreemptedError):
        train(tmp_path, callbacks=[StopAt("on_train_batch_end", 2)])
    assert haste == {0: False, 2: True}


def test_memory_that_restoring_leaves_behind_is_given_back_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fits into its container would else be killed when it goes on. A fresh one has restored nothing."""
    from resilient.memory import Room

    asked: list[int] = []
    monkeypatch.setattr(Room, "after_restoring", lambda self: asked.append(1))
    with pytest.raises(resilient.PreemptedError):
        train(tmp_path, callbacks=[StopAt("on_train_batch_end", 2)])
    assert len(asked) == 0
    train(tmp_path, callbacks=[StopAt("on_train_batch_end", 999)])
    assert len(asked) == 1


def test_a_stop_that_comes_while_training_waits_for_its_save_has_nothing_left_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory has no room for copies: no other batch is trained and saved. And to its supervisor it is not in a batch meanwhile."""
    from resilient.heartbeat import Heartbeat, Section
    from resilient.memory import Room
    from resilient.store import Store

    commit, beat, beats, sections = Store.commit, Heartbeat.beat, [], []

    def watched(self: Any, section: Any, *position: Any) -> None:
        beats.append(section)
        beat(self, section, *position)

    def stopped(self: Any, manifest: Any, *files: Any, options: Any) -> Any:
        time.sleep(0.05)
        sections.append(beats[-1])
        if manifest.progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return commit(self, manifest, *files, options=options)

    monkeypatch.setattr(Store, "commit", stopped)
    monkeypatch.setattr(Room, "claim", lambda self, nbytes, tell: None)
    monkeypatch.setattr(Heartbeat, "beat", watched)
    with pytest.raises(resilient.PreemptedError, match="its state is on disk"):
        train(tmp_path, save_every=1)
    assert sections[1:] == [Section.BETWEEN] * 3
    assert {after for before, after in itertools.pairwise(beats) if before is Section.BETWEEN} == {
        Section.STARTING,
        Section.TRAINING,
        Section.STOPPING,
    }
    assert [event["step"] for event in events(tmp_path, "saved")] == [0, 1, 2, 3]


@pytest.mark.parametrize(("grace", "given_up"), [("1h", True), ("20s", False)])
def test_at_a_stop_an_older_commit_makes_way_if_there_is_time_for_the_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace: str, given_up: bool
) -> None:
    """The older one is worth more than none where the newer may not be done in time: here a commit is known to take a minute."""
    from resilient.store import Store

    commit, begun, asked, stopping = Store.commit, threading.Event(), threading.Event(), threading.Event()

    def slow(self: Any, manifest: Any, *files: Any, options: Any) -> Any:
        while 0 < manifest.progress.step < 4 and not (options.cancelled() or stopping.is_set()):
            asked.set()
            time.sleep(0.001)
        written = commit(self, manifest, *files, options=options)
        begun.set()
        return written

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert begun.wait(30)
            if batch == 3:
                assert asked.wait(30)
                os.kill(os.getpid(), signal.SIGTERM)
                if not given_up:
                    stopping.set()
            elif not asked.is_set():
                time.sleep(0.05)  # until the writer is idle; one of three batches will find it so

    monkeypatch.setattr(Store, "commit", slow)
    monkeypatch.setattr(Overhead, "costs", Costs(training=0.001, writing=60.0))
    with pytest.raises(resilient.PreemptedError, match="its state is on disk"):
        train(tmp_path, save_every=1, grace=grace, callbacks=[Stop()])
    steps = [event["step"] for event in events(tmp_path, "saved")]
    assert (steps[0], steps[-1], len(steps)) == (0, 4, 2 if given_up else 3)


@pytest.mark.parametrize("moment", ["on_train_begin", "on_epoch_begin", "on_train_batch_begin"])
def test_a_callback_may_begin_to_listen_to_batches_at_any_time(tmp_path: Path, moment: str) -> None:
    """A profiler does. As long as nobody listens, nobody is told, which is the faster way."""
    heard: list[int] = []

    class Late(keras.callbacks.Callback):
        pass

    def begin(self: Any, number: Any = None, logs: Any = None) -> None:
        if not number:  # the first, or logs
            self.on_train_batch_end = lambda batch, logs=None: heard.append(batch)

    setattr(Late, moment, begin)
    train(tmp_path, epochs=1, callbacks=[Late()])
    assert heard == list(range(len(X) // 8))


@pytest.mark.parametrize("listens", [False, True])
def test_keras_hands_over_the_ends_of_batches_only_where_somebody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    """It may do so on a thread of its own, which takes as long as all that `fit` does at the end of a batch."""
    kind, handed = keras.callbacks.CallbackList, []
    genuine = kind.on_train_batch_end
    monkeypatch.setattr(kind, "on_train_batch_end", lambda self, batch, logs=None: (handed.append(batch), genuine(self, batch, logs))[1])
    listener = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    train(tmp_path, epochs=1, callbacks=[listener] if listens else [])
    assert handed == (list(range(len(X) // 8)) if listens else [])


@pytest.mark.parametrize("stopped_by", [None, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_has_to_end_leaves_the_deleting_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_by: int | None
) -> None:
    """Its exit waits for nothing but its state. A run that ends by itself, or that nobody presses (Ctrl-C), leaves nothing."""
    from resilient.store import Store

    commit, prune, hasty = Store.commit, Store.prune, []
    # Slow enough that the training says that it leaves before its last snapshot is on disk.
    monkeypatch.setattr(Store, "commit", lambda self, *what, **how: (time.sleep(0.05), commit(self, *what, **how))[1])
    monkeypatch.setattr(Store, "prune", lambda self, keep, **how: (hasty.append(how["hastily"]), prune(self, keep, **how))[1])
    stop = [StopAt("on_train_batch_end", 3, stopped_by)] if stopped_by else []
    with contextlib.suppress(resilient.PreemptedError):
        train(tmp_path, keep=resilient.Keep(last=1, best=0), save_every=1, callbacks=stop)
    pressed = stopped_by == signal.SIGTERM
    names = os.listdir(tmp_path / "checkpoints")
    assert len([name for name in names if name.startswith("step-")]) == 1
    assert (hasty[-1], len(names) > 1) == (pressed, pressed) and hasty == sorted(hasty) and (pressed or not any(hasty))


def test_a_stop_in_a_validation_whose_snapshot_is_being_written_does_not_give_that_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is handed over a second time for the stop. Given up for itself, the epoch would be lost, and said to be saved."""
    from resilient.store import Store

    commit, begun, stopping = Store.commit, threading.Event(), threading.Event()

    def slow(self: Any, manifest: Any, *files: Any, options: Any) -> Any:
        if (manifest.progress.epoch, manifest.progress.batch) == (0, 5):
            begun.set()
            assert stopping.wait(30)
            time.sleep(0.1)  # the main thread is on its way to make_way()
        return commit(self, manifest, *files, options=options)

    class Stop(keras.callbacks.Callback):
        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            assert begun.wait(30)
            os.kill(os.getpid(), signal.SIGTERM)
            stopping.set()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            time.sleep(0.05)  # so that the writer is idle when validation begins

    monkeypatch.setattr(Store, "commit", slow)
    monkeypatch.setattr(Overhead, "costs", Costs(training=0.001, writing=0.001))
    with pytest.raises(resilient.PreemptedError, match="its state is on disk"):
        train(tmp_path, save_every=1, validation_data=(X[:8], Y[:8]), callbacks=[Stop()])
    left = events(tmp_path, "preempted")[-1]
    assert (left["saved"], left["step"], left["resume_step"]) == (True, 5, 5)


def test_fewer_epochs_than_are_trained_are_refused(tmp_path: Path) -> None:
    """The state in the middle of a later epoch is not the end of an earlier one."""
    with contextlib.suppress(resilient.PreemptedError):
        train(tmp_path, epochs=3, callbacks=[StopAt("on_train_batch_end", 7)])
    with pytest.raises(resilient.ConfigurationError, match=r"epochs=1 is less .*epoch 1, batch 2.*at least 2"):
        train(tmp_path, epochs=1, callbacks=[StopAt("never", 0)])


def test_a_damaged_step_that_was_asked_for_is_an_error_and_stays(tmp_path: Path) -> None:
    """Nothing is moved, and the message says what to do."""
    with contextlib.suppress(resilient.PreemptedError):
        train(tmp_path, epochs=3, callbacks=[StopAt("on_train_batch_end", 7)])
    newest = resilient.checkpoints(tmp_path)[-1]
    (newest.path / "model.safetensors").write_bytes(b"")
    with pytest.raises(resilient.CheckpointCorruptError, match=r"step-0+7 is damaged.*Use another step"):
        train(tmp_path, epochs=3, resume=7, callbacks=[StopAt("never", 0)])
    assert newest.path.is_dir()
    with pytest.raises(resilient.ConfigurationError, match="no checkpoint of step 3"):
        train(tmp_path, epochs=3, resume=3, callbacks=[StopAt("never", 0)])


def test_checkpoints_that_vanished_are_missed(tmp_path: Path) -> None:
    """A fresh start in a directory whose journal tells of saves is warned about; with resume=False it is what was asked for."""
    import shutil

    train(tmp_path, epochs=1)
    shutil.rmtree(tmp_path / "checkpoints")
    shutil.rmtree(tmp_path / "final")
    with pytest.warns(UserWarning, match="tells of a checkpoint of step 5"):
        train(tmp_path, epochs=1)
    train(tmp_path, epochs=1, resume=False)


def test_the_journal_tells_what_auto_chose_and_why_and_a_resumed_run_starts_from_it(tmp_path: Path) -> None:
    """The choice stands in the events at which it was new; a choice of the caller's needs no reason."""
    with contextlib.suppress(resilient.PreemptedError):
        train(tmp_path / "auto", callbacks=[StopAt("on_train_batch_end", 2)])
    chosen = [event for event in events(tmp_path / "auto", "saved") if "interval" in event]
    assert chosen[0]["step"] == 0 and chosen[0]["interval"] >= 1.0 and chosen[0]["interval_reason"]
    costs = [event["training_seconds"] for event in events(tmp_path / "auto", "saved")]
    train(tmp_path / "auto", callbacks=[StopAt("never", 0)])
    resumed = events(tmp_path / "auto", "saved")[len(costs)]
    assert resumed["training_seconds"] == max(costs[-1], resumed["capture_seconds"]) and "interval" in resumed
    train(tmp_path / "fixed", save_every=3)
    assert not any("interval" in event for event in events(tmp_path / "fixed", "saved"))


def test_the_journal_tells_the_metrics_of_every_save(tmp_path: Path) -> None:
    """What was logged stands in the event of its save, for curves over real time: the losses first, eight metrics at most."""

    class Logs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            (logs or {}).update({f"a{n}": float("nan") for n in range(20)})

    history = train(tmp_path, save_every=2, callbacks=[Logs()])
    saved = [event for event in events(tmp_path, "saved") if event["step"] > 0 and not event["final"]]
    assert [event["metrics"]["loss"] for event in saved if event["batch"] == 0] == history.history["loss"]
    assert all(event["metrics"].keys() == {"loss"} for event in saved if event["batch"] > 0)
    assert [len(event["metrics"]) for event in saved if event["batch"] == 0] == [8, 8] and saved[-1]["metrics"]["a0"] == "nan"


def test_summaries_of_a_train_step_reach_tensorboard(tmp_path: Path) -> None:
    """They are part of a graph only if there is a writer when it is traced; the look that is taken before training has none."""
    pytest.importorskip("tensorboard")
    import tensorflow as tf

    class Summarized(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(x)

        def train_step(self, data: Any) -> Any:
            tf.summary.scalar("of_the_step", tf.reduce_mean(data[0]), step=0)
            return super().train_step(data)

    made = Summarized()
    made.compile("sgd", "mse")
    train(tmp_path / "run", made, epochs=1, callbacks=[keras.callbacks.TensorBoard(tmp_path / "logs", update_freq=1)])
    assert any(b"of_the_step" in path.read_bytes() for path in (tmp_path / "logs").rglob("events*"))
