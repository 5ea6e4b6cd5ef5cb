"""What an attempt goes on from: the checkpoint that `resume` asks for, the state after the run's end, the line of history."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from resilient.callback import Resume
from resilient.errors import CheckpointCorruptError
from resilient.heartbeat import Heartbeat
from resilient.journal import Journal, read
from resilient.saver import Line
from resilient.store import Checkpoint, Store


@dataclasses.dataclass(frozen=True)
class Start:
    """What an attempt begins with: a checkpoint or nothing, the run's settings and the state after its end if there is one."""

    checkpoint: Checkpoint | None
    final: Checkpoint | None
    line: Line
    run: Mapping[str, Any]

    @property
    def resume(self) -> Resume | None:
        """The checkpoint as the callbacks want it."""
        if self.checkpoint is None:
            return None
        manifest = self.checkpoint.manifest
        return Resume(manifest.progress, self.checkpoint.tensors, manifest.state, self.checkpoint.frozen)


class Opening:
    """Reads a run directory whose lock is held; moves damaged checkpoints to quarantine on the way.

    Args:
        store, journal: of the run.
        resume: "latest", "best", a step, or False.
        chosen: told what the run goes on from before its settings are asked for.
        heartbeat: told what the run goes on from; a supervisor may want it older than the latest.
    """

    def __init__(
        self,
        store: Store,
        journal: Journal,
        resume: str | int | bool,
        chosen: Callable[[Resume | None], None],
        heartbeat: Heartbeat,
    ) -> None:
        self._store = store
        self._journal = journal
        self._resume = resume
        self._chosen = chosen
        self._heartbeat = heartbeat

    def open(self, fresh_settings: Callable[[], Mapping[str, Any]]) -> Start:
        """What to go on from; `fresh_settings` gives the settings of a run that begins now."""
        final = self._read_final()
        checkpoint, sent_back = self._pick(final)
        manifests = self._store.manifests()
        sequence = max([m.sequence for m in manifests] + ([final.manifest.sequence] if final else []), default=0)
        if checkpoint is None:
            self._warn_of_lost_checkpoints()
            self._chosen(None)
            return Start(None, None, Line(uuid.uuid4().hex, sequence, abandons=bool(manifests)), fresh_settings())
        manifest = checkpoint.manifest
        self._heartbeat.resumed(manifest.progress.step)
        if final is not None and (final.manifest.run_id != manifest.run_id or final.manifest.sequence <= manifest.sequence or sent_back):
            final = None  # of an older line of history, or the run has gone on since
        # Not only when the run is sent back now: a kill may have come before an earlier attempt could drop what it left behind.
        abandons = any(m.run_id != manifest.run_id or m.progress.step > manifest.progress.step for m in manifests)
        line = Line(
            manifest.run_id,
            sequence,
            best=manifest.state["best_score"],
            abandon_from=manifest.progress.step,
            abandons=abandons,
        )
        start = Start(checkpoint, final, line, manifest.state["settings"])
        self._chosen(start.resume)
        return start

    def _pick(self, final: Checkpoint | None) -> tuple[Checkpoint | None, bool]:
        """The checkpoint to go on from, and whether newer ones of the line are given up by that."""
        if self._resume is False:
            return None, True
        # A step is read first: if it is damaged the caller hears of it, and nothing has been moved.
        named = self._store.load(self._resume) if isinstance(self._resume, int) else None
        latest = self._store.latest(self._quarantined)
        if self._resume == "latest" or latest is None:
            earlier = None if latest is None else self._earlier(latest)
            return earlier or latest, earlier is not None
        chosen = named or (latest if latest.best else self._best())
        finished = (
            final is not None and final.manifest.run_id == latest.manifest.run_id and final.manifest.sequence > latest.manifest.sequence
        )
        if chosen is None or (self._resume == "best" and finished):  # nothing was judged yet, or the same call again after the end
            return latest, False
        return chosen, chosen.manifest.sequence < latest.manifest.sequence

    def _earlier(self, latest: Checkpoint) -> Checkpoint | None:
        """The newest valid checkpoint of the run that is as old as the supervisor wants, None where it does not care or there is none."""
        at_most = self._heartbeat.orders.resume_at_most
        for manifest in reversed(self._store.manifests()):
            step = manifest.progress.step
            if at_most is not None and step <= at_most and manifest.run_id == latest.manifest.run_id:
                with contextlib.suppress(CheckpointCorruptError):
                    return self._store.load(step)
        return None

    def _best(self) -> Checkpoint | None:
        """The best valid one; None, that is the latest, where all that were judged are damaged."""
        try:
            return self._store.best(self._quarantined)
        except CheckpointCorruptError as error:
            warnings.warn(f"{error} The latest valid checkpoint is used instead.", stacklevel=2)
            return None

    def _read_final(self) -> Checkpoint | None:
        try:
            return self._store.load_final()
        except CheckpointCorruptError as error:
            self._store.quarantine("final", str(error))
            self._quarantined("final", str(error))
            return None

    def _warn_of_lost_checkpoints(self) -> None:
        """Beginning anew where a run has saved before is rarely what was meant: a wrong mount, a directory deleted by mistake."""
        saved: list[dict[str, Any]] = []
        if self._resume is not False:
            with contextlib.suppress(OSError):  # a journal that cannot be read has nothing to tell
                saved = [event for event in read(self._store.directory) if event["event"] == "saved"]
        if saved:
            warnings.warn(
                f"The journal in {self._store.directory} tells of a checkpoint of step {saved[-1].get('step')}, and there is none now: "
                "training starts afresh. If that is not meant, stop it and put the checkpoints back.",
                stacklevel=2,
            )

    def _quarantined(self, name: str, reason: str) -> None:
        self._journal.append("quarantined", name=name, reason=reason)
        warnings.warn(
            f"{name} in {self._store.directory} is damaged ({reason}) and was moved to quarantine/; the next older one is used.",
            stacklevel=2,
        )
