"""`resilient.ModelCheckpoint`: Keras' callback, with files that appear whole, durable, and without waiting for the disk."""

from __future__ import annotations

import dataclasses
import errno
import io
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
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


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):
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
        self.best: Any = initial_value_threshold  # Keras has just said the same, in a place that mypy cannot see
        self.period = period
        self._initial_best = initial_value_threshold
        self._epochs_since_last_saving = 0
        self._current_epoch = 0
        self._published = PublishedFiles(self.filepath)
        self._publisher = BackgroundPublisher(self._published)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Raises what is left of an earlier training's writes."""
        self._settle()
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Remembers the epoch."""
        self._settle()
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves, where `save_freq` is a number of batches and it is reached."""
        self._settle()
        super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves, with `save_freq="epoch"`."""
        self._settle()
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
        self._settle()

    def _settle(self) -> None:
        for message in self._publisher.settle():
            _say(message)

    def get_state(self) -> dict[str, Any]:
        """Everything needed to go on, as plain JSON: best value, counters, and the files written so far.

        It may name files that are still on their way: where the state is stored, `flush` has to return before that is committed.
        """
        newest = self._published.newest()
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
        if self.save_best_only and records:
            self._compare_with_best_on_disk(records)

    def _compare_with_best_on_disk(self, records: list[Record]) -> None:
        """Where the process died before the best file arrived, only what did arrive counts; else no best file would ever be written."""
        arrived = self._published.last_arrived(records)
        if arrived is not None and arrived.serial >= max(record.serial for record in records):
            return
        best = self._initial_best if arrived is None else arrived.best
        if best != self.best:
            warnings.warn(
                f"The file of the best {self.monitor} ({self.best}) was not on disk yet when the process ended; "
                f"ModelCheckpoint now compares with {best}.",
                stacklevel=3,
            )
            self.best = best

    def _is_improvement(self, monitor_value: Any, reference_value: Any) -> bool:
        # Keras lets a first NaN become the best value, which nothing is better than; and it asks before it knows the direction when
        # it saves by batches.
        if math.isnan(float(monitor_value)):
            return False
        if self.monitor_op is None:
            self._set_monitor_op()
        if reference_value is not None and math.isnan(float(reference_value)):
            reference_value = None
        return bool(super()._is_improvement(monitor_value, reference_value))

    def _save_model(self, epoch: int, batch: int | None, logs: Mapping[str, Any] | None) -> None:
        if batch is None and not self._period_is_over():
            return
        logs = logs or {}
        path = self._get_file_path(epoch, batch, logs)
        if self._should_save_model(epoch, batch, logs, path):
            message = f"\nEpoch {epoch + 1}: finished saving model to {path}" if self.verbose > 0 else None
            self._save_to(path, message)

    def _period_is_over(self) -> bool:
        self._epochs_since_last_saving += 1
        if self._epochs_since_last_saving < self.period:
            return False
        self._epochs_since_last_saving = 0
        return True

    def _save_to(self, path: str, message: str | None) -> None:
        save = self.model.save_weights if self.save_weights_only else self.model.save
        if "://" in path:  # an object store shows whole objects only, and Keras knows how to reach it
            save(path, overwrite=True)
            return
        if os.path.isdir(path):
            raise IsADirectoryError(
                f"Please specify a non-directory filepath for ModelCheckpoint. Filepath used is an existing directory: {path}"
            )
        job = self._in_memory(save, path) if self._fits_in_memory(path) else self._in_temporary(save, path)
        self._publisher.submit(dataclasses.replace(job, message=message))

    def _fits_in_memory(self, path: str) -> bool:
        """Whether Keras can write the format into memory, and it is Keras that writes: a model's own `save` may need a real path."""
        name = "save_weights" if self.save_weights_only else "save"
        keras_writes = getattr(type(self.model), name) is getattr(keras.Model, name)
        return keras_writes and (self.save_weights_only or path.endswith(".keras"))

    def _in_memory(self, save: Callable[..., None], path: str) -> Job:
        stream = _MemoryFile(os.path.basename(path))
        save(stream, overwrite=True)
        content = stream.getbuffer()
        target = Path(os.path.abspath(path))
        return Job(target, self._announce(target, len(content), xxhash.xxh3_128_hexdigest(content)), content=content)

    def _in_temporary(self, save: Callable[..., None], path: str) -> Job:
        target = Path(os.path.abspath(path))
        real = Path(os.path.realpath(path))
        with storage_errors("write the file", target):
            files.make_directories(real.parent)
            temporary = temporaries.name_beside(real, next(suffix for suffix in _SUFFIXES if path.endswith(suffix)))
            try:
                save(os.fspath(temporary), overwrite=True)
                digest = digest_of(temporary)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            if digest is None:
                raise FileNotFoundError(errno.ENOENT, "the model's own save wrote no file", os.fspath(temporary))
            return Job(target, self._announce(target, temporary.stat().st_size, digest), temporary=temporary)

    def _announce(self, target: Path, size: int, digest: str) -> Record | None:
        best = float(self.best) if self.save_best_only and self.best is not None else None
        return self._published.announce(target, size, digest, best)


def _check_frequency(save_freq: object, period: object) -> None:
    if save_freq != "epoch" and not _is_count(save_freq):
        raise ConfigurationError(
            f"Unrecognized save_freq: {save_freq!r}. Expected save_freq are 'epoch' or integer values of at least 1 (a number of batches)."
        )
    if not _is_count(period):
        raise ConfigurationError(f"period={period!r} is not a number of epochs. Write an integer of at least 1.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _checked(state: Mapping[str, Any]) -> tuple[dict[str, Any], list[Record]]:
    counters = ("epoch", "batches_since_last_saving", "epochs_since_last_saving", "serial")
    best, last, entries = state.get("best"), state.get("last_batch"), state.get("files")
    whole = all(type(state.get(name)) is int for name in counters)
    numbers = (best is None or isinstance(best, (int, float))) and (last is None or type(last) is int)
    records = [record_from(entry) for entry in entries] if isinstance(entries, list) else [None]
    known = [record for record in records if record is not None]
    if state.get("version") != _STATE_VERSION or not whole or not numbers or len(known) != len(records):
        raise CheckpointMismatchError(
            f"The saved state of ModelCheckpoint is not one of version {_STATE_VERSION}: {str(dict(state))[:200]}. "
            "Resume with the version of resilient that wrote it, or start afresh with resume=False."
        )
    return {"best": best, "last_batch": last, **{name: state[name] for name in counters}}, known


def _say(message: str) -> None:
    """As Keras prints its own messages: to the terminal, or to the log where interactive logging is off."""
    if keras.config.is_interactive_logging_enabled():
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()
    else:
        logging.getLogger("absl").info(message)
