"""What is launched, whatever the platform: the supervisor's command line, its environment and its directory."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from resilient.amounts import one_line
from resilient.errors import ConfigurationError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
# Over the grace period: the supervisor kills what has not ended by then, and has to be left the time to do so and to write it down.
AFTER_GRACE = 15.0
# What ends for good: a command line that cannot be read, what needs a human, what was given up.
FINAL_CODES = (2, 78, 93)


@dataclasses.dataclass(frozen=True)
class Launch:
    """What is launched.

    Attributes:
        name: of the service, job or pod.
        supervisor: what `run` is a command of, such as ("/venv/bin/python", "-m", "resilient").
        options: of `resilient run`.
        command: the program and its arguments.
        grace: seconds from a request to stop to the end of the program.
        environment: names and values.
        directory: where it runs; an absolute path.

    Raises:
        ConfigurationError: a name that no platform takes, or text that no file can hold.
    """

    name: str
    supervisor: tuple[str, ...]
    options: tuple[str, ...]
    command: tuple[str, ...]
    grace: float
    environment: tuple[tuple[str, str], ...] = ()
    directory: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(f"--name {self.name!r} is no name. Use letters, digits, dots, hyphens and underscores.")
        for name, _ in self.environment:
            if not _VARIABLE.fullmatch(name):
                raise ConfigurationError(f"--env {name!r} does not begin with the name of a variable. Write it like --env TF_NUM=4.")
        for text in (*self.words, *(value for _, value in self.environment)):
            if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                raise ConfigurationError(f"{text!r} is not UTF-8 text, which is all that a unit, script or manifest holds. Rename it.")
        if self.directory is not None and re.search(r"[\x00-\x1f\x7f\ud800-\udfff]|^\s|[\s\\]$", self.directory):
            raise ConfigurationError(f"--directory {self.directory!r} has characters that no unit file holds. Use another one.")

    @property
    def words(self) -> tuple[str, ...]:
        """The whole command line."""
        return (*self.supervisor, "run", *self.options, "--", *self.command)

    @property
    def title(self) -> str:
        """The program in one short line, for people."""
        return one_line([self.command[0].rpartition("/")[2], *self.command[1:]], 60)


def default_name(command: Sequence[str]) -> str:
    """A name after the program: `train` for `python -u tools/train.py --epochs 3` and for `python -m package.train`."""
    if "-m" in command[:-1]:
        stem = command[command.index("-m") + 1].rpartition(".")[2]
    else:
        scripts = [word for word in command if word.endswith((".py", ".sh")) and not word.startswith("-")]
        stem = re.sub(r"\.(py|sh)$", "", (scripts or command)[0].rpartition("/")[2])
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-._") or "training"
