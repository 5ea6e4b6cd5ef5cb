"""Reading a checkpoint back: the one place that decides whether it is valid.

Valid means: the manifest decodes, its step is that of the directory's name, and every file it lists is a regular file of the
listed size and checksum whose tensors parse. Files beside those are ignored. Nothing is followed out of the directory.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import mmap
import os
import stat
from typing import TYPE_CHECKING

import numpy as np

from resilient.errors import CheckpointCorruptError
from resilient.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, CheckpointInfo, FileEntry, Manifest, decode, parse_step_name
from resilient.store import kernel, parts, safetensors_format
from resilient.store.checksum import checksum
from resilient.store.oserrors import storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from resilient.store.safetensors_format import Array

_READERS = 4
_HUGE_PAGE = 2**21  # bytes; where the machine's are larger (512 MB on some ARM), older kernels do not cope with files in them
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # NONBLOCK: a pipe in a file's place must not block us

# What the content of the directory can cause. Everything else (no permission, too many open files, no memory, a lost server) says
# nothing about the checkpoint: treating it as damage would throw away good ones.
_DAMAGE = {
    errno.ENOENT: "is missing",
    errno.ENOTDIR: "is not a directory",
    errno.ELOOP: "is a symbolic link",
    errno.EISDIR: "is a directory",
    errno.ENXIO: "is not a regular file",
    errno.EIO: "cannot be read: the disk reports an input/output error",
    errno.EUCLEAN: "cannot be read: the file system is damaged there",
    errno.EBADMSG: "cannot be read: the file system is damaged there",
}


class Damaged(Exception):  # noqa: N818 (a finding that is caught inside the room, not an error that reaches anyone)
    """What is on disk is not what was committed; the message says in which way."""


class Absent(Exception):  # noqa: N818
    """There is no directory of that name (any more)."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something in a run directory that is not what was saved: where, and in which way."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte was verified.

    Attributes:
        manifest: what it says about itself.
        path: its directory.
        tensors: file name -> tensor name -> array, in the order they were saved; read-only views on the mapped files,
            which stay readable when the checkpoint is removed; {} after `release`.
        best: whether it has the best score among the run's checkpoints.
    """

    manifest: Manifest
    path: Path
    tensors: dict[str, Mapping[str, Array]]
    best: bool = False

    def release(self) -> None:
        """Let go of the tensors: what was mapped of their files counts as memory of the process until then."""
        self.tensors.clear()

    @property
    def frozen(self) -> Mapping[str, tuple[str, ...]]:
        """File name -> names of the tensors that it has in a file shared with other checkpoints."""
        return parts.frozen_names(self.manifest.files, self.tensors)

    @property
    def info(self) -> CheckpointInfo:
        """The public description of it."""
        return describe(self.manifest, self.path, best=self.best)


Known = dict[str, tuple[bytes, Manifest]]  # name of a directory -> its manifest, as bytes and decoded


def describe(manifest: Manifest, path: Path, *, best: bool) -> CheckpointInfo:
    """The public description of the checkpoint at `path`."""
    progress = manifest.progress
    return CheckpointInfo(
        progress.step, progress.epoch, progress.batch, dict(manifest.metrics), best, path, manifest.nbytes, manifest.created
    )


def read_manifest(path: Path) -> Manifest:
    """Manifest of the checkpoint at `path`; its files are not looked at.

    Raises:
        Absent, Damaged: see there.
        CheckpointMismatchError: written by a newer version.
        StorageError: the reason lies outside the checkpoint.
    """
    with _opened(path) as directory:
        return _manifest(path, directory)


def check_sizes(path: Path, known: Known | None = None) -> Manifest:
    """Like `read_manifest`, and every listed file exists in its size: what can be known without reading the data.

    Args:
        path: of the checkpoint.
        known: manifests that need not be decoded again; those that are get there.
    """
    with _opened(path) as directory:
        manifest = _manifest(path, directory, known)
        for name, entry in manifest.files.items():
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError as error:
                raise _finding(error, path / name, name) from error
            _check_kind(name, found)
            _check_size(name, found, entry)
        return manifest


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`, everything of it verified. Raises as `read_manifest`."""
    with _opened(path) as directory:
        manifest = _manifest(path, directory)
        with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
            largest_first = sorted(manifest.files.items(), key=lambda named: -named[1].size)  # on the longest one everything waits
            futures = {name: pool.submit(_read_tensors, path, directory, name, entry) for name, entry in largest_first}
            tensors = {name: futures[name].result() for name in manifest.files}
        try:
            return Checkpoint(manifest, path, parts.merge(manifest.files, tensors))
        except ValueError as error:
            raise Damaged(f"its manifest does not fit its files: {error}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Directory as a descriptor: everything is read from one and the same directory, also when it is replaced or moved meanwhile."""
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError as error:
        raise Absent(os.fspath(path)) from error
    except OSError as error:
        raise _finding(error, path, "it") from error
    try:
        yield fd
    except Damaged as damage:
        if not _still_there(path, fd):
            raise Absent(os.fspath(path)) from damage
        raise
    finally:
        _close(fd)


def _close(fd: int) -> None:
    """Of what was only read: that it fails, as on a lost file server, says nothing about what was read."""
    with contextlib.suppress(OSError):
        os.close(fd)


def _still_there(path: Path, fd: int) -> bool:
    """Whether `path` still is the directory that was opened; the owner of the run may remove it while others read."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except OSError:
        return False


def _finding(error: OSError, path: Path, what: str) -> Exception:
    if error.errno in _DAMAGE:
        return Damaged(f"{what} {_DAMAGE[error.errno]}")
    return storage_error(error, "read the checkpoint", path)


@contextlib.contextmanager
def _opened_file(path: Path, directory: int, name: str) -> Iterator[int]:
    try:
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            _check_kind(name, os.fstat(fd))
            yield fd
        finally:
            _close(fd)
    except OSError as error:
        raise _finding(error, path / name, name) from error


def _manifest(path: Path, directory: int, known: Known | None = None) -> Manifest:
    with _opened_file(path, directory, MANIFEST_NAME) as fd:
        size = os.fstat(fd).st_size
        if size > MAX_MANIFEST_BYTES:
            raise Damaged(f"{MANIFEST_NAME} has {size} bytes")
        data = _read_whole(fd, size)
    if known and path.name in known and known[path.name][0] == data:
        return known[path.name][1]
    try:
        manifest = decode(data, os.fspath(path / MANIFEST_NAME))
    except CheckpointCorruptError as error:
        why = str(error).partition(" is damaged: ")[2].removesuffix(" An older checkpoint has to be used.").rstrip(".")
        raise Damaged(f"its manifest is damaged: {why}") from error
    step = parse_step_name(path.name)
    if step is not None and step != manifest.progress.step:
        raise Damaged(f"its manifest is that of step {manifest.progress.step}")
    if known is not None:
        known[path.name] = data, manifest
    return manifest


def _read_whole(fd: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _check_kind(name: str, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise Damaged(f"{name} {_DAMAGE[errno.ELOOP]}")
    if not stat.S_ISREG(found.st_mode):
        raise Damaged(f"{name} is not a regular file")


def _check_size(name: str, found: os.stat_result, entry: FileEntry) -> None:
    if found.st_size != entry.size:
        raise Damaged(f"{name} has {found.st_size} bytes instead of {entry.size}")


def _read_tensors(path: Path, directory: int, name: str, entry: FileEntry) -> Mapping[str, Array]:
    with _opened_file(path, directory, name) as fd:
        _check_size(name, os.fstat(fd), entry)
        try:
            content = _mapped(fd, entry.size)
            if checksum(fd, content) != entry.xxh3_128:
                raise Damaged(f"{name} does not match its checksum")
            return safetensors_format.parse(content) if name.endswith(safetensors_format.SUFFIX) else {}
        except ValueError as error:  # a FormatError, or the file became shorter than it was a moment ago
            raise Damaged(f"{name} is not what resilient writes: {error}") from error


def _mapped(fd: int, size: int) -> Array:
    """A file's bytes. Private, because some FUSE file systems refuse shared mappings. Nothing is ever written to it."""
    if size == 0:  # cannot be mapped
        return np.empty(0, np.uint8)
    mapping = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    if size >= _HUGE_PAGE and kernel.huge_page_size() == _HUGE_PAGE:
        # What comes from the disk then comes in pages of 2 MB, where the file system has such: a 500th as many to map.
        with contextlib.suppress(OSError):  # a hint
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapping, np.uint8)
