"""What retention removes is written over by the next save, and only where nobody else can see it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from chaos.samples import MODEL, commit, give_up, is_sample, leftovers, manifest, prepared, tensors, written_over
from resilient.errors import StorageError
from resilient.keep import Keep
from resilient.manifest import Frozen, step_name
from resilient.store import Store, kernel, spare
from resilient.store.commit import MANIFEST_NAME
from resilient.store.reading import Absent, read_checkpoint

ONE = Keep(last=1, best=0)
BLOCKS = 9


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A run directory where small files too are written over, whatever the file system."""
    with written_over():
        probe = tmp_path / "probe"
        fd = os.open(probe, os.O_CREAT | os.O_WRONLY)
        leases = kernel.is_of_one_machine(fd) and kernel.nobody_else_has(fd)
        os.close(fd)
        if not leases:
            pytest.skip("no leases on the file system of the tests")
        yield tmp_path / "run"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were written over; not told by their inodes' numbers, which the file system gives to new files too."""
    genuine, names = spare.Spare.take, []

    def take(self: spare.Spare, path: Path, size: int) -> int | None:
        fd = genuine(self, path, size)
        if fd is not None:
            names.append(path.name)
        return fd

    monkeypatch.setattr(spare.Spare, "take", take)
    return names


def model(place: Path, step: int) -> Path:
    return place / "checkpoints" / step_name(step) / MODEL


def test_a_save_is_written_over_what_was_removed_before_it(place, taken):
    """Also where it is larger or smaller; what is read back is what was saved, and at the end nothing is left."""
    store = prepared(place)
    for step, blocks in enumerate((BLOCKS, BLOCKS, 5, 20, 3, BLOCKS), 1):
        commit(store, step, blocks=blocks)
        assert is_sample(store.load(step))
        assert taken == [MODEL] * max(0, step - 2)
        store.prune(ONE)
    assert len(leftovers(place)) == 1
    store.close()
    assert leftovers(place) == []
    assert store.verify() == []


def _open_here(path: Path) -> Callable[[], bytes]:
    file = path.open("rb")

    def read() -> bytes:
        with file:
            return file.read()

    return read


def _mapped_here(path: Path) -> Callable[[], bytes]:
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
    return lambda: mapping[:]


def _linked_elsewhere(path: Path) -> Callable[[], bytes]:
    copy = path.parent.parent.parent / "backup"
    os.link(path, copy)
    return copy.read_bytes


