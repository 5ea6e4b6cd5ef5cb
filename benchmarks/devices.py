"""The accelerator under each backend of Keras: its name, its memory, and the ways of bringing bytes from it to the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Ways = dict[str, Callable[[], object]]

FRESH, TOUCHED, PINNED = "into fresh memory", "into memory touched before", "into pinned memory"


class TensorFlowDevice:
    """The first GPU that TensorFlow sees."""

    def name(self) -> str | None:
        """None where there is no accelerator."""
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        return str(tf.config.experimental.get_device_details(found[0]).get("device_name", found[0].name)) if found else None

    def memory(self) -> tuple[int, int | None]:
        """Bytes at its fullest so far, and in all (TensorFlow does not tell)."""
        import tensorflow as tf

        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"]), None

    def staging(self, nbytes: int) -> Ways:
        """Ways of bringing that many bytes to the host."""
        import tensorflow as tf

        source, target = tf.zeros(nbytes // 4), np.ones(nbytes // 4, np.float32)
        return {FRESH: source.numpy, TOUCHED: lambda: np.copyto(target, source.numpy())}


class JaxDevice:
    """The first device of JAX, if it is not the processor."""

    def name(self) -> str | None:
        """None where there is no accelerator."""
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else str(device.device_kind)

    def memory(self) -> tuple[int, int | None]:
        """Bytes at its fullest so far, and in all."""
        import jax

        told = jax.devices()[0].memory_stats()
        return int(told["peak_bytes_in_use"]), int(told["bytes_limit"])

    def staging(self, nbytes: int) -> Ways:
        """Of a fresh array each time: JAX keeps what it once brought."""
        import jax

        source, target = jax.numpy.zeros(nbytes // 4), np.ones(nbytes // 4, np.float32)
        pinned = source.sharding.with_memory_kind("pinned_host")
        return {
            FRESH: lambda: np.asarray(source.copy()),
            TOUCHED: lambda: np.copyto(target, np.asarray(source.copy())),
            PINNED: lambda: jax.device_put(source, pinned).block_until_ready(),
        }


class TorchDevice:
    """The first CUDA device of PyTorch."""

    def name(self) -> str | None:
        """None where there is no accelerator."""
        import torch

        return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None

    def memory(self) -> tuple[int, int | None]:
        """Bytes at its fullest so far, and in all."""
        import torch

        return int(torch.cuda.max_memory_allocated()), int(torch.cuda.mem_get_info()[1])

    def staging(self, nbytes: int) -> Ways:
        """Each ends when the bytes are there."""
        import torch

        source = torch.zeros(nbytes // 4, device="cuda")
        target, pinned = torch.ones(nbytes // 4), torch.ones(nbytes // 4).pin_memory()

        def into_pinned() -> None:
            pinned.copy_(source, non_blocking=True)
            torch.cuda.synchronize()

        return {FRESH: source.cpu, TOUCHED: lambda: target.copy_(source), PINNED: into_pinned}


Device = TensorFlowDevice | JaxDevice | TorchDevice
DEVICES: dict[str, type[Device]] = {"tensorflow": TensorFlowDevice, "jax": JaxDevice, "torch": TorchDevice}


def staging_seconds(device: Any, nbytes: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, in turns; the first turn is not counted."""
    import time

    ways = device.staging(nbytes)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if turn:
                found[name].append(time.perf_counter() - began)
    return found
