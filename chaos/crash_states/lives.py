"""Lives of a run directory as the store sees them, to be cut anywhere; each knows how to judge what is found afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from chaos.calls import Met
from chaos.crash_states import judging
from chaos.crash_states.judging import DAMAGED_BYTES, JOURNALED, NEWEST, Judge
from chaos.faults import fail_at
from chaos.faults.disk import FailingSync
from chaos.samples import FROZEN, commit, give_up, manifest, prepared, small_blocks, tensors, written_over
from resilient.errors import StorageError
from resilient.journal import Journal
from resilient.keep import Keep
from resilient.manifest import step_name
from resilient.store import kernel, published
from resilient.store.files import sync_directory

Acknowledge = Callable[[str, int], None]


@dataclasses.dataclass(frozen=True)
class Life:
    """What happens in a run directory.

    Attributes:
        name: for tables.
        says: what happens, in a sentence.
        live: does it in the directory; tells what it was told is durable.
        judge: what is wrong with what a crash left, None if nothing; as the next start and a reader see it.
        before: what lies there durably beforehand.
        ways: variants of the machine it is lived on.
        fault: what the disk does meanwhile, made anew each time.
        restarts: whether what a start does to what a crash left is a life of its own, to be cut again.
    """

    name: str
    says: str
    live: Callable[[Path, Acknowledge], None]
    judge: Judge = judging.run
    before: Callable[[Path], None] = lambda place: None
    ways: tuple[str, ...] = ("",)
    fault: Callable[[], Met] = lambda: lambda call, go: go()
    restarts: bool = True


@contextlib.contextmanager
def way(name: str) -> Iterator[None]:
    """A variant of the machine: "" as it is, "two renames" without an exchange of names."""
    if name == "two renames":
        with mock.patch.object(kernel, "_renameat2", None):
            yield
    else:
        yield


WAYS = ("", "two renames")


def _grow(place: Path, acknowledge: Acknowledge) -> None:
    store = prepared(place)
    for sequence in (1, 2, 3):
        commit(store, 10 * sequence, sequence)
        acknowledge(NEWEST, sequence)
        store.prune(Keep(last=1, best=0))


@contextlib.contextmanager
def _in_blocks() -> Iterator[None]:
    """Files of several blocks are written directly, in pieces of whole pages."""
    with small_blocks(), mock.patch.object(kernel, "direct_alignment", return_value=kernel.Alignment(4096, 4096)):
        yield


def _over(place: Path, acknowledge: Acknowledge) -> None:
    """Files of checkpoints that were pruned are written over, those of a save that was given up, and what a start finds."""
    with _in_blocks(), written_over():
        store = prepared(place)
        for sequence, blocks in enumerate((9, 7, 8, 9), 1):
            if sequence == 4:
                store = prepared(place)
            if sequence > 2:
                give_up(store, 50, blocks=8)
            commit(store, 10 * sequence, sequence, blocks=blocks)
            acknowledge(NEWEST, sequence)
            store.prune(Keep(last=1, best=0))
        store.close()


def _large(place: Path, acknowledge: Acknowledge) -> None:
    """Files of several blocks that are written by a thread of their own."""
    with _in_blocks():
        store = prepared(place)
        for sequence in (1, 2):
            commit(store, 10 * sequence, sequence, blocks=9, awaited=True)
            acknowledge(NEWEST, sequence)
        store.prune(Keep(last=1, best=0))


def _replace(place: Path, acknowledge: Acknowledge) -> None:
    store = prepared(place)
    for sequence in (1, 2, 3):
        commit(store, 10, sequence, blocks=2)
        acknowledge(NEWEST, sequence)


def _finish(place: Path, acknowledge: Acknowledge) -> None:
    store = prepared(place)
    commit(store, 9, 1)
    acknowledge(NEWEST, 1)
    for sequence in (2, 3):
        store.commit_final(manifest(9, sequence), tensors(sequence), FROZEN)
        acknowledge("final", sequence)


def _send_back(place: Path, acknowledge: Acknowledge) -> None:
    store = prepared(place)
    for sequence, step in enumerate((10, 20, 15)):
        commit(store, step, sequence)
        acknowledge(NEWEST, sequence)
    store.drop_abandoned("first", 2, 10)


class _KilledError(BaseException):
    """The process dies here."""


def _restart(place: Path, acknowledge: Acknowledge) -> None:
    """Killed between the rename of a replacement and its sync; the next process sweeps the old one away and goes on."""
    store = prepared(place)
    commit(store, 10, 1)
    acknowledge(NEWEST, 1)

    def die_before_the_parent(path: Path) -> None:
        if path.name == "checkpoints":
            raise _KilledError
        sync_directory(path)

    with mock.patch("resilient.store.commit.sync_directory", die_before_the_parent), contextlib.suppress(_KilledError):
        commit(store, 10, 2)
    store = prepared(place)
    acknowledge(NEWEST, 1)
    found = store.load(10)
    store.continue_from(found, 0)
    commit(store, 20, 3)
    acknowledge(NEWEST, 3)


def _lay_down_damage(place: Path) -> None:
    store = prepared(place)
    for step in (1, 2, 3):
        commit(store, step)
    for step in (2, 3):
        os.truncate(place / "checkpoints" / step_name(step) / "model.safetensors", DAMAGED_BYTES)


def _quarantine(place: Path, acknowledge: Acknowledge) -> None:
    """A start finds the two newest damaged, passes them over, goes on, and saves one of them again."""
    acknowledge(NEWEST, 1)
    store = prepared(place)
    store.latest(lambda name, reason: None)
    for sequence, step in ((4, 2), (5, 3)):
        commit(store, step, sequence)
        acknowledge(NEWEST, sequence)


def _lay_down_a_damaged_final(place: Path) -> None:
    store = prepared(place)
    commit(store, 1)
    store.commit_final(manifest(1, 2), tensors(2), FROZEN)
    os.truncate(place / "final" / "optimizer.safetensors", DAMAGED_BYTES)


def _replace_damage(place: Path, acknowledge: Acknowledge) -> None:
    """The final state is damaged, and a new one takes its place."""
    acknowledge(NEWEST, 1)
    store = prepared(place)
    store.commit_final(manifest(1, 3), tensors(3), FROZEN)
    acknowledge("final", 3)


def _refused(place: Path, acknowledge: Acknowledge) -> None:
    """Fsyncs of files and of directories fail, and take the data with them; each save is made again until it succeeds."""
    store = prepared(place)
    for sequence in (1, 2):
        while True:
            with contextlib.suppress(StorageError):
                commit(store, 10 * sequence, sequence)
                break
        acknowledge(NEWEST, sequence)


def _failing_syncs() -> Met:
    return FailingSync(fail_at(7, 10, 16))


def _publish(place: Path, acknowledge: Acknowledge) -> None:
    """A file of the caller's is written three times; what was overwritten is kept as long as a checkpoint refers to it."""
    path = place / judging.PUBLISHED
    ledger = published.Ledger(path.parent, path.name, "run")
    ledger.mark(0)
    for serial in (1, 2, 3):
        published.publish(
            path,
            lambda to, serial=serial: to.write_bytes(judging.published_content(serial)),  # type: ignore[misc]
            before=lambda temporary, serial=serial: ledger.record(temporary, path, serial, None),  # type: ignore[misc]
        )
        acknowledge("published", serial)
        ledger.mark(serial)


