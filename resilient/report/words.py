"""Numbers, times and counts as people read them."""

from __future__ import annotations

import datetime as dt
import math

from resilient.amounts import duration, size

NOTHING = "\u2013"  # stands where there is no value
_MINUS = "\u2212"

__all__ = ["NOTHING", "count", "duration", "integer", "lost", "moment", "number", "percent", "size", "tick"]


def number(value: float) -> str:
    """At most four significant digits, thousands apart by a narrow space: 12 345, 0.0123, 1.2e-07."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else f"{_MINUS}∞"
    if value == int(value) and abs(value) < 1e15:
        return integer(int(value))
    if 1e-4 <= abs(value) < 1e4:
        return f"{value:.4g}".replace("-", _MINUS)
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return (mantissa + (f"e{int(exponent)}" if exponent else "")).replace("-", _MINUS)


def tick(value: float) -> str:
    """A round number in little room: 250, 20 000, 1.5 M."""
    for large, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if large <= abs(value) < 1e15:
            return f"{number(value / large)} {unit}"
    return number(value)


def integer(value: int) -> str:
    """Thousands apart by a narrow space, from ten thousand on."""
    text = f"{abs(value):,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(abs(value))
    return f"{_MINUS}{text}" if value < 0 else text


def count(value: int, noun: str) -> str:
    """A number with its noun: 1 step, 2 steps."""
    return f"{integer(value)} {noun if value == 1 else noun + 's'}"


def lost(steps: int, *, exactly: bool) -> str:
    """Steps that were lost: 41, or ≥ 41 where that is only the least."""
    return integer(steps) if exactly else f"≥ {integer(steps)}"


def percent(share: float) -> str:
    """A share of one: 97.1 %; what is there is never 0 %, and what lacks something never 100 %."""
    if not math.isfinite(share):
        return "?"
    if 0 < share < 0.0005:
        return "< 0.1 %" if share >= 0.00005 else "< 0.01 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{share * 100:.0f} %" if share in (0, 1) else f"{share * 100:.1f} %"


def moment(time: dt.datetime) -> str:
    """Date and time in UTC, to the second."""
    try:
        return f"{time.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}"
    except OverflowError:  # in the first or last hours of the calendar, by a clock that was never set
        return f"{time:%Y-%m-%d %H:%M:%S}"
