"""The commit protocol: a checkpoint appears under its name complete and durable, or not at all.

Temporary sibling directory -> every file written and fsynced -> manifest last, fsync -> fsync the directory -> rename -> fsync the
parent. Only then is it acknowledged. Removal goes the other way: rename to a trash name, fsync the parent, delete (now, at the next
start, or by writing the next checkpoint over it, see `spare`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import uuid
from typing import TYPE_CHECKING, Any

from resilient.errors import CheckpointCorruptError, CheckpointMismatchError, ConfigurationError
from resilient.manifest import MANIFEST_NAME, FileEntry, Manifest, decode
from resilient.store import kernel, parts, safetensors_format
from resilient.store.files import make_directories, sync_directory, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from resilient.store.output import Buffer, WriteOptions
    from resilient.store.parts import NewFile
    from resilient.store.safetensors_format import Layout

    Dispose = Callable[[Path], object]

# Exact, because other people's files lie in a run directory too.
_LEFTOVER = re.compile(r"\.(tmp|trash)-[0-9a-f]{32}")
_REPLACED = re.compile(r"\.replaced-(step-\d{12}|final)", re.ASCII)


class CommitCancelled(Exception):  # noqa: N818  nothing is wrong
    """The commit was given up before it was acknowledged; nothing of it has a committed name."""


@dataclasses.dataclass(frozen=True)
class Committed:
    """A commit that is durable: its manifest, the bytes of that, and the directory that it replaced, under a temporary name."""

    manifest: Manifest
    encoded: bytes
    replaced: Path | None


def write_checkpoint(target: Path, manifest: Manifest, files: Mapping[str, NewFile], options: WriteOptions) -> Committed:
    """Commits `files` and `manifest` as the directory `target`, in place of one that is there.

    Raises:
        OSError: nothing was committed, and no temporary is left (but what was replaced, if syncing the parent failed: then
            it is not known which of the two a power cut would show).
        ConfigurationError: something in `files` or `manifest` cannot be saved.
        CommitCancelled: it was.
    """
    layouts = {_checked_name(name): None if file.surely_same else file.hand_over() for name, file in files.items()}
    options.planned()
    temporary = target.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        written, encoded = _write_directory(temporary, manifest, files, layouts, options)
        replaced = _publish(temporary, target)
    except BaseException as error:
        _clear_away(temporary, options, given_up=isinstance(error, CommitCancelled))
        raise
    sync_directory(target.parent)
    return Committed(written, encoded, replaced)


def _clear_away(temporary: Path, options: WriteOptions, *, given_up: bool) -> None:
    """A commit that was given up leaves its files to the next one. After a failure that may need all the room there is."""
    spare = options.reused.spare if options.reused is not None else None
    if spare is not None and given_up:
        with contextlib.suppress(OSError):
            spare.give_back(temporary)
            return
    with contextlib.suppress(OSError):
        if spare is not None:
            spare.drop()
    shutil.rmtree(temporary, ignore_errors=True)


def _checked_name(name: str) -> str:
    if not name.endswith(safetensors_format.SUFFIX):
        raise ConfigurationError(f"File {name!r} cannot be saved. Name it <name>{safetensors_format.SUFFIX}.")
    return name


def _write_directory(
    temporary: Path,
    manifest: Manifest,
    files: Mapping[str, NewFile],
    layouts: Mapping[str, Layout | None],
    options: WriteOptions,
) -> tuple[Manifest, bytes]:
    _check_encodable(manifest, files)  # before the data is written, not after
    temporary.mkdir()
    entries = {name: _write_part(temporary / name, file, layouts[name], options) for name, file in files.items()}
    written = dataclasses.replace(manifest, files=entries)
    encoded = written.encode()
    write_file(temporary / MANIFEST_NAME, len(encoded), [encoded], options)
    sync_directory(temporary)
    return written, encoded


def _write_part(path: Path, file: NewFile, layout: Layout | None, options: WriteOptions) -> FileEntry:
    """The file written, or linked to where its bytes are already."""
    if file.earlier is not None and file.may_link(layout) and parts.linked(file.earlier, path):
        return dataclasses.replace(file.earlier.entry, positions=file.positions)
    layout = layout or file.hand_over()
    _move_into_huge_pages(layout, options)
    entry = write_file(path, layout.size, _until(options.cancelled, layout.last_chunks()), options)
    return dataclasses.replace(entry, positions=file.positions)


def _move_into_huge_pages(layout: Layout, options: WriteOptions) -> None:
    """Unless somebody waits: an emergency has no later save that would gain by it."""
    if options.reused is None:
        return
    pages = options.reused.huge_pages
    for array in filter(pages.worth_moving, layout.arrays):
        if options.awaited() or options.cancelled():
            return
        pages.move(array)


def _until(cancelled: Callable[[], bool], chunks: Iterable[Buffer]) -> Iterator[Buffer]:
    for chunk in chunks:
        if cancelled():
            raise CommitCancelled
        yield chunk


def _check_encodable(manifest: Manifest, files: Mapping[str, NewFile]) -> None:
    """What we could not read back must not be committed: it would look like damage at the next start."""
    entries = {name: FileEntry(0, "0" * 32, file.positions) for name, file in files.items()}
    try:
        if manifest.created.tzinfo is None or not _has_only_text_keys(manifest.state):
            raise ValueError("'created' has no time zone, or a key in 'state' is not text.")
        decode(dataclasses.replace(manifest, files=entries).encode(), "the new checkpoint")
    except (TypeError, ValueError, RecursionError, CheckpointCorruptError, CheckpointMismatchError) as error:
        raise ConfigurationError(
            f"The manifest of step {manifest.progress.step} cannot be saved: {error} Its fields have to be of the documented types, "
            "and its state plain JSON."
        ) from error


def _has_only_text_keys(value: Any) -> bool:
    """JSON would turn the key 1 into "1" without a word, and the state would come back another one."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _has_only_text_keys(item) for key, item in value.items())
    return not isinstance(value, list | tuple) or all(map(_has_only_text_keys, value))


