"""Reading a run that may be live: what is there, whether it is sound, and its weights into a model. Nothing on disk is changed."""

from __future__ import annotations

import dataclasses
import numbers
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from resilient.errors import CheckpointCorruptError, CheckpointMismatchError, ConfigurationError
from resilient.heartbeat import home_of
from resilient.journal import JOURNAL_NAME
from resilient.keep import ranked
from resilient.manifest import CheckpointInfo, Manifest, parse_step_name
from resilient.store import Checkpoint, Problem, Store
from resilient.store.lock import LOCK_NAME
from resilient.store.oserrors import storage_errors
from resilient.store.reading import Absent, Damaged, check_sizes, describe
from resilient.store.store import CHECKPOINTS, FINAL

_TOLD = 3  # names of damaged checkpoints in a sentence
_ATTEMPTS = 5  # a live run may prune what was listed a moment ago; it never prunes its newest, so a second look finds something


def checkpoints(directory: str | os.PathLike[str]) -> list[CheckpointInfo]:
    """Checkpoints of a run, oldest first; [] if it has not saved any yet. Their data is not read (see `verify`).

    Raises:
        ConfigurationError: `directory` does not exist or is no run directory.
        StorageError: it cannot be read.
    """
    return Store(run_directory(directory)).infos()


def verify(directory: str | os.PathLike[str]) -> list[Problem]:
    """Re-read and re-hash every checkpoint of a run and its final state.

    Returns:
        One `Problem(path, reason)` for each that is not what was saved; [] if all are.

    Raises:
        ConfigurationError: `directory` does not exist or is no run directory.
        StorageError: it cannot be read.
    """
    return Store(run_directory(directory)).verify()


def restore(model: Any, directory: str | os.PathLike[str], which: str | int = "latest") -> CheckpointInfo:
    """Load weights and seed generators of a run into `model`, and the optimizer's state if the model is compiled.

    A damaged checkpoint is passed over with a warning and left where it is; the next older valid one (for "best": the next best) is used.

    Args:
        model: a built Keras model with the variables of the run's.
        directory: the run directory; another process may be training there.
        which: "latest" (the final state where training has ended), "best" by the monitored metric, or a step.

    Returns:
        What was restored.

    Raises:
        ConfigurationError: `which` is none of these, there is no such checkpoint, or `directory` is no run directory.
        CheckpointCorruptError: there are checkpoints and none that could be used is valid.
        CheckpointMismatchError: the model is not the run's, or a newer version wrote the checkpoint; the model was not changed.
        StorageError: the disk refused.
    """
    _checked_step(which, ("latest", "best"))
    checkpoint = choose(directory, which)
    from resilient.state import apply_to_model  # imports Keras, which nothing else in this module needs

    apply_to_model(model, checkpoint)
    return checkpoint.info


def run_directory(directory: str | os.PathLike[str]) -> Path:
    """`directory` as a path, if a run was ever started there.

    Raises:
        ConfigurationError: it does not exist, is a file, or holds no run; one sentence says which, and what to name instead.
    """
    if not isinstance(directory, (str, os.PathLike)) or not os.fspath(directory):
        raise ConfigurationError(f"directory={directory!r} is not a path. Name the run directory that was given to resilient.fit.")
    path = home_of(Path(directory))
    with storage_errors("look for a run", path):
        if not path.exists():
            raise ConfigurationError(f"There is no directory {path}. Name the run directory that was given to resilient.fit.")
        if not path.is_dir():
            raise ConfigurationError(f"{path} is a file. Name the run directory that was given to resilient.fit.")
        if _holds_run(path):
            return path
        above = next((parent for parent in path.absolute().parents[:2] if _holds_run(parent)), None)
    remedy = f"Name {above}, the run directory above it" if above else "Name the directory that was given to resilient.fit"
    raise ConfigurationError(f"{path} is not a run directory: nothing in it was written by resilient. {remedy}.")


def holds_run(directory: Path) -> bool:
    """Whether a run was ever started there, or what it left lies there."""
    return _holds_run(home_of(directory))


