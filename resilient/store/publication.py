"""Files handed to readers while training runs: each appears whole and durable, and those of steps that a crash took back are withdrawn.

Beside the files lies a hidden record, `.NAME.resilient.json`, of what was written when. It is durable before the file it speaks of
appears. A file whose content is not in the record is never touched.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from resilient.store import files, temporaries
from resilient.store.oserrors import storage_errors

FORMAT_VERSION = 1
MAX_RECORDS = 1000  # the oldest are forgotten, their files then stay for good
KEEP_SUPERSEDED = 2  # what the two checkpoints before the newest may want back
_MAX_RECORD_BYTES = 16 * 2**20
_CHUNK = 8 * 2**20


@dataclasses.dataclass(frozen=True)
class Record:
    """One file written: `path` below the root, `size` in bytes, `digest` (XXH3-128), `serial` (order of writing), `best` at that time."""

    path: str
    size: int
    digest: str
    serial: int
    best: float | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """A file to publish at `path`: its content in memory, or in a finished temporary beside it. `message` is for when it is there."""

    path: Path
    record: Record | None
    content: memoryview | None = None
    temporary: Path | None = None
    message: str | None = None


class PublishedFiles:
    """The files that one template of names produces, in one process. All methods may be called from any thread."""

    def __init__(self, template: str) -> None:
        """`template` is a path that may hold `{placeholders}`; the root is its longest directory without one."""
        parts = Path(os.path.abspath(template)).parts
        first = next((index for index, part in enumerate(parts) if "{" in part), len(parts))
        split = min(first, len(parts) - 1)
        self.root = Path(*parts[:split])
        self.record_path = self.root / f".{temporaries.short('_'.join(parts[split:]))}.resilient.json"
        self._lock = threading.RLock()
        self._records: list[Record] | None = None
        self._newest: dict[str, Record] = {}
        self._held: set[str] = set()
        self._states = False  # whether states are saved at all: without them nothing superseded is kept
        self._serial = 0
        self._swept: set[Path] = set()

    def announce(self, path: Path, size: int, digest: str, best: float | None) -> Record | None:
        """The record of a file about to be published; None for a path outside the root, which is published without one."""
        relative = os.path.relpath(path, self.root)
        with self._lock:
            self._load()
            self._serial += 1
            if not _inside(relative):
                return None
            self._newest[relative] = Record(relative, size, digest, self._serial, best)
            return self._newest[relative]

    def last_serial(self) -> int:
        """Serial of the newest file that was ever announced here, 0 if none was."""
        with self._lock:
            self._load()
            return self._serial

    def hold(self, digests: Iterable[str]) -> None:
        """Marks contents that a saved state speaks of: superseded, they are kept for a while."""
        with self._lock:
            self._held.update(digests)
            self._states = True

    def is_held(self, record: Record | None) -> bool:
        """Whether a saved state speaks of that content."""
        with self._lock:
            return record is not None and record.digest in self._held

    def newest(self) -> list[Record]:
        """The newest record of each path, on disk or on its way, oldest first."""
        with self._lock:
            self._load()
            return sorted(self._newest.values(), key=_serial_of)

    def publish(self, job: Job) -> None:
        """Writes the file, makes it durable, and puts it in place in one step; returns when it survives a power cut.

        Raises:
            StorageError: the disk refused; the old file is still in place.
        """
        with storage_errors("write the file", job.path):
            target = Path(os.path.realpath(job.path))  # a symbolic link stays one, as when Keras writes
            files.make_directories(target.parent)
            self._sweep(target.parent)
            temporary = job.temporary or temporaries.name_beside(target)
            try:
                self._write(job, temporary)
                obsolete = self._supersede(job.record, target)
                os.replace(temporary, target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            files.sync_directory(target.parent)
            for path in obsolete:
                path.unlink(missing_ok=True)

    def _write(self, job: Job, temporary: Path) -> None:
        if job.content is not None:
            chunks = (job.content[start : start + _CHUNK] for start in range(0, len(job.content), _CHUNK))
            files.write_file(temporary, len(job.content), chunks)
        else:
            sync_file(temporary)

    def _sweep(self, directory: Path) -> None:
        if directory not in self._swept:
            self._swept.add(directory)
            temporaries.sweep(directory)

    def _supersede(self, record: Record | None, target: Path) -> list[Path]:
        """Records the coming file and keeps the one it replaces; returns the kept ones that nothing needs any more."""
        if record is None:
            return []
        with self._lock:
            earlier = [other for other in self._load() if other.path == record.path and other.digest != record.digest]
            needed = [other for other in earlier if other.digest in self._held][-KEEP_SUPERSEDED:]
            # The last ones too, held or not: until the rename is done, one of them lies at the path, and a write may have failed before.
            known = [other for other in earlier if other in needed or other in earlier[-KEEP_SUPERSEDED:]]
            rest = [other for other in self._load() if other.path != record.path]
            self._records = [*rest, *known, record][-MAX_RECORDS:]
            data = self._encode()
        self._save(data)
        if needed:
            _keep(target, needed)
        kept = {_superseded(target, other) for other in needed}
        return [path for path in (_superseded(target, other) for other in earlier) if path not in kept]

    def withdraw_after(self, serial: int, remembered: Iterable[Record] = ()) -> None:
        """Takes back what was written after `serial`: the content of before comes back where it was kept, else the file goes.

        `remembered` are the records in the restored state; they win over those on disk. Safe to repeat after a crash.

        Raises:
            StorageError: the disk refused.
        """
        with self._lock, storage_errors("take back the files of steps that are undone", self.root):
            records = self._load()
            before = [record for record in records if record.serial <= serial]
            undone = [record for record in records if record.serial > serial]
            self._newest = {record.path: record for record in [*before, *sorted(remembered, key=_serial_of)]}
            self._held.update(record.digest for record in self._newest.values())
            self._serial = serial
            paths = {record.path for record in undone}
            lost = {path for path in paths if self._withdraw(path, [record for record in undone if record.path == path])}
            if undone:
                self._records = [record for record in before if record.path not in lost]
                self._save(self._encode())

    def _withdraw(self, path: str, undone: list[Record]) -> bool:
        """Whether nothing is left at the path, because what it held before was not kept."""
        target = Path(os.path.realpath(self.root / path))
        wanted = self._newest.get(path)
        later = [record for record in undone if wanted is None or record.digest != wanted.digest]
        lost = False
        if digest_of(target) in {record.digest for record in later}:
            lost = not (wanted and _bring_back(target, wanted))
            if lost:
                target.unlink()
            files.sync_directory(target.parent)
        for record in later:
            _superseded(target, record).unlink(missing_ok=True)
        return lost

    def last_arrived(self, remembered: Iterable[Record]) -> Record | None:
        """The newest record, on disk or `remembered`, whose file was completely written (its owner may have moved it away since)."""
        with self._lock:
            recorded = list(self._load())
        present = {path: digest_of(self.root / path) for path in {record.path for record in [*recorded, *remembered]}}
        known = {(record.path, record.digest) for record in recorded}

        def arrived(record: Record) -> bool:
            here = present[record.path]
            return here == record.digest or ((record.path, record.digest) in known and (record.path, here) not in known)

        return max(filter(arrived, [*recorded, *remembered]), key=_serial_of, default=None)

    def _load(self) -> list[Record]:
        if self._records is None:
            entries, states = _read(self.record_path)
            self._records = [record for record, _ in entries]
            self._held.update(record.digest for record, held in entries if held)
            self._newest.update((record.path, record) for record in self._records)
            if states:  # an earlier process may have saved one after it wrote this record
                self.hold(record.digest for record in self._newest.values())
            self._serial = max([self._serial, *(record.serial for record in self._records)])
        return self._records

    def _encode(self) -> bytes:
        entries = [{**dataclasses.asdict(record), "held": record.digest in self._held} for record in self._load()]
        document = {"format": FORMAT_VERSION, "states": self._states, "files": entries}
        return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"

    def _save(self, data: bytes) -> None:
        files.make_directories(self.root)
        temporary = temporaries.name_beside(self.record_path)
        try:
            files.write_file(temporary, len(data), [data])
            os.replace(temporary, self.record_path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        files.sync_directory(self.root)


class BackgroundPublisher:
    """Publishes one file after the other on a thread of its own, which lives as long as there is something to write.

    The thread is not a daemon: a program that ends without waiting still gets its files.
    """

    MOST_WAITING = 2  # each holds a whole model in memory

    def __init__(self, published: PublishedFiles) -> None:
        self._published = published
        self._changed = threading.Condition()
        self._waiting: list[Job] = []
        self._running = False
        self._error: Exception | None = None
        self._messages: list[str] = []

    def submit(self, job: Job) -> None:
        """Hands over a file. One for the same path that is not yet begun, and that no saved state speaks of, is dropped for it.

        Waits only where the disk is more than `MOST_WAITING` files behind.
        """
        with self._changed:
            self._drop_replaced(job)
            self._changed.wait_for(lambda: len(self._waiting) < self.MOST_WAITING)
            self._waiting.append(job)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="resilient-publish").start()

    def _drop_replaced(self, job: Job) -> None:
        for other in [waiting for waiting in self._waiting if waiting.path == job.path]:
            if not self._published.is_held(other.record):
                self._waiting.remove(other)
                if other.temporary is not None:
                    other.temporary.unlink(missing_ok=True)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._published.publish(job)
                with self._changed:
                    self._messages += [job.message] if job.message is not None else []
            except Exception as error:  # noqa: BLE001 - whatever it is, the training thread raises it at its next hook
                with self._changed:
                    self._error = self._error or error

    def _next(self) -> Job | None:
        with self._changed:
            job = self._waiting.pop(0) if self._waiting else None
            self._running = job is not None
            self._changed.notify_all()
            return job

    def wait(self) -> None:
        """Returns when everything handed over is on disk or has failed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)

    def settle(self) -> list[str]:
        """Messages of the files that arrived since the last call. Raises the first error of a write that was not raised yet."""
        with self._changed:
            error, self._error = self._error, None
            messages, self._messages = self._messages, []
        if error is not None:
            raise error
        return messages


