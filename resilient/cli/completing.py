"""What the shell offers after Tab: run directories, and the steps of the run that was named."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from resilient.errors import ResilientError

_WORDS = ("latest", "best", "final")


def directories(incomplete: str) -> list[str]:
    """Folders that begin like that."""
    folder, _, begun = incomplete.rpartition("/")
    try:
        names = sorted(entry.name for entry in os.scandir(f"{folder}/" if incomplete.startswith("/") else folder or ".") if entry.is_dir())
    except OSError:
        return []
    before = f"{folder}/" if "/" in incomplete else ""
    return [f"{before}{name}" for name in names if name.startswith(begun) and (begun.startswith(".") or not name.startswith("."))]


def steps(context: typer.Context, incomplete: str) -> list[str]:
    """Words and steps that mean a checkpoint of the directory that was named before; the newest step first."""
    directory = context.params.get("directory") or _named()
    found: list[str] = []
    if directory is not None:
        from resilient.reading import checkpoints

        try:
            found = [str(info.step) for info in reversed(checkpoints(Path(directory)))]
        except ResilientError:  # nothing can be said while a line is being typed
            found = []
    return [word for word in (*_WORDS, *found) if word.startswith(incomplete)]


def _named() -> str | None:
    """The directory on the line, where that ends with an option whose value is yet to come, so that it cannot be parsed."""
    words = os.environ.get("COMP_WORDS", os.environ.get("_TYPER_COMPLETE_ARGS", "")).split()
    return next((word for word in words[2:] if Path(word).is_dir()), None)
