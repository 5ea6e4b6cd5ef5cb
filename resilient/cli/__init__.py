"""The command line: arguments and printing, nothing else."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `resilient` with `arguments` (default: those of the process) and return its exit code."""
    from resilient.cli.outcome import run

    return run(arguments)
