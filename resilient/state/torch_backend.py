"""PyTorch: variables are parameters that a step writes into, so a snapshot is a copy made before the next step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np
import torch

from resilient.state.host_copies import Array, Headroom, HostCopies

# What a device has free must hold a snapshot this many times, or the next step might not find the memory it needs.
_ROOM = 1.2
# NumPy has no names of its own for these: torch's number of bytes and the type that the bytes are.
_FOREIGN = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2),
}
_FROM_FOREIGN = {np.dtype(kind): (bits, tensor) for tensor, (bits, kind) in _FOREIGN.items()}
PREFIX = "rng/torch"


class OnDevice:
    """A tensor on an accelerator that nobody writes into any more: brought to the host where it is needed, on any thread."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = to_numpy(self._tensor.cpu())
        return array if dtype is None else array.astype(dtype, copy=bool(copy))


class TorchBackend:
    """State under PyTorch."""

    def __init__(self) -> None:
        self._copies, self._headroom = HostCopies(), Headroom()

    def snapshot(self, model: Any, variables: tuple[Any, ...]) -> list[Any]:
        """Copies: in host memory where the tensors live there, on the device where that has room, else in host memory."""
        tensors = [variable.value.detach() for variable in variables]
        if all(tensor.device.type == "cpu" for tensor in tensors):
            return list(self._copies.take([to_numpy(tensor) for tensor in tensors]))
        if self._headroom.allows(lambda: _has_room(tensors)):
            return [OnDevice(tensor.clone()) for tensor in tensors]
        return [self.freeze(tensor) for tensor in tensors]

    def shared(self, variables: Sequence[Any]) -> int:
        """None: snapshots are copies."""
        return 0

    def same(self, before: Any, now: Any) -> bool | None:
        """Not told: snapshots are copies."""
        return None

    def freeze(self, value: Any) -> Any:
        """A copy in host memory."""
        tensor = value.value if isinstance(value, keras.Variable) else value
        return to_numpy(tensor.detach().cpu()).copy() if isinstance(tensor, torch.Tensor) else np.array(tensor)

    def assign(self, variable: Any, value: Any) -> None:
        """Write an array into a variable."""
        variable.assign(to_tensor(np.asarray(value)))

    def hold(self, model: Any, variables: Sequence[Any]) -> Callable[[], None]:
        """Nothing: an exception leaves the variables as they are."""
        return lambda: None

    def facts(self) -> dict[str, Any]:
        """Versions, devices, threads and switches."""
        return {
            "torch": torch.__version__,
            "devices": _devices(),
            "intra_op_threads": torch.get_num_threads(),
            "inter_op_threads": torch.get_num_interop_threads(),
            "onednn": bool(torch.backends.mkldnn.enabled),
            "matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn_benchmark": bool(torch.backends.cudnn.benchmark),
            "cudnn_deterministic": bool(torch.backends.cudnn.deterministic),
            "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
            "deterministic_ops": torch.are_deterministic_algorithms_enabled(),
        }

    def reapply(self, saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
        """Deterministic algorithms can be switched on at any time."""
        if saved.get("deterministic_ops") and not now["deterministic_ops"]:
            torch.use_deterministic_algorithms(True)
            return {**now, "deterministic_ops": True}
        return dict(now)


def to_numpy(tensor: Any) -> Array:
    """A detached tensor in host memory as an array of the same bits; it shares the memory."""
    if tensor.dtype in _FOREIGN:
        bits, kind = _FOREIGN[tensor.dtype]
        return np.asarray(tensor.view(bits).numpy()).view(kind)
    return np.asarray(tensor.numpy())


def to_tensor(array: Array) -> Any:
    """An array as a tensor of the same bits, to be read from; it shares the memory. The conversion that Keras uses does not know float8."""
    if array.dtype in _FROM_FOREIGN:
        bits, kind = _FROM_FOREIGN[array.dtype]
        return to_tensor(array.view(np.int16 if bits is torch.int16 else np.uint8)).view(kind)
    return torch.from_dlpack(array)  # from_numpy warns where the memory may not be written


def _has_room(tensors: Sequence[Any]) -> bool:
    """Whether the GPU has memory for all of them once more that no step has needed so far; False where it does not tell."""
    if any(tensor.device.type not in ("cuda", "cpu") for tensor in tensors) or not torch.cuda.is_available():
        return False
    needed = _ROOM * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return all(
        torch.cuda.get_device_properties(device).total_memory - torch.cuda.max_memory_reserved(device) > needed
        and torch.cuda.mem_get_info(device)[0] > needed
        for device in {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    )


def _devices() -> list[str]:
    if not torch.cuda.is_available():
        return ["mps"] if torch.backends.mps.is_available() else ["cpu"]
    return sorted({torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())})


def _cuda_in_use() -> bool:
    cuda: Any = torch.cuda  # its functions have no types
    return bool(cuda.is_available() and cuda.is_initialized())


def capture_generators(arrays: MutableMapping[str, Any]) -> dict[str, Any]:
    """JSON of torch's global generators; their states go into `arrays`."""
    arrays[f"{PREFIX}/cpu"] = torch.get_rng_state().numpy().copy()
    used = torch.cuda.get_rng_state_all() if _cuda_in_use() else []
    for index, state in enumerate(used):
        arrays[f"{PREFIX}/cuda/{index}"] = state.numpy().copy()
    return {"cuda": len(used)}


def apply_generators(saved: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Put them back, those of the GPUs as far as there are as many."""
    torch.set_rng_state(torch.from_numpy(np.array(arrays[f"{PREFIX}/cpu"])))
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(min(saved["cuda"], present)):
        torch.cuda.set_rng_state(torch.from_numpy(np.array(arrays[f"{PREFIX}/cuda/{index}"])), index)
