"""`resilient verify`."""

from __future__ import annotations

from pathlib import Path

from resilient import reading
from resilient.cli import tables
from resilient.cli.progress import sign_of_life


def verify_run(directory: Path, *, json: bool) -> int:
    """Verify everything and list what is damaged; 1 if anything is."""
    found = reading.survey(directory)
    sound = [*found.checkpoints, *([found.final] if found.final else [])]
    nbytes = sum(info.nbytes for info in sound)
    with sign_of_life(f"re-reading {tables.size(nbytes)}"):
        problems = reading.verify(directory)
    number = len(sound) + len(found.damaged) + len(found.newer)
    if json:
        documents = [{"path": str(problem.path), "reason": problem.reason} for problem in problems]
        tables.print_json({"checkpoints": number, "nbytes": nbytes, "problems": documents})
    else:
        for problem in problems:
            tables.print_line(str(problem))
        tables.print_line(f"{tables.count(number, 'checkpoint')} verified, {tables.count(len(problems), 'problem')}.")
    return 1 if problems else 0