def _publish(temporary: Path, target: Path) -> Path | None:
    if not os.path.lexists(target):
        temporary.rename(target)
        return None
    if kernel.exchange(temporary, target):
        return temporary
    # Two renames: killed in between, the old one is found under a name that `recover` knows how to bring back.
    aside = target.parent / f".replaced-{target.name}"
    target.rename(aside)
    try:
        temporary.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    return aside


def discard(paths: Iterable[Path], dispose: Dispose | None) -> None:
    """Takes their names from directories that have committed ones, durably: so none is ever seen half deleted, or written over.

    Args:
        paths: of the directories.
        dispose: deletes what is left of each, or puts it to other use; None: that is left to `recover`.
    """
    trash = []
    for path in paths:
        trash.append(path.parent / f".trash-{uuid.uuid4().hex}")
        path.rename(trash[-1])
    for parent in {path.parent for path in trash}:
        sync_directory(parent)
    if dispose is not None:
        for path in trash:
            dispose(path)


def recover(parent: Path, dispose: Dispose) -> None:
    """Cleans `parent` of what a killed commit or removal left: brings back what was only moved aside, has `dispose` delete the rest."""
    leftovers = []
    for path in sorted(parent.iterdir()):
        replaced = _REPLACED.fullmatch(path.name)
        if replaced and not os.path.lexists(parent / replaced[1]):
            path.rename(parent / replaced[1])
        elif replaced or _LEFTOVER.fullmatch(path.name):
            leftovers.append(path)
    # What made the leftovers obsolete, a rename or an exchange, may not be durable yet; it has to be before they go.
    sync_directory(parent)
    for path in leftovers:
        try:
            if not path.is_dir() or path.is_symlink():  # not of our making
                path.unlink(missing_ok=True)
            elif _LEFTOVER.fullmatch(path.name):
                dispose(path)
            else:  # kept under this name it would be brought back one day
                shutil.rmtree(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # its owner is at work there, as `resilient doctor` may be at any time
                raise


def move(source: Path, target: Path) -> None:
    """Durable rename of `source` to `target`, which must not exist, in another directory of the same file system."""
    source.rename(target)
    sync_directory(target.parent)
    sync_directory(source.parent)


def put_aside(source: Path, folder: Path, name: str, reason: str) -> Path:
    """Moves `source` into `folder` (made if need be), durably, under `name` or what follows it there, beside a note that says why.

    Returns:
        Where it is now.
    """
    make_directories(folder)
    target, count = folder / name, 1
    while os.path.lexists(target):
        count += 1
        target = folder / f"{name}.{count}"
    move(source, target)
    _write_note(target.with_name(f"{target.name}.reason.txt"), f"{reason}\n")
    return target


def _write_note(path: Path, text: str) -> None:
    """A small text file for a human to read; that it cannot be written is no reason to stop."""
    data = text.encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):
        write_file(path, len(data), [data])