def digest_of(path: Path) -> str | None:
    """XXH3-128 of a regular file's content, None if there is none."""
    digest = xxhash.xxh3_128()
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Makes the content of an existing file durable."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def record_from(value: Any) -> Record | None:
    """Record from its JSON form, None if it is not one."""
    names = {field.name for field in dataclasses.fields(Record)}
    if not isinstance(value, dict) or not names <= value.keys():
        return None
    record = Record(**{name: value[name] for name in names})
    plain = isinstance(record.path, str) and isinstance(record.digest, str) and type(record.size) is type(record.serial) is int
    valid = plain and _inside(record.path) and (record.best is None or isinstance(record.best, (int, float)))
    return record if valid and record.digest.isalnum() else None


def _inside(relative: str) -> bool:
    parts = Path(relative).parts
    return bool(parts) and not os.path.isabs(relative) and ".." not in parts


def _serial_of(record: Record) -> int:
    return record.serial


def _read(path: Path) -> tuple[list[tuple[Record, bool]], bool]:
    """Records on disk, each with whether it is held, and whether states are saved.

    A file that cannot be read says nothing: then nothing is touched that it may have spoken of.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= _MAX_RECORD_BYTES else b""
        document = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return [], False
    if not isinstance(document, dict) or document.get("format") != FORMAT_VERSION or not isinstance(document.get("files"), list):
        return [], False
    pairs = [(record_from(entry), entry) for entry in document["files"]]
    return [(record, entry.get("held") is True) for record, entry in pairs if record is not None], document.get("states") is True


def _superseded(target: Path, record: Record) -> Path:
    return target.with_name(f".{temporaries.short(target.name)}.{record.digest}.superseded")


def _keep(target: Path, needed: list[Record]) -> None:
    """Gives the file at `target`, if it is one of `needed`, a second and hidden name; copies it where there are no hard links."""
    present = digest_of(target)
    for record in needed:
        if record.digest == present:
            kept = _superseded(target, record)
            try:
                os.link(target, kept)
            except FileExistsError:
                pass  # kept already
            except OSError:
                _copy(target, kept)


def _bring_back(target: Path, record: Record) -> bool:
    kept = _superseded(target, record)
    if digest_of(kept) != record.digest:
        return False
    os.replace(kept, target)
    return True


def _copy(target: Path, kept: Path) -> None:
    temporary = temporaries.name_beside(kept)
    try:
        shutil.copyfile(target, temporary)
        sync_file(temporary)
        os.replace(temporary, kept)
    finally:
        temporary.unlink(missing_ok=True)
