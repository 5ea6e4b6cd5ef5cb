"""One `resilient run` from its start to its end, seen as an operator sees it: what it prints, and what `ps` shows."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from chaos.faults.memory import Group
from chaos.rounds import Place

_BEGINS = re.compile(rb"^resilient: attempt (\d+) begins \(pid (\d+),", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What the terminal says of an attempt."""

    number: int
    pid: int


class Life:
    """A supervisor that was started.

    Args:
        options: of `resilient run`.
        program: command line of the training.
        place: where the training keeps its things.
        group: what it and all below it are limited by, None for nothing.
    """

    def __init__(self, options: Sequence[str], program: Sequence[str], place: Place, group: Group | None) -> None:
        self._output = place.output
        with self._output.open("ab") as stream:
            self._from = stream.tell()
            command = [sys.executable, "-m", "resilient", "run", *options, "--", *program]
            # In our own process group, so that Ctrl-C or a time limit ends the storm with all that belongs to it.
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        if group is not None:
            group.take(self.process.pid)
        self.struck: list[str] = []

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self.process.pid

    @property
    def code(self) -> int | None:
        """Its exit code (-9 for SIGKILL), None while it runs."""
        return self.process.poll()

    def said(self) -> bytes:
        """All that it and its program have printed."""
        with self._output.open("rb") as stream:
            stream.seek(self._from)
            return stream.read()

    def attempts(self) -> list[Attempt]:
        """Those that it has begun."""
        return [Attempt(int(number), int(pid)) for number, pid in _BEGINS.findall(self.said())]

    def send(self, number: signal.Signals) -> None:
        """Signal to the supervisor alone."""
        self.process.send_signal(number)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is not just waiting to be taken leave of."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def parent(pid: int) -> int | None:
    """Pid of the parent, None if there is no such process."""
    stat = _stat(pid)
    return int(stat[1]) if stat else None


def send(pid: int, number: signal.Signals) -> None:
    """Signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def trainings(place: Place) -> list[int]:
    """Pids of all processes that train at this place, whoever has started them."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                if str(place.run).encode() in words and b"resilient" not in words and is_alive(int(name)):
                    found.append(int(name))
    return found
