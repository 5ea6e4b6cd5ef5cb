"""The run's journal: append-only events, one JSON object a line in `journal.jsonl`. A torn last line is no event.

The training process and its supervisor both append to it. Every event is one `write` on a descriptor opened with O_APPEND, which a local
file system carries out as a whole: lines of two processes never mix, and a death can tear the last line only.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import numbers
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from resilient.errors import ConfigurationError

JOURNAL_NAME = "journal.jsonl"
MAX_LINE_BYTES = 2**20  # a longer line is no event: the reader's memory is bounded whatever lies in the file
EVENTS = frozenset(
    {"started", "restored", "saved", "save_failed", "quarantined", "notice", "preempted", "failed", "finished"}
    | {"attempt", "exited", "hung", "gave_up"}  # the supervisor's
)


class Journal:
    """Appends events to the journal of one run directory. Safe to use from several threads.

    Args:
        directory: the run directory. Nothing is opened before the first event, so that a directory that is missing is no error here.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory) / JOURNAL_NAME
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._name_is_durable = False

    def append(self, event: str, *, durable: bool = False, **fields: Any) -> bool:
        """Append one event with the present time.

        Args:
            event: one of `EVENTS`.
            durable: return only after the event is on stable storage.
            **fields: what belongs to the event. Plain JSON is kept; NaN and infinities become strings, anything unknown its `str`.

        Returns:
            Whether the event was written (and flushed, where `durable`). False, never an exception, where the disk refuses: a run must
            not end because its diary is full.

        Raises:
            ConfigurationError: `event` is not one of `EVENTS`, or a field is called `time`. That is a defect of the calling code.
        """
        if event not in EVENTS:
            raise ConfigurationError(f"event={event!r} is not an event of the journal. Use one of {', '.join(sorted(EVENTS))}.")
        if "time" in fields:
            raise ConfigurationError("A journal event got a field named 'time', which the journal sets itself. Use another name.")
        try:
            line = _encode({"event": event, "time": dt.datetime.now(dt.UTC).isoformat(), **fields})
            with self._lock:
                self._write(line)
                if durable:
                    self._flush()
        except (OSError, ValueError, TypeError, RecursionError):
            return False
        return True

    def close(self) -> None:
        """Close the file. A later `append` opens it again."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                with contextlib.suppress(OSError):  # it is closed all the same, and each event has said whether it was written
                    os.close(descriptor)

    def _write(self, line: bytes) -> None:
        if self._descriptor is None:
            # O_RDWR and not O_WRONLY: the last byte has to be read to see a torn line.
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # Asked before every event and not once: the other process may have died in the middle of a line since.
        data = b"\n" + line if _is_torn(self._descriptor) else line
        if os.write(self._descriptor, data) != len(data):
            raise OSError(f"short write to {self.path}")

    def _flush(self) -> None:
        if self._descriptor is not None:
            os.fsync(self._descriptor)
        if not self._name_is_durable:
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            self._name_is_durable = True


def read(directory: str | os.PathLike[str], newest: int | None = None) -> list[dict[str, Any]]:
    """Events of the run directory in the order they were written; torn and foreign lines are left out, [] if there is no journal.

    Names this version does not know are kept: a newer one may have written them.

    Args:
        directory: the run directory.
        newest: read no more than this many bytes, the last ones; None for the whole journal. A line that they cut is a torn one.

    Raises:
        OSError: the journal exists and cannot be read.
    """
    try:
        with open(Path(directory) / JOURNAL_NAME, "rb") as file:
            if newest is not None:
                file.seek(max(0, os.fstat(file.fileno()).st_size - newest))
            return [event for line in _lines(file) if (event := _decode(line)) is not None]
    except FileNotFoundError:
        return []


class Tail:
    """Reads a journal that grows, each event once.

    Args:
        directory: the run directory. A journal that is not there yet, or that another one has taken the place of, is no error.
        newest: begin no more than this many bytes before the end.

    Attributes:
        skipped: bytes at the beginning that were not read.
    """

    def __init__(self, directory: str | os.PathLike[str], newest: int) -> None:
        self._path, self._newest = Path(directory) / JOURNAL_NAME, newest
        self._file: tuple[int, int] | None = None
        self._offset = self.skipped = 0

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """The events that are new, and whether they are those of another file, so that what was read before is to be forgotten.

        Raises:
            OSError: the journal exists and cannot be read.
        """
        try:
            with open(self._path, "rb") as file:
                return self._read(file)
        except FileNotFoundError:
            known, self._file = self._file, None
            return [], known is not None

    def _read(self, file: BinaryIO) -> tuple[list[dict[str, Any]], bool]:
        status = os.fstat(file.fileno())
        known, self._file = self._file, (status.st_dev, status.st_ino)
        again = known != self._file or status.st_size < self._offset
        if again:
            self._offset = self.skipped = max(0, status.st_size - self._newest)
        file.seek(self._offset)
        data = file.read(status.st_size - self._offset)
        whole = data[: data.rfind(b"\n") + 1]  # the line after it is being written, or torn: then the next event begins with a line's end
        self._offset += len(whole)
        return [event for line in whole.splitlines(keepends=True) if (event := _decode(line)) is not None], again


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of at most `MAX_LINE_BYTES`; longer ones are passed over piece by piece."""
    whole = True
    while piece := file.readline(MAX_LINE_BYTES):
        ends = piece.endswith(b"\n")
        if whole and (ends or len(piece) < MAX_LINE_BYTES):
            yield piece
        whole = ends


def _is_torn(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _encode(document: Mapping[str, Any]) -> bytes:
    line = json.dumps(_plain(document), allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
    if len(line) <= MAX_LINE_BYTES:
        return line
    # That it happened matters more than its details, such as the traceback of an endless recursion.
    return _encode({"event": document["event"], "time": document["time"], "left_out": f"{len(line)} bytes"})


def _plain(value: Any) -> Any:
    """The value as strict JSON. NumPy's scalars register as `numbers`, so they need no import."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    return str(value)


def _decode(line: bytes) -> dict[str, Any] | None:
    """Event of one line, None if it is none. A proper prefix of a JSON object is never one, so no torn line can pass for an event."""
    try:
        event = json.loads(line)
        aware = dt.datetime.fromisoformat(event["time"]).tzinfo is not None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) and aware else None
