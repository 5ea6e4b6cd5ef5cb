"""What "best" means in a run: which logged metric, and which direction is better."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

_FALLBACK = "loss"


class Monitor:
    """Reads the score of an epoch from its logs.

    Args:
        name: of the metric.
        mode: "min", "max" or "auto": as the metric itself says, "min" for a loss.
        model: the compiled model, whose metrics know their direction.
        validates: whether the run validates: a `val_` metric may then still come in a later epoch.
    """

    def __init__(self, name: str, mode: str, model: Any, *, validates: bool) -> None:
        self.name = name
        self._asked = mode
        self._model = model
        self._validates = validates
        self._seen = False

    @property
    def mode(self) -> str:
        """The direction: "min" or "max"."""
        if self._asked != "auto":
            return self._asked
        return "max" if _direction(self._model, self.name.removeprefix("val_")) == "up" else "min"

    def score(self, logs: Mapping[str, Any]) -> float | None:
        """The monitored value as a float, None where this epoch has none."""
        if self.name not in logs and not self._seen and not self._may_come():
            self._fall_back()
        value = logs.get(self.name)
        if not isinstance(value, (int, float)):
            return None
        self._seen = True
        return float(value)

    def _may_come(self) -> bool:
        return self._validates and self.name.startswith("val_") and self.name.removeprefix("val_") in _names(self._model)

    def _fall_back(self) -> None:
        if self.name != _FALLBACK:
            warnings.warn(
                f"monitor={self.name!r} is not among what the epoch logged, so the best checkpoint is judged by {_FALLBACK!r}. "
                "Pass monitor= with the name of a logged metric, or validation data.",
                stacklevel=3,
            )
            self.name = _FALLBACK


def _names(model: Any) -> set[str]:
    return {"loss", *model.get_metrics_result()}


def _direction(model: Any, name: str) -> str | None:
    for metric in model.metrics:
        for member in (metric, *getattr(metric, "metrics", ())):
            if getattr(member, "name", None) == name and hasattr(member, "_direction"):
                return str(member._direction)
    return "up" if any(part in name for part in ("acc", "auc", "precision", "recall", "f1", "iou", "r2")) else None
