"""The model's variables by name: which there are, whether a checkpoint fits them, a snapshot of them, and the way back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from resilient import keras_private
from resilient.errors import CheckpointMismatchError
from resilient.state.backend import Backend

Named = dict[str, Any]  # name -> Keras variable, in the model's own order
GROUPS = ("model", "optimizer", "metrics")
_AUTO_NUMBER = re.compile(r"_\d+(?=[/_#]|$)|#\d+$")
_SHOWN = 4
# Integers whose type each backend of Keras chooses for itself, and the types they have.
_COUNTERS, _COUNTER_TYPES = {"seed_generator_state", "iteration", "step_counter"}, {"int64", "uint32", "int32"}


def variables_of(model: Any) -> dict[str, Named]:
    """Every variable of the model, in three groups: "model" (weights and seed generators), "optimizer" and "metrics".

    Names are Keras' paths; where a path occurs twice, the later ones get `#2`, `#3`. What each replica of a strategy has for itself is in
    "metrics" too, under the path and `@0`, `@1`: the parts of a metric, and a layer's statistics of the replica's own samples. Of these
    "model" has the first replica's, so that a model without the strategy can be restored from it.
    """
    seen: set[int] = set()
    return {group: _named(_in_parts(variables, mirrored=group == "metrics"), seen) for group, variables in _listed(model).items()}


def _listed(model: Any) -> dict[str, list[Any]]:
    return {
        "model": list(model.variables),
        "optimizer": [variable for optimizer in _optimizers(model) for variable in optimizer.variables],
        "metrics": [*model.metrics_variables, *keras_private.recurrent_states(model), *keras_private.updated_by_replicas(model)],
    }


class LiveVariables:
    """`variables_of` a model from one capture to the next: named anew only where a variable has come or gone.

    Attributes:
        groups: as `variables_of` has them.
        all: those of all groups in one row; another object where they have changed, and the same where they have not.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._listed: dict[str, list[Any]] = {}  # held, so that no other object can get the `id` of one of them
        self.groups: dict[str, Named] = {}
        self.all: tuple[Any, ...] = ()
        self._counted: tuple[tuple[Any, ...], tuple[str, ...], int] = (self.all, (), 0)

    def find(self) -> None:
        """Look again at what the model has."""
        listed = _listed(self._model)
        if _identities(listed) == _identities(self._listed):
            return
        self._listed, self.groups = listed, variables_of(self._model)
        self.all = tuple(variable for named in self.groups.values() for variable in named.values())

    def shared(self, framework: Backend, frozen: tuple[str, ...] = ()) -> int:
        """Bytes of host memory that snapshots share with training and that it may write into: all but what is `frozen` of the model."""
        if self._counted[0] is not self.all or self._counted[1] != frozen:
            left_out = {id(self.groups["model"][name]) for name in frozen}
            written = [variable for variable in self.all if id(variable) not in left_out]
            self._counted = (self.all, frozen, framework.shared(written))
        return self._counted[2]

    def snapshot(self, framework: Backend) -> dict[str, dict[str, Any]]:
        """The present values in their groups; they stay what they are now."""
        self.find()
        values = iter(framework.snapshot(self._model, self.all))
        return {group: dict(zip(named, values, strict=False)) for group, named in self.groups.items()}


def _identities(listed: Mapping[str, list[Any]]) -> list[list[int]]:
    return [list(map(id, variables)) for variables in listed.values()]


@dataclasses.dataclass(frozen=True)
class ReplicaPart:
    """What one replica of a strategy keeps of a variable, with as much of a Keras variable's interface as is needed here."""

    path: str
    value: Any

    @property
    def dtype(self) -> str:
        """Name of the type."""
        return str(self.value.dtype.name)

    @property
    def shape(self) -> Any:
        """As of the whole."""
        return self.value.shape

    def assign(self, value: Any) -> None:
        """Of this replica alone."""
        self.value.assign(value)


def _in_parts(variables: Iterable[Any], *, mirrored: bool) -> Iterator[Any]:
    for variable in variables:
        parts = keras_private.replica_parts(variable, mirrored=mirrored) if keras.backend.backend() == "tensorflow" else []
        yield from [ReplicaPart(f"{variable.path}@{index}", part) for index, part in enumerate(parts)] or [variable]


