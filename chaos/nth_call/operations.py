"""What is done to a run directory, one operation at a time: how it lies there before, and what is done with it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from chaos.samples import FROZEN, commit, give_up, leftovers, manifest, prepared, small_blocks, tensors, written_over
from resilient import journal, reading
from resilient.errors import ConfigurationError, StorageError
from resilient.keep import Keep
from resilient.manifest import step_name
from resilient.policy import Backoff
from resilient.store import RunLock, Store, kernel, published
from resilient.writer import Writer


class BrokenPromiseError(Exception):
    """Something is not as it has to be; the message says what."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One thing that is done.

    Attributes:
        name: for tables.
        act: does it in the run directory, and raises what a caller would see.
        before: what lies there.
        may_raise: errors that are clear to whoever called.
        newest: sequence of the newest checkpoint beforehand, which must be found afterwards, or a newer one; None: there is none.
        tidy: whether after one failure nothing temporary is left, not even for the next start to sweep.
    """

    name: str
    act: Callable[[Path], object]
    before: Callable[[Path], object]
    may_raise: tuple[type[Exception], ...] = (StorageError,)
    newest: int | None = 2
    tidy: bool = False


def two(place: Path) -> Store:
    """A run with two checkpoints."""
    store = prepared(place)
    for step in (1, 2):
        commit(store, step)
    return store


def _in_use(place: Path) -> Store:
    """A store as in the middle of a training: it knows its newest checkpoint and what may be linked."""
    store = Store(place)
    store.continue_from(store.load(2), 0)
    return store


def _save(place: Path) -> None:
    commit(_in_use(place), 3)


def _save_large(place: Path) -> None:
    with small_blocks():
        commit(_in_use(place), 3, blocks=9, awaited=True)


def _save_over(place: Path) -> None:
    """Retention removes one, a save is written over it and given up, and the next is written over that."""
    with small_blocks(), written_over():
        store = _in_use(place)
        commit(store, 3, blocks=9)
        store.prune(Keep(last=1, best=0))
        give_up(store, 4, blocks=9)
        commit(store, 5, blocks=9)
        store.close()


def _two_large(place: Path) -> None:
    with small_blocks():
        store = prepared(place)
        for step in (1, 2):
            commit(store, step, blocks=9)


def _replace(place: Path) -> None:
    commit(_in_use(place), 2, 3)


def _replace_without_exchange(place: Path) -> None:
    with mock.patch.object(kernel, "_renameat2", None):
        commit(_in_use(place), 2, 3)


def _final(place: Path) -> None:
    Store(place).commit_final(manifest(2, 5), tensors(5), FROZEN)


def _with_final(place: Path) -> None:
    two(place).commit_final(manifest(2, 4), tensors(4), FROZEN)


def _retention(place: Path) -> None:
    Store(place).prune(Keep(last=1, best=0))


def _abandon(place: Path) -> None:
    Store(place).drop_abandoned("first", 2, 0)


def _damaged(place: Path) -> None:
    commit(two(place), 3)
    os.truncate(place / "checkpoints" / step_name(3) / "model.safetensors", 5)


def _restore(place: Path) -> None:
    store = Store(place)
    store.latest(lambda name, reason: None)
    store.load_final()


def _messy(place: Path) -> None:
    two(place)
    checkpoints = place / "checkpoints"
    for name in (f".tmp-{'0' * 32}", f".trash-{'1' * 32}"):
        (checkpoints / name).mkdir()
        (checkpoints / name / "model.safetensors").write_bytes(b"torn")
    (checkpoints / step_name(1)).rename(checkpoints / f".replaced-{step_name(1)}")


def _start(place: Path) -> None:
    with RunLock(place):
        store = prepared(place)
        store.latest(lambda name, reason: None)


def _look(place: Path) -> None:
    reading.checkpoints(place)
    reading.choose(place, "latest")
    reading.verify(place)


def _write_journal(place: Path) -> None:
    written = journal.Journal(place)
    try:
        done = [written.append("saved", durable=True, step=step) for step in (1, 2, 3)]
    finally:
        written.close()
    steps = [event["step"] for event in journal.read(place)]
    lost = [step for step, ok in zip((1, 2, 3), done, strict=True) if ok and step not in steps]
    if lost:
        raise BrokenPromiseError(f"events {lost} were written, says the journal, and are not there")


def _publish(place: Path) -> None:
    path = place / "models" / "best.bin"
    ledger = published.Ledger(path.parent, path.name, "run")
    ledger.mark(0)
    for serial in (1, 2):
        published.publish(path, _content(serial), before=_recorded(ledger, path, serial))
        ledger.mark(serial)
    ledger.roll_back(1)


def _content(serial: int) -> Callable[[Path], object]:
    return lambda to: to.write_bytes(bytes([serial]) * 100)


def _recorded(ledger: published.Ledger, path: Path, serial: int) -> Callable[[Path], None]:
    return lambda temporary: ledger.record(temporary, path, serial, None)


def _background(place: Path) -> None:
    """Three snapshots through the writing thread, which tries again and gives up after five failures in a row."""
    store = _in_use(place)
    failures: list[BaseException] = []

    def save(step: int) -> None:
        commit(store, step)
        store.prune(Keep(last=2, best=0))

    writer: Writer[int] = Writer(
        save,
        lambda error, count: failures.append(error),
        Backoff(first=0.0, longest=0.0),
    )
    try:
        for step in (3, 4, 5):
            writer.submit(step, must=True)
            writer.wait()
        writer.raise_if_broken()
    finally:
        writer.close()
    odd = [error for error in failures if not isinstance(error, StorageError)]
    if odd:
        raise BrokenPromiseError(f"the thread met {odd[0]!r}")


def _nothing(place: Path) -> None:
    return


OPERATIONS = (
    Operation("prepare", prepared, _nothing, newest=None),
    Operation("save", _save, two, tidy=True),
    Operation("save, large", _save_large, two, tidy=True),
    Operation("save over old files", _save_over, _two_large),
    Operation("replace", _replace, two),
    Operation("replace, two renames", _replace_without_exchange, two),
    Operation("final", _final, _with_final),
    Operation("retention", _retention, two),
    Operation("abandon", _abandon, two),
    Operation("restore", _restore, _with_final, (StorageError, ConfigurationError)),
    Operation("quarantine", _restore, _damaged, newest=2),
    Operation("start", _start, _messy),
    Operation("look", _look, _with_final, (StorageError, ConfigurationError)),
    Operation("journal", _write_journal, two, (OSError,)),  # `read` says so
    Operation("publish", _publish, two, (OSError,)),
    Operation("background", _background, two),
)


def named(name: str) -> Operation:
    """The operation of that name."""
    return next(one for one in OPERATIONS if one.name == name)


def untidy(place: Path) -> list[str]:
    """What is left over of a failed operation."""
    return leftovers(place)
