"""Broken variants of the protocol. Each is a small change that somebody might make; the explorer has to catch every one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from chaos.crash_states import lives
from chaos.crash_states.explore import Bad, first_bad
from chaos.crash_states.persistence import Breadth
from resilient.manifest import MANIFEST_NAME
from resilient.store import commit, files, published, spare, store

BREADTH = Breadth(exhaustive=3, samples=6, pairs=12)  # enough for every one of them
Dispose = Callable[[Path], object]
_genuine_sync = files.sync_directory


class _Altered:
    """A module with some of its functions replaced."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One broken protocol, and the life in which it shows."""

    name: str
    says: str
    life: str
    protocol: Callable[[], contextlib.AbstractContextManager[object]]
    way: str = ""

    def caught(self) -> Bad | None:
        """The first state that it does not survive; None would mean that the explorer is blind to it."""
        return first_bad(lives.named(self.life), self.way, self.protocol, BREADTH)


@contextlib.contextmanager
def _synced_if(wanted: Callable[[Path], bool], *modules: Any) -> Iterator[None]:
    """Directories are synced only where `wanted`."""

    def sync(path: Path) -> None:
        if wanted(path):
            _genuine_sync(path)

    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.object(module, "sync_directory", sync))
        yield


def _no_file_sync() -> contextlib.AbstractContextManager[object]:
    def sync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.fsync(fd)

    return mock.patch.object(files, "os", _Altered(os, fsync=sync))


def _no_manifest_sync() -> contextlib.AbstractContextManager[object]:
    def sync(fd: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith(MANIFEST_NAME):
            os.fsync(fd)

    return mock.patch.object(files, "os", _Altered(os, fsync=sync))


def _sync_before_the_last_write() -> contextlib.AbstractContextManager[object]:
    def write(path: Path, size: int, chunks: Iterable[Any], *rest: Any) -> Any:
        entry = files.write_file(path, size, (content := b"".join(map(bytes, chunks)),), *rest)
        path.unlink()
        half = len(content) // 2
        files.write_file(path, half, (content[:half],))
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, content[half:])
        os.close(fd)
        return entry

    return mock.patch.object(commit, "write_file", write)


def _retried_sync() -> contextlib.AbstractContextManager[object]:
    def sync(fd: int) -> None:
        try:
            os.fsync(fd)
        except OSError:
            os.fsync(fd)

    return mock.patch.object(files, "os", _Altered(os, fsync=sync))


def _ignored_sync_error() -> contextlib.AbstractContextManager[object]:
    def sync(fd: int) -> None:
        with contextlib.suppress(OSError):
            os.fsync(fd)

    return mock.patch.object(files, "os", _Altered(os, fsync=sync))


def _no_directory_sync() -> contextlib.AbstractContextManager[object]:
    return _synced_if(lambda path: not path.name.startswith(".tmp-"), commit)


def _no_parent_sync() -> contextlib.AbstractContextManager[object]:
    return _synced_if(lambda path: path.name != "checkpoints", commit)


def _no_sync_above() -> contextlib.AbstractContextManager[object]:
    return _synced_if(lambda path: False, files)


def _no_sync_at_the_start() -> contextlib.AbstractContextManager[object]:
    genuine = commit.recover

    def recover(parent: Path, dispose: Dispose) -> None:
        with _synced_if(lambda path: False, commit):
            genuine(parent, dispose)

    return mock.patch.object(store, "recover", recover)


def _no_sync_at_quarantine() -> contextlib.AbstractContextManager[object]:
    def move(source: Path, target: Path) -> None:
        shutil.copytree(source, target)
        shutil.rmtree(source)

    return mock.patch.object(commit, "move", move)


def _in_place() -> contextlib.AbstractContextManager[object]:
    def publish(temporary: Path, target: Path) -> None:
        with contextlib.suppress(FileExistsError):
            target.mkdir()
        for path in sorted(temporary.iterdir()):
            (target / path.name).unlink(missing_ok=True)  # renaming a link onto another of the same file does nothing
            path.rename(target / path.name)
        temporary.rmdir()
        _genuine_sync(target)

    return mock.patch.object(commit, "_publish", publish)


def _overwritten() -> contextlib.AbstractContextManager[object]:
    """Not even with new files."""

    def publish(temporary: Path, target: Path) -> None:
        if not target.exists():
            temporary.rename(target)
            return
        for path in sorted(temporary.iterdir()):
            with open(target / path.name, "wb") as file:
                file.write(path.read_bytes())
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
        temporary.rmdir()

    return mock.patch.object(commit, "_publish", publish)


def _removed_before_the_rename() -> contextlib.AbstractContextManager[object]:
    def publish(temporary: Path, target: Path) -> None:
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)

    return mock.patch.object(commit, "_publish", publish)


def _removed_before_durable() -> contextlib.AbstractContextManager[object]:
    genuine = commit._publish

    def publish(temporary: Path, target: Path) -> None:
        replaced = genuine(temporary, target)
        if replaced is not None:
            shutil.rmtree(replaced)

    return mock.patch.object(commit, "_publish", publish)


def _pruned_in_place() -> contextlib.AbstractContextManager[object]:
    def discard(paths: Iterable[Path], dispose: Dispose) -> None:
        for path in paths:
            shutil.rmtree(path)

    return mock.patch.object(store, "discard", discard)


def _trash_not_synced() -> contextlib.AbstractContextManager[object]:
    genuine = commit.discard

    def discard(paths: Iterable[Path], dispose: Dispose) -> None:
        with _synced_if(lambda path: False, commit):
            genuine(paths, dispose)

    return mock.patch.object(store, "discard", discard)