def _holds_run(path: Path) -> bool:
    return any((path / name).exists() for name in (CHECKPOINTS, FINAL, LOCK_NAME, JOURNAL_NAME))


@dataclasses.dataclass(frozen=True)
class Survey:
    """What lies in a run directory, as far as can be known without reading the data.

    Attributes:
        manifests: of `checkpoints`, in the same order.
        checkpoints: those that decode and are complete by their sizes, oldest first.
        final: the state after the end of training, None if there is none.
        damaged: the others, with what is wrong.
        newer: written by a newer version of this library; not damaged, but unreadable here.
    """

    manifests: Sequence[Manifest]
    checkpoints: Sequence[CheckpointInfo]
    final: CheckpointInfo | None
    damaged: Sequence[Problem]
    newer: Sequence[Problem]


def survey(directory: str | os.PathLike[str]) -> Survey:
    """Look at everything in a run directory once. Raises as `checkpoints`."""
    path = run_directory(directory)
    found = {place: finding for place in _places(path) if (finding := _look(place)) is not None}
    # Of all that decode, the damaged included: `best` means the same here as in `Store.infos`.
    best = {info.path: info.best for info in Store(path).infos()}
    sound = sorted(((m, p) for p, m in found.items() if isinstance(m, Manifest) and p.name != FINAL), key=lambda pair: pair[0].sequence)
    final = found.get(path / FINAL)
    return Survey(
        manifests=[manifest for manifest, _ in sound],
        checkpoints=[describe(manifest, place, best=best.get(place, False)) for manifest, place in sound],
        final=describe(final, path / FINAL, best=False) if isinstance(final, Manifest) else None,
        damaged=[Problem(place, str(finding)) for place, finding in found.items() if isinstance(finding, Damaged)],
        newer=[Problem(place, str(finding)) for place, finding in found.items() if isinstance(finding, CheckpointMismatchError)],
    )


def monitored(newest_first: Iterable[Manifest]) -> str | None:
    """The metric that says what "best" means: what the run judged by, else what it was told to, else what has the value of the score."""
    for manifest in newest_first:
        judged, settings = manifest.state.get("monitor"), manifest.state.get("settings")
        if isinstance(judged, list) and len(judged) == 3 and isinstance(judged[2], str):
            return judged[2]
        asked = settings.get("monitor") if isinstance(settings, Mapping) else None
        if isinstance(asked, str) and asked in manifest.metrics:
            return asked
        named = [name for name, value in manifest.metrics.items() if value == manifest.score]
        if named:
            return named[0]
    return None


def refusal(found: Survey) -> str | None:
    """Why `fit` would refuse to start, None where it would not, as far as can be known without reading the data.

    It never begins anew over damaged checkpoints; the state after the end of training is none that it goes on from.
    """
    if found.newer:
        return found.newer[0].reason
    damaged = [problem for problem in found.damaged if problem.path.name != FINAL]
    if found.checkpoints or not damaged:
        return None
    names = ", ".join(problem.path.name for problem in damaged[-_TOLD:]) + (", ..." if len(damaged) > _TOLD else "")
    return (
        f"none of the checkpoints is valid ({names}), so that the next start ends with CheckpointCorruptError (78). "
        "Put an intact copy there, or begin anew with resume=False"
    )


def _places(directory: Path) -> list[Path]:
    parent = directory / CHECKPOINTS
    with storage_errors("list the checkpoints", parent):
        names = sorted(os.listdir(parent)) if parent.is_dir() else []
    return [*(parent / name for name in names if parse_step_name(name) is not None), directory / FINAL]


def _look(place: Path) -> Manifest | Damaged | CheckpointMismatchError | None:
    try:
        return check_sizes(place)
    except Absent:
        return None
    except (Damaged, CheckpointMismatchError) as finding:
        return finding


