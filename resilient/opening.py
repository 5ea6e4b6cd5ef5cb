"""What an attempt goes on from: the checkpoint that `resume` asks for, the state after the run's end, the line of history."""

from __future__ import annotations

import dataclasses
import uuid
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from resilient.callback import Resume
from resilient.errors import CheckpointCorruptError, ConfigurationError
from resilient.journal import Journal
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
        return Resume(manifest.progress, self.checkpoint.tensors, manifest.state)


class Opening:
    """Reads a run directory whose lock is held; moves damaged checkpoints to quarantine on the way.

    Args:
        store, journal: of the run.
        resume: "latest", "best", a step, or False.
    """

    def __init__(self, store: Store, journal: Journal, resume: str | int | bool) -> None:
        self._store = store
        self._journal = journal
        self._resume = resume

    def open(self, fresh_settings: Callable[[], Mapping[str, Any]]) -> Start:
        """What to go on from; `fresh_settings` gives the settings of a run that begins now."""
        checkpoint, abandons = self._pick()
        final = self._read_final()
        manifests = self._store.manifests()
        sequence = max([m.sequence for m in manifests] + ([final.manifest.sequence] if final else []), default=0)
        if checkpoint is None:
            line = Line(uuid.uuid4().hex, sequence, "min", abandons=bool(manifests))
            return Start(None, None, line, fresh_settings())
        manifest = checkpoint.manifest
        if final is not None and (final.manifest.run_id != manifest.run_id or final.manifest.sequence <= manifest.sequence or abandons):
            final = None  # of an older line of history, or the run has gone on since
        line = Line(
            manifest.run_id,
            sequence,
            "min",
            best=manifest.state["best_score"],
            abandon_from=manifest.progress.step,
            abandons=abandons,
        )
        return Start(checkpoint, final, line, manifest.state["settings"])

    def _pick(self) -> tuple[Checkpoint | None, bool]:
        """The checkpoint to go on from, and whether newer ones of the line are given up by that."""
        if self._resume is False:
            return None, True
        latest = self._store.latest(self._quarantined)
        if self._resume == "latest" or (self._resume == "best" and latest is None):
            return latest, False
        if latest is None:
            raise ConfigurationError(
                f'resume={self._resume} names a step, and {self._store.directory} has no checkpoint. Use resume="latest".'
            )
        chosen = self._store.best(self._quarantined) if self._resume == "best" else self._store.load(int(self._resume))
        if chosen is None:  # nothing was judged yet
            return latest, False
        return chosen, chosen.manifest.sequence < latest.manifest.sequence

    def _read_final(self) -> Checkpoint | None:
        try:
            return self._store.load_final()
        except CheckpointCorruptError as error:
            self._store.quarantine("final", str(error))
            self._quarantined("final", str(error))
            return None

    def _quarantined(self, name: str, reason: str) -> None:
        self._journal.append("quarantined", name=name, reason=reason)
        warnings.warn(
            f"{name} in {self._store.directory} is damaged ({reason}) and was moved to quarantine/; the next older one is used.",
            stacklevel=2,
        )