def _moved() -> contextlib.AbstractContextManager[object]:
    def link(source: Path, target: Path, **how: Any) -> None:
        os.rename(source, target)

    return mock.patch.object(spare, "os", _Altered(os, link=link, unlink=lambda path: None))


@contextlib.contextmanager
def _pruned_before_the_commit() -> Iterator[None]:
    """Only one has room, so the old ones go first."""
    genuine = store.Store._write

    def write(self: store.Store, target: Path, *arguments: Any) -> Any:
        commit.discard((path for path in sorted(target.parent.glob("step-*")) if path != target), shutil.rmtree)
        return genuine(self, target, *arguments)

    with mock.patch.object(store.Store, "_write", write):
        yield


def _rename_before_sync() -> contextlib.AbstractContextManager[object]:
    """The name first, and then one sync after the other."""
    genuine = commit._publish

    def publish(temporary: Path, target: Path) -> Path | None:
        replaced = genuine(temporary, target)
        _genuine_sync(target.parent)
        for path in sorted(target.iterdir()):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        _genuine_sync(target)
        return replaced

    stack = contextlib.ExitStack()
    stack.enter_context(_no_file_sync())
    stack.enter_context(_no_directory_sync())
    stack.enter_context(mock.patch.object(commit, "_publish", publish))
    return stack


def _manifest_first() -> contextlib.AbstractContextManager[object]:
    """The directory gets its name when the manifest is there, and the tensors follow."""
    genuine = commit._publish
    made: dict[Path, Path] = {}

    def publish(temporary: Path, target: Path) -> Path | None:
        aside = temporary.with_name(f"{temporary.name[:-1]}0")
        temporary.rename(aside)
        temporary.mkdir()
        (aside / MANIFEST_NAME).rename(temporary / MANIFEST_NAME)
        _genuine_sync(temporary)
        made[target] = aside
        replaced = genuine(temporary, target)
        _genuine_sync(target.parent)
        for path in sorted(aside.iterdir()):
            path.rename(target / path.name)
        _genuine_sync(target)
        aside.rmdir()
        return replaced

    return mock.patch.object(commit, "_publish", publish)


def _kept_link_not_synced() -> contextlib.AbstractContextManager[object]:
    def sync(path: Path) -> None:
        if not path.name.endswith(".resilient"):
            _genuine_sync(path)

    return mock.patch.object(published, "files", _Altered(files, sync_directory=sync))


def _published_without_sync() -> contextlib.AbstractContextManager[object]:
    return mock.patch.object(published, "_sync_file")


def _damage_swept() -> contextlib.AbstractContextManager[object]:
    """What is damaged is looked at only after it was replaced, as this project once did it."""

    def make_way(self: store.Store, target: Path) -> None:
        return

    return mock.patch.object(store.Store, "_make_way", make_way)


def _journal_not_synced() -> contextlib.AbstractContextManager[object]:
    return mock.patch("resilient.journal.Journal._flush")


MUTANTS = (
    Mutant("no fsync of files", "the tensors and the manifest are left to the page cache", "grow", _no_file_sync),
    Mutant("no fsync of the manifest", "the one small file is taken to be safe", "grow", _no_manifest_sync),
    Mutant("fsync before the last write", "half of each file is written after its fsync", "grow", _sync_before_the_last_write),
    Mutant("no fsync of the directory", "the files' names in the new directory are not saved", "grow", _no_directory_sync),
    Mutant("no fsync of the parent", "the checkpoint's own name is not saved", "grow", _no_parent_sync),
    Mutant("no fsync above", "new directories are not saved in their parents", "grow", _no_sync_above),
    Mutant("rename before fsync", "the name first, the content after it", "grow", _rename_before_sync),
    Mutant("manifest first", "the name with the manifest, the tensors after it", "grow", _manifest_first),
    Mutant("files in place", "one new file after the other takes its name in the old directory", "replace", _in_place),
    Mutant("content in place", "the old files are written over", "replace", _overwritten),
    Mutant("remove, then rename", "the old checkpoint goes before the new one has its name", "replace", _removed_before_the_rename),
    Mutant("delete before durable", "the old checkpoint goes before the new one's name is saved", "replace", _removed_before_durable),
    Mutant("prune before the commit", "old checkpoints make room for the new one", "grow", _pruned_before_the_commit),
    Mutant("prune in place", "old checkpoints are deleted under their own names", "grow", _pruned_in_place),
    Mutant("prune without fsync", "they are deleted before their new names are saved", "grow", _trash_not_synced),
    Mutant("written over too soon", "they are written over before their new names are saved", "over", _trash_not_synced),
    Mutant("moved, not linked", "a file to write over is renamed into the new directory, and only that is synced", "over", _moved),
    Mutant("start without fsync", "what a killed commit left is deleted before the commit is saved", "restart", _no_sync_at_the_start),
    Mutant("fsync tried again", "a failed fsync is repeated on the same file and believed", "refused", _retried_sync),
    Mutant("fsync error ignored", "a failed fsync is taken for a success", "refused", _ignored_sync_error),
    Mutant("quarantine by copy", "what is damaged is copied and deleted", "quarantine", _no_sync_at_quarantine),
    Mutant("damage replaced", "what is damaged is moved away after the new one has its name", "damaged final", _damage_swept),
    Mutant("publish without fsync", "a ModelCheckpoint file is renamed unsaved", "publish", _published_without_sync),
    Mutant("kept link unsaved", "the link to an overwritten file is not saved", "publish", _kept_link_not_synced),
    Mutant("journal without fsync", "a durable event is left to the page cache", "journal", _journal_not_synced),
)


def named(name: str) -> Mutant:
    """The mutant of that name."""
    return next(mutant for mutant in MUTANTS if mutant.name == name)


def caught(name: str) -> Bad | None:
    """See `Mutant.caught`; by name, which other processes can be told."""
    return named(name).caught()
