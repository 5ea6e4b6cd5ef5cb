"""The run directory: who has it, what lies there that should not, and what its journal tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from resilient import reading
from resilient.accounts import End, Run
from resilient.amounts import count, size
from resilient.doctoring.finding import Item, ok, problem, warning
from resilient.journal import JOURNAL_NAME
from resilient.observing import Observation, holder
from resilient.status import Holder, State
from resilient.store.lock import LOCK_NAME
from resilient.store.store import QUARANTINE
from resilient.supervisor.chronicle import LOCK_NAME as SUPERVISOR_LOCK

_TEMPORARY = (".tmp-", ".trash-")
_LONG = 256 * 2**20  # bytes of a journal


def locks(directory: Path) -> Iterator[Item]:
    """Who trains there, and who supervises."""
    trainer, supervisor = holder(directory / LOCK_NAME), holder(directory / SUPERVISOR_LOCK)
    if trainer is None and supervisor is None:
        yield ok("lock", "free: nobody trains here.")
    for name, found, path in (("lock", trainer, LOCK_NAME), ("supervisor", supervisor, SUPERVISOR_LOCK)):
        if found is not None:
            yield _held(name, found, directory / path)


def _held(name: str, found: Holder, path: Path) -> Item:
    who = f"pid {found.pid}" + (f" on host {found.host}" if not found.ours else "")
    if not found.ours:
        text = f"held by {who} when it was last taken, as far as can be known from here."
        return warning(name, text, "See there whether it still runs: a lock on a network file system need not be seen everywhere.")
    if found.pid is None or not psutil.pid_exists(found.pid):
        text = f"held, and {who} that took it is dead: a child that it left behind has it still, and no training can start."
        return problem(name, text, f"Find it with `fuser -v {path}`, and end it.")
    return ok(name, f"held by {who}, which lives.")


def leftovers(directory: Path, *, lives: bool) -> Iterator[Item]:
    """What processes that were killed or had to end have left behind, and what was found damaged."""
    folders = [directory, *(path for path in directory.iterdir() if path.is_dir() and path.name not in (QUARANTINE,))]
    found = [path for folder in folders for path in _listed(folder) if path.name.startswith(_TEMPORARY)]
    if found and not lives:
        yield ok("leftovers", f"{len(found)} unfinished or removed, {_size(found)}: the next start sweeps them away, or `resilient prune`.")
    quarantine = [path for path in _listed(directory / QUARANTINE) if not path.name.endswith(".reason.txt")]
    if quarantine:
        text = f"{', '.join(path.name for path in quarantine)} ({_size(quarantine)}) was found damaged and moved away."
        remedy = f"The reason is beside each, in {directory / QUARANTINE}. Check the disk, and delete them when you need them no more."
        yield warning("quarantine", text, remedy)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _size(paths: list[Path]) -> str:
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    total = 0
    for file in files:
        try:
            total += file.lstat().st_size
        except OSError:  # swept meanwhile
            continue
    return size(total)


def checkpoints(seen: Observation) -> Iterator[Item]:
    """Whether there is something to go on from. Their data is not read."""
    found = seen.survey
    refused, saves = reading.refusal(found), seen.run.saves if seen.run is not None else []
    for item in found.damaged:
        follows = "Put an intact copy there" if refused else "The next start passes it over"
        yield problem("checkpoint", str(item), f"{follows}. See all with `resilient verify`, and check the disk.")
    for item in found.newer:
        yield problem("checkpoint", str(item), "Install that version of resilient.")
    number = len(found.checkpoints) + (found.final is not None)
    if refused:
        what, _, remedy = refused.partition(". ")
        yield problem("checkpoints", f"{what}.", f"{remedy.rstrip('.')}.")
    elif found.checkpoints:
        yield ok("checkpoints", f"{number}, whole by their sizes (`resilient verify` reads them).")
    elif found.final is not None or saves:
        known = "there is the final state alone" if found.final is not None else f"the journal tells of step {saves[-1].step}"
        text = f"none, and {known}: the next start begins anew."
        yield problem("checkpoints", text, "Put them back, or check that the right disk is mounted, before you start it.")
    else:
        yield ok("checkpoints", "none yet.")


def journal(directory: Path, seen: Observation) -> Iterator[Item]:
    """Whether the diary can be read, and what it tells of the last attempts."""
    path = directory / JOURNAL_NAME
    size = path.stat().st_size if path.exists() else 0
    if size > _LONG:
        yield warning("journal", f"{size / 1e6:.0f} MB long.", f"Move {path} away while nothing runs; it is not needed to go on.")
    elif size and not os.access(path, os.W_OK):
        yield problem("journal", f"{path} may not be written by this user.", "Give this user the right, or start as the user who owns it.")
    elif seen.run is not None:
        yield ok("journal", f"{count(len(seen.run.attempts), 'attempt')}, {count(len(seen.run.saves), 'save')}.")
    yield from _story(seen, seen.run)


def _story(seen: Observation, run: Run | None) -> Iterator[Item]:
    state, why = seen.status.state, seen.status.why
    if state in (State.GAVE_UP, State.NEEDS_HUMAN, State.CRASHED, State.HUNG):
        yield problem("run", f"{state.value}: {why.rstrip('.')}.", "See `resilient status`, and docs/troubleshooting.md by what you see.")
    elif run is not None:
        yield ok("run", f"{state.value}{f': {why}' if why else ''}".rstrip(".") + ".")
    for text in seen.status.warnings:
        yield warning("run", text, "See `resilient status`.")
    last = run.attempts[-5:] if run is not None else []
    starved = [attempt for attempt in last if attempt.end is End.OUT_OF_MEMORY]
    if starved:
        text = f"{len(starved)} of the last {count(len(last), 'attempt')} ended for lack of memory."
        yield problem("memory", text, "Use a smaller batch, or give it more memory.")
