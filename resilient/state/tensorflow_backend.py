"""TensorFlow: variables are snapshotted by reference, and TensorFlow copies a buffer when a later step writes into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from resilient import keras_private


class TensorFlowBackend:
    """State under TensorFlow."""

    def snapshot(self, model: Any, variables: Sequence[Any]) -> list[Any]:
        """References to the buffers of this moment: `variable.value` is the live ResourceVariable, read_value() pins its buffer."""
        return [variable.value.read_value() for variable in variables]

    def freeze(self, value: Any) -> Any:
        """A variable's buffer by reference; anything else (NumPy writes into its arrays) by copy."""
        if isinstance(value, keras.Variable):
            value = value.value
        if hasattr(value, "read_value"):
            return value.read_value()
        return np.array(keras.ops.convert_to_numpy(value))

    def assign(self, variable: Any, value: Any) -> None:
        """Write an array into a variable."""
        variable.assign(np.asarray(value))

    def hold(self, model: Any, variables: Sequence[Any]) -> Callable[[], None]:
        """Nothing: an exception leaves the variables as they are."""
        return lambda: None

    def facts(self) -> dict[str, Any]:
        """Version, devices, threads, oneDNN, XLA, TF32 and op determinism."""
        import tensorflow as tf

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return {
            "tensorflow": tf.__version__,
            "devices": sorted({device.device_type for device in tf.config.list_physical_devices()}),
            "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads() or cores,
            "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads() or cores,
            "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "tf32": bool(tf.config.experimental.tensor_float_32_execution_enabled()),
            "deterministic_ops": keras_private.op_determinism(),
        }

    def reapply(self, saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
        """Op determinism can be switched on after TensorFlow has started."""
        if saved.get("deterministic_ops") and not now["deterministic_ops"]:
            import tensorflow as tf

            tf.config.experimental.enable_op_determinism()
            return {**now, "deterministic_ops": True}
        return dict(now)
