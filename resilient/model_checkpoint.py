"""`resilient.ModelCheckpoint`: Keras' callback, with files that appear whole, durable, and without waiting for the disk."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import xxhash

from resilient.errors import CheckpointMismatchError, ConfigurationError
from resilient.store import files, temporaries
from resilient.store.oserrors import storage_errors
from resilient.store.published import BackgroundPublisher, Job, PublishedFiles, Record, digest_of, record_from

_STATE_VERSION = 1
_STATE_FILES = 100  # newest ones that a state names; older files are still known to the record beside them
_SUFFIXES = (".keras", ".weights.h5", ".h5")


class _MemoryFile(io.BytesIO):
    """A file in memory that shows Keras the suffix of its real path, by which Keras chooses the format."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __str__(self) -> str:
        return self._name


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):  # type: ignore[misc]  # Keras ships no types
    """A drop-in for `keras.callbacks.ModelCheckpoint`, all arguments and behaviours, plus the legacy `period`.

    Every file appears atomically and durably: a reader finds the old one or the new one, never half of one. The training thread only
    serialises the model into memory; a background thread writes. An error of that write is raised at the next hook, by `flush`,
    or at the end of training, which waits for the disk. A value of NaN is never the best one.

    Under `resilient.fit` the best value survives restarts, and files written for steps that a crash rolled back are taken back.

    Args:
        filepath, monitor, verbose, save_best_only, save_weights_only, mode, save_freq, initial_value_threshold: as in Keras.
        period: with `save_freq="epoch"`, save at every `period`-th epoch only (tf.keras 2).

    Raises:
        ConfigurationError: an argument is wrong (it is a `ValueError`, as in Keras).
        StorageError: from the hooks and `flush`: the disk refused a file.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        *,
        period: int = 1,
    ) -> None:
        _check_frequency(save_freq, period)
        try:
            super().__init__(filepath, monitor, verbose, save_best_only, save_weights_only, mode, save_freq, initial_value_threshold)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        self.period = period
        self._initial_best = self.best
        self._epochs_since_last_saving = 0
        self._current_epoch = 0
        self._announcements: list[str] = []
        self._published = PublishedFiles(self.filepath)
        self._publisher = BackgroundPublisher(self._published)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Raises what is left of an earlier training's writes."""
        self._publisher.raise_error()
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Remembers the epoch."""
        self._publisher.raise_error()
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves, where `save_freq` is a number of batches and it is reached."""
        self._publisher.raise_error()
        super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves, with `save_freq="epoch"`."""
        self._publisher.raise_error()
        super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Waits until every file is on disk."""
        super().on_train_end(logs)
        self.flush()

    def flush(self) -> None:
        """Returns when every file handed over so far is on disk; may be called from any thread, at any time.

        Raises:
            StorageError: the disk refused one of them.
        """
        self._publisher.wait()
        announcements, self._announcements = self._announcements, []
        self._publisher.raise_error()
        for text in announcements:
            print(text)

    def get_state(self) -> dict[str, Any]:
        """Everything needed to go on, as plain JSON: best value, counters, and the files written so far.

        It may name files that are still on their way: where the state is stored, `flush` has to return before that is committed.
        """
        newest = self._known()
        self._published.hold(record.digest for record in newest)
        return {
            "version": _STATE_VERSION,
            "best": None if self.best is None else float(self.best),
            "epoch": self._current_epoch,
            "last_batch": self._last_batch_seen,
            "batches_since_last_saving": self._batches_seen_since_last_saving,
            "epochs_since_last_saving": self._epochs_since_last_saving,
            "serial": self._published.last_serial(),
            "files": [dataclasses.asdict(record) for record in newest[-_STATE_FILES:]],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to what `get_state` returned, and takes back the files written since.

        A file is removed, or replaced by what it held at that state, only if its content is what this callback wrote later.

        Raises:
            CheckpointMismatchError: it is not such a state; nothing was changed.
            StorageError: the disk refused.
        """
        values, records = _checked(state)
        self._publisher.wait()
        self._published.withdraw_after(values["serial"], records)
        self.best = values["best"]
        self._current_epoch = values["epoch"]
        self._last_batch_seen = values["last_batch"]
        self._batches_seen_since_last_saving = values["batches_since_last_saving"]
        self._epochs_since_last_saving = values["epochs_since_last_saving"]
        self._announced = {record.path: record for record in records}
        if self.save_best_only:
            self._forget_best_without_file(records)
