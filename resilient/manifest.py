"""What a checkpoint says about itself: bytes <-> value, strict and versioned. `docs/format.md` is the specification.

A manifest is canonical JSON (sorted keys, no insignificant spaces, ASCII, one final newline) whose key `checksum` is the
XXH3-128 of the same document without that key. Decoding re-encodes and compares, so that no byte of the file can change unnoticed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import xxhash

from resilient.errors import CheckpointCorruptError, CheckpointMismatchError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20  # a manifest is read whole before its checksum can be known
MAX_STEP = 10**12 - 1

_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}(\.[a-z0-9]{1,16}){1,2}")
_CHECKSUM = re.compile(r"[0-9a-f]{32}")
_STEP_NAME = re.compile(r"step-(\d{12})", re.ASCII)


def step_name(step: int) -> str:
    """Name of the directory that holds the checkpoint of `step`."""
    return f"step-{step:012d}"


def parse_step_name(name: str) -> int | None:
    """Step of a checkpoint directory's name, None for any other name."""
    match = _STEP_NAME.fullmatch(name)
    return int(match[1]) if match else None


@dataclasses.dataclass(frozen=True, order=True)
class Progress:
    """A position between two batches: `epoch` (0-based), `batch` (batches done in it), `step` (batches done since the run began)."""

    epoch: int
    batch: int
    step: int


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """One file of a checkpoint.

    Attributes:
        size: in bytes.
        xxh3_128: the hexadecimal XXH3-128 of its content.
        positions: for `<name>.frozen.safetensors`, the places that its tensors have among all those of `<name>.safetensors`.
    """

    size: int
    xxh3_128: str
    positions: tuple[int, ...] | None = None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        positions = {} if self.positions is None else {"positions": list(self.positions)}
        return {"size": self.size, "xxh3_128": self.xxh3_128, **positions}


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The tensors of a file that training does not change, by name.

    `generation`: two captures of one process with the same number and the same names hold the same bits; None where only their content
    can tell. `twice`: whether two files shall hold them, which the checkpoints share in turn.
    """

    names: tuple[str, ...]
    generation: int | None
    twice: bool = False


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint but its tensors.

    Attributes:
        progress: where in the run it was taken.
        sequence: number of this commit in the run directory, strictly increasing; the highest is the latest, also
            after a run was sent back to an older step.
        run_id: identifies the line of history; `resume=False` begins a new one.
        created: when it was committed (aware, UTC).
        metrics: what was logged at that moment, plain floats.
        score: value of the monitored metric if this checkpoint is a candidate for "best" (end of an epoch), else None.
        mode: "min" or "max", the direction in which `score` is better; None where there is no score.
        best: whether no earlier checkpoint of the run had a better score when this one was taken.
        state: plain JSON that `state/` and `fit.py` need to go on (RNG, callbacks, History, settings, environment).
        files: the checkpoint's other files, by name.
    """

    progress: Progress
    sequence: int
    run_id: str
    created: dt.datetime
    metrics: Mapping[str, float]
    score: float | None
    mode: str | None
    best: bool
    state: Mapping[str, Any]
    files: Mapping[str, FileEntry]

    def encode(self) -> bytes:
        """Canonical bytes of the manifest, checksum included."""
        document = {
            "format": FORMAT_VERSION,
            "epoch": self.progress.epoch,
            "batch": self.progress.batch,
            "step": self.progress.step,
            "sequence": self.sequence,
            "run_id": self.run_id,
            "created": self.created.astimezone(dt.UTC).isoformat(),
            "metrics": dict(self.metrics),
            "score": self.score,
            "mode": self.mode,
            "best": self.best,
            "state": self.state,
            "files": {name: entry.document() for name, entry in self.files.items()},
        }
        body = _canonical(document)
        checksum = xxhash.xxh3_128_hexdigest(body).encode("ascii")
        # Where sorting the names would put it; before that there are only a number and a truth value.
        return body.replace(b'"created":', b'"checksum":"' + checksum + b'","created":', 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the checkpoint's files, without the manifest."""
        return sum(entry.size for entry in self.files.values())


def _canonical(document: Mapping[str, Any]) -> bytes:
    # Python's NaN, Infinity and -Infinity are kept: metrics do become NaN, and every JSON reader we know of accepts or rejects them loudly.
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii") + b"\n"


def decode(data: bytes, where: str) -> Manifest:
    """Manifest from the bytes of its file.

    Args:
        data: the file's content.
        where: path for the error messages.

    Raises:
        CheckpointMismatchError: the format version is newer than this library's.
        CheckpointCorruptError: anything else that is not exactly what `Manifest.encode` writes.
    """
    document = _parse(data, where)
    checksum = document.pop("checksum", None)
    try:
        found = _from_document(document)
        if found.encode() == data:
            return found
        finding, cause = "a field is not in the form in which it is written", None  # another time zone, or 1.0 for 1
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        finding, cause = f"field {error}", error
    try:
        _raise_what_weighs_more(document, checksum, data, where)
    except RecursionError as error:
        raise _corrupt(where, f"it is not JSON ({error})") from error
    raise _corrupt(where, finding) from cause


def _raise_what_weighs_more(document: Mapping[str, Any], checksum: Any, data: bytes, where: str) -> None:
    # The checksum comes before the version: a flipped bit in the version must read as damage, not as a newer writer.
    if checksum != xxhash.xxh3_128_hexdigest(_canonical(document)):
        raise _corrupt(where, "its checksum does not match its content")
    version = document.get("format")
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT_VERSION:
        raise CheckpointMismatchError(
            f"The checkpoint at {where} has format version {version}, and this resilient reads up to {FORMAT_VERSION}. "
            "Upgrade resilient to continue this run."
        )
    if _canonical({**document, "checksum": checksum}) != data:
        raise _corrupt(where, "it is not canonical JSON")


def _parse(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MAX_MANIFEST_BYTES:
        raise _corrupt(where, f"it has {len(data)} bytes, more than the {MAX_MANIFEST_BYTES} a manifest may have")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _corrupt(where, f"it is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise _corrupt(where, "it is not a JSON object")
    return document


def _corrupt(where: str, why: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(f"The manifest at {where} is damaged: {why}. An older checkpoint has to be used.")


def _from_document(document: Mapping[str, Any]) -> Manifest:
    if document["format"] != FORMAT_VERSION or isinstance(document["format"], bool):
        raise ValueError("'format' is unknown")
    known = {field.name for field in dataclasses.fields(Manifest)} - {"progress"} | {"format", "epoch", "batch", "step"}
    if document.keys() != known:
        raise ValueError(f"names differ: {sorted(document.keys() ^ known)[:3]}")
    progress = Progress(*(_integer(document, name) for name in ("epoch", "batch", "step")))
    if progress.step > MAX_STEP:
        raise ValueError("'step' is too large")
    created = dt.datetime.fromisoformat(_checked(document, "created", str))
    if created.tzinfo is None:
        raise ValueError("'created' has no time zone")
    score = document["score"]
    mode = document["mode"]
    if not (score is None or isinstance(score, float)) or mode not in ("min", "max", None):
        raise ValueError("'score' or 'mode' is of the wrong type")
    return Manifest(
        progress=progress,
        sequence=_integer(document, "sequence"),
        run_id=_checked(document, "run_id", str),
        created=created,
        metrics={_name(key): _float(value) for key, value in _checked(document, "metrics", dict).items()},
        score=score,
        mode=mode,
        best=_checked(document, "best", bool),
        state=_checked(document, "state", dict),
        files={_file_name(name): _file_entry(entry) for name, entry in _checked(document, "files", dict).items()},
    )


def _checked(document: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    value = document[name]
    if not isinstance(value, kind):
        raise TypeError(f"'{name}' is a {type(value).__name__}")
    return value


def _integer(document: Mapping[str, Any], name: str) -> int:
    value = document[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"'{name}' is not a non-negative integer")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a metric's name is not a string")
    return value


def _float(value: Any) -> float:
    if not isinstance(value, float):
        raise TypeError("a metric is not a float")
    return value


def _file_name(value: str) -> str:
    # The pattern is what keeps a manifest from naming a file outside its own directory.
    if not _FILE_NAME.fullmatch(value) or value == MANIFEST_NAME:
        raise ValueError(f"file name {value!r} is not allowed")
    return value


def _file_entry(value: Any) -> FileEntry:
    if not isinstance(value, dict) or value.keys() - {"positions"} != {"size", "xxh3_128"}:
        raise TypeError("a file entry is malformed")
    checksum = value["xxh3_128"]
    if not isinstance(checksum, str) or not _CHECKSUM.fullmatch(checksum):
        raise ValueError("a file's checksum is malformed")
    return FileEntry(_integer(value, "size"), checksum, _positions(value["positions"]) if "positions" in value else None)


def _positions(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(position) is int and position >= 0 for position in value):
        raise ValueError("a file's positions are malformed")
    return tuple(value)


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """What a reader of a run sees of one checkpoint.

    Attributes:
        step: batches trained since the run began.
        epoch: 0-based epoch it lies in.
        batch: batches done in that epoch.
        metrics: what was logged at that moment.
        best: whether it has the best value of the monitored metric among the run's checkpoints.
        path: its directory.
        nbytes: bytes of its files.
        created: when it was committed (aware, UTC).
    """

    step: int
    epoch: int
    batch: int
    metrics: Mapping[str, float]
    best: bool
    path: Any
    nbytes: int
    created: dt.datetime


def better(mode: str) -> Callable[[float, float], bool]:
    """`better(mode)(a, b)`: whether score `a` beats score `b`; NaN never does."""
    if mode == "max":
        return lambda a, b: a > b or (b != b and a == a)
    return lambda a, b: a < b or (b != b and a == a)
