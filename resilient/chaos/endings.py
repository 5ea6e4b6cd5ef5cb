"""The end of a disturbed training beside that of the undisturbed one, bit for bit, without the model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resilient.comparing import Difference, differences
from resilient.errors import ResilientError
from resilient.packed import unpack
from resilient.store import Checkpoint, Store

_PROMISED = ("model:", "optimizer:", "state:metrics/")
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclasses.dataclass(frozen=True)
class TensorDifference:
    """A tensor that differs: by how much, and the first of its elements that does; "" where they cannot be compared one by one."""

    difference: Difference
    first: str

    def __str__(self) -> str:
        """For people."""
        found = self.difference
        if found.note:
            return f"{found.name} ({found.note})"
        return f"{found.name}{self.first}: {found.differing} of {found.size} elements, by {found.max_abs:.3g} at most"


@dataclasses.dataclass(frozen=True)
class HistoryDifference:
    """The first value of History that differs; `epoch` counts from 0, a value is None where there is none."""

    epoch: int
    metric: str
    undisturbed: Any
    disturbed: Any

    def __str__(self) -> str:
        """For people."""
        return f"{self.metric} of epoch {self.epoch} is {self.disturbed!r} instead of {self.undisturbed!r}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two ends of one run.

    Attributes:
        tensors: differing ones that the promise is about: model, optimizer, metrics.
        history: the first difference in it, None if there is none.
        beside: names of what else differs (random generators, attributes of callbacks), about which nothing is promised.
        compared: how many tensors of the promise there are.
        epochs: in the undisturbed History.
        settings: names of settings of the run that differ; whatever they are, the two are not the same training.
        missing: why the two cannot be compared, None if they can.
    """

    tensors: Sequence[TensorDifference] = ()
    history: HistoryDifference | None = None
    beside: Sequence[str] = ()
    compared: int = 0
    epochs: int = 0
    settings: Sequence[str] = ()
    missing: str | None = None

    @property
    def equal(self) -> bool:
        """Whether all that is promised is the same."""
        return not self.tensors and self.history is None and self.missing is None


def compare(undisturbed: Path, disturbed: Path) -> Comparison:
    """The ends of two runs, by their run directories."""
    try:
        ours, theirs = (Store(directory).load_final() for directory in (undisturbed, disturbed))
    except ResilientError as error:
        return Comparison(missing=str(error))
    if ours is None or theirs is None:
        which = "undisturbed" if ours is None else "disturbed"
        return Comparison(
            missing=f"the {which} training left no final state, although its program ended well: its fit did not come to the end"
        )
    found = list(differences(ours.tensors, theirs.tensors))
    promised = [item for item in found if item.name.startswith(_PROMISED)]
    names = {f"{file.removesuffix('.safetensors')}:{name}" for file, tensors in ours.tensors.items() for name in tensors}
    ours_history, theirs_history = history(ours), history(theirs)
    return Comparison(
        tensors=[TensorDifference(item, _first(item, ours, theirs)) for item in promised],
        history=history_difference(ours_history, theirs_history),
        beside=[item.name for item in found if item not in promised] + _other_state(ours, theirs),
        compared=sum(name.startswith(_PROMISED) for name in names),
        epochs=max(map(len, ours_history.values()), default=0),
        settings=_changed(ours.manifest.state.get("settings", {}), theirs.manifest.state.get("settings", {})),
    )


def history(checkpoint: Checkpoint) -> dict[str, list[Any]]:
    """Metric -> value of each epoch, as the manifest has it; {} where there is none."""
    for callback in checkpoint.manifest.state.get("callbacks", ()):
        if _kind(callback) == "History":
            kept = dict(callback.get("attributes", {}).get("history", {}).get("v", ()))
            return {name: values for name, column in kept.items() if (values := unpack(column)) is not None}
    return {}


def history_difference(ours: Mapping[str, Sequence[Any]], theirs: Mapping[str, Sequence[Any]]) -> HistoryDifference | None:
    """The first in time; within an epoch, in the order of the metrics."""
    found = [
        HistoryDifference(epoch, name, _at(ours, name, epoch), _at(theirs, name, epoch))
        for name in {**ours, **theirs}
        for epoch in range(max(len(ours.get(name, ())), len(theirs.get(name, ()))))
        if _text(_at(ours, name, epoch)) != _text(_at(theirs, name, epoch))
    ]
    return min(found, key=lambda difference: difference.epoch, default=None)


def _at(values: Mapping[str, Sequence[Any]], name: str, epoch: int) -> Any:
    return values[name][epoch] if epoch < len(values.get(name, ())) else None


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # two NaNs are the same, 0.0 and -0.0 are not


def _first(found: Difference, ours: Checkpoint, theirs: Checkpoint) -> str:
    """The index of the first element that differs, with both its values."""
    if found.note:
        return ""
    a, b = (_tensor(checkpoint, found.name) for checkpoint in (ours, theirs))
    bits = _UNSIGNED[a.dtype.itemsize]
    place = int(np.flatnonzero(a.reshape(-1).view(bits) != b.reshape(-1).view(bits))[0])
    index = ", ".join(str(int(number)) for number in np.unravel_index(place, a.shape))
    return f"[{index}] is {b.reshape(-1)[place]!s} instead of {a.reshape(-1)[place]!s}"


def _tensor(checkpoint: Checkpoint, name: str) -> npt.NDArray[Any]:
    file, _, tensor = name.partition(":")
    return np.asarray(checkpoint.tensors[f"{file}.safetensors"][tensor])


def _other_state(ours: Checkpoint, theirs: Checkpoint) -> list[str]:
    """What differs in the manifests beside History: attributes of callbacks, generators, stop_training."""
    a, b = ours.manifest.state, theirs.manifest.state
    names = [name for name in _changed(a, b) if name not in ("callbacks", "settings", "environment")]
    return names + list(_changed_callbacks(a.get("callbacks", ()), b.get("callbacks", ())))


def _changed_callbacks(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for a, b in zip(ours, theirs, strict=False):
        if _kind(a) != "History":
            yield from (f"{_kind(a)}.{name}" for name in _changed(a.get("attributes", a), b.get("attributes", b)))


def _kind(callback: Mapping[str, Any]) -> str:
    return str(callback.get("class", "")).rpartition(".")[2]


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [name for name in {**ours, **theirs} if _text(ours.get(name)) != _text(theirs.get(name))]
