"""Between the training loop and the disk: captures when it is time, has the writer commit, and knows what is durable."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from resilient.errors import StorageError
from resilient.journal import Journal
from resilient.keep import Keep
from resilient.manifest import Manifest, Progress, better
from resilient.policy import Backoff, Cadence, Costs, Since
from resilient.state import Capture, State
from resilient.store import Store
from resilient.writer import Writer


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One captured moment on its way to the disk. `final`: the state after the end of training."""

    progress: Progress
    capture: Capture
    metrics: Mapping[str, float]
    score: float | None
    mode: str
    meta: Mapping[str, Any]
    final: bool = False
    captured: float = 0.0


@dataclasses.dataclass
class Line:
    """The line of history that is written: its identity, the last sequence number used, the best score so far."""

    run_id: str
    sequence: int
    best: float | None = None
    abandon_from: int | None = None  # the step the run was sent back to, where that left newer checkpoints behind
    abandons: bool = False


class Saver:
    """Saves one run.

    Args:
        store, journal, state: of the run.
        line: where the history stands; changed by every commit.
        cadence, keep: when to save and what stays.
        common: JSON that every manifest carries (settings, environment).
        before_commit: waits, on the writer's thread, for what a checkpoint refers to.
    """

    def __init__(
        self,
        store: Store,
        journal: Journal,
        state: State,
        *,
        line: Line,
        cadence: Cadence,
        keep: Keep,
        common: Mapping[str, Any],
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._state = state
        self._line = line
        self._cadence = cadence
        self._keep = keep
        self._common = common
        self._before_commit = before_commit
        self._costs = Costs()
        self._last_captured = time.monotonic()
        self._last_step = 0
        self._durable: Progress | None = None
        self._warnings: list[str] = []
        self._lock = threading.Lock()
        self._writer: Writer[Snapshot] = Writer(self._commit, self._failed, Backoff())

    @property
    def durable(self) -> Progress | None:
        """The newest position that is committed and synced, None before the first."""
        return self._durable

    def continue_from(self, progress: Progress) -> None:
        """The run was restored from this committed position."""
        self._durable = progress
        self._last_step = progress.step
        self._last_captured = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a recovery checkpoint is due after `step` batches. Cheap: it is asked after every batch."""
        since = Since(time.monotonic() - self._last_captured, self._last_step, step)
        return self._cadence.due(since, self._costs) and self._writer.idle

    def capture(
        self,
        progress: Progress,
        metrics: Mapping[str, float],
        meta: Mapping[str, Any],
        files: Mapping[str, Mapping[str, Any]],
        *,
        score: float | None,
        mode: str,
        final: bool,
    ) -> Snapshot:
        """Snapshot of this moment, with `files` beside those of the state; nothing is written yet."""
        started = time.perf_counter()
        state = self._state.capture()
        capture = Capture({**state.files, **files}, state.meta)
        taken = time.perf_counter() - started
        return Snapshot(progress, capture, metrics, score, mode, meta, final, taken)

    def submit(self, snapshot: Snapshot, *, must: bool = False) -> None:
        """Have it written in the background; `must`: no later one may take its place. Raises StorageError if the disk refuses for good."""
        self._last_captured = time.monotonic()
        self._last_step = snapshot.progress.step
        self._writer.submit(snapshot, must=must)

    def tell(self) -> None:
        """Warn, on the training thread, of what went wrong on the writer's."""
        with self._lock:
            found, self._warnings = self._warnings, []
        for text in found:
            warnings.warn(text, stacklevel=3)
        self._writer.raise_if_broken()

    def wait(self, deadline: float | None = None) -> bool:
        """Wait until everything submitted is durable; False if the deadline (monotonic) came first or the disk refuses for good."""
        return self._writer.wait(deadline)

    def close(self) -> None:
        """End the writer's thread."""
        self._writer.close()

    def _commit(self, snapshot: Snapshot) -> None:
        self._before_commit()
        started, cpu = time.perf_counter(), time.thread_time()
        is_best = self._is_best(snapshot.score, snapshot.mode)
        manifest = Manifest(
            progress=snapshot.progress,
            sequence=self._line.sequence + 1,
            run_id=self._line.run_id,
            created=dt.datetime.now(dt.UTC),
            metrics=snapshot.metrics,
            score=snapshot.score,
            mode=None if snapshot.score is None else snapshot.mode,
            best=is_best,
            state={**self._common, **snapshot.capture.meta, **snapshot.meta, "best_score": snapshot.score if is_best else self._line.best},
            files={},
        )
        commit = self._store.commit_final if snapshot.final else self._store.commit
        written = commit(manifest, snapshot.capture.files)
        self._line.sequence += 1
        if is_best:
            self._line.best = snapshot.score
        self._durable = snapshot.progress
        seconds = time.perf_counter() - started
        # On a machine whose cores all train, the writer's own CPU time is what saving takes from training, beside the capture.
        self._costs = Costs(training=snapshot.captured + time.thread_time() - cpu, writing=seconds)
        self._journal.append(
            "saved", **_position(snapshot.progress), final=snapshot.final, best=is_best, nbytes=written.nbytes,
            seconds=round(seconds, 6), capture_seconds=round(snapshot.captured, 6), sequence=written.sequence,
        )  # fmt: skip
        self._tidy(written)

    def _tidy(self, written: Manifest) -> None:
        """Remove what the retention rules do not keep. That the disk refuses this is no failure of the save."""
        try:
            if self._line.abandons:
                self._store.drop_abandoned(self._line.run_id, written.sequence, self._line.abandon_from)
                self._line.abandons = False
            self._store.prune(self._keep)
        except StorageError as error:
            self._warn(f"Old checkpoints could not be removed: {error}")

    def _is_best(self, score: float | None, mode: str) -> bool:
        if score is None or score != score:
            return False
        return self._line.best is None or better(mode)(score, self._line.best)

    def _failed(self, error: BaseException, failures: int) -> None:
        self._journal.append("save_failed", error=str(error), failures=failures)
        self._warn(f"A checkpoint could not be saved (failure {failures} in a row, training goes on): {error}")

    def _warn(self, text: str) -> None:
        with self._lock:
            self._warnings.append(text)


def _position(progress: Progress) -> dict[str, Any]:
    return {"step": progress.step, "epoch": progress.epoch, "batch": progress.batch}
