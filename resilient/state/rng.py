"""The process' random generators: Python's, NumPy's global one, Keras' shared one, and TensorFlow's and PyTorch's where they are loaded.

A framework counts as loaded under any backend: a JAX program reads its data with tf.data, a TensorFlow program with PyTorch's DataLoader.
JAX has no generator of its own.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from resilient import keras_private
from resilient.state import backend

PREFIX = "rng"


def snapshot() -> dict[str, Any]:
    """`capture` in one piece."""
    arrays: dict[str, Any] = {}
    return {"state": capture(arrays), "arrays": arrays}


def restore(taken: Mapping[str, Any]) -> None:
    """Put back what `snapshot` returned."""
    apply(dict(taken["state"]), taken["arrays"])


def capture(arrays: dict[str, Any]) -> dict[str, Any]:
    """JSON of the generators' states; the long ones go into `arrays`."""
    shared = keras_private.find_global_seed_generator()
    if shared is not None:
        arrays[f"{PREFIX}/keras"] = backend.live().freeze(shared.state)
    return {
        "python": _pack(random.getstate(), f"{PREFIX}/python", arrays),
        "numpy": _pack_numpy(np.random.get_state(legacy=False), arrays),
        **_capture_tensorflow(arrays),
        "torch": _capture_torch(arrays),
    }


def _pack(state: Any, key: str, arrays: dict[str, Any]) -> dict[str, Any]:
    version, internal, gauss = state
    arrays[key] = np.array(internal, dtype=np.uint32)
    return {"version": version, "gauss": gauss}


def _unpack(state: dict[str, Any], key: str, arrays: Any) -> Any:
    return state["version"], tuple(int(word) for word in arrays[key]), state["gauss"]


def _pack_numpy(state: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    arrays[f"{PREFIX}/numpy"] = np.array(state["state"]["key"], dtype=np.uint32)
    return {"pos": int(state["state"]["pos"]), "has_gauss": int(state["has_gauss"]), "gauss": float(state["gauss"])}


def _capture_tensorflow(arrays: dict[str, Any]) -> dict[str, Any]:
    if not _loaded("tensorflow"):
        return {"op_seed": None, "op_state": None, "tensorflow": None}
    op_seed, op_state = keras_private.eager_op_seeds()
    generator = keras_private.global_generator()
    if generator is not None:
        arrays[f"{PREFIX}/tensorflow"] = generator.state.read_value()
    return {
        "op_seed": None if op_seed is None else int(op_seed),
        "op_state": None if op_state is None else _pack(op_state, f"{PREFIX}/op", arrays),
        "tensorflow": None if generator is None else int(generator.algorithm),
    }


def _capture_torch(arrays: dict[str, Any]) -> dict[str, Any] | None:
    if not _loaded("torch"):
        return None
    from resilient.state import torch_backend

    return torch_backend.capture_generators(arrays)


def apply(state: dict[str, Any], arrays: Any) -> None:
    """Put the generators back. Called last: everything before it may draw."""
    if f"{PREFIX}/keras" in arrays:
        backend.live().assign(keras_private.make_global_seed_generator().state, arrays[f"{PREFIX}/keras"])
    if _loaded("tensorflow") or _has_drawn(state, arrays):
        _apply_tensorflow(state, arrays)
    if state.get("torch") is not None:
        from resilient.state import torch_backend

        torch_backend.apply_generators(state["torch"], arrays)
    numpy_state = state["numpy"]
    np.random.set_state(
        ("MT19937", np.array(arrays[f"{PREFIX}/numpy"]), numpy_state["pos"], numpy_state["has_gauss"], numpy_state["gauss"])
    )
    random.setstate(_unpack(state["python"], f"{PREFIX}/python", arrays))


def _loaded(framework: str) -> bool:
    return sys.modules.get(framework) is not None


def _has_drawn(state: dict[str, Any], arrays: Any) -> bool:
    """Whether TensorFlow has drawn anything. `keras.utils.set_random_seed` seeds it under JAX too, which is no reason to load it."""
    if state["tensorflow"] is not None:
        return True
    if state["op_state"] is None:
        return False
    fresh = random.Random(state["op_seed"]).getstate()
    return bool(_unpack(state["op_state"], f"{PREFIX}/op", arrays) != fresh)


def _apply_tensorflow(state: dict[str, Any], arrays: Any) -> None:
    if state["tensorflow"] is not None:
        _apply_generator(state["tensorflow"], arrays[f"{PREFIX}/tensorflow"])
    if state["op_state"] is not None:
        keras_private.set_eager_op_seeds(state["op_seed"], _unpack(state["op_state"], f"{PREFIX}/op", arrays))


def _apply_generator(algorithm: int, value: Any) -> None:
    import tensorflow as tf

    generator = keras_private.global_generator()
    if generator is None:
        tf.random.set_global_generator(tf.random.Generator.from_state(np.array(value), alg=algorithm))
    else:
        generator.reset(np.array(value))
