"""Keras training that survives: `resilient.fit(model, ..., directory=...)` for `model.fit(...)`.

Names are loaded when they are first used: `import resilient` imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilient.auditing import Finding
    from resilient.errors import (
        CheckpointCorruptError,
        CheckpointMismatchError,
        ConfigurationError,
        Preempted,
        PreemptedError,
        ResilientError,
        RunInUseError,
        RunLockedError,
        StorageError,
    )
    from resilient.examining import audit
    from resilient.fitting import fit
    from resilient.keep import Keep
    from resilient.manifest import CheckpointInfo
    from resilient.model_checkpoint import ModelCheckpoint
    from resilient.reading import checkpoints, restore, verify

__version__ = "0.1.0"

_HOMES = {
    "resilient.auditing": ("Finding",),
    "resilient.errors": (
        "CheckpointCorruptError",
        "CheckpointMismatchError",
        "ConfigurationError",
        "Preempted",
        "PreemptedError",
        "ResilientError",
        "RunInUseError",
        "RunLockedError",
        "StorageError",
    ),
    "resilient.examining": ("audit",),
    "resilient.fitting": ("fit",),
    "resilient.keep": ("Keep",),
    "resilient.manifest": ("CheckpointInfo",),
    "resilient.model_checkpoint": ("ModelCheckpoint",),
    "resilient.reading": ("checkpoints", "restore", "verify"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CheckpointCorruptError",
    "CheckpointInfo",
    "CheckpointMismatchError",
    "ConfigurationError",
    "Finding",
    "Keep",
    "ModelCheckpoint",
    "Preempted",
    "PreemptedError",
    "ResilientError",
    "RunInUseError",
    "RunLockedError",
    "StorageError",
    "audit",
    "checkpoints",
    "fit",
    "restore",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'resilient' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
