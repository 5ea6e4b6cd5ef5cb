"""Damage to a checkpoint at rest: what a bad disk, a full one or a careless hand leaves behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path


def flip(path: Path, chance: random.Random) -> str:
    """Flip one bit, anywhere in the file."""
    content = bytearray(path.read_bytes())
    bit = chance.randrange(len(content) * 8)
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)
    return f"bit {bit} of {path.name} flipped"


def truncate(path: Path, chance: random.Random) -> str:
    """Cut the file anywhere, possibly to nothing."""
    content = path.read_bytes()
    length = chance.randrange(len(content))
    path.write_bytes(content[:length])
    return f"{path.name} cut from {len(content)} to {length} bytes"


def delete(path: Path, chance: random.Random) -> str:
    """Remove the file."""
    path.unlink()
    return f"{path.name} deleted"


KINDS: dict[str, Callable[[Path, random.Random], str]] = {"flip": flip, "truncate": truncate, "delete": delete}


def committed(directory: Path) -> list[Path]:
    """Directories of the run's checkpoints by name, oldest first, without asking whether they are valid."""
    return sorted(path for path in (directory / "checkpoints").glob("step-*") if path.is_dir())


def newest(directory: Path) -> Path | None:
    """Directory of the newest checkpoint, None if there is none."""
    return next(reversed(committed(directory)), None)


def damage(checkpoint: Path, kind: str, chance: random.Random) -> str:
    """Do damage of `kind` to one file of a checkpoint, drawn by chance, and say what was done.

    A hard-linked file is replaced by a copy first: damage to one checkpoint must not reach another through a shared file, which a bad
    sector would, but which would leave nothing to fall back to.
    """
    path = chance.choice(sorted(path for path in checkpoint.iterdir() if path.is_file() and path.stat().st_size > 0))
    if path.stat().st_nlink > 1:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return f"{KINDS[kind](path, chance)} in {checkpoint.name}"
