"""Fields of an event, whatever stands there: None where it is missing or of another type."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping

from resilient.accounts.values import Event, Save

_HUGE = 2**63


def time(event: Event) -> dt.datetime:
    """When it was written."""
    return dt.datetime.fromisoformat(event["time"])


def began(attempt: Event) -> dt.datetime:
    """When the process of an `attempt` was started; the event may have been held back until its directory was known."""
    try:
        told = dt.datetime.fromisoformat(attempt["began"])
    except (KeyError, TypeError, ValueError):
        return time(attempt)
    return told if told.tzinfo is not None else time(attempt)


def between(first: dt.datetime, second: dt.datetime) -> float:
    """Seconds; 0.0 where the clock went back."""
    return max(0.0, (second - first).total_seconds())


def after(moment: dt.datetime, seconds: float) -> dt.datetime:
    """So many seconds later, as far as a calendar goes."""
    try:
        return moment + dt.timedelta(seconds=seconds)
    except OverflowError:
        return moment


def whole(event: Event, name: str) -> int | None:
    """An integer, of a size that something here can have."""
    value = event.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _HUGE else None


def real(event: Event, name: str) -> float | None:
    """A finite number."""
    return _number(event.get(name))


def text(event: Event, name: str) -> str | None:
    """A string."""
    value = event.get(name)
    return value if isinstance(value, str) else None


def texts(event: Event, name: str) -> list[str]:
    """A list, its items as strings; [] where it is none."""
    value = event.get(name)
    return [str(item) for item in value] if isinstance(value, list) else []


def save(event: Event) -> Save:
    """The checkpoint that a `saved` tells of."""
    metrics = event.get("metrics")
    told = {str(name): _logged(value) for name, value in metrics.items()} if isinstance(metrics, Mapping) else {}
    return Save(
        time=time(event),
        step=whole(event, "step") or 0,
        epoch=whole(event, "epoch") or 0,
        batch=whole(event, "batch") or 0,
        final=event.get("final") is True,
        best=event.get("best") is True,
        waited=event.get("waited") is True,
        nbytes=whole(event, "nbytes") or 0,
        seconds=_first([real(event, "seconds"), 0.0]),
        stall=_first([real(event, "training_seconds"), real(event, "capture_seconds"), 0.0]),
        metrics={name: value for name, value in told.items() if value is not None},
    )


def _logged(value: object) -> float | None:
    """A metric, which need not be finite: the journal holds what JSON has no number for as a string."""
    return float(value) if value in ("nan", "inf", "-inf") and isinstance(value, str) else _number(value)


def _number(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of a thousand digits
        return None
    return number if math.isfinite(number) else None


def _first(values: Iterable[float | None]) -> float:
    """The first that is known; no seconds are negative."""
    return max(0.0, next((value for value in values if value is not None), 0.0))
