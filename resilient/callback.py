"""Keras' hooks translated: is a save due, capture, hand to the writer; stop asked: wait until durable, leave.

Model.fit takes a CallbackList as `callbacks`. Ours shows the caller's
callbacks one uninterrupted run, whatever calls of Model.fit it is made of.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from resilient import keras_private, memory
from resilient.data import EpochPlan, Input, Phase, replays_heard_by
from resilient.errors import ConfigurationError
from resilient.heartbeat import Heartbeat, Section
from resilient.manifest import Progress
from resilient.monitor import Monitor
from resilient.preemption import StopRequest
from resilient.saver import Saver, Snapshot
from resilient.state import State, plain

DATA_FILE = "data.safetensors"


class PhaseDone(BaseException):
    """The epochs of this call of Model.fit are trained and more follow."""


class StopTraining(BaseException):
    """A stop was asked for. `durable`: whether the present position is on disk."""

    def __init__(self, progress: Progress, *, durable: bool) -> None:
        super().__init__()
        self.progress = progress
        self.durable = durable


@dataclasses.dataclass(frozen=True)
class Resume:
    """The checkpoint to go on from: its position, tensors and the state of its manifest."""

    progress: Progress
    tensors: Mapping[str, Mapping[str, Any]]
    meta: Mapping[str, Any]
    frozen: Mapping[str, Sequence[str]]

    @property
    def logs(self) -> dict[str, Any]:
        """The logs of the batch or epoch that ended there."""
        return dict(plain.decode(self.meta["logs"], {}))

    def position(self, name: str) -> dict[str, Any]:
        """The saved position of the training or validation data; {} where it needs none."""
        saved = self.meta.get("data", {}).get(name, {})
        return dict(plain.decode(saved, self.tensors.get(DATA_FILE, {})))

    @property
    def stopped(self) -> bool:
        """Whether a callback had asked Keras to stop training."""
        return bool(self.meta["stop_training"])


class RunCallbacks(keras.callbacks.CallbackList):
    """The caller's callbacks, History and progress bar, and after them the run's own work.

    Args:
        callbacks: the caller's.
        model, data, plan, state, monitor, stop: of the run.
        validation: the validation data where it has a position of its own, None where Keras needs no help with it.
        params: what Keras tells callbacks (`epochs`, `steps`, `verbose`).
        progress: where the run stands.
        resume: the checkpoint to apply in the first epoch, None for a fresh run.
        on_restored: called once after the checkpoint has been applied.
        heartbeat: told after every batch what comes next and where the run stands; says which batches are left out.

    Attributes:
        put_back: undoes what Model.fit does to the state on the way of an exception of ours.
    """

    def __init__(
        self,
        callbacks: Any,
        *,
        model: Any,
        data: Input,
        validation: Input | None,
        plan: EpochPlan,
        monitor: Monitor,
        stop: StopRequest,
        params: Mapping[str, Any],
        progress: Progress,
        resume: Resume | None,
        on_restored: Callable[[], None],
        heartbeat: Heartbeat,
    ) -> None:
        members = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
        super().__init__(members, add_history=True, add_progbar=params["verbose"] != 0, model=model, **params)
        self._data = data
        self._validation = validation
        self._stopped_by_us = False
        self.put_back: Callable[[], None] = lambda: None
        self._plan = plan
        self._monitor = monitor
        self._stop = stop
        self._resume = resume
        self._on_restored = on_restored
        self._beat = heartbeat.beat
        self._skip = heartbeat.orders.skip
        self._saver: Saver | None = None
        self._state: State | None = None
        self._phase: Phase | None = None
        self._more = False
        self._offset = 0  # batches of the epoch before Keras' first
        self._phantom = False  # whether the epoch has no batches left, so that the one Keras insists on is not real
        self._begun = False
        self._trained_here = False
        self._pending: Snapshot | None = None
        self._last_logs: Any = resume.logs if resume else {}
        self.progress = progress

    def attach(self, state: State, saver: Saver) -> None:
        """Give it the state and the saver, which need the callbacks first."""
        self._state, self._saver = state, saver

    @property
    def history(self) -> Any:
        """The run's one History."""
        return self._history

    @property
    def nothing_to_save(self) -> bool:
        """Whether this attempt has not finished a batch yet, so that the last committed checkpoint is all there is."""
        return not self._trained_here

    def enter(self, phase: Phase | None, *, more: bool) -> None:
        """Announce the next call of Model.fit; None: it trains nothing and only ends the run."""
        self._phase, self._more = phase, more
        if phase is not None:
            self._data.announce(None if phase.count is None else max(1, phase.count))

    # -- training --------------------------------------------------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        """The caller's callbacks see it once, before their state is restored."""
        first, self._begun = not self._begun, True
        if first:
            saved = self._resume.meta["callbacks"] if self._resume else []
            self._live_state.callbacks.before_train_begin(saved)
            super().on_train_begin(logs)
            self._live_state.callbacks.after_train_begin(saved)
        if self._resume or not first:
            keras_private.clear_initial_epoch(self._model)
        if self._phase is None and self._resume:
            self._restore()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """The first one restores; an epoch that goes on is not begun again, except on the progress bar."""
        begun = self._phase if self._phase is not None and epoch == self._phase.first else None
        skip = self._offset = begun.skip if begun else 0
        self._phantom = begun is not None and begun.count is not None and begun.count <= 0
        if self._resume:
            self._restore()
        elif not self._trained_here and self._live_saver.durable is None:
            self.progress = Progress(epoch, 0, self.progress.step)
            self._live_saver.submit(self._capture({}, logs={}), must=True)
        self._live_saver.new_stretch()
        self._beat(Section.STARTING, self.progress)
        if self._stop.requested:
            self._leave()
        if skip == 0:
            self._model.reset_metrics()  # a checkpoint at the end of an epoch holds that epoch's
            super().on_epoch_begin(epoch, logs)
        elif self._progbar is not None:
            self._progbar.on_epoch_begin(epoch)
        self._data.seek(epoch, skip)  # after the caller's callbacks, as in Keras: they may set something on the data
        if self._stop.requested:  # fetching a batch may have taken long
            self._leave()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Numbered from the epoch's true beginning."""
        if self._live_saver.pinned:
            self._wait_for_disk(batch)
        if not self._phantom and not self.left_out:
            super().on_train_batch_begin(batch + self._offset, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """The one place where a batch is counted and recovery checkpoints are taken."""
        if self._phantom:
            return
        if not self.left_out:
            # Keras may tell them on another thread, and the handing over costs as much as all that follows.
            if keras_private.listen_to_batch_ends(self.callbacks):
                super().on_train_batch_end(batch + self._offset, logs)
            self._last_logs = logs
        last = self._count(batch)
        self._beat(Section.TRAINING, self.progress)
        stopping = self._stop.requested
        # The last batch's checkpoint would be replaced by the epoch's own at once.
        if stopping or self._stop.save_requested or (not last and self._live_saver.due(self.progress.step)):
            self._stop.save_requested = False
            snapshot = self._capture(keras_private.pythonify_logs(logs), logs=logs, once=not stopping)
            self._live_saver.submit(snapshot)
            if stopping:
                self._leave()
            self._live_saver.tell()
        if last:
            self._stop_after_last_batch()

    def _wait_for_disk(self, batch: int) -> None:
        """There is no memory for copies of what is still to be written. That may take far longer than a batch, and is no hang of one."""
        self._beat(Section.BETWEEN, self.progress)
        self._live_saver.unpin()
        if self._stop.requested and self._live_saver.durable == self.progress:
            self._leave()
        self._beat(Section.TRAINING if batch else Section.STARTING, self.progress)

    def _stop_after_last_batch(self) -> None:
        """Have Keras end the epoch here where it does not know that this was the last batch.

        Left to itself it would find out by one more step, which fails but moves the optimizer's count and the dropout seeds.
        """
        count = self._phase.count if self._phase is not None else None
        known = count is not None and self.progress.batch - self._offset >= count
        if not known and not self._model.stop_training:
            self._stopped_by_us = self._model.stop_training = True

    def _after_last_batch(self) -> None:
        """The first moment after the epoch's last batch."""
        if self._stopped_by_us:
            self._stopped_by_us = self._model.stop_training = False
        self._data.end_epoch()
        self._beat(Section.BETWEEN, self.progress)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Always saved. Leaves Model.fit where the rest of a broken epoch was all it had to do."""
        self._after_last_batch()
        logs = keras_private.pythonify_logs(logs)
        shown = dict(logs)
        for callback in self.callbacks:
            callback.on_epoch_end(epoch, shown)  # callbacks add to it: ReduceLROnPlateau the learning rate
        self._pending = None
        self.progress = Progress(epoch + 1, 0, self.progress.step)
        score = self._monitor.score(shown)
        self._live_saver.submit(self._capture(shown, logs=logs, score=score), must=True)
        if self._stop.requested:
            self._leave()
        self._monitor.tell()
        self._live_saver.tell()
        if self._more and not self._model.stop_training and self._phase is not None and epoch >= self._phase.last:
            self.put_back = self._live_state.hold()
            raise PhaseDone

    def on_train_end(self, logs: Any = None) -> None:
        """The caller's callbacks see it once, with the logs of the last epoch."""
        if logs is None and self._resume is not None:
            logs = self._resume.logs or None
        super().on_train_end(logs)

    # -- validation ------------------------------------------------------------------------------------------------------------

    def on_test_begin(self, logs: Any = None) -> None:
        """The training metrics of the epoch can be captured here and, since Keras resets them next, nowhere later."""
        self._after_last_batch()
        shown = keras_private.pythonify_logs(self._model.get_metrics_result())
        # Keras takes the last batch's logs for the epoch's where they are not the metrics (a custom train_step).
        self._pending = self._capture(shown, logs=self._last_logs)
        self._live_saver.new_stretch()
        if self._live_saver.due(self.progress.step):
            self._live_saver.submit(self._pending)
        self._leave_validation_if_asked()
        if self._validation is not None:
            self._validation.seek(self.progress.epoch, 0)
        super().on_test_begin(logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """A stop in validation saves the moment before it: training is not repeated, validation is."""
        super().on_test_batch_end(batch, logs)
        self._beat(Section.VALIDATING, self.progress)
        if self._validation is not None:
            length = self._validation.epoch_length(self.progress.epoch)
            done = batch + 1 if length is None else min(batch + 1, length)
            self._validation.trained(done)
            if done == length:
                self._model.stop_evaluating = True  # see _stop_after_last_batch
        self._leave_validation_if_asked()

    def on_test_end(self, logs: Any = None) -> None:
        """The validation data's pass is over."""
        if self._validation is not None:
            self._validation.end_epoch()
        self._beat(Section.BETWEEN, self.progress)
        super().on_test_end(logs)

    def _leave_validation_if_asked(self) -> None:
        if self._pending is None:
            return
        if self._stop.requested or self._stop.save_requested or self._live_saver.owing:
            self._stop.save_requested = False
            if self._live_saver.durable != self.progress:
                self._live_saver.submit(self._pending)
        if self._stop.requested:
            self._leave()

    # -- shared ----------------------------------------------------------------------------------------------------------------

    @property
    def _live_state(self) -> State:
        if self._state is None:
            raise ConfigurationError("The callbacks were not attached to a run. Call attach() first.")
        return self._state

    @property
    def _live_saver(self) -> Saver:
        if self._saver is None:
            raise ConfigurationError("The callbacks were not attached to a run. Call attach() first.")
        return self._saver

    @property
    def left_out(self) -> bool:
        """Whether the batch that comes next is not to be trained."""
        return bool(self._skip) and (self.progress.epoch, self.progress.batch) in self._skip

    @property
    def last_logs(self) -> Mapping[str, Any]:
        """The logs of the batch that was trained last."""
        return dict(self._last_logs or {})

    def _count(self, batch: int) -> bool:
        """Move on to the end of this batch; whether it was the epoch's last."""
        epoch, before, step = self.progress.epoch, self.progress.batch, self.progress.step
        # With several steps per execution the last one may be shorter than Keras' count of it.
        length = self._data.epoch_length(epoch)
        done = batch + self._offset + 1 if length is None else min(batch + self._offset + 1, length)
        self.progress = Progress(epoch, done, step + done - before)
        self._data.trained(done)
        self._trained_here = True
        return length is not None and done >= length

    def _restore(self) -> None:
        if self._resume is None:
            return
        resume, self._resume = self._resume, None if self._phase is not None else self._resume
        with replays_heard_by(lambda: self._beat(Section.STARTING, self.progress)):  # it may take hours, and is no hang
            for name, data in self._inputs():
                # With nothing left to train only what takes no time, for what the caller's own object remembers of its passes.
                if self._phase is not None or data.positioning == "seek":
                    data.restore(resume.position(name))
        # The generators come last: finding the data's position may draw from them.
        self._live_state.apply(resume.tensors, resume.meta, resume.frozen)
        memory.HOST.after_restoring()
        self._model.stop_training = resume.stopped
        self._on_restored()

    def _inputs(self) -> list[tuple[str, Input]]:
        validation = [] if self._validation is None else [("validation", self._validation)]
        return [("training", self._data), *validation]

    def _capture(
        self, metrics: Mapping[str, Any], *, logs: Any, score: float | None = None, final: bool = False, once: bool = False
    ) -> Snapshot:
        meta = {
            "logs": _plain_logs(keras_private.pythonify_logs(logs)),
            "stop_training": bool(self._model.stop_training),
            "monitor": self._monitor.record,
        }
        arrays: dict[str, Any] = {}
        meta["data"] = {name: plain.encode(data.position(), arrays, name) for name, data in self._inputs()}
        floats = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
        files = {DATA_FILE: arrays} if arrays else {}
        mode = self._monitor.mode
        return self._live_saver.capture(self.progress, floats, meta, files, score=score, mode=mode, final=final, once=once)

    def capture_final(self, metrics: Mapping[str, Any]) -> Snapshot:
        """The state after on_train_end: what fit leaves behind."""
        return self._capture(metrics, logs={}, final=True)

    def _leave(self) -> None:
        self._beat(Section.STOPPING, self.progress)
        notice = self._stop.notice
        deadline = None if notice is None or math.isinf(notice.deadline) else notice.deadline
        self._live_saver.make_way(deadline)
        durable = self._live_saver.wait(deadline) and self._live_saver.durable == self.progress
        self.put_back = self._live_state.hold()
        raise StopTraining(self.progress, durable=durable)


def _plain_logs(logs: Mapping[str, Any]) -> Any:
    """JSON of the logs; what is no plain number (an array from a custom metric) is left out."""
    return plain.encode({name: value for name, value in logs.items() if isinstance(value, (int, float))}, {}, "logs")
