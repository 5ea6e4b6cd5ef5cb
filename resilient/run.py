"""One attempt at a run: what to go on from, the phases of Model.fit, and how it ends."""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import keras

from resilient import executions, keras_private
from resilient.auditing import fit_findings
from resilient.callback import PhaseDone, Resume, RunCallbacks, StopTraining
from resilient.data import EmptyEpoch, EpochPlan, Input
from resilient.errors import EXIT_PREEMPTED, ConfigurationError
from resilient.heartbeat import Heartbeat
from resilient.journal import Journal
from resilient.manifest import Progress
from resilient.model_checkpoint import ModelCheckpoint
from resilient.monitor import Monitor
from resilient.opening import Opening, Start
from resilient.preemption import Notice, Notices, StopRequest, Watch
from resilient.program import Arguments, Program
from resilient.saver import Saver
from resilient.settings import Settings
from resilient.state import CallbackStates, State, environment
from resilient.state.weights_h5 import weights_h5_names
from resilient.store import Checkpoint, Store, lock_warning

_LAST_WORDS = 0.3  # seconds for the journal when the time is up; less than the margin that the watch keeps


class Preemption(Exception):  # noqa: N818  what `fit` turns into what the caller asked for
    """Training stopped on request. `interrupted`: by SIGINT."""

    def __init__(self, message: str, history: Any, *, interrupted: bool) -> None:
        super().__init__(message)
        self.history = history
        self.interrupted = interrupted