def choose(directory: str | os.PathLike[str], which: str | int) -> Checkpoint:
    """The checkpoint that `which` means ("latest", "best", "final" or a step), verified. Raises and warns as `restore`."""
    step = _checked_step(which, ("latest", "best", FINAL))
    store = Store(run_directory(directory))
    if step is not None:
        return store.load(step)
    if which == FINAL:
        final = store.load_final()
        if final is None:
            raise ConfigurationError(f'There is no final state in {store.directory} yet: training has not ended. Use "latest" instead.')
        return final
    for _ in range(_ATTEMPTS):
        chosen = _first_valid(store, survey(store.directory), str(which))
        if chosen is not None:
            return chosen
    raise CheckpointCorruptError(f"The checkpoints in {store.directory} vanish while they are read. Try again, or name a step.")


def _checked_step(which: object, words: Sequence[str]) -> int | None:
    """The step, None for one of the words."""
    if isinstance(which, str) and which in words:
        return None
    if isinstance(which, bool) or not isinstance(which, (int, numbers.Integral)) or int(which) < 0:  # NumPy's integers too
        accepted = ", ".join(f'"{word}"' for word in words)
        raise ConfigurationError(f"which={which!r} is not accepted. Use {accepted}, or the number of a step.")
    return int(which)


def _first_valid(store: Store, found: Survey, which: str) -> Checkpoint | None:
    """The first valid candidate; None if they were pruned while we looked, and the caller has to look again."""
    if found.newer:
        raise CheckpointMismatchError(found.newer[0].reason)
    problems = [problem for problem in found.damaged if which == "latest" or problem.path.name != FINAL]
    candidates = list(_candidates(found, which))
    for manifest, final in candidates:
        try:
            checkpoint = store.load_final() if final else store.load(manifest.progress.step)
        except CheckpointCorruptError as error:
            problems.append(Problem(store.directory / FINAL if final else _place(found, manifest), str(error.__cause__ or error)))
            continue
        except ConfigurationError:  # gone since it was listed
            return None
        if checkpoint is not None:
            _warn(problems, checkpoint, which)
            return checkpoint
    if problems:
        raise _none_valid(store.directory, problems)
    if candidates:
        return None
    raise _nothing_there(store.directory, found, which)


def _candidates(found: Survey, which: str) -> Iterator[tuple[Manifest, bool]]:
    """Manifests in the order of preference, and whether each is the final state."""
    if which == "best":
        yield from ((manifest, False) for manifest in ranked(found.manifests))
        return
    newest_first = [(manifest, False) for manifest in reversed(found.manifests)]
    final = _look(found.final.path) if found.final else None
    if isinstance(final, Manifest):
        # A finished run that was continued with more epochs has checkpoints newer than its final state.
        newer = sum(manifest.sequence > final.sequence for manifest, _ in newest_first)
        newest_first.insert(newer, (final, True))
    yield from newest_first


def _place(found: Survey, manifest: Manifest) -> Path:
    return Path(found.checkpoints[found.manifests.index(manifest)].path)


def _warn(problems: Sequence[Problem], used: Checkpoint, which: str) -> None:
    """Say what was passed over. Older damage does not matter to "latest"; what is undecodable has no score to tell for "best"."""
    step = used.manifest.progress.step
    for problem in problems:
        damaged = parse_step_name(problem.path.name)
        if which == "best" or damaged is None or damaged > step:
            warnings.warn(f"{problem.path} is damaged ({problem.reason}); step {step} is used instead.", stacklevel=5)


def _none_valid(directory: Path, problems: Sequence[Problem]) -> CheckpointCorruptError:
    findings = "; ".join(f"{problem.path.name}: {problem.reason}" for problem in problems)
    return CheckpointCorruptError(
        f"None of the checkpoints in {directory} that could be used is valid ({findings}). Put an intact copy there, or name another step."
    )


def _nothing_there(directory: Path, found: Survey, which: str) -> ConfigurationError:
    if which == "best" and found.checkpoints:
        return ConfigurationError(f'No checkpoint in {directory} has a value of the monitored metric yet. Use "latest" or a step instead.')
    return ConfigurationError(f"There is no checkpoint in {directory} yet. Wait for the run to save one, or name another directory.")
