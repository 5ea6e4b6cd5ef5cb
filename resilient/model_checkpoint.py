"""`keras.callbacks.ModelCheckpoint` whose files appear atomically, are written behind the training's back, and survive restarts.

Where it goes further than Keras' own, beside that: a NaN never is the best value and never blocks later ones; `save_best_only` works
with `save_freq` in batches; `save_freq` of 0, a bool or a negative number is an error instead of a save after every batch. A missing
`monitor` stays what it is in Keras: a warning, and the model is saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import threading
import uuid
import warnings
from pathlib import Path
from typing import Any, Self

import keras
from absl import logging

from resilient import memory
from resilient.errors import ConfigurationError
from resilient.priority import step_back
from resilient.state import model_file
from resilient.store import published, temporaries
from resilient.store.oserrors import storage_error

_WAITING = 2  # files not yet begun; each holds references to a copy of the model
_IS_A_DIRECTORY = "Please specify a non-directory filepath for ModelCheckpoint. Filepath used is an existing directory: {}"


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """A drop-in for `keras.callbacks.ModelCheckpoint`: same arguments, same files, same messages.

    The model is captured when Keras would save it, without copying it; a background thread writes the file, flushes it to the disk and
    gives it its name. `on_train_end` returns when everything is on disk; in between, `flush` waits for it. If writing fails, the next hook
    of this callback raises. The legacy `.h5` format, a remote path, and models with a `save` of their own are written before training
    goes on.

    Under `resilient.fit` the best value and the counters go on after a restart, and a file written after the point that a restart goes back
    to is removed, or made again what it was then. For that a hidden directory `.<name>.resilient` lies beside the files.

    Args:
        filepath: as in Keras: `{epoch}`, `{batch}` and names in `logs` are filled in; ends in ".keras", ".weights.h5" or ".h5".
        monitor: name in `logs` by which "best" is judged.
        verbose: 1 says when a file is about to be written, and when it is on disk.
        save_best_only: whether to save only when `monitor` improved.
        save_weights_only: whether to save the weights (and optimizer) instead of the model.
        mode: "auto", "min" or "max".
        save_freq: "epoch", or a number of batches.
        initial_value_threshold: the value of `monitor` to beat.
        period: epochs between two saves, as in older versions of Keras; only with `save_freq="epoch"`.

    Raises:
        ConfigurationError: (a ValueError) for a value that is not accepted.
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
        save_freq = _checked_save_freq(save_freq)
        self.best: Any = None
        super().__init__(filepath, monitor, verbose, save_best_only, save_weights_only, mode, save_freq, initial_value_threshold)
        self.period = _checked_period(period, save_freq)
        self._current_epoch = 0
        self._epochs_since_saving = 0
        self._threshold = self.best
        self._run = uuid.uuid4().hex
        self._last = _Save()
        self._trained_since = self._remake = self._pinned = False
        self._writer: _BackgroundWriter | None = None  # made when there is something to write: until then the callback can be copied
        self._ledger: published.Ledger | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Raises if a file could not be written."""
        self._report()
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """The moment before the model changes: a file that a restart found missing is made again here."""
        super().on_train_batch_begin(batch, logs)
        self._make_again()
        self._trained_since = True
        if self._pinned:  # there is no memory for copies of what is still to be written
            self._pinned = not self.wait()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves if it is due, and raises if an earlier file could not be written."""
        self._report()
        super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves if it is due, and raises if an earlier file could not be written."""
        self._report()
        super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Returns when every file is on disk; raises if one could not be written."""
        super().on_train_end(logs)
        self._make_again()
        self.flush()
        if self._ledger is not None:
            self._ledger.finish()

    def flush(self) -> None:
        """Waits until every file captured so far is on disk.

        Raises:
            StorageError: one of them could not be written.
        """
        self.wait()
        self._report()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits, at most `timeout` seconds, until nothing is being written; and says whether that is so.

        Raises nothing, and may be called from any thread.
        """
        return self._writer is None or self._writer.wait(timeout)

    def get_state(self) -> dict[str, Any]:
        """What a restart needs, as plain data. Taking it marks a point that `set_state` may later go back to."""
        self._opened_ledger().mark(self._last.serial)
        return {
            "run": self._run,
            "best": None if self.best is None else float(self.best),
            "epoch": self._current_epoch,
            "epochs_since_saving": self._epochs_since_saving,
            "batches_since_saving": self._batches_seen_since_last_saving,
            "last_batch": self._last_batch_seen,
            "last_save": dataclasses.asdict(self._last),
            # Whether its file may not be there after a crash, and whether the model is still the one it was made from.
            "pending": not self.wait(0),
            "unchanged": not self._trained_since,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state that `get_state` returned, in this process or an earlier one, and makes the files what they were then."""
        if self._writer is not None:
            self._writer.drop()
        self._run = state["run"]
        self.best = state["best"]
        self._current_epoch = state["epoch"]
        self._epochs_since_saving = state["epochs_since_saving"]
        self._batches_seen_since_last_saving = state["batches_since_saving"]
        self._last_batch_seen = state["last_batch"]
        self._last = _Save(**state["last_save"])
        self._trained_since = not state["unchanged"]
        self._ledger = None
        ledger = self._opened_ledger()
        ledger.mark(self._last.serial)
        try:
            self._roll_back(ledger, pending=state["pending"])
        except OSError as error:
            raise storage_error(error, "bring back the files of ModelCheckpoint", ledger.base) from error

    def _roll_back(self, ledger: published.Ledger, *, pending: bool) -> None:
        found = ledger.roll_back(self._last.serial)
        lost = pending and (found is None or not found.complete)
        self._remake = lost and not self._trained_since
        stays = found.stays if found is not None else None
        if self._remake or not (lost or stays):
            return
        # The file that `best` spoke of is gone for good. What is there now is what has to be beaten.
        self.best = found.newest.best if found is not None and found.newest is not None else self._threshold
        path = ledger.base / (stays.path if stays is not None else self._last.path)
        warnings.warn(
            f"ModelCheckpoint at {path}: the file of the point that training goes back to is gone. What is there now, if anything, "
            "stays until the next save, and is what that has to beat.",
            stacklevel=2,
        )

    def _make_again(self) -> None:
        if self._remake:
            self._remake = False
            self._submit(str(self._place()[0] / self._last.path), self._last.serial)

    def _place(self) -> tuple[Path, str]:
        """The directory that all files of this callback share (what comes before the first placeholder), and a name for it there.

        Symbolic links are not resolved here: a file is known by the name it was given.
        """
        base = os.path.abspath(os.path.dirname(self.filepath.split("{", 1)[0]))
        return Path(base), os.path.relpath(os.path.abspath(self.filepath), base).replace(os.sep, "_")

    def _opened_ledger(self) -> published.Ledger:
        if self._ledger is None:
            self._ledger = published.Ledger(*self._place(), self._run)
        return self._ledger

    # What follows replaces methods of Keras' own class; tests/test_model_checkpoint.py fails if Keras stops calling them.

    def _is_improvement(self, monitor_value: Any, reference_value: Any) -> bool:
        if math.isnan(monitor_value):
            return False
        if reference_value is None or math.isnan(reference_value):
            return True
        if self.monitor_op is None:  # Keras sets it at the end of an epoch: too late for a save within the first
            self._set_monitor_op()
        return bool(super()._is_improvement(monitor_value, reference_value))

    def _save_model(self, epoch: int, batch: int | None, logs: Any) -> None:
        if batch is None:
            self._epochs_since_saving += 1
            if self._epochs_since_saving < self.period:
                return
            self._epochs_since_saving = 0
        logs = logs or {}
        filepath = self._get_file_path(epoch, batch, logs)
        if not self._should_save_model(epoch, batch, logs, filepath):
            return
        if Path(filepath).is_dir():
            raise IsADirectoryError(_IS_A_DIRECTORY.format(filepath))
        said = f"\nEpoch {epoch + 1}: finished saving model to {filepath}"
        self._submit(filepath, self._last.serial + 1, said if self.verbose > 0 else "")

    def _submit(self, filepath: str, serial: int, said: str = "") -> None:
        self._trained_since = False
        if "://" in filepath:
            self._save(filepath)  # object stores publish a whole object at once
            _say(said)
            return
        target = Path(os.path.abspath(filepath))
        self._last = _Save(serial, os.path.relpath(target, self._place()[0]))
        suffix = model_file.WEIGHTS_SUFFIX if self.save_weights_only else target.suffix
        captured = model_file.capture(self.model, suffix)
        best = None if self.best is None else float(self.best)
        copies = memory.HOST.claim(model_file.shared(self.model), warnings.warn)
        self._pinned = self._pinned or copies is None
        file = _File(target, serial, best, captured or self._save, self._opened_ledger(), said, copies)
        if captured is None:  # only the model can write itself, and the next batch changes it
            self.flush()
            _publish(file, suffix)
            _say(said)
            return
        self._writer = self._writer or _BackgroundWriter()
        self._writer.submit(file)

    def _save(self, path: str | os.PathLike[str]) -> None:
        save = self.model.save_weights if self.save_weights_only else self.model.save
        save(str(path), overwrite=True)

    def _report(self) -> None:
        """Says what was finished since, and raises what went wrong since."""
        if self._writer is None:
            return
        finished, error = self._writer.take()
        for said in finished:
            _say(said)
        if error is not None:
            raise error