def _make(place: Path) -> None:
    place.mkdir()


def _journal(place: Path, acknowledge: Acknowledge) -> None:
    """Two processes write the journal one after the other; the first one's last event is torn."""
    journal = Journal(place)
    for number in (1, 2):
        if journal.append("saved", durable=True, step=number):
            acknowledge(JOURNALED, number)
    journal.append("notice", kind="not durable")
    journal.close()
    journal = Journal(place)
    if journal.append("saved", durable=True, step=3, note="x" * 5000):
        acknowledge(JOURNALED, 3)
    journal.close()


LIVES = (
    Life("grow", "three checkpoints, the older ones pruned", _grow),
    Life("large", "files of many blocks, written directly by a thread", _large),
    Life("over", "each save written over the files of a removed one", _over),
    Life("replace", "the same step saved three times", _replace, ways=WAYS),
    Life("finish", "a checkpoint, and the final state twice", _finish, ways=WAYS),
    Life("send back", "a run sent back to an older step drops what it left behind", _send_back),
    Life("restart", "killed while replacing, swept by the next process, which goes on", _restart, ways=WAYS),
    Life("quarantine", "two damaged checkpoints passed over, and saved again", _quarantine, judging.evidence(2, 3), _lay_down_damage),
    Life("damaged final", "a damaged final state replaced", _replace_damage, judging.evidence(2), _lay_down_a_damaged_final, WAYS),
    Life("refused", "fsyncs that fail and lose the data, saved again", _refused, fault=_failing_syncs),
    Life("publish", "a ModelCheckpoint file written three times", _publish, judging.published_file, restarts=False),
    Life("journal", "durable events of two processes", _journal, judging.journal, _make, restarts=False),
)


def named(name: str) -> Life:
    """The life of that name."""
    return next(life for life in LIVES if life.name == name)


def recover(place: Path, acknowledge: Acknowledge) -> None:
    """What a start does with what it finds; what it found has to be found from then on."""
    store = prepared(place)
    found = store.latest(lambda name, reason: None)
    if found is not None:
        acknowledge(NEWEST, found.manifest.sequence)
