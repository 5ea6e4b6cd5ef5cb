"""Tab: what the shell is offered."""

from __future__ import annotations

import pytest
from cli_samples import a_run, cli


def offered(line, tmp_path):
    """The words that complete the last one of the line, as bash asks for them."""
    words = {"_RESILIENT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return cli(cwd=tmp_path, code=None, **words).stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("resilient doc", ["doctor"]),
        ("resilient ls ru", ["runs"]),
        ("resilient ls runs/", ["runs/digits", "runs/other"]),
        ("resilient ls nowhere/", []),
        ("resilient diff runs/digits 2", ["25", "20"]),
        ("resilient diff runs/digits 25 b", ["best"]),
        ("resilient export runs/digits --which ", ["latest", "best", "final", "25", "20", "10", "0"]),
        ("resilient export runs/other --which ", ["latest", "best", "final"]),
    ],
)
def test_commands_directories_and_steps_are_offered(tmp_path, line, words):
    """Steps are those of the run that the line names, the newest first; what is no run has none, and no error is shown."""
    a_run(tmp_path / "runs" / "digits")
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / ".hidden").mkdir()
    assert offered(line, tmp_path) == words
