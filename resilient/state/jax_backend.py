"""JAX: a training step is given the buffers of all variables to write into, so a snapshot is a copy made before the next step.

During an epoch the variables of a Keras model are empty: the arrays travel from step to step in `model._jax_state`. They are read there.
`model.jax_state_sync()` would put them back into the variables, and Keras collect them again in the next step: three times the cost.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from resilient.state.host_copies import Headroom, HostCopies

# What a device keeps free at its fullest must hold a snapshot this many times, or the next step might not find the memory it needs.
_ROOM = 1.2
_SWITCHES = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
)


class JaxBackend:
    """State under JAX."""

    def __init__(self) -> None:
        self._copies, self._headroom = HostCopies(), Headroom()

    def snapshot(self, model: Any, variables: tuple[Any, ...]) -> list[Any]:
        """Copies: in host memory where the arrays live there, on the device where that has room, else in host memory."""
        arrays = values(model, variables)
        if all(_on_host(array) for array in arrays):
            # The views are gone when this returns: while one is held, JAX does not reuse the buffer, and the next step pays for that.
            return list(self._copies.take([np.asarray(array) for array in arrays]))
        return copies_on_device(arrays) if self._headroom.allows(lambda: _has_room(arrays)) else _copies_on_host(arrays)

    def shared(self, variables: Sequence[Any]) -> int:
        """None: snapshots are copies."""
        return 0

    def same(self, before: Any, now: Any) -> bool | None:
        """Not told: snapshots are copies."""
        return None

    def freeze(self, value: Any) -> Any:
        """A copy in host memory."""
        return np.array(getattr(value, "value", value))

    def assign(self, variable: Any, value: Any) -> None:
        """Write a copy of an array into a variable, which else would go on living in its memory where JAX can: here in a mapped file."""
        variable.assign(jax.numpy.array(value, copy=True))

    def hold(self, model: Any, variables: Sequence[Any]) -> Callable[[], None]:
        """Keras finalizes the variables (writes averages over the weights) also when an exception ends `fit`; arrays do not change."""
        model.jax_state_sync()
        held = [(variable, variable.value) for variable in variables]

        def put_back() -> None:
            for variable, value in held:
                variable.assign(value)

        return put_back

    def facts(self) -> dict[str, Any]:
        """Versions, devices, cores and switches."""
        return {
            "jax": jax.__version__,
            "jaxlib": importlib.metadata.version("jaxlib"),
            "devices": sorted({device.device_kind for device in jax.devices()}),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            **{name: _plain(getattr(jax.config, name, None)) for name in _SWITCHES},
        }

    def reapply(self, saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing can be switched once arrays exist."""
        return dict(now)


def values(model: Any, variables: Sequence[Any]) -> list[Any]:
    """The variables' present arrays, from where they are at this moment. They are good until the next step takes their buffers.

    Raises:
        RuntimeError: a variable has no value now; called in the middle of a step, which Keras' hooks are not.
    """
    travelling = _travelling(model)
    found = [travelling.get(id(variable), variable._value) for variable in variables]
    missing = [variable.path for variable, value in zip(variables, found, strict=True) if value is None]
    if missing:
        raise RuntimeError(f"The variables {', '.join(missing[:4])} have no value at this moment. Capture between two batches.")
    return found


def _travelling(model: Any) -> dict[int, Any]:
    """`id(variable)` -> array for the variables whose values are on their way from one step to the next; {} between epochs."""
    state = getattr(model, "_jax_state", None)
    if not state or model._jax_state_synced:
        return {}
    owners = {
        "trainable_variables": model.trainable_variables,
        "non_trainable_variables": model.non_trainable_variables,
        "optimizer_variables": model.optimizer.variables if model.optimizer is not None else [],
        "metrics_variables": model.metrics_variables,
    }
    return {
        id(variable): value
        for kind, arrays in state.items()
        for variable, value in zip(owners[kind], arrays, strict=True)
    }  # fmt: skip


def _on_host(array: Any) -> bool:
    return all(device.platform == "cpu" for device in array.devices())


def _has_room(arrays: Sequence[Any]) -> bool:
    """Whether every device could hold all of them once more even at the fullest it has been; False where it does not tell."""
    needed = _ROOM * sum(array.nbytes for array in arrays)
    for device in {device for array in arrays[:1] for device in array.devices()}:
        stats = device.memory_stats() or {}
        if stats.get("bytes_limit", 0) - stats.get("peak_bytes_in_use", 0) < needed:
            return False
    return True


def copies_on_device(arrays: Sequence[Any]) -> list[Any]:
    """Each array once more, where it lies. `np.asarray` brings them to the host later, on the thread that writes."""
    return list(jax.device_put(list(arrays), [array.sharding for array in arrays], may_alias=False))


def _copies_on_host(arrays: Sequence[Any]) -> list[Any]:
    for array in arrays:
        array.copy_to_host_async()
    return [np.array(array) if _on_host(array) else np.asarray(array) for array in arrays]


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
