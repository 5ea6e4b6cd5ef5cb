"""Durations as people write them ("30s", "1h30m", a `timedelta`) as seconds."""

from __future__ import annotations

import datetime as dt
import math
import re

from resilient.errors import ConfigurationError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_TOO_LITTLE = re.compile(rf"-(?:{_WHOLE.pattern}|\d+(?:\.\d+)?)|0+(?:\.0+)?", re.ASCII)  # below 0, or 0 without a unit
_LONGEST = dt.timedelta.max.total_seconds()


def parse_duration(value: object, name: str) -> float:
    """Seconds of a duration.

    Args:
        value: text of numbers with a unit out of ms, s, m, h, d ("30s", "1.5h", "1h30m"), or a `timedelta`. A bare number is
            refused: it does not say its unit.
        name: the argument's name, for the message.

    Returns:
        Seconds, positive and finite.

    Raises:
        ConfigurationError: anything else.
    """
    seconds = _seconds(value)
    if seconds == 0 or (isinstance(value, str) and _TOO_LITTLE.fullmatch(value.strip())):
        raise ConfigurationError(f'{name}={value!r} is not accepted. A duration has to be more than 0, such as "30s" or "5m".')
    if seconds is None:
        otherwise = "" if isinstance(value, str) else ", or a timedelta"  # text may come from a command line, where there is none
        raise ConfigurationError(
            f'{name}={value!r} is not a duration. Write a number with a unit, such as "30s", "5m", "2h", "1d" or "1h30m"{otherwise}.'
        )
    if not (0 < seconds <= _LONGEST and math.isfinite(seconds)):
        raise ConfigurationError(f"{name}={value!r} is {seconds:g} seconds. A duration has to be positive and below {_LONGEST:g} seconds.")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if not isinstance(value, str):
        return None
    text = value.strip()
    if not _WHOLE.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
