"""What the doctor says of one thing."""

from __future__ import annotations

import dataclasses
import enum


class Level(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing: its name, how bad it is, a sentence that says what was found, and what to do about it ("" where nothing is to be done)."""

    name: str
    level: Level
    text: str
    remedy: str = ""


def ok(name: str, text: str) -> Item:
    """All is well."""
    return Item(name, Level.OK, text)


def warning(name: str, text: str, remedy: str) -> Item:
    """It works, and it could be better or go wrong."""
    return Item(name, Level.WARNING, text, remedy)


def problem(name: str, text: str, remedy: str) -> Item:
    """It fails, or will."""
    return Item(name, Level.PROBLEM, text, remedy)
