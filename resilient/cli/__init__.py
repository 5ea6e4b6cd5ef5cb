"""The command line: arguments and printing, nothing else."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `resilient` with `arguments` (default: those of the process) and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if [word for word in given if not word.startswith("-")][:1] == ["run"]:
        # A request to stop that comes while the supervisor is imported waits for it, which then ends with 75.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    from resilient.cli.outcome import run

    return run(arguments)
