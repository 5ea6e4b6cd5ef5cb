"""What Keras and TensorFlow offer, each behind the one interface."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import keras

from benchmarks.methods import Method


class _CallbackPeer(Method):
    """A callback of Keras, driven by its own hook for the end of a batch; it was made to save after every batch."""

    callback: Any

    def save(self, step: int) -> None:
        """Its own routine, exactly as in `Model.fit`."""
        self.callback.on_train_batch_end(step, {})

    def _use(self, callback: Any) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.callback = callback
        callback.set_model(self.model)
        callback.on_epoch_begin(0)


class BackupAndRestore(_CallbackPeer):
    """Weights and optimizer as HDF5, and the epoch's number."""

    name = "BackupAndRestore"

    def __init__(self, model: Any, directory: Path) -> None:
        super().__init__(model, directory)
        self._use(keras.callbacks.BackupAndRestore(directory, save_freq=1, delete_checkpoint=False))

    def restore(self) -> Any:
        """What its on_train_begin does."""
        self.model.load_weights(self.directory / "latest.weights.h5")
        return self.model


class WholeModel(_CallbackPeer):
    """The model with its architecture."""

    name = "ModelCheckpoint .keras"

    def __init__(self, model: Any, directory: Path) -> None:
        super().__init__(model, directory)
        self._path = directory / "latest.keras"
        self._use(keras.callbacks.ModelCheckpoint(self._path, save_freq=1))

    def restore(self) -> Any:
        """Builds a new model."""
        return keras.saving.load_model(self._path)


class WeightsOnly(_CallbackPeer):
    """Weights and optimizer as HDF5."""

    name = "ModelCheckpoint .weights.h5"

    def __init__(self, model: Any, directory: Path) -> None:
        super().__init__(model, directory)
        self._path = directory / "latest.weights.h5"
        self._use(keras.callbacks.ModelCheckpoint(self._path, save_freq=1, save_weights_only=True))

    def restore(self) -> Any:
        """`load_weights`, as the bar for restoring is worded."""
        self.model.load_weights(self._path)
        return self.model


class Orbax(_CallbackPeer):
    """Keras' asynchronous callback; it needs the packages orbax-checkpoint and jax."""

    name = "OrbaxCheckpoint"

    def __init__(self, model: Any, directory: Path) -> None:
        super().__init__(model, directory)
        import absl.logging

        absl.logging.set_verbosity(absl.logging.ERROR)  # it warns at every save
        self._use(keras.callbacks.OrbaxCheckpoint(os.fspath(directory.absolute()), save_freq=1))

    def finished(self) -> bool:
        """Asks its checkpointer."""
        return not self.callback.checkpointer.is_saving_in_progress()

    def wait(self) -> None:
        """Its own way of waiting."""
        self.callback.wait_until_finished()

    def restore(self) -> Any:
        """`load_weights` of the directory."""
        self.wait()
        self.model.load_weights(os.fspath(self.directory.absolute()))
        return self.model

    def close(self) -> None:
        """As at the end of a training."""
        self.callback.on_train_end()


class TensorFlowManager(Method):
    """TensorFlow's own checkpoints."""

    name = "tf.train.CheckpointManager"

    def __init__(self, model: Any, directory: Path) -> None:
        super().__init__(model, directory)
        import tensorflow as tf

        self._checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        self._manager = tf.train.CheckpointManager(self._checkpoint, os.fspath(directory), max_to_keep=1)

    def save(self, step: int) -> None:
        """Blocking: its asynchronous option fails with Keras 3."""
        self._manager.save(checkpoint_number=step)

    def restore(self) -> Any:
        """And have it check that nothing was left out."""
        self._checkpoint.restore(self._manager.latest_checkpoint).assert_existing_objects_matched()
        return self.model


def peers(model: Any, directory: Path) -> list[Method]:
    """All that can be measured here, each in a directory of its own."""
    kinds: list[type[Method]] = [BackupAndRestore, WholeModel, WeightsOnly]
    if not absent():
        kinds.append(Orbax)
    if keras.backend.backend() == "tensorflow":
        kinds.append(TensorFlowManager)
    return [kind(model, directory / str(number)) for number, kind in enumerate(kinds)]


def absent() -> list[str]:
    """What OrbaxCheckpoint needs and is not installed."""
    return [name for name, package in (("orbax-checkpoint", "orbax"), ("jax", "jax")) if not importlib.util.find_spec(package)]


def missing() -> list[str]:
    """A sentence for each peer that cannot be measured here."""
    return [f"OrbaxCheckpoint was not measured: {' and '.join(absent())} not installed."] if absent() else []
