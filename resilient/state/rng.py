"""The process' random generators: Python's, NumPy's global one, TensorFlow's and Keras' shared one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from resilient import keras_private

PREFIX = "rng"


def capture(arrays: dict[str, Any]) -> dict[str, Any]:
    """JSON of the generators' states; the long ones go into `arrays`."""
    op_seed, op_state = keras_private.eager_op_seeds()
    shared = keras_private.find_global_seed_generator()
    tf_generator = keras_private.global_generator()
    if shared is not None:
        arrays[f"{PREFIX}/keras"] = shared.state.value.read_value()
    if tf_generator is not None:
        arrays[f"{PREFIX}/tensorflow"] = tf_generator.state.read_value()
    return {
        "python": _pack(random.getstate(), f"{PREFIX}/python", arrays),
        "numpy": _pack_numpy(np.random.get_state(legacy=False), arrays),
        "op_seed": None if op_seed is None else int(op_seed),
        "op_state": None if op_state is None else _pack(op_state, f"{PREFIX}/op", arrays),
        "tensorflow": None if tf_generator is None else int(tf_generator.algorithm),
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


def apply(state: dict[str, Any], arrays: Any) -> None:
    """Put the generators back. Called last: everything before it may draw."""
    if f"{PREFIX}/keras" in arrays:
        keras_private.make_global_seed_generator().state.assign(np.array(arrays[f"{PREFIX}/keras"]))
    if state["tensorflow"] is not None:
        _apply_tensorflow(state["tensorflow"], arrays[f"{PREFIX}/tensorflow"])
    if state["op_state"] is not None:
        keras_private.set_eager_op_seeds(state["op_seed"], _unpack(state["op_state"], f"{PREFIX}/op", arrays))
    numpy_state = state["numpy"]
    np.random.set_state(
        ("MT19937", np.array(arrays[f"{PREFIX}/numpy"]), numpy_state["pos"], numpy_state["has_gauss"], numpy_state["gauss"])
    )
    random.setstate(_unpack(state["python"], f"{PREFIX}/python", arrays))


def _apply_tensorflow(algorithm: int, value: Any) -> None:
    import tensorflow as tf

    generator = keras_private.global_generator()
    if generator is None:
        tf.random.set_global_generator(tf.random.Generator.from_state(np.array(value), alg=algorithm))
    else:
        generator.reset(np.array(value))
