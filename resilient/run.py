"""One attempt at a run: what to go on from, the phases of Model.fit, and how it ends."""

from __future__ import annotations

import dataclasses
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from resilient import keras_private
from resilient.callback import PhaseDone, Resume, RunCallbacks, StopTraining
from resilient.data import ROWS, ArrayInput, EpochPlan
from resilient.errors import EXIT_PREEMPTED, CheckpointMismatchError, ConfigurationError
from resilient.journal import Journal
from resilient.manifest import Progress
from resilient.model_checkpoint import ModelCheckpoint
from resilient.monitor import Monitor
from resilient.opening import Opening, Start
from resilient.preemption import Notice, StopRequest, Watch
from resilient.saver import Saver
from resilient.settings import Settings
from resilient.state import CallbackStates, State, environment
from resilient.state.variables import mismatch
from resilient.state.weights_h5 import weights_h5_names
from resilient.store import Checkpoint, Store, lock_warning

_LAST_WORDS = 0.3  # seconds for the journal when the time is up; less than the margin that the watch keeps


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of Model.fit that are not data."""

    epochs: int
    initial_epoch: int
    batch_size: int | None
    verbose: Any
    callbacks: Any
    steps_per_epoch: int | None
    validation_data: Any
    validation_steps: int | None
    validation_batch_size: int | None
    validation_freq: Any


class Preemption(Exception):  # noqa: N818  what `fit` turns into what the caller asked for
    """Training stopped on request. `interrupted`: by SIGINT."""

    def __init__(self, message: str, history: Any, *, interrupted: bool) -> None:
        super().__init__(message)
        self.history = history
        self.interrupted = interrupted


class Run:
    """One attempt at training `model` in the directory of `store`, whose lock the caller holds."""

    def __init__(self, model: Any, data: ArrayInput, arguments: Arguments, settings: Settings, store: Store, journal: Journal) -> None:
        self._model = model
        self._data = data
        self._arguments = arguments
        self._settings = settings
        self._store = store
        self._journal = journal
        self._stop = StopRequest()

    def train(self) -> Any:
        """Train to the end and return the History.

        Raises:
            Preemption: a stop was asked for; the state is on disk.
        """
        self._leaving = False  # the main thread is on its way out: what it stopped for is in the journal
        self._callbacks: RunCallbacks | None = None
        self._saver: Saver | None = None
        self._warn_about_disk()
        with Watch(
            self._stop,
            self._settings.signals,
            self._settings.grace,
            nothing_to_save=self._nothing_to_save,
            leave=self._leave_now,
        ) as watch:
            self._watch = watch
            try:
                return self._train()
            except StopTraining as stop:
                raise self._preempted(stop) from self._called_handlers()
            except BaseException as error:
                self._journal.append("failed", durable=True, error=f"{type(error).__name__}: {error}", **self._position())
                raise
            finally:
                self._close()

    # -- opening ---------------------------------------------------------------------------------------------------------------

    def _train(self) -> Any:
        start = self._open()
        if start.checkpoint is None and self._settings.seed is not None:
            keras.utils.set_random_seed(self._settings.seed)
        self._journal.append("started", pid=os.getpid(), run_id=start.line.run_id, fresh=start.checkpoint is None)
        keras_private.symbolic_build(self._model, self._data.sample())
        self._data.open(self._plan(start), start.run["order_seed"])
        callbacks, state = self._prepare_callbacks(start)
        self._check(start, state)
        if start.final is not None and self._is_finished(start):
            return self._return_finished(start.final, state, callbacks)
        return self._run_phases(start, callbacks, state)

    def _open(self) -> Start:
        return Opening(self._store, self._journal, self._settings.resume).open(self._fresh_settings)

    def _fresh_settings(self) -> dict[str, Any]:
        seed = self._settings.seed
        return {
            **self._data.settings(),
            **self._program_settings(),
            "initial_epoch": self._arguments.initial_epoch,
            "order_seed": _order_seed() if seed is None else seed,
        }

    def _program_settings(self) -> dict[str, Any]:
        arguments = self._arguments
        freq = arguments.validation_freq
        return {
            "steps_per_epoch": arguments.steps_per_epoch,
            "steps_per_execution": int(self._model.steps_per_execution),
            "validation": arguments.validation_data is not None,
            "validation_freq": int(freq) if hasattr(freq, "__index__") else sorted(int(epoch) for epoch in freq),
            "optimizer": type(self._model.optimizer).__name__,
            "loss": [getattr(loss, "name", None) or getattr(loss, "__name__", None) or str(loss) for loss in _leaves(self._model.loss)],
        }

    def _plan(self, start: Start) -> EpochPlan:
        self._epochs_plan = EpochPlan(
            self._data.num_batches,
            self._arguments.steps_per_epoch,
            int(self._model.steps_per_execution),
            start.run["initial_epoch"],
        )
        return self._epochs_plan

    def _prepare_callbacks(self, start: Start) -> tuple[RunCallbacks, State]:
        arguments = self._arguments
        monitor = Monitor(self._settings.monitor, self._settings.mode, self._model, validates=arguments.validation_data is not None)
        if start.resume is not None and not monitor.continues(start.resume.meta["monitor"]):
            start.line.best = None  # scores of another metric do not compare
        callbacks = RunCallbacks(
            arguments.callbacks,
            model=self._model,
            data=self._data,
            plan=self._epochs_plan,
            monitor=monitor,
            stop=self._stop,
            params={"verbose": arguments.verbose, "epochs": arguments.epochs, "steps": self._epochs_plan.steps},
            progress=start.resume.progress if start.resume else Progress(arguments.initial_epoch, 0, 0),
            resume=start.resume,
            on_restored=lambda: self._restored(start),
        )
        state = State(self._model, CallbackStates(callbacks.callbacks))
        return callbacks, state

    def _check(self, start: Start, state: State) -> None:
        """Everything that can be wrong with a resume, before anything is changed."""
        now = environment.describe(self._model)
        self._common = {"settings": dict(start.run), "environment": now, "weights_h5": weights_h5_names(self._model)}
        if start.checkpoint is None:
            return
        live = {**self._data.settings(), **self._program_settings()}
        changed = {name: value for name, value in live.items() if name in start.run and start.run[name] != value}
        values_only = changed.pop(ROWS, None) is not None and not changed
        found = [f"{name} was {start.run[name]!r} and is {value!r}" for name, value in changed.items()]
        if values_only:
            found = ["the values in x, y or the sample weights are others"]
        if found:
            raise mismatch(found, str(self._store.directory))
        state.check(start.checkpoint.tensors, str(self._store.directory))
        self._check_epochs(start)
        self._check_environment(start.checkpoint.manifest.state["environment"], now)
        if not self._is_finished(start):
            state.callbacks.warn_of_changes(start.checkpoint.manifest.state["callbacks"])

    def _check_epochs(self, start: Start) -> None:
        at, epochs = start.checkpoint.manifest.progress if start.checkpoint else None, self._arguments.epochs
        if at is not None and not self._is_finished(start) and (at.epoch, at.batch) > (epochs, 0):
            raise ConfigurationError(
                f"epochs={epochs} is less than what the run in {self._store.directory} has trained (epoch {at.epoch}, batch {at.batch}). "
                f"Pass at least {at.epoch + (at.batch > 0)}, or resume= an earlier step."
            )

    def _check_environment(self, saved: Mapping[str, Any], now: dict[str, Any]) -> None:
        now = environment.reapply(saved, now)
        self._common["environment"] = now
        found = environment.differences(saved, now)
        if not found:
            return
        text = f"The run in {self._store.directory} began under other conditions ({'; '.join(found)}), so its end may differ in bits."
        if self._settings.exact == "require":
            raise CheckpointMismatchError(f'{text} Restore those conditions, or pass exact="warn".')
        warnings.warn(f"{text} Restore those conditions to make it exact.", stacklevel=2)

    # -- training --------------------------------------------------------------------------------------------------------------

    def _run_phases(self, start: Start, callbacks: RunCallbacks, state: State) -> Any:
        saver = Saver(
            self._store,
            self._journal,
            state,
            line=start.line,
            cadence=self._settings.cadence,
            keep=self._settings.keep,
            common=self._common,
            before_commit=lambda: _wait_for_files(callbacks.callbacks),
        )
        self._saver = saver
        callbacks.attach(state, saver)
        self._callbacks = callbacks
        if start.checkpoint is not None:
            saver.continue_from(start.checkpoint.manifest.progress)
        self._fit(callbacks, start.resume)
        history = callbacks.history
        saver.wait()  # the end of the last epoch first: with more epochs the run goes on from there
        saver.tell()
        metrics = {name: values[-1] for name, values in history.history.items() if values}
        saver.submit(callbacks.capture_final(metrics))
        saver.wait()
        saver.tell()
        for callback in callbacks.callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.flush()
        self._journal.append("finished", durable=True, **self._position())
        if self._stop.requested:
            raise StopTraining(callbacks.progress, durable=True)
        return history

    def _fit(self, callbacks: RunCallbacks, resume: Resume | None) -> None:
        at, epochs = callbacks.progress, self._arguments.epochs
        over = resume is not None and resume.stopped and at.batch == 0 and at.step > 0
        phases = [] if over else list(self._epochs_plan.phases(at.epoch, at.batch, epochs))
        if resume is not None and resume.stopped and phases:
            phases = [dataclasses.replace(phases[0], count=0)]
        original = self._model.train_function
        if not phases:
            callbacks.enter(None, more=False)
            self._call(callbacks, at.epoch, at.epoch)
        for index, phase in enumerate(phases):
            callbacks.enter(phase, more=index + 1 < len(phases))
            if phase.count <= 0:  # all its batches are trained; Keras insists on one, which then must do nothing
                logs = resume.logs if resume is not None else {}
                self._model.train_function = _constant(logs)
            try:
                self._call(callbacks, phase.first, phase.last + 1)
            except PhaseDone:
                continue
            finally:
                if phase.count <= 0:
                    self._model.train_function = original
            break

    def _call(self, callbacks: RunCallbacks, first: int, end: int) -> None:
        arguments = self._arguments
        self._model.fit(
            self._data,
            batch_size=arguments.batch_size,
            epochs=end,
            verbose=arguments.verbose,
            callbacks=callbacks,
            validation_data=arguments.validation_data,
            initial_epoch=first,
            validation_steps=arguments.validation_steps,
            validation_batch_size=arguments.validation_batch_size,
            validation_freq=arguments.validation_freq,
        )

    def _restored(self, start: Start) -> None:
        if start.checkpoint is None:
            return
        progress = start.checkpoint.manifest.progress
        self._journal.append(
            "restored", step=progress.step, epoch=progress.epoch, batch=progress.batch, path=str(start.checkpoint.path), data="seek"
        )

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def _is_finished(self, start: Start) -> bool:
        if start.final is None:
            return False
        manifest = start.final.manifest
        return manifest.progress.epoch >= self._arguments.epochs or bool(manifest.state["stop_training"])

    def _return_finished(self, final: Checkpoint, state: State, callbacks: RunCallbacks) -> Any:
        state.check(final.tensors, str(self._store.directory))
        state.apply(final.tensors, final.manifest.state)
        progress = final.manifest.progress
        self._journal.append(
            "restored", step=progress.step, epoch=progress.epoch, batch=progress.batch, path=str(final.path), finished=True
        )
        self._callbacks = callbacks
        if self._stop.requested:
            raise StopTraining(progress, durable=True)
        return callbacks.history

    def _preempted(self, stop: StopTraining) -> Preemption:
        notice = self._stop.notice
        reason = notice.reason if notice else "request"
        resume_step = self._resume_step()
        self._leaving = True
        self._journal.append("preempted", durable=True, reason=reason, resume_step=resume_step, saved=stop.durable, **self._position())
        where = f"step {stop.progress.step} (epoch {stop.progress.epoch}, batch {stop.progress.batch})"
        kept = "its state is on disk" if stop.durable else f"it will go on from step {resume_step}, the last one on disk"
        history = self._callbacks.history if self._callbacks is not None else keras.callbacks.History()
        return Preemption(
            f"Training in {self._store.directory} stopped at {where} because of {reason}; {kept}. Start the program again to go on.",
            history,
            interrupted=self._watch.interrupted,
        )

    def _called_handlers(self) -> BaseException | None:
        """Run the program's own signal handlers, now that the state is safe; what they raise is only the cause of our leaving."""
        try:
            self._watch.call_previous_handlers()
        except BaseException as error:  # noqa: BLE001  a handler that exits must not turn "preempted" into "done"
            return error
        return None

    def _nothing_to_save(self) -> bool:
        """Whether the watching thread may end the process at once; only where the caller asked for an exit."""
        waiting = self._callbacks is None or self._callbacks.nothing_to_save
        return self._settings.on_preempt == "exit" and waiting and not self._leaving

    def _leave_now(self, notice: Notice) -> None:
        """On the watching thread: the main thread is not going to make it in time. Whatever fails here, the process ends."""
        threading.Timer(_LAST_WORDS, os._exit, [EXIT_PREEMPTED]).start()  # a hung disk must not keep us
        try:
            if not self._leaving:
                step = self._resume_step()
                self._journal.append("preempted", durable=True, reason=notice.reason, resume_step=step, saved=False, **self._position())
                sys.stderr.write(f"resilient: {notice.reason}: no batch ended in time, leaving; the run goes on from step {step}.\n")
                sys.stderr.flush()
        finally:
            os._exit(EXIT_PREEMPTED)

    def _resume_step(self) -> int:
        durable = self._saver.durable if self._saver is not None else None
        if durable is not None:
            return durable.step
        manifests = self._store.manifests()
        return manifests[-1].progress.step if manifests else 0

    def _position(self) -> dict[str, int]:
        if self._callbacks is None:
            return {}
        return dataclasses.asdict(self._callbacks.progress)

    def _close(self) -> None:
        if self._saver is not None:
            self._saver.wait(time.monotonic() + self._settings.grace)
            self._saver.close()
        for callback in self._callbacks.callbacks if self._callbacks is not None else []:
            if isinstance(callback, ModelCheckpoint):
                callback.wait()  # not flush(): what it would raise must not take the place of what ends this attempt

    def _warn_about_disk(self) -> None:
        text = lock_warning(self._store.directory)
        if text is not None:
            warnings.warn(text, stacklevel=2)


def _wait_for_files(callbacks: Iterable[Any]) -> None:
    """A checkpoint knows which files a ModelCheckpoint has written: they have to be on disk before it is."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint):
            callback.wait()


def _leaves(structure: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]


def _constant(logs: Mapping[str, Any]) -> Callable[[Any], Any]:
    return lambda _iterator: dict(logs)


def _order_seed() -> int:
    """A seed that follows from Python's generator (seeded: reproducible) and leaves that as it was."""
    copy = random.Random()
    copy.setstate(random.getstate())
    return copy.getrandbits(63)