def _mapped_elsewhere(path: Path) -> Callable[[], bytes]:
    program = f"""
import mmap, sys
with open({os.fspath(path)!r}, "rb") as file:
    mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print(flush=True)
sys.stdin.read(1)
sys.stdout.buffer.write(mapping[:])
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return lambda: child.communicate(b"x")[0]


@pytest.mark.parametrize("hold", [_open_here, _mapped_here, _mapped_elsewhere, _linked_elsewhere])
def test_what_somebody_holds_stays_as_it_is(place, taken, hold):
    """A reader that has the file open or mapped, in this process or another, and a copy by link."""
    store = prepared(place)
    commit(store, 1, blocks=BLOCKS)
    content = model(place, 1).read_bytes()
    read = hold(model(place, 1))
    for step in (2, 3):
        commit(store, step, blocks=BLOCKS)
        store.prune(ONE)
    assert taken == []
    commit(store, 4, blocks=BLOCKS)
    assert taken == [MODEL]  # that of step 2
    assert read() == content
    assert is_sample(store.load(4))


def test_who_holds_a_lease_is_not_waited_for(place, taken):
    """A file server may, and has 45 s to give it back."""
    store = prepared(place)
    for step in (1, 2):
        commit(store, step, blocks=BLOCKS)
    held = os.open(model(place, 1), os.O_RDONLY)
    fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    store.prune(ONE)
    with mock.patch.object(kernel, "nobody_else_has") as asked:  # an open that has waited comes that far
        commit(store, 3, blocks=BLOCKS)
    assert not asked.called and taken == []
    os.close(held)
    assert is_sample(store.load(3))


def test_owner_and_permissions_are_those_of_a_new_file(place, taken):
    """Somebody has opened a checkpoint to the world, or the umask is another one now."""
    store = prepared(place)
    for step in (1, 2):
        commit(store, step, blocks=BLOCKS)
    model(place, 1).chmod(0o777)
    store.prune(ONE)
    commit(store, 3, blocks=BLOCKS)
    assert taken == []
    assert len({path.stat().st_mode for path in model(place, 3).parent.iterdir()}) == 1


def test_a_copy_under_way_finds_that_it_is_gone(place):
    """`cp -r` holds the directory open: what it has not come to yet it must not find with another content."""
    store = prepared(place)
    for step in (1, 2):
        commit(store, step, blocks=BLOCKS)
    held = os.open(place / "checkpoints" / step_name(1), os.O_RDONLY | os.O_DIRECTORY)
    store.prune(ONE)
    commit(store, 3, blocks=BLOCKS)
    for name in (MODEL, MANIFEST_NAME):
        with pytest.raises(FileNotFoundError):
            os.open(name, os.O_RDONLY, dir_fd=held)
    os.close(held)


def test_readers_never_see_a_torn_one(place):
    """They read beside a run that saves and removes as fast as it can: what they find is whole, or gone."""
    store = prepared(place)
    commit(store, 1, blocks=BLOCKS)
    over, read, wrong = threading.Event(), 0, []

    def look() -> None:
        nonlocal read
        while not over.is_set():
            for path in sorted((place / "checkpoints").glob("step-*")):
                try:
                    whole = is_sample(read_checkpoint(path))
                    read += 1
                    if not whole:
                        wrong.append(f"{path.name} has the bits of another one")
                except Absent:
                    continue
                except Exception as error:  # noqa: BLE001  whatever it is, the test has to hear of it
                    wrong.append(repr(error))

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for step in range(2, 150):
        commit(store, step, blocks=BLOCKS)
        store.prune(ONE)
    over.set()
    for reader in readers:
        reader.join()
    assert wrong == [] and read > 10


def test_a_frozen_part_that_others_link_to_is_not_written_over(place):
    """It lies in every checkpoint; the last that has it is the newest."""
    store = prepared(place)
    parts = {MODEL: Frozen(("table",), 0)}
    still = {MODEL: {"table": tensors(7, BLOCKS)[MODEL]["table"]}}
    for step in (1, 2, 3, 4):
        store.commit(manifest(step), still, parts)
        store.prune(ONE)
    assert (store.load(4).tensors[MODEL]["table"] == still[MODEL]["table"]).all()
    moved = {MODEL: {"table": tensors(8, BLOCKS)[MODEL]["table"]}}
    store.commit(manifest(5), moved, {MODEL: Frozen(("table",), 1)})
    assert (store.load(4).tensors[MODEL]["table"] == still[MODEL]["table"]).all()
    assert (store.load(5).tensors[MODEL]["table"] == moved[MODEL]["table"]).all()


def test_a_link_in_a_checkpoint_leads_nowhere(place):
    """Somebody has put a symbolic link where a file was: what it points to is not touched."""
    store = prepared(place)
    for step in (1, 2):
        commit(store, step, blocks=BLOCKS)
    precious = place / "precious"
    precious.write_bytes(bytes(2**16))
    with mock.patch.object(spare, "_is_worth_keeping", return_value=True):
        store.prune(ONE)
    (trash,) = (place / "checkpoints").glob(".trash-*")
    (trash / MODEL).unlink()
    (trash / MODEL).symlink_to(precious)
    commit(store, 3, blocks=BLOCKS)
    assert precious.read_bytes() == bytes(2**16)
    assert is_sample(store.load(3))


def test_a_save_that_was_given_up_leaves_its_files_to_the_next(place, taken):
    """Those it wrote over old ones and those it did not come to."""
    store = prepared(place)
    for step in (1, 2):
        commit(store, step, blocks=BLOCKS)
    store.prune(ONE)
    for step in (3, 4):
        give_up(store, step, BLOCKS)
        assert len(leftovers(place)) == 1
    commit(store, 5, blocks=BLOCKS)
    assert taken == [MODEL] * 3
    assert leftovers(place) == []
    give_up(store, 6, BLOCKS)  # there was nothing to write over
    commit(store, 7, blocks=BLOCKS)
    assert taken == [MODEL] * 4
    assert is_sample(store.load(7)) and leftovers(place) == []


def test_after_a_failure_nothing_is_held_back(place):
    """The next attempt may need all the room."""
    store = prepared(place)
    for step in (1, 2):
        commit(store, step, blocks=BLOCKS)
    store.prune(ONE)
    with mock.patch("resilient.store.kernel.allocate", side_effect=OSError(errno.ENOSPC, "full")), pytest.raises(StorageError):
        commit(store, 3, blocks=BLOCKS)
    assert leftovers(place) == []


def test_what_a_killed_process_left_is_written_over(place, taken):
    """By the process that trains next; who only prunes deletes it."""
    for step in (1, 2, 3):
        store = prepared(place)
        commit(store, step, blocks=BLOCKS)
        store.prune(ONE)
    assert taken == [MODEL]
    later = Store(place)
    later.sweep()
    later.close()
    assert leftovers(place) == []


def test_what_was_moved_aside_is_not_kept_under_that_name(place):
    """Killed between the two renames of a replacement: once the new one has its name, the old one could be brought back by mistake."""
    store = prepared(place)
    for sequence in (1, 2):
        commit(store, 5, sequence, blocks=BLOCKS)
    store.close()
    aside = place / "checkpoints" / f".replaced-{step_name(5)}"
    shutil.copytree(place / "checkpoints" / step_name(5), aside)
    store = prepared(place)
    assert not aside.exists()
    with mock.patch.object(kernel, "_renameat2", None):
        commit(store, 5, 3, blocks=BLOCKS)
    assert is_sample(store.load(5)) and not aside.exists()


@pytest.mark.parametrize("left", [0.5, 1.5])
def test_where_little_room_is_left_it_is_given_back(place, monkeypatch, left):
    """Kept only while as much is free besides."""
    store = prepared(place)
    for step in (1, 2):
        commit(store, step, blocks=BLOCKS)
    size = model(place, 1).stat().st_size
    monkeypatch.setattr(os, "statvfs", lambda path: types.SimpleNamespace(f_bavail=int(left * size), f_frsize=1))
    store.prune(ONE)
    assert bool(leftovers(place)) is (left > 1)


def test_on_other_file_systems_nothing_is_kept(place, taken, monkeypatch):
    """Another machine may have the file open, and this kernel would not know."""
    monkeypatch.setattr(kernel, "_ONE_MACHINE", set())
    store = prepared(place)
    for step in (1, 2, 3):
        commit(store, step, blocks=BLOCKS)
        store.prune(ONE)
        assert leftovers(place) == []
    assert taken == [] and is_sample(store.load(3))


def test_small_files_are_not_worth_it(tmp_path):
    """Of a megabyte and more only; everything else is deleted at once."""
    store = prepared(tmp_path)
    for step in (1, 2):
        commit(store, step, blocks=BLOCKS)
    store.prune(ONE)
    assert leftovers(tmp_path) == []
    assert is_sample(store.load(2))


def test_what_was_made_unwritable_is_deleted(place):
    """`chmod` on a checkpoint is no reason for a save to fail."""
    store = prepared(place)
    for step in (1, 2):
        commit(store, step, blocks=BLOCKS)
    store.prune(ONE)
    genuine = os.open

    def refused(path: object, flags: int, *rest: object, **keywords: object) -> int:
        if str(path).endswith(MODEL) and flags == spare._OVER:
            raise PermissionError(errno.EACCES, "no")
        return genuine(path, flags, *rest, **keywords)  # type: ignore[arg-type]

    with mock.patch.object(os, "open", refused):
        commit(store, 3, blocks=BLOCKS)
    assert is_sample(store.load(3))
    assert leftovers(place) == []


def test_what_cannot_be_deleted_is_told(place):
    """Not by the save, which is durable; by what removes old checkpoints, each time until it can be."""
    store = prepared(place)
    for step in (1, 2):
        commit(store, step, blocks=BLOCKS)
    store.prune(ONE)
    with mock.patch.object(shutil, "rmtree", side_effect=PermissionError(errno.EPERM, "immutable")):
        for step in (3, 4):
            commit(store, step, blocks=BLOCKS)
            with pytest.raises(StorageError, match="remove old checkpoints"):
                store.prune(ONE)
    commit(store, 5, blocks=BLOCKS)
    store.prune(ONE)
    assert is_sample(store.load(5))
    prepared(place).close()
    assert leftovers(place) == []


def test_who_sweeps_beside_somebody_else_is_not_disturbed(place):
    """`resilient doctor` makes and deletes a directory of its own at any time."""
    store = prepared(place)
    for number, error in enumerate((errno.ENOENT, errno.ENOTEMPTY)):
        (place / f".tmp-{number:032x}").mkdir()
        with mock.patch.object(shutil, "rmtree", side_effect=OSError(error, os.strerror(error))):
            store.prepare()
    store.prepare()
    assert leftovers(place) == []