@dataclasses.dataclass(frozen=True)
class _Save:
    """The newest save: the how-manieth of the run, and where to (relative to the directory that all files share)."""

    serial: int = 0
    path: str = ""


@dataclasses.dataclass(frozen=True)
class _File:
    """A captured model and all that is needed to write it on another thread."""

    target: Path
    serial: int
    best: float | None
    write: model_file.Write
    ledger: published.Ledger
    said: str
    copies: memory.Copies | None

    def replaces(self, older: Self) -> bool:
        """Whether nobody can miss the older one: same name, and no state was taken in between that may be gone back to."""
        return self.target == older.target and not self.ledger.refers(older.serial, self.serial)


def _publish(file: _File, suffix: str = "") -> None:
    """Writes the file under its name. Raises StorageError, the file then being what it was."""

    def record(temporary: Path) -> None:
        file.ledger.record(temporary, file.target, file.serial, file.best)

    try:
        published.publish(file.target, file.write, suffix, record)
    except OSError as error:
        raise storage_error(error, "write the file of ModelCheckpoint", file.target) from error


class _BackgroundWriter:
    """Writes files in the order they were captured, on a thread that lives only while there are any.

    The thread is not a daemon: a program that ends, or whose training raised, still gets its files, and nothing idles at exit.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[_File] = []
        self._working = False
        self._finished: list[str] = []
        self._error: Exception | None = None
        self._swept: set[Path] = set()

    def submit(self, file: _File) -> None:
        """Hands the file over; waits where too many are still to be written. An older one of that name, not yet begun, is left out."""
        with self._changed:
            self._waiting = [older for older in self._waiting if not file.replaces(older)]
            self._changed.wait_for(lambda: len(self._waiting) < _WAITING)
            self._waiting.append(file)
            if not self._working:
                self._working = True
                threading.Thread(target=self._work, name="resilient-model-checkpoint").start()

    def wait(self, timeout: float | None = None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._working, timeout)

    def take(self) -> tuple[list[str], Exception | None]:
        """What was said and what went wrong since the last call."""
        with self._changed:
            finished, self._finished = self._finished, []
            error, self._error = self._error, None
            return finished, error

    def drop(self) -> None:
        """Forgets what is not begun and what went wrong, and waits for the file under way."""
        with self._changed:
            self._waiting.clear()
        self.wait()
        self.take()

    def _work(self) -> None:
        step_back()
        while True:
            with self._changed:
                if not self._waiting:
                    self._working = False
                    self._changed.notify_all()
                    return
                file = self._waiting.pop(0)
                self._changed.notify_all()
            self._write(file)

    def _write(self, file: _File) -> None:
        error = None
        try:
            self._sweep(file)
            _publish(file)
        except Exception as caught:  # noqa: BLE001 — it belongs to the training thread, which raises it at its next hook
            error = caught
        with self._changed:
            if error is not None:
                self._error = self._error or error
            elif file.said:
                self._finished.append(file.said)

    def _sweep(self, file: _File) -> None:
        for directory in {file.target.parent, file.ledger.directory} - self._swept:
            with contextlib.suppress(OSError):  # tidying is no reason to fail a save
                temporaries.sweep(directory)
            self._swept.add(directory)


def _say(text: str) -> None:
    if text and keras.config.is_interactive_logging_enabled():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    elif text:
        logging.info(text)


def _checked_save_freq(value: Any) -> str | int:
    number = None if isinstance(value, bool) or not hasattr(value, "__index__") else value.__index__()
    if value == "epoch":
        return "epoch"
    if number is None or number < 1:
        raise ConfigurationError(f"Unrecognized save_freq: {value!r}. Expected save_freq are 'epoch' or a positive number of batches.")
    return int(number)


def _checked_period(value: Any, save_freq: str | int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
        raise ConfigurationError(f"Unrecognized period: {value!r}. Expected a positive number of epochs.")
    if value.__index__() != 1 and save_freq != "epoch":
        raise ConfigurationError(f"period={value!r} counts epochs and save_freq={save_freq!r} counts batches. Give one of the two.")
    return int(value.__index__())
