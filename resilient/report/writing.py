"""From a run directory to a file."""

from __future__ import annotations

import os
from pathlib import Path

from resilient.report import page, verdict
from resilient.report.facts import gather
from resilient.report.storm import Storm
from resilient.store.temporaries import replacing


def write_report(directory: str | os.PathLike[str], output: str | os.PathLike[str], chaos: Storm | None = None) -> str:
    """Write the report of a run as one HTML page that loads nothing and runs nothing.

    Args:
        directory: the run directory; a training may be under way there. Nothing in it is changed.
        output: the file; an old one is replaced in one step.
        chaos: what whoever killed the run on purpose knows of it.

    Returns:
        The verdict: the sentence at the top of the page.

    Raises:
        ConfigurationError: `directory` does not exist or is no run directory.
        StorageError: it cannot be read, or the output not be written.
    """
    said, content = render(directory, chaos)
    with replacing(Path(output)) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return said


def render(directory: str | os.PathLike[str], chaos: Storm | None = None) -> tuple[str, str]:
    """The verdict and the page as text. Raises as `write_report`."""
    facts = gather(directory)
    return verdict.sentence(facts), page.html(facts, chaos)