class Run:
    """One attempt at training `model` in the directory of `store`, whose lock the caller holds, as `heartbeat` tells its supervisor."""

    def __init__(
        self, model: Any, data: Input, arguments: Arguments, settings: Settings, store: Store, journal: Journal, heartbeat: Heartbeat
    ) -> None:
        self._model = model
        self._data = data
        self._arguments = arguments
        self._settings = settings
        self._store = store
        self._journal = journal
        self._heartbeat = heartbeat
        self._stop = StopRequest()
        self._program = Program(model, data, arguments, settings)

    def train(self) -> Any:
        """Train to the end and return the History.

        Raises:
            Preemption: a stop was asked for; the state is on disk.
        """
        self._leaving = False  # the main thread is on its way out: what it stopped for is in the journal
        self._callbacks: RunCallbacks | None = None
        self._saver: Saver | None = None
        self._warn_about_disk()
        settings, record = self._settings, functools.partial(self._journal.append, "notice")
        self._notices = Notices(settings.notices, settings.given_grace, self._stop, record, self._heartbeat.evicted)
        with Watch(self._stop, settings.signals, settings.grace, nothing_to_save=self._nothing_to_save, leave=self._leave_now) as watch:
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
        self._journal.append(
            "started", pid=os.getpid(), run_id=start.line.run_id, fresh=start.checkpoint is None,
            data=self._data.kind, positioning=self._data.positioning, epochs=self._arguments.epochs, steps=self._plan(start).steps,
        )  # fmt: skip
        with self._notices:  # not before: in the journal a notice follows the start of the attempt that hears it
            return self._train_from(start)

    def _train_from(self, start: Start) -> Any:
        with keras_private.strategy_scope(self._model):
            keras_private.symbolic_build(self._model, self._data.sample(), self._data.element_spec())
        self._open_data(start)
        callbacks, state = self._prepare_callbacks(start)
        self._audit(finished=self._is_finished(start))
        self._check(start, state)
        if start.final is not None and self._is_finished(start):
            return self._return_finished(start.final, state, callbacks)
        return self._run_phases(start, callbacks, state)

    def _open(self) -> Start:
        opening = Opening(self._store, self._journal, self._settings.resume, self._learn, self._heartbeat)
        return opening.open(self._fresh_settings)

    def _learn(self, resume: Resume | None) -> None:
        """Have the data look at its first batches, in a resumed run with the generators that it did so with at first."""
        if resume is None and self._settings.seed is not None:
            keras.utils.set_random_seed(self._settings.seed)
        self._data.learn(resume.position("training").get("origin") if resume else None)
        if self._arguments.validation is not None:
            self._arguments.validation.learn(resume.position("validation").get("origin") if resume else None)

    def _open_data(self, start: Start) -> None:
        self._data.open(self._plan(start), start.run["order_seed"])
        if start.checkpoint is None:
            self._data.begin_run()
        validation = self._arguments.validation
        if validation is not None:
            steps, per_execution = self._arguments.validation_steps, int(self._model.steps_per_execution)
            validation.open(EpochPlan(validation.length, steps, per_execution, 0), start.run["order_seed"])
            if start.checkpoint is None:
                validation.begin_run()

    def _fresh_settings(self) -> dict[str, Any]:
        seed = self._settings.seed
        return {
            **self._program.settings(),
            "initial_epoch": self._arguments.initial_epoch,
            "order_seed": _order_seed() if seed is None else seed,
        }

    def _audit(self, *, finished: bool) -> None:
        """Say what cannot be exact. Also traces the training function, which makes the variables that only a custom train_step makes."""
        if finished and not keras_private.has_own_train_step(self._model):
            return
        found = fit_findings(self._model, self._data, self._arguments.validation, self._arguments.callbacks)
        executions.trace_again(self._model, self._arguments.callbacks)
        if found and not finished:
            listed = "".join(f"\n  - {finding}" for finding in found)
            text = f"If this training is interrupted, its end may not be exactly that of an uninterrupted one:{listed}\n"
            self._program.tell(text, ConfigurationError)

    def _plan(self, start: Start) -> EpochPlan:
        steps = self._arguments.steps_per_epoch
        per_execution = int(self._model.steps_per_execution)
        self._epochs_plan = EpochPlan(self._data.length, steps, per_execution, start.run["initial_epoch"])
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
            validation=arguments.validation,
            plan=self._epochs_plan,
            monitor=monitor,
            stop=self._stop,
            params={"verbose": arguments.verbose, "epochs": arguments.epochs, "steps": self._epochs_plan.steps},
            progress=start.resume.progress if start.resume else Progress(arguments.initial_epoch, 0, 0),
            resume=start.resume,
            on_restored=lambda: self._restored(start),
            heartbeat=self._heartbeat,
        )
        state = State(self._model, CallbackStates(callbacks.callbacks))
        return callbacks, state

    def _check(self, start: Start, state: State) -> None:
        """Everything that can be wrong with a resume, before anything is changed."""
        now = environment.describe(self._model)
        self._common = {
            "settings": dict(start.run),
            "environment": now,
            "weights_h5": weights_h5_names(self._model),
            "input": {"kind": self._data.kind, "positioning": self._data.positioning},
        }
        if start.checkpoint is None:
            return
        manifest = start.checkpoint.manifest
        environment.check_backend(manifest.state["environment"], str(self._store.directory))
        self._program.check(start.run)
        state.check(start.checkpoint.tensors, str(self._store.directory))
        finished = self._is_finished(start)
        if not finished:
            self._program.check_epochs(manifest.progress)
        self._common["environment"] = self._program.check_environment(manifest.state["environment"], now)
        if not finished:
            state.callbacks.warn_of_changes(manifest.state["callbacks"])

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
            heartbeat=self._heartbeat,
            before_commit=lambda: _wait_for_files(callbacks.callbacks),
        )
        self._saver = saver
        callbacks.attach(state, saver)
        self._callbacks = callbacks
        if start.checkpoint is not None:
            saver.continue_from(start.checkpoint)
        with executions.left_out(self._model, callbacks) if self._heartbeat.orders.skip else nullcontext():
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
        length = self._data.saved_length(at.epoch, resume.position("training")) if resume is not None and at.batch else None
        phases = [] if over else list(self._epochs_plan.phases(at.epoch, at.batch, epochs, length))
        if resume is not None and resume.stopped and phases:
            phases = [dataclasses.replace(phases[0], count=0)]
        original = self._model.train_function
        if not phases:
            callbacks.enter(None, more=False)
            self._call(EmptyEpoch(), callbacks, at.epoch, at.epoch)
        for index, phase in enumerate(phases):
            callbacks.enter(phase, more=index + 1 < len(phases))
            empty = phase.count is not None and phase.count <= 0
            if empty:  # all its batches are trained; Keras insists on one, which then must do nothing
                logs = resume.logs if resume is not None else {}
                self._model.train_function = executions.without_effect(logs)
            try:
                self._call(EmptyEpoch() if empty else self._data, callbacks, phase.first, phase.last + 1)
            except PhaseDone:
                continue
            finally:
                if empty:
                    self._model.train_function = original
            break

    def _call(self, data: Any, callbacks: RunCallbacks, first: int, end: int) -> None:
        arguments = self._arguments
        try:
            self._model.fit(
                data,
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
        except (PhaseDone, StopTraining):
            callbacks.put_back()
            raise

    def _restored(self, start: Start) -> None:
        if start.checkpoint is None:
            return
        start.checkpoint.release()
        progress = start.checkpoint.manifest.progress
        self._journal.append(
            "restored", step=progress.step, epoch=progress.epoch, batch=progress.batch,
            path=str(start.checkpoint.path), data=self._data.positioning,
        )  # fmt: skip
        for data in (self._data, self._arguments.validation):
            for text in data.warnings if data is not None else []:
                self._program.tell(text)

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def _is_finished(self, start: Start) -> bool:
        if start.final is None:
            return False
        manifest = start.final.manifest
        return manifest.progress.epoch >= self._arguments.epochs or bool(manifest.state["stop_training"])

    def _return_finished(self, final: Checkpoint, state: State, callbacks: RunCallbacks) -> Any:
        state.check(final.tensors, str(self._store.directory))
        state.apply(final.tensors, final.manifest.state, final.frozen)
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
        if stop.durable:
            self._notices.acknowledge(reason)
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
        return dataclasses.asdict(self._callbacks.progress) if self._callbacks is not None else {}

    def _close(self) -> None:
        for data in (self._data, self._arguments.validation):
            if data is not None:
                data.close()
        if self._saver is None:
            self._store.close()
        else:
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


def _order_seed() -> int:
    """A seed that follows from Python's generator (seeded: reproducible) and leaves that as it was."""
    copy = random.Random()
    copy.setstate(random.getstate())
    return copy.getrandbits(63)
