"""Between the training loop and the disk: captures when it is time, has the writer commit, and knows what is durable."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from resilient import memory
from resilient.errors import StorageError
from resilient.failures import observed_failures, peak_of_the_killed
from resilient.heartbeat import Heartbeat
from resilient.journal import Journal, read
from resilient.keep import Keep
from resilient.manifest import Frozen, Manifest, Progress, better
from resilient.memory import Copies
from resilient.overhead import Overhead, known_costs
from resilient.policy import Backoff, Cadence, Failures, Haste, Since
from resilient.state import RESTORED, Capture, State
from resilient.store import Checkpoint, CommitCancelled, Store, WriteOptions
from resilient.writer import Writer

_BIG_FILE = 2**20
_METRICS_TOLD = 8  # in an event: a hundred of them would fill the part of the journal that is read at every start
_PAST = 2**19  # bytes of the journal from which failures and costs are learned: many hours of a steady run, read in 30 ms at most


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One captured moment on its way to the disk.

    `copies`: room for what training copies until it is written; None where it has to wait for that.
    `final`: the state after the end of training. `once`: its tensors are let go as they are written, so that the next step need not copy
    them; but then it cannot be tried again.
    """

    progress: Progress
    capture: Capture
    metrics: Mapping[str, float]
    score: float | None
    mode: str
    meta: Mapping[str, Any]
    final: bool = False
    once: bool = False
    captured: float = 0.0
    copies: Copies | None = None


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
        heartbeat: told of each save, when it begins and when it is over.
        before_commit: waits, on the writer's thread, for what a checkpoint refers to.

    Attributes:
        pinned: something is to be written that no step may copy, for lack of memory: `unpin` before the next one.
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
        heartbeat: Heartbeat,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._state = state
        self._line = line
        self._keep = keep
        self._common = common
        self._heartbeat = heartbeat
        self._before_commit = before_commit
        past = _past(store)
        self._failures = observed_failures(past)
        self._overhead = Overhead(known_costs(past))
        self._opened = time.monotonic()
        self._cadence = cadence.retuned(self._overhead.costs, self._failures)
        self._told: Cadence | None = None  # the one whose choice is in the journal
        self._last_captured = time.monotonic()
        self._last_step = 0
        self._early = 0.0  # seconds by which the last ends of epochs were saved before their time
        self._durable: Progress | None = None
        self._given_up: Snapshot | None = None
        self._hasty = False
        self._warnings: list[str] = []
        self._lock = threading.Lock()
        memory.HOST.remember(peak_of_the_killed(past))
        self.pinned = False
        self._writer: Writer[Snapshot] = Writer(self._commit, self._failed, Backoff())

    @property
    def durable(self) -> Progress | None:
        """The newest position that is committed and synced, None before the first."""
        return self._durable

    def continue_from(self, checkpoint: Checkpoint) -> None:
        """The run is restored from this one."""
        progress = checkpoint.manifest.progress
        self._store.continue_from(checkpoint, RESTORED)
        self._durable = progress
        self._last_step = progress.step
        self._last_captured = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a recovery checkpoint is due after `step` batches. Cheap: it is asked after every batch."""
        now = time.monotonic()
        saving = self._overhead.saving and not self._writer.idle
        if self.owing:
            self._overhead.failed()
        self._overhead.batch(now, saving=saving)
        return not saving and (self.owing or self._cadence.due(self._since(now, step)))

    @property
    def owing(self) -> bool:
        """Whether the last save failed and only a new snapshot can make it good."""
        return self._writer.owing

    def new_stretch(self) -> None:
        """What went on since the last batch was no batch: it says nothing of what saves cost."""
        self._overhead.new_stretch()

    def _since(self, now: float, step: int) -> Since:
        return Since(now - self._last_captured - self._early, self._last_step, step)

    def capture(
        self,
        progress: Progress,
        metrics: Mapping[str, float],
        meta: Mapping[str, Any],
        files: Mapping[str, dict[str, Any]],
        *,
        score: float | None,
        mode: str,
        final: bool,
        once: bool,
    ) -> Snapshot:
        """Snapshot of this moment, with `files` beside those of the state; nothing is written yet."""
        started = time.perf_counter()
        state = self._state.capture()
        capture = Capture({**state.files, **files}, {**state.frozen, **_may_be_same(files)}, state.meta)
        copies = memory.HOST.claim(state.shared, self._warn)
        taken = time.perf_counter() - started
        return Snapshot(progress, capture, metrics, score, mode, meta, final, once, taken, copies)

    def submit(self, snapshot: Snapshot, *, must: bool = False) -> None:
        """Have it written in the background; `must`: no later one may take its place. Raises StorageError if the disk refuses for good."""
        now = time.monotonic()
        if not self.owing:  # what makes good a save that failed does not come early
            self._early = self._cadence.early(self._since(now, snapshot.progress.step))
        self._last_captured = now
        self._last_step = snapshot.progress.step
        self._writer.submit(snapshot, must=must, once=snapshot.once)
        self._overhead.begin()
        self.pinned = self.pinned or snapshot.copies is None

    def tell(self) -> None:
        """Warn, on the training thread, of what went wrong on the writer's."""
        with self._lock:
            found, self._warnings = self._warnings, []
        for text in found:
            warnings.warn(text, stacklevel=3)
        self._writer.raise_if_broken()

    def unpin(self) -> None:
        """Wait until what is pinned is durable, or the disk has refused it."""
        self._writer.wait_for_attempt()
        self.pinned = False

    def wait(self, deadline: float | None = None) -> bool:
        """Wait until everything submitted is durable; False if the deadline (monotonic) came first or the disk refuses it for good."""
        return self._writer.wait(deadline)

    def make_way(self, deadline: float | None) -> None:
        """Training ends, by the deadline (monotonic) if there is one: give up the commit under way if the newest snapshot has time.

        Where there is a deadline, what retention does not keep from now on is deleted at the next start.
        """
        self._hasty = deadline is not None
        older = self._writer.superseded
        left = math.inf if deadline is None else deadline - time.monotonic()
        costs = self._overhead.costs
        if older is not None and Haste(costs.writing if costs else None).gives_up(left):
            self._given_up = older

    def close(self) -> None:
        """End the writer's thread, and clean up unless that is left to the next start."""
        self._writer.close()
        if not self._hasty:
            self._store.close()

    def _commit(self, snapshot: Snapshot) -> None:
        self._heartbeat.saving()
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
        try:
            written = self._write(manifest, snapshot)
        except CommitCancelled:
            self._heartbeat.saved(None)
            return
        except Exception as error:
            if snapshot.once:  # it is not tried again, and nothing of it shall be copied meanwhile
                snapshot.capture.let_go()
                _forget_frames(error)
            raise
        self._line.sequence += 1
        if is_best:
            self._line.best = snapshot.score
        self._durable = snapshot.progress
        self._heartbeat.saved(snapshot.progress.step)
        seconds = time.perf_counter() - started
        self._overhead.written(capture=snapshot.captured, processor=time.thread_time() - cpu, writing=seconds)
        self._journal.append(
            "saved", **_position(snapshot.progress), final=snapshot.final, best=is_best, nbytes=written.nbytes,
            seconds=round(seconds, 6), capture_seconds=round(snapshot.captured, 6), sequence=written.sequence,
            metrics=_told(snapshot.metrics), waited=snapshot.copies is None, **self._tune(),
        )  # fmt: skip
        self._tidy(written)

    def _write(self, manifest: Manifest, snapshot: Snapshot) -> Manifest:
        files, frozen = snapshot.capture.files, snapshot.capture.frozen
        if snapshot.final:
            return self._store.commit_final(manifest, files, frozen)
        options = WriteOptions(cancelled=lambda: self._given_up is snapshot, awaited=lambda: self._writer.awaited)
        if snapshot.once:
            options = dataclasses.replace(options, planned=snapshot.capture.let_go)
        return self._store.commit(manifest, files, frozen, options=options)

    def _tune(self) -> dict[str, Any]:
        """Fit the cadence to what is known by now. What a save costs training, and the choice where it is a new one, for the journal."""
        costs, past = self._overhead.costs, self._failures
        failures = Failures(past.count, past.uptime + time.monotonic() - self._opened)  # none in vain: this attempt has saved
        self._cadence = self._cadence.retuned(costs, failures)
        choice = {} if self._cadence is self._told else self._cadence.choice
        self._told = self._cadence
        return {"training_seconds": round(costs.training, 6) if costs else None, **choice}

    def _tidy(self, written: Manifest) -> None:
        """Remove what the retention rules do not keep. That the disk refuses this is no failure of the save."""
        try:
            if self._line.abandons:
                self._store.drop_abandoned(self._line.run_id, written.sequence, self._line.abandon_from)
                self._line.abandons = False
            self._store.prune(self._keep, hastily=self._hasty)
        except StorageError as error:
            self._warn(f"Old checkpoints could not be removed: {error}")

    def _is_best(self, score: float | None, mode: str) -> bool:
        if score is None or score != score:
            return False
        return self._line.best is None or better(mode)(score, self._line.best)

    def _failed(self, error: BaseException, failures: int) -> None:
        self._heartbeat.saved(None)
        self._journal.append("save_failed", error=str(error), failures=failures)
        self._warn(f"A checkpoint could not be saved (failure {failures} in a row, training goes on): {error}")

    def _warn(self, text: str) -> None:
        with self._lock:
            self._warnings.append(text)


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what the functions held that an error has passed."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _may_be_same(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Frozen]:
    """Those of the data's files that are big enough to look whether the last checkpoint has the same (a shuffle buffer's state)."""
    return {
        name: Frozen(tuple(arrays), None) for name, arrays in files.items() if sum(array.nbytes for array in arrays.values()) >= _BIG_FILE
    }


def _told(metrics: Mapping[str, float]) -> dict[str, float]:
    """The losses and the first of the other metrics."""
    first = sorted(metrics, key=lambda name: name not in ("loss", "val_loss"))
    return {name: metrics[name] for name in first[:_METRICS_TOLD]}


def _past(store: Store) -> list[dict[str, Any]]:
    """The newest part of the journal; [] where the disk refuses: what it tells is worth less than the training."""
    try:
        return read(store.directory, _PAST)
    except OSError:
        return []


def _position(progress: Progress) -> dict[str, Any]:
    return {"step": progress.step, "epoch": progress.epoch, "batch": progress.batch}
