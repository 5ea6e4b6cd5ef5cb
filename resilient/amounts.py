"""Bytes, durations, ages, counts and command lines as people read them."""

from __future__ import annotations

import datetime as dt
import re
import shlex
from collections.abc import Sequence

_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")
_DURATIONS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_AGES = ((86400, "d"), (3600, "h"), (60, "min"))


def size(nbytes: float) -> str:
    """Bytes in decimal units with three digits: 999 B, 1.00 kB, 25.3 MB."""
    power = 0
    while nbytes >= 999.5 and power < len(_SIZES) - 1:
        nbytes, power = nbytes / 1000, power + 1
    if power == 0:
        return f"{nbytes:.0f} B"
    digits = 2 if nbytes < 9.995 else 1 if nbytes < 99.95 else 0
    return f"{nbytes:.{digits}f} {_SIZES[power]}"


def age(created: dt.datetime, now: dt.datetime) -> str:
    """How long ago, in one unit: 12 s, 5 min, 3 h, 2 d."""
    seconds = (now - created).total_seconds()
    if seconds < 0:
        return "0 s"  # the clock of the machine that saved it was ahead of ours
    for length, unit in _AGES:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def duration(seconds: float) -> str:
    """How long, in two units at most: 4.5 ms, 3.2 s, 45 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms" if seconds >= 0.00001 else "0 s"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    for length, unit, smaller, small_unit in _DURATIONS:
        if seconds >= length - smaller / 2:
            whole, rest = divmod(round(seconds / smaller), length // smaller)
            return f"{whole} {unit} {rest} {small_unit}" if rest else f"{whole} {unit}"
    return f"{seconds:.0f} s"


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 checkpoint, 2 checkpoints."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def one_line(command: Sequence[str], longest: int = 160) -> str:
    """A command in a line of at most so many characters, quoted for a shell: whole programs stand behind `python -c`."""
    line = re.sub(r"\s+", " ", shlex.join(command))
    return line if len(line) <= longest else f"{line[: longest - 3]}..."
