"""`resilient report`."""

from __future__ import annotations

from pathlib import Path

from resilient import reading
from resilient.cli import tables
from resilient.cli.output import checked_output
from resilient.report import write_report


def report_run(directory: Path, output: Path) -> int:
    """Write the page, and say the verdict that stands at its top."""
    reading.run_directory(directory)
    checked_output(output, directory, (".html", ".htm"), "The report is a web page: name a file such as report.html")
    verdict = write_report(directory, output)
    tables.print_line(verdict)
    tables.print_line(f"Wrote {output} ({tables.size(output.stat().st_size)}).")
    return 0
