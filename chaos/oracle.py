"""The judge: two runs are equal when everything they ended with is equal, and every batch was trained once.

Knows nothing of `resilient`: it works on what a program wrote about itself (`chaos/program.py`), a digest of each value and a
line for each trained batch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

BATCH = "batch"
VALIDATION_BEGIN = "validation"
VALIDATION_END = "validated"


def digest(array: Any) -> str:
    """XXH3-128 over dtype, shape and bytes: equal for arrays that are equal bit for bit (NaN equals NaN, and 0.0 is not -0.0)."""
    values = np.asarray(array, order="C")
    return xxhash.xxh3_128_hexdigest(f"{values.dtype}{values.shape}".encode() + values.tobytes())


def combined(section: Mapping[str, Any]) -> str:
    """One digest for all of a section, short enough to print."""
    return xxhash.xxh3_64_hexdigest(json.dumps(dict(section), sort_keys=True).encode())


def differences(reference: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between two outcomes, in the reference's order; empty if nothing does.

    Args:
        reference: sections (variables, optimizer, metrics, history, callbacks …) to a mapping from name to value.
        other: the same, of the run to be judged.

    Returns:
        One sentence a difference, so that the first names the first thing that is wrong.
    """
    found = list(_missing(reference, other))
    for name in (name for name in reference if name in other):
        found += _section(name, reference[name], other[name])
    return found


def _missing(reference: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    yield from (f"{prefix}{name} is missing" for name in reference if name not in other)
    yield from (f"{prefix}{name} was not there before" for name in other if name not in reference)


def _section(name: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    yield from _missing(expected, found, f"{name}: ")
    for key, value in expected.items():
        if key in found and _text(found[key]) != _text(value):
            yield f"{name}: {key} {_how(value, found[key])}"


def _text(value: Any) -> str:
    # As text, because NaN is not equal to itself and 0.0 is equal to -0.0. JSON's floats are exact.
    return json.dumps(value, sort_keys=True)


def _how(expected: Any, found: Any) -> str:
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return f"has {len(found)} rows and should have {len(expected)}"
        row = next(index for index, pair in enumerate(zip(expected, found, strict=True)) if _text(pair[0]) != _text(pair[1]))
        return f"row {row} is {found[row]} and should be {expected[row]}"
    return f"is {found} and should be {expected}"


@dataclasses.dataclass(frozen=True)
class Trained:
    """One trained batch as the program itself saw it: where it was, and the ids of its samples in their order."""

    attempt: int
    epoch: int
    batch: int
    ids: tuple[int, ...]

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, batch), both from 0."""
        return self.epoch, self.batch


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a program's log. A kill may tear the last line of an attempt; what cannot be read is no line."""
    lines = []
    for line in path.read_text(encoding="ascii").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def trained_batches(path: Path) -> list[Trained]:
    """Every batch that any attempt trained, in the order of the log."""
    return [Trained(line["attempt"], line["epoch"], line["batch"], tuple(line["ids"])) for line in read_log(path) if line["event"] == BATCH]


def committed_line(log: Sequence[Trained], sent_back: Collection[int] = ()) -> list[Trained]:
    """The one line of history that counts: what an attempt trained after the point at which the next one resumed is struck out.

    Args:
        log: every batch that was trained.
        sent_back: attempts that were ordered to go on from an older checkpoint. The newer ones stay; where such an attempt has committed
            nothing, the next one goes on from them, on the line as it was before.

    Raises:
        ValueError: within an attempt the positions do not increase, or an attempt begins beyond the end of the line before it.
    """
    line: list[Trained] = []
    older: list[Trained] = []  # the line before attempts that were sent back
    for index, batch in enumerate(log):
        if index and batch.attempt != log[index - 1].attempt:
            was_sent_back = log[index - 1].attempt in sent_back
            older = older if was_sent_back else line
            cut = [done for done in line if done.position < batch.position]
            left = [done for done in older if done.position < batch.position]
            line = left if was_sent_back and len(left) > len(cut) else cut
        before = line[-1].position if line else (0, -1)
        if batch.position not in ((before[0], before[1] + 1), (before[0] + 1, 0)):
            raise ValueError(f"attempt {batch.attempt} trained {batch.position} after {before}: batches were skipped or repeated")
        line.append(batch)
    return line


def log_differences(reference: Sequence[Trained], other: Sequence[Trained], sent_back: Collection[int] = ()) -> list[str]:
    """Where the committed line of `other` is not the reference's: skipped, repeated, other samples, other order; empty if nowhere."""
    try:
        line = committed_line(other, sent_back)
    except ValueError as error:
        return [str(error)]
    found = []
    for expected, batch in zip(reference, line, strict=False):
        if expected.position != batch.position:
            return [f"batch {batch.position} was trained where {expected.position} should have been"]
        if expected.ids != batch.ids:
            found.append(f"batch {batch.position} was trained with other samples, or in another order")
    if len(line) != len(reference):
        found.append(f"{len(line)} batches were trained and should have been {len(reference)}")
    return found


def rolled_back(log: Sequence[Trained]) -> int:
    """How many trained batches were struck out of history by kills, and trained again."""
    return len(log) - len(committed_line(log))
