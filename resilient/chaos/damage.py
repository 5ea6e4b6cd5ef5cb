"""Damage to the files of a run at rest: what a bad disk, a full one or a careless hand leaves behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from resilient import reading
from resilient.manifest import parse_step_name


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


def zero(path: Path, chance: random.Random) -> str:
    """Write zeros from somewhere on, as where a block was never written; the size stays."""
    content = path.read_bytes()
    last = max(position for position, byte in enumerate(content) if byte) if any(content) else 0
    start = chance.randrange(last + 1)
    path.write_bytes(content[:start] + bytes(len(content) - start))
    return f"{path.name} zeroed from byte {start} on"


def swap(path: Path, chance: random.Random) -> str:
    """Let the file and another one of its directory change places; without another one it is deleted."""
    others = [one for one in files(path.parent) if one != path and one.read_bytes() != path.read_bytes()]
    if not others:
        return delete(path, chance)
    other = chance.choice(others)
    contents = path.read_bytes(), other.read_bytes()
    other.unlink()  # it may be a link that another checkpoint shares
    other.write_bytes(contents[0])
    path.write_bytes(contents[1])
    return f"{path.name} and {other.name} swapped"


def delete(path: Path, chance: random.Random) -> str:
    """Remove the file."""
    path.unlink()
    return f"{path.name} deleted"


KINDS: dict[str, Callable[[Path, random.Random], str]] = {
    "flip": flip,
    "truncate": truncate,
    "zero": zero,
    "swap": swap,
    "delete": delete,
}


def files(directory: Path) -> list[Path]:
    """Files in a directory that can be damaged in every way: those with something in them."""
    return sorted(path for path in directory.iterdir() if path.is_file() and path.stat().st_size > 0)


def damage_file(path: Path, kind: str, chance: random.Random) -> str:
    """Do damage of `kind` to any file, and say what was done.

    A hard-linked file is replaced by a copy first: damage to one checkpoint must not reach another through a shared file, which a bad
    sector would, but which would leave nothing to fall back to.
    """
    if path.stat().st_nlink > 1:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return KINDS[kind](path, chance)


def damage_newest(directory: Path, chance: random.Random) -> str | None:
    """Damage one file of the newest valid checkpoint and say what was done; None where no older valid one is left to fall back to."""
    problems = {problem.path for problem in reading.verify(directory)}
    sound = [Path(info.path) for info in reading.checkpoints(directory) if info.path not in problems]
    if len(sound) < 2:
        return None
    newest = sound[-1]
    return f"step {parse_step_name(newest.name)}: {damage_file(chance.choice(files(newest)), chance.choice(list(KINDS)), chance)}"