def _named(variables: Iterable[Any], seen: set[int]) -> Named:
    named: Named = {}
    for variable in variables:
        identity = id(variable.value) if isinstance(variable, ReplicaPart) else id(variable)
        if identity in seen:
            continue
        seen.add(identity)
        name, copies = variable.path, 1
        while name in named:
            copies += 1
            name = f"{variable.path}#{copies}"
        named[name] = variable
    return named


def _optimizers(model: Any) -> Iterator[Any]:
    """The compiled optimizer first, then those that a custom train_step keeps as attributes of the model (a GAN's two)."""
    found: list[Any] = []
    candidates = [getattr(model, "optimizer", None), *vars(model).values()]
    for value in candidates:
        if isinstance(value, keras.optimizers.Optimizer) and not any(value is other for other in found):
            found.append(value)
            yield value


def differences(saved: Mapping[str, Any], live: Named, what: str) -> list[str]:
    """Sentences naming where the checkpoint's tensors and the live variables disagree; [] where they fit.

    Names are compared without the numbers that Keras appends (`dense_1`), which depend on what else the process has built.
    """
    saved_names, live_names = list(saved), list(live)
    if what == "optimizer":  # the scope before the last part depends on whether fit or build() made the variable
        saved_names, live_names = [_last_part(name) for name in saved], [_last_part(name) for name in live]
    if [_canonical(name) for name in saved_names] != [_canonical(name) for name in live_names]:
        return _name_differences(saved_names, live_names, what)
    return [
        f"{what} variable '{name}' is {_describe(tensor)} in the checkpoint and {_describe(variable)} now"
        for tensor, (name, variable) in zip(saved.values(), live.items(), strict=True)
        if _describe(tensor) != _describe(variable) and not _counts(tensor, name, variable)
    ]


def _name_differences(saved: list[str], live: list[str], what: str) -> list[str]:
    before, now = [_canonical(name) for name in saved], [_canonical(name) for name in live]
    if len(before) == len(now):
        pairs = [(old, new) for old, new, a, b in zip(saved, live, before, now, strict=True) if a != b]
        return [f"{what} variable '{old}' of the checkpoint is '{new}' now" for old, new in pairs]
    gone = [f"{what} variable '{name}' of the checkpoint does not exist now" for name in _unmatched(saved, now)]
    new = [f"{what} variable '{name}' is not in the checkpoint" for name in _unmatched(live, before)]
    return gone + new


def _unmatched(names: list[str], others: list[str]) -> list[str]:
    left = list(others)
    unmatched = []
    for name in names:
        if _canonical(name) in left:
            left.remove(_canonical(name))
        else:
            unmatched.append(name)
    return unmatched


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _canonical(name: str) -> str:
    return _AUTO_NUMBER.sub("", name)


def _describe(value: Any) -> str:
    return f"{_dtype(value)}{list(value.shape)}"


def _dtype(value: Any) -> str:
    return str(value.dtype if isinstance(value.dtype, str) else value.dtype.name)


def _counts(saved: Any, name: str, live: Any) -> bool:
    """Whether they differ at most in the type that their backends of Keras have for such a counter."""
    integers = {_dtype(saved), _dtype(live)} <= _COUNTER_TYPES
    return integers and _last_part(_canonical(name)) in _COUNTERS and tuple(saved.shape) == tuple(live.shape)


def check(saved: Mapping[str, Mapping[str, Any]], live: Mapping[str, Named], where: str) -> None:
    """Raise CheckpointMismatchError, naming the first differences, unless every tensor has its variable and the other way round."""
    found = [line for group, named in live.items() for line in differences(saved.get(group, {}), named, group)]
    if found:
        raise mismatch(found, where)


def mismatch(found: list[str], where: str) -> CheckpointMismatchError:
    """The error for these differences, the first few of them named."""
    more = f" (and {len(found) - _SHOWN} more)" if len(found) > _SHOWN else ""
    return CheckpointMismatchError(
        f"This program is not the one whose run is in {where}: {'; '.join(found[:_SHOWN])}{more}. "
        "Use the model, optimizer and data of that run, or name another directory."
    )


def assign(framework: Backend, saved: Mapping[str, Any], live: Named) -> None:
    """Write the checkpoint's tensors, matched by order, into the variables. `check` has to have passed."""
    # In each group the small ones first: after a large copy the processor's caches are empty, and a small one takes three times as long.
    for tensor, (name, variable) in sorted(zip(saved.values(), live.items(), strict=True), key=lambda pair: int(pair[0].nbytes)):
        value = np.asarray(tensor)
        framework.assign(variable, value.astype(_dtype(variable)) if _counts(value, name, variable) else value)
