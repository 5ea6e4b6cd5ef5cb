"""`resilient run` around small programs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resilient import journal

ROOT = Path(__file__).resolve().parent.parent


def write(directory: Path, body: str, *, speaks: bool = True) -> Path:
    """A program in `directory`; `speaks`: it beats, see `fake_training`."""
    script = directory / "program.py"
    script.write_text(("from fake_training import *\n" if speaks else "") + textwrap.dedent(body))
    return script


@contextlib.contextmanager
def supervised(directory: Path, body: str, *options: str, speaks: bool = True, **arguments: Any) -> Iterator[subprocess.Popen[str]]:
    """`resilient run` of a program, killed in the end; its standard output and error are pipes unless `arguments` say otherwise."""
    script = write(directory, body, speaks=speaks)
    command = [sys.executable, "-m", "resilient", "run", *options, "--", sys.executable, script.name]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **arguments.pop("variables", {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=directory, env=environment, text=True, start_new_session=True, **{**streams, **arguments})
    try:
        yield process
    finally:
        process.kill()
        with process:  # closes the pipes and waits
            pass


def run(directory: Path, body: str, *options: str, speaks: bool = True, **arguments: Any) -> subprocess.CompletedProcess[str]:
    """Supervise a program to the end."""
    with supervised(directory, body, *options, speaks=speaks, **arguments) as process:
        out, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def wait_for(process: subprocess.Popen[str], word: str) -> list[str]:
    """The rest of the first line of output that begins with `word`."""
    for line in process.stdout or []:
        words = line.split()
        if words[:1] == [word]:
            return words[1:]
    raise AssertionError(f"The program ended before it said {word!r}: {process.stderr and process.stderr.read()}")


def events(directory: Path, name: str) -> list[dict[str, Any]]:
    """Events of that name in the journal of the program's run directory."""
    return [event for event in journal.read(directory / "run") if event["event"] == name]


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is not just waiting to be taken leave of."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(*pids: int) -> None:
    """Returns once none of them is alive; the test's own time limit is the only one."""
    while any(map(is_alive, pids)):
        time.sleep(0.005)
