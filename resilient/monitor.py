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
        self._asked = name
        self._asked_mode = mode
        self._fallen_back = False
        self._untold: str | None = None
        self._model = model
        self._validates = validates
        self._seen = False

    @property
    def mode(self) -> str:
        """The direction: "min" or "max"."""
        if self._fallen_back:
            return "min"
        if self._asked_mode != "auto":
            return self._asked_mode
        return "max" if _direction(self._model, self.name.removeprefix("val_")) == "up" else "min"

    @property
    def record(self) -> list[str]:
        """What was asked for and what is used, as a checkpoint keeps it."""
        return [self._asked, self._asked_mode, self.name]

    def continues(self, record: list[str]) -> bool:
        """Whether a checkpoint's scores compare with this run's; takes over a fall-back that was made and told before."""
        if record[:2] != self.record[:2]:
            return False
        self._fallen_back = record[2] != self._asked
        self.name = record[2]
        return True

    def score(self, logs: Mapping[str, Any]) -> float | None:
        """The monitored value as a float, None where this epoch has none."""
        if self.name in logs:
            self._seen = True
        elif not self._seen and not self._may_come(logs):
            self._fall_back()
        value = logs.get(self.name)
        return float(value) if isinstance(value, (int, float)) else None

    def tell(self) -> None:
        """Warn of a fall-back, once; called when the epoch is safe, because a program may turn warnings into errors."""
        text, self._untold = self._untold, None
        if text is not None:
            warnings.warn(text, stacklevel=3)

    def _may_come(self, logs: Mapping[str, Any]) -> bool:
        """A `val_` metric before the first epoch that was validated."""
        return self._validates and self.name.startswith("val_") and not any(name.startswith("val_") for name in logs)

    def _fall_back(self) -> None:
        if self.name != _FALLBACK:
            self._untold = (
                f"monitor={self.name!r} is not among what the epoch logged, so the best checkpoint is judged by {_FALLBACK!r}. "
                "Pass monitor= with the name of a logged metric, or validation data."
            )
            self.name, self._fallen_back = _FALLBACK, True


def _direction(model: Any, name: str) -> str | None:
    for metric in model.metrics:
        for member in (metric, *getattr(metric, "metrics", ())):
            if getattr(member, "name", None) == name and hasattr(member, "_direction"):
                return str(member._direction)
    return "up" if any(part in name for part in ("acc", "auc", "precision", "recall", "f1", "iou", "r2")) else None
