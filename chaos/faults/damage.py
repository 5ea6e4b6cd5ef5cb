"""Damage to files at rest: a bit flips, a file is cut, zeroed, swapped with another or deleted, as by a bad disk or a careless hand."""

from __future__ import annotations

import random
from pathlib import Path

from resilient.chaos.damage import KINDS, damage_file, delete, files, flip, swap, truncate, zero

__all__ = ["KINDS", "committed", "damage", "damage_file", "delete", "files", "flip", "newest", "swap", "truncate", "zero"]


def committed(directory: Path) -> list[Path]:
    """Directories of the run's checkpoints by name, oldest first, without asking whether they are valid."""
    return sorted(path for path in (directory / "checkpoints").glob("step-*") if path.is_dir())


def newest(directory: Path) -> Path | None:
    """Directory of the newest checkpoint, None if there is none."""
    return next(reversed(committed(directory)), None)


def damage(checkpoint: Path, kind: str, chance: random.Random) -> str:
    """Do damage of `kind` to one file of a checkpoint, drawn by chance, and say what was done."""
    return f"{damage_file(chance.choice(files(checkpoint)), kind, chance)} in {checkpoint.name}"
