"""What a report tells, gathered from a run directory that may be live. Nothing on disk is changed, and no checkpoint's data is read."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path

from resilient import journal
from resilient.accounts import Run, accounts
from resilient.errors import CheckpointMismatchError
from resilient.manifest import CheckpointInfo, Manifest
from resilient.observing import Observer, quarantined
from resilient.reading import Survey, monitored
from resilient.status import Status
from resilient.store.oserrors import storage_errors
from resilient.store.reading import Absent, Damaged, read_manifest
from resilient.store.store import FINAL, QUARANTINE

_REASON_ENDING = ".reason.txt"
_MOST_REASON = 2000  # bytes read of a note


@dataclasses.dataclass(frozen=True)
class Quarantined:
    """What was moved out of the way: its name there, why, and its size in bytes."""

    name: str
    reason: str
    nbytes: int


@dataclasses.dataclass(frozen=True)
class Facts:
    """Everything that the page is made of.

    Attributes:
        directory: the run directory.
        taken: when it was looked at (aware).
        alive: whether a process trains there now.
        status: what it does now, or why nothing does.
        runs: the lines of history that the journal tells of, oldest first; the report is about the last one.
        survey: the checkpoints.
        newest: the newest manifest that can be read, that of the final state included; None if there is none.
        quarantine: what lies there.
    """

    directory: Path
    taken: dt.datetime
    alive: bool
    status: Status
    runs: Sequence[Run]
    survey: Survey
    newest: Manifest | None
    quarantine: Sequence[Quarantined]

    @property
    def run(self) -> Run | None:
        """The present line of history, None where the journal tells of no attempt."""
        return self.runs[-1] if self.runs else None

    @property
    def latest(self) -> CheckpointInfo | None:
        """What a restore would use, as far as sizes and manifests tell; None if nothing was saved."""
        newest = self.survey.checkpoints[-1] if self.survey.checkpoints else None
        final = self.survey.final
        return final if final is not None and (newest is None or final.step >= newest.step) else newest

    @property
    def monitored(self) -> str | None:
        """The metric that says what "best" means, None where no manifest tells."""
        return monitored([*([self.newest] if self.newest else []), *reversed(self.survey.manifests)])


def gather(directory: str | os.PathLike[str]) -> Facts:
    """Look at a run directory once.

    Raises:
        ConfigurationError: `directory` does not exist or is no run directory.
        StorageError: it cannot be read.
    """
    observer = Observer(directory)
    path, seen = observer.directory, observer.look()
    alive, runs = seen.facts.trainer is not None, seen.runs
    if seen.skipped:  # `resilient status` is content with the newest part of a long journal; this is about all of it
        with storage_errors("read the journal", path):
            runs = accounts(journal.read(path), seen.facts.now if alive else None)
    return Facts(
        directory=path,
        taken=seen.facts.now,
        alive=alive,
        status=seen.status,
        runs=runs,
        survey=seen.survey,
        newest=_newest(path, seen.survey),
        quarantine=_quarantine(path),
    )


def _newest(path: Path, survey: Survey) -> Manifest | None:
    """The manifest that knows most of the run's history."""
    found = list(survey.manifests[-1:])
    if survey.final is not None:
        with contextlib.suppress(Absent, Damaged, CheckpointMismatchError):  # a live run has replaced it a moment ago
            found.append(read_manifest(path / FINAL))
    return max(found, key=lambda manifest: manifest.sequence, default=None)


def _quarantine(path: Path) -> list[Quarantined]:
    place = path / QUARANTINE
    return [
        Quarantined(name, _reason(place / f"{name}{_REASON_ENDING}"), _bytes_below(place / name))
        for name in quarantined(path)
        if not name.startswith(".")
    ]


def _reason(note: Path) -> str:
    try:
        with open(note, "rb") as file:
            return file.read(_MOST_REASON).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _bytes_below(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # removed while we looked
                continue
    return total
