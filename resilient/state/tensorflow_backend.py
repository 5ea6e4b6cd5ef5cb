"""TensorFlow: variables are snapshotted by reference, and TensorFlow copies a buffer when a later step writes into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from resilient import keras_private
from resilient.state.host_copies import Headroom

# Types that TensorFlow's DeepCopy does not know; `tf.constant` copies them.
_WITHOUT_KERNEL = {"float8_e4m3fn", "float8_e5m2"}


# What a GPU keeps free at its fullest must hold a snapshot this many times, or the next step might not find the memory it needs.
_ROOM = 1.2


class TensorFlowBackend:
    """State under TensorFlow."""

    def __init__(self) -> None:
        self._devices: frozenset[str] | None = None
        self._headroom = Headroom()
        self._variables: tuple[Any, ...] = ()
        self._read: Callable[[], list[Any]] = list  # of these

    def snapshot(self, model: Any, variables: tuple[Any, ...]) -> list[Any]:
        """References to the buffers of this moment: `variable.value` is the live ResourceVariable, read_value() pins its buffer.

        Where that would make a GPU run out of memory, copies in the host's.
        """
        if variables is not self._variables:
            self._variables, self._read = variables, _reading([variable.value for variable in variables])
        values = self._read()
        if self._devices is None and variables:
            self._devices = frozenset(value.device for value in values if "GPU" in value.device)
        if not self._devices or self._headroom.allows(lambda: _has_room(values)):
            return values
        return [np.asarray(value) for value in values]

    def shared(self, variables: Sequence[Any]) -> int:
        """All that do not lie on a device."""
        values = [variable.value for variable in variables]
        return sum(_nbytes(value) for value in values if value.device.endswith("CPU:0"))

    def same(self, before: Any, now: Any) -> bool | None:
        """By the address of the buffer; on a device it cannot be asked for without copying the buffer."""
        if not all(value.device.endswith("CPU:0") for value in (before, now)):
            return None
        return _address(before) == _address(now)

    def freeze(self, value: Any) -> Any:
        """A variable's buffer by reference; anything else (NumPy writes into its arrays) by copy."""
        if isinstance(value, keras.Variable):
            value = value.value
        if hasattr(value, "read_value"):
            return value.read_value()
        return np.array(keras.ops.convert_to_numpy(value))

    def assign(self, variable: Any, value: Any) -> None:
        """Write an array into a variable: one copy, on all cores, into memory of TensorFlow's own.

        From the array itself Keras would make up to two. And where NumPy's memory is aligned as TensorFlow likes it, the variable would
        go on living in it: here in a mapped file, for which a disk may fail later on.
        """
        import tensorflow as tf

        array = np.asarray(value)
        copy = tf.constant(array) if array.dtype.name in _WITHOUT_KERNEL else tf.raw_ops.DeepCopy(x=array)
        _write(variable.value, copy)

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


def _reading(variables: Sequence[Any]) -> Callable[[], list[Any]]:
    """What returns tensors over the variables' buffers of that moment: those in host memory all at once, the others one by one."""
    together = [_is_plain(variable) and "CPU:0" in variable.device for variable in variables]
    read_together = keras_private.read_all([variable for variable, one in zip(variables, together, strict=True) if one])
    alone = [variable for variable, one in zip(variables, together, strict=True) if not one]

    def read() -> list[Any]:
        first, second = iter(read_together()), map(_read, alone)
        return [next(first) if one else next(second) for one in together]

    return read if alone else read_together


def _read(variable: Any) -> Any:
    """A third of the time of `read_value()`, which copies the reference once more."""
    import tensorflow as tf

    if not _is_plain(variable):
        return variable.read_value()
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


def _write(variable: Any, value: Any) -> None:
    """Two thirds of the time of `assign`. `value` is a tensor: in an array's own memory the variable would go on living."""
    import tensorflow as tf

    if _is_plain(variable):
        tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value, validate_shape=True)
    else:
        variable.assign(value, read_value=False)


def _is_plain(variable: Any) -> bool:
    """Whether it is one buffer, and no strategy keeps copies of it."""
    import tensorflow as tf

    return isinstance(variable, tf.Variable) and not isinstance(variable, tf.distribute.DistributedValues)


def _address(tensor: Any) -> int:
    return int(np.asarray(tensor).__array_interface__["data"][0])


def _nbytes(value: Any) -> int:
    return int(value.dtype.size * value.shape.num_elements())


def _has_room(values: Sequence[Any]) -> bool:
    """Whether every GPU could hold these once more even at the fullest it has been; False where it does not tell."""
    devices = {value.device for value in values if "GPU" in value.device}
    return all(_holds(device, [value for value in values if value.device == device]) for device in devices)


def _holds(device: str, values: Sequence[Any]) -> bool:
    import tensorflow as tf

    needed = _ROOM * sum(map(_nbytes, values))
    name = tf.DeviceSpec.from_string(device)
    peak = tf.config.experimental.get_memory_info(f"{name.device_type}:{name.device_index}")["peak"]
    limit = keras_private.device_memory(device)
    return limit is not None and limit - peak >= needed
