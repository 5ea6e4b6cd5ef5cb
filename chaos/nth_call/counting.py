"""Fails the calls of an operation one after the other, and looks at what comes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from chaos.calls import Call, met
from chaos.faults import Schedule, fail_at, fail_from
from chaos.faults.disk import refuse
from chaos.nth_call.errnos import ERRNOS, ONCE_ONLY
from chaos.nth_call.operations import BrokenPromiseError, Operation, untidy
from chaos.samples import FAST, commit, is_sample, leftovers
from resilient.errors import CheckpointCorruptError, ResilientError
from resilient.manifest import parse_step_name
from resilient.store import Store
from resilient.store.reading import Absent, Damaged, read_checkpoint

MODES: dict[str, Callable[[int], Schedule]] = {"once": fail_at, "persistently": fail_from}
# A failure of one of these is met before anything was cleaned up, so the cleaning itself did not fail.
_BEFORE_CLEANING = frozenset({"write", "writev", "fallocate", "mkdir", "link", "statx", "mmap", "fcntl", "sync_file_range"})


@dataclasses.dataclass(frozen=True)
class Case:
    """Which call fails with what, and for how long."""

    operation: Operation
    call: str
    number: int
    mode: str
    nth: int

    def __str__(self) -> str:
        return f"{self.operation.name}: {self.call} {self.nth} fails {self.mode} with {errno.errorcode[self.number]}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of it: whether the operation `went_on`, and what is `wrong` (None: nothing)."""

    case: Case
    went_on: bool
    wrong: str | None


def calls_of(operation: Operation) -> Counter[str]:
    """How often the operation makes each call."""
    counted: Counter[str] = Counter()
    lock = threading.Lock()

    def count(call: Call, go: Callable[[], Any]) -> Any:
        with lock:
            counted[call.name] += 1
        return go()

    with _laid_down(operation) as place, met(count, place):
        operation.act(place)
    return counted


def outcomes(operation: Operation, *, every_errno: bool = True, stride: int = 1) -> Iterator[Outcome]:
    """Each call of the operation, each error, both modes; n grows by `stride` until nothing failed any more."""
    for call in calls_of(operation):
        numbers = ERRNOS[call] if every_errno else ERRNOS[call][:1]
        for mode, schedule in MODES.items():
            once = ONCE_ONLY.get(call, ()) if mode == "once" else ()
            for number in (*numbers, *once):
                yield from _until_it_succeeds(operation, call, number, mode, schedule, stride)


def _until_it_succeeds(
    operation: Operation, call: str, number: int, mode: str, schedule: Callable[[int], Schedule], stride: int
) -> Iterator[Outcome]:
    nth = 1
    while True:
        fault = schedule(nth)
        outcome = attempt(Case(operation, call, number, mode, nth), fault)
        if not fault.struck and outcome.wrong is None:
            return
        yield outcome
        if not fault.struck:  # it fails without a fault: the same would be said for ever
            return
        nth += stride


@contextlib.contextmanager
def _laid_down(operation: Operation) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=FAST) as base:
        place = Path(base) / "run"
        operation.before(place)
        yield place


def attempt(case: Case, fault: Schedule) -> Outcome:
    """One case, from the beginning."""
    with _laid_down(case.operation) as place:
        before = held()
        went_on, wrong = _act(case, fault, place)
        if wrong is None:
            wrong = leak(before) or _judge(case, place, went_on=went_on)
    return Outcome(case, went_on, wrong)


def _act(case: Case, fault: Schedule, place: Path) -> tuple[bool, str | None]:
    clear: tuple[type[Exception], ...] = (*case.operation.may_raise, CheckpointCorruptError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that something damaged was passed over
            with met(refuse(case.number, fault, (case.call,)), place):
                case.operation.act(place)
    except BrokenPromiseError as broken:
        return False, str(broken)
    except clear as error:
        return False, _unclear(error)
    except BaseException as error:  # noqa: BLE001  whatever else it is, it is not what a caller was promised
        return False, f"raised {error!r}"
    return True, None


def _unclear(error: Exception) -> str | None:
    """What keeps an error from being one clear sentence with a remedy; None if nothing."""
    text = str(error)
    if not isinstance(error, ResilientError):
        return None
    return None if text.endswith(".") and ". " in text and "\n" not in text else f"unclear: {text}"


Held = tuple[frozenset[str], frozenset[threading.Thread]]


def held() -> Held:
    """What this process holds: open files by number and target, and threads."""
    files = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing itself
            files.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return frozenset(files), frozenset(threading.enumerate())


def leak(before: Held) -> str | None:
    """What is held that was not before; None if nothing."""
    more = _more(before)
    if more:
        gc.collect()  # a mapping that an error's traceback still holds is no leak
        more = _more(before)
    return f"leaked: {more}" if more else None


def _more(before: Held) -> list[Any]:
    return [item for old, new in zip(before, held(), strict=True) for item in new - old]


def _judge(case: Case, place: Path, *, went_on: bool) -> str | None:
    operation = case.operation
    if operation.tidy and not went_on and case.mode == "once" and case.call in _BEFORE_CLEANING and untidy(place):
        return f"left over at once: {untidy(place)}"
    try:
        return _found(place, operation.newest) or _goes_on(place)
    except Exception as error:  # noqa: BLE001  the run cannot go on, whatever it is
        return f"afterwards: {error!r}"


def _found(place: Path, newest: int | None) -> str | None:
    """The newest durable checkpoint, in place or (where the disk said that it cannot be read) in quarantine, and valid."""
    if newest is None:
        return None
    sequences = [sequence for path in _checkpoints(place) if (sequence := _valid(path)) is not None]
    return None if max(sequences, default=-1) >= newest else f"checkpoint {newest} is lost, there are {sequences}"


def _checkpoints(place: Path) -> Sequence[Path]:
    candidates = [*(place / "checkpoints").glob("*"), *(place / "quarantine").glob("step-*"), place / "final"]
    return [path for path in candidates if path.is_dir()]


def _valid(path: Path) -> int | None:
    try:
        found = read_checkpoint(path)
    except (Damaged, Absent):
        return None
    return found.manifest.sequence if is_sample(found) else None


def _goes_on(place: Path) -> str | None:
    """The next start, without faults: it cleans up, finds what it should, and saves."""
    store = Store(place)
    store.prepare()
    latest = store.latest(lambda name, reason: None)
    if leftovers(place / "checkpoints"):
        return f"left over after the next start: {leftovers(place)}"
    if store.verify():
        return f"damaged after the next start: {store.verify()}"
    if latest is not None and (not is_sample(latest) or parse_step_name(latest.path.name) is None):
        return "the next start finds something else"
    step, sequence = (latest.manifest.progress.step, latest.manifest.sequence) if latest is not None else (0, 0)
    commit(store, step + 1, sequence + 100)
    found = store.latest(lambda name, reason: None)
    return None if found is not None and found.manifest.sequence == sequence + 100 else "the next save is not the newest"
