"""The report of a run: journal and manifests -> one page that opens anywhere, offline, without a script."""

from resilient.report.storm import Kill, Storm
from resilient.report.writing import render, write_report

__all__ = ["Kill", "Storm", "render", "write_report"]
