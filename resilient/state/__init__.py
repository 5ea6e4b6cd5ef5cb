"""Everything needed to go on, captured at a batch boundary and applied again: model, optimizer, metrics, RNG, callbacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resilient.manifest import Frozen
from resilient.state import backend, rng, variables
from resilient.state.callbacks import CallbackStates
from resilient.state.frozen import RESTORED, FrozenWeights, UntouchedArrays

__all__ = ["RESTORED", "Capture", "CallbackStates", "State", "apply_to_model", "checkpoint_groups"]

METRICS = "metrics"
_MODEL_FILE, _OPTIMIZER_FILE, _STATE_FILE = "model.safetensors", "optimizer.safetensors", "state.safetensors"


@dataclasses.dataclass(frozen=True)
class Capture:
    """A snapshot: `files` (file name -> tensor name -> value), those of a file's tensors that are `frozen`, and `meta` (plain JSON).

    `shared`: bytes of host memory that training may copy while it is held.
    """

    files: Mapping[str, dict[str, Any]]
    frozen: Mapping[str, Frozen]
    meta: Mapping[str, Any]
    shared: int = 0

    def let_go(self) -> None:
        """Hold the values no longer."""
        for values in self.files.values():
            values.clear()


class State:
    """The live state of one fit: the model's variables, the callbacks, the process' generators."""

    def __init__(self, model: Any, callbacks: CallbackStates) -> None:
        self._model = model
        self._callbacks = callbacks
        self._framework = backend.live()
        self._live = variables.LiveVariables(model)
        self._frozen: FrozenWeights | None = None
        self._untouched = UntouchedArrays()

    @property
    def callbacks(self) -> CallbackStates:
        """The callbacks' part of it."""
        return self._callbacks

    def capture(self) -> Capture:
        """Snapshot of this moment; call it only between two batches. TensorFlow's is by reference, the others' are copies."""
        taken = self._live.snapshot(self._framework)
        weights = self._frozen_weights.find(self._live.groups["model"], taken["model"])
        arrays: dict[str, Any] = {f"{METRICS}/{name}": value for name, value in taken[METRICS].items()}
        meta = {"rng": rng.capture(arrays), "callbacks": self._callbacks.capture(arrays)}
        files = {_MODEL_FILE: taken["model"], _OPTIMIZER_FILE: taken["optimizer"], _STATE_FILE: arrays}
        untouched = {name: array for name, array in self._callbacks.untouched().items() if arrays.get(name) is array}
        parts = {_MODEL_FILE: weights, _STATE_FILE: self._untouched.find(untouched)}
        shared = self._live.shared(self._framework, weights.names if weights else ())
        return Capture(files, {name: part for name, part in parts.items() if part is not None}, meta, shared)

    @property
    def _frozen_weights(self) -> FrozenWeights:
        if self._frozen is None:  # only now are all layers there
            self._frozen = FrozenWeights(self._framework, self._model)
        return self._frozen

    def hold(self) -> Callable[[], None]:
        """What puts the variables back to this moment, for right after an exception has left Model.fit.

        Only JAX needs it: there Keras ends training also on the way of an exception, and writes moving averages over the weights.
        """
        groups = variables.variables_of(self._model)
        return self._framework.hold(self._model, [variable for named in groups.values() for variable in named.values()])

    def check(self, tensors: Mapping[str, Mapping[str, Any]], where: str) -> None:
        """Raise CheckpointMismatchError unless these tensors are exactly those of the model; changes nothing."""
        variables.check(checkpoint_groups(tensors), variables.variables_of(self._model), where)

    def apply(self, tensors: Mapping[str, Mapping[str, Any]], meta: Mapping[str, Any], frozen: Mapping[str, Sequence[str]]) -> None:
        """Put variables, callbacks and generators back; `check` has to have passed. `frozen`: what was so in the checkpoint."""
        live = variables.variables_of(self._model)
        groups = checkpoint_groups(tensors)
        for group, named in live.items():
            variables.assign(self._framework, groups[group], named)
        self._follow_frozen(live["model"], groups["model"], set(frozen.get(_MODEL_FILE, ())))
        self._callbacks.apply(meta["callbacks"], tensors[_STATE_FILE])
        self._untouched.restored(self._callbacks.untouched(), frozen.get(_STATE_FILE, ()))
        rng.apply(meta["rng"], tensors[_STATE_FILE])

    def _follow_frozen(self, named: variables.Named, saved: Mapping[str, Any], frozen: set[str]) -> None:
        """Names of the checkpoint become those of today: they differ in the numbers that Keras appends."""
        today = [name for name, before in zip(named, saved, strict=True) if before in frozen]
        values = self._framework.snapshot(self._model, tuple(named[name] for name in today))
        self._frozen_weights.restored(named, dict(zip(today, values, strict=True)))


def checkpoint_groups(tensors: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A checkpoint's tensors in the groups of `variables_of`."""
    prefix = f"{METRICS}/"
    return {
        "model": dict(tensors.get(_MODEL_FILE, {})),
        "optimizer": dict(tensors.get(_OPTIMIZER_FILE, {})),
        METRICS: {k.removeprefix(prefix): v for k, v in tensors.get(_STATE_FILE, {}).items() if k.startswith(prefix)},
    }


def apply_to_model(model: Any, checkpoint: Any) -> None:
    """Restore weights and seed generators, and the optimizer if the model is compiled and the checkpoint has one.

    Args:
        model: a built Keras model.
        checkpoint: anything with `tensors` and `path`, as `Store.load` returns it.

    Raises:
        CheckpointMismatchError: a name, shape or dtype differs; nothing was changed.
    """
    optimizer = getattr(model, "optimizer", None)
    groups = checkpoint_groups(checkpoint.tensors)
    if optimizer is not None and not optimizer.built and model.built:
        optimizer.build(model.trainable_variables)
    live = variables.variables_of(model)
    restored = {"model": live["model"]}
    if optimizer is not None and groups["optimizer"]:
        restored["optimizer"] = live["optimizer"]
    variables.check(groups, restored, str(checkpoint.path))
    for group, named in restored.items():
        variables.assign(backend.live(), groups[group], named)
