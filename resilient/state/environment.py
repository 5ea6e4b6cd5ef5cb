"""What TensorFlow runs on, as far as the bits of its results depend on it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np


def describe(model: Any) -> dict[str, Any]:
    """Plain JSON of versions, devices, threads and switches."""
    import tensorflow as tf
    from tensorflow.python.framework.config import is_op_determinism_enabled  # there is no public way to ask

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "tensorflow": tf.__version__,
        "machine": platform.machine(),
        "devices": sorted({device.device_type for device in tf.config.list_physical_devices()}),
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads() or cores,
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads() or cores,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "tf32": bool(tf.config.experimental.tensor_float_32_execution_enabled()),
        "deterministic_ops": bool(is_op_determinism_enabled()),
        "jit_compile": bool(model.jit_compile),
        "run_eagerly": bool(model.run_eagerly),
    }


def reapply(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Switch on again what can be switched after TensorFlow has started; returns `now` as it is afterwards."""
    if saved.get("deterministic_ops") and not now["deterministic_ops"]:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
        return {**now, "deterministic_ops": True}
    return dict(now)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences like "keras was 3.15.1 and is 3.16.0"; [] where all is the same."""
    return [f"{name} was {saved[name]!r} and is {now[name]!r}" for name in saved if name in now and saved[name] != now[name]]
