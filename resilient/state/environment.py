"""What training runs on, as far as the bits of its results depend on it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from resilient.errors import CheckpointMismatchError
from resilient.state import backend


def describe(model: Any) -> dict[str, Any]:
    """Plain JSON of versions, devices, threads and switches."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "machine": platform.machine(),
        **backend.live().facts(),
        "jit_compile": bool(model.jit_compile),
        "run_eagerly": bool(model.run_eagerly),
    }


def check_backend(saved: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointMismatchError if the run was trained on another backend of Keras: its bits and generators exist there only."""
    before, now = saved["backend"], keras.backend.backend()
    if before != now:
        raise CheckpointMismatchError(
            f"The run in {where} was trained with KERAS_BACKEND={before} and this program uses {now}. Set KERAS_BACKEND={before} to go on "
            "with it, or name another directory; resilient.restore loads its weights into a model of any backend."
        )


def reapply(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Switch on again what can be switched after the framework has started; returns `now` as it is afterwards."""
    return backend.live().reapply(saved, now)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences like "keras was 3.15.1 and is 3.16.0"; [] where all is the same."""
    return [f"{name} was {saved[name]!r} and is {now[name]!r}" for name in saved if name in now and saved[name] != now[name]]
