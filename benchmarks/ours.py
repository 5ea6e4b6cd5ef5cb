"""`resilient` behind the one interface. The only file here that knows its insides; the other measurements call `resilient.fit`."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import resilient
from benchmarks.methods import Method
from benchmarks.workload import Workload
from resilient.heartbeat import Heartbeat
from resilient.journal import Journal
from resilient.manifest import Manifest, Progress
from resilient.policy import EveryBatches
from resilient.saver import Line, Saver
from resilient.state import CallbackStates, State
from resilient.store import Store, WriteOptions

SETTLING = resilient.Keep().last + 1  # saves until retention removes a checkpoint; the next one writes its files over


class Resilient(Method):
    """The saver of `resilient.fit`, asked to save when the measurement wants it."""

    name = "resilient"

    def __init__(self, model: Any, directory: Path, callbacks: Sequence[Any] = ()) -> None:
        super().__init__(model, directory)
        self._store, self._journal = Store(directory), Journal(directory)
        self._store.prepare()
        self._keep = resilient.Keep()
        self._state = State(model, CallbackStates(callbacks))
        self._saver = Saver(
            self._store, self._journal, self._state,
            line=Line("benchmark", 0), cadence=EveryBatches(1), keep=self._keep, common={}, heartbeat=Heartbeat(),
        )  # fmt: skip
        self._step = self._settled = 0

    def settle(self, train: Callable[[], None]) -> None:
        """Save until retention has removed a checkpoint: from then on, nearly always, files are written over. `train` changes the state.

        Nobody waits for them: a save that somebody waits for moves no tensor into huge pages, and later ones would lack them.
        """
        for step in range(1, SETTLING + 1):
            train()
            self.save(step)
            self.let_end()
        self._settled = self._step

    def save(self, step: int) -> None:
        """What the end of a batch does in `resilient.fit` when a save is due."""
        self._step = step = self._settled + step
        snapshot = self._saver.capture(Progress(0, step, step), {}, {}, {}, score=None, mode="min", final=False, once=True)
        self._saver.submit(snapshot)

    def finished(self) -> bool:
        """The next save would be due at once, which it is not while the writer works."""
        return self._saver.due(self._step + 1)

    def wait(self) -> None:
        """Until it is durable; raises what went wrong."""
        self._saver.wait()
        self._saver.tell()

    def durable(self, step: int) -> None:
        """A commit with nothing running beside it, as in an emergency; durable when it returns."""
        capture, step = self._state.capture(), self._settled + step
        manifest = Manifest(
            Progress(0, step, step), sequence=step, run_id="benchmark", created=dt.datetime.now(dt.UTC), metrics={},
            score=None, mode=None, best=False, state=capture.meta, files={},
        )  # fmt: skip
        self._store.commit(manifest, capture.files, capture.frozen, options=WriteOptions(awaited=lambda: True))

    def restore(self) -> Any:
        """The public way."""
        resilient.restore(self.model, self.directory)
        return self.model

    def resume(self) -> None:
        """What a resumed `resilient.fit` does: find the newest valid checkpoint, check it against the model, apply it."""
        checkpoint = self._store.latest(lambda name, reason: None)
        if checkpoint is None:
            raise FileNotFoundError(self.directory)
        self._state.check(checkpoint.tensors, str(self.directory))
        self._state.apply(checkpoint.tensors, checkpoint.manifest.state, checkpoint.frozen)

    def clear(self) -> None:
        """Keep the newest only."""
        self._store.prune(resilient.Keep(last=1, best=0))

    def close(self) -> None:
        """End the writer."""
        self._saver.close()
        self._journal.close()


def settled(workload: Workload, directory: Path) -> Resilient:
    """Ours as it is in nearly all of a run: retention has removed a checkpoint, whose files the next one writes over."""
    ours = Resilient(workload.model, directory)
    ours.settle(functools.partial(workload.train, 1))
    return ours


def newest(directory: Path) -> resilient.CheckpointInfo:
    """The newest checkpoint of a run: its path and bytes."""
    return resilient.checkpoints(directory)[-1]
