"""What would fail, before it does: the disk, the run directory and the machine, looked at and measured. Nothing of a run is changed."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

from resilient import reading
from resilient.doctoring import directory as run
from resilient.doctoring import machine, place
from resilient.doctoring.finding import Item, Level, ok
from resilient.durations import parse_duration
from resilient.errors import ConfigurationError, StorageError
from resilient.observing import Observation, Observer
from resilient.settings import DEFAULT_GRACE

__all__ = ["Item", "Level", "examine"]

_SAVES = 8  # the newest, whose durations are compared with the disk's speed


def examine(directory: Path, grace: float | None = None, environ: Mapping[str, str] = os.environ) -> Iterator[Item]:
    """Look at everything, one after the other; measuring the disk takes about a second.

    Args:
        directory: the run directory, or the one that it is going to be: then its disk is that of the folder above.
        grace: seconds from a request to stop to the end of the process; None: what the platform gives, or `fit`'s default.
        environ: of this process.

    Raises:
        ConfigurationError: `directory` is a file, or lies inside a run.
    """
    seconds, source = machine.grace(grace, environ, parse_duration(DEFAULT_GRACE, "grace"))
    seen = _observed(directory)
    there = _existing(directory)
    yield from _disk(there, seen, seconds, source)
    if seen is None:
        yield ok("run", f"{directory} does not hold a run yet.")
    else:
        yield from run.locks(directory)
        yield from run.leftovers(directory, lives=seen.facts.trainer is not None)
        yield from run.checkpoints(seen)
        yield from run.journal(directory, seen)
    yield from machine.notices(environ)
    yield from machine.schedulers(environ, seconds)
    yield machine.memory(_peak(seen), waited=_last_waited(seen))
    yield from machine.versions(_trained_with(seen))


def _observed(directory: Path) -> Observation | None:
    """None where no run has begun: there is no directory, or one that holds other things, as `fit` accepts it."""
    inside = any(reading.holds_run(parent) for parent in directory.absolute().parents[:2])
    if directory.is_dir() and (inside or reading.holds_run(directory)):
        return Observer(directory).look()  # which refuses the inside of a run
    if directory.exists() and not directory.is_dir():
        raise ConfigurationError(f"{directory} is a file. Name the run directory that is given to resilient.fit.")
    return None


def _existing(directory: Path) -> Path:
    """The directory, or the nearest one above it that there is."""
    path = Path(os.path.abspath(directory))
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _disk(there: Path, seen: Observation | None, seconds: float, source: str) -> Iterator[Item]:
    state, held = _state(seen)
    yield place.kind(there)
    speed = None
    try:
        with place.corner(there) as corner:
            yield from place.abilities(corner)
            speed = place.measure(corner)
            yield place.disk(speed)
    except StorageError as error:
        yield place.refused(error)
    yield from place.room(there, state, held)
    yield place.emergency(speed, state, _usual_save(seen), seconds, source)


def _state(seen: Observation | None) -> tuple[int | None, int]:
    """Bytes of the newest checkpoint, None where there is none, and of all."""
    infos = [] if seen is None else [*seen.survey.checkpoints, *([seen.survey.final] if seen.survey.final else [])]
    return (infos[-1].nbytes if infos else None), sum(info.nbytes for info in infos)


def _usual_save(seen: Observation | None) -> float | None:
    """Seconds that the last saves took, in the middle."""
    saves = seen.run.saves[-_SAVES:] if seen is not None and seen.run is not None else []
    return statistics.median(save.seconds for save in saves) if saves else None


def _peak(seen: Observation | None) -> int | None:
    """The most memory that the run is known to have used."""
    if seen is None or seen.run is None:
        return None
    known = [attempt.peak_rss for attempt in seen.run.attempts if attempt.peak_rss is not None]
    live = seen.facts.live
    return max([*known, *([live.rss] if live is not None and live.rss is not None else [])], default=None)


def _last_waited(seen: Observation | None) -> bool:
    """Whether training, which is not over, had to wait for the last saves, for lack of memory."""
    saves = seen.run.saves[-_SAVES:] if seen is not None and seen.run is not None else []
    return bool(saves) and not saves[-1].final and all(save.waited for save in saves)


def _trained_with(seen: Observation | None) -> Mapping[str, object] | None:
    manifests = seen.survey.manifests if seen is not None else []
    told = manifests[-1].state.get("environment") if manifests else None
    return told if isinstance(told, Mapping) else None
