"""The program as a child process: started, listened to, and killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PATIENCE = 300.0  # seconds until a child that does not tell what it should counts as hung
_ROOT = Path(__file__).resolve().parent.parent

Mark = dict[str, Any]


class Child:
    """One process of `benchmarks.program`; the arguments are those of its `main`.

    Attributes:
        born: when it was asked for, on the clock of its marks.
        process: to send signals to and to wait for.
    """

    def __init__(self, **arguments: Any) -> None:
        directory = Path(arguments["directory"]).absolute()  # the child works beside it
        command = [sys.executable, "-m", "benchmarks.program", json.dumps({**arguments, "directory": os.fspath(directory)})]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.fspath(_ROOT)}
        self.born = time.time()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True, cwd=directory.parent
        )
        self._marks: list[Mark] = []
        self._news = threading.Condition()
        self._over = False
        self._errors = ""
        self._listeners = [threading.Thread(target=listen) for listen in (self._listen, self._listen_to_errors)]
        for listener in self._listeners:
            listener.start()

    def wait_for(self, mark: str) -> Mark:
        """The first mark of that name.

        Raises:
            RuntimeError: the process ended without it, or takes too long.
        """
        self.wait_until(lambda marks: any(one["mark"] == mark for one in marks))
        return next(one for one in self._marks if one["mark"] == mark)

    def wait_until(self, condition: Callable[[list[Mark]], bool]) -> None:
        """Wait until what it has told so far fulfils the condition. Raises as `wait_for`."""
        with self._news:
            self._news.wait_for(lambda: self._over or condition(self._marks), _PATIENCE)
            met = condition(self._marks)
        if not met:
            self.kill()
            raise RuntimeError(f"The child ended or hung too early:\n{self._errors[-2000:]}")

    def kill(self) -> list[Mark]:
        """End it as `kill -9` does; returns all that it told."""
        self.process.kill()
        return self.marks()

    def marks(self) -> list[Mark]:
        """All that it told, after its end."""
        self.process.wait()
        for listener in self._listeners:
            listener.join()
        return self._marks

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as told:
            for line in told:
                if line.startswith("{") and line.endswith("}\n"):  # a kill may tear the last one
                    with self._news:
                        self._marks.append(json.loads(line))
                        self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()

    def _listen_to_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as told:
            self._errors = told.read()
