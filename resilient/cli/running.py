"""`resilient run`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from resilient.durations import parse_duration
from resilient.errors import ConfigurationError
from resilient.restarts import RestartPolicy
from resilient.supervisor import Options, Supervisor, spare_command
from resilient.supervisor.patience import Patience


def run_command(
    command: Sequence[str],
    *,
    give_up: int,
    max_restarts: int | None,
    skip_poison_batch: bool,
    hang_timeout: str | None,
    grace: str | None,
    warm_standby: bool,
) -> int:
    """Supervise `command` and return the exit code."""
    program_at(command[0])
    if warm_standby and spare_command(command, 0) is None:
        raise ConfigurationError("--warm-standby needs a command of the form `python script.py ...` or `python -m module ...`.")
    options = Options(
        policy=policy_of(give_up, max_restarts, skip_poison_batch=skip_poison_batch),
        patience=Patience(None if hang_timeout is None else parse_duration(hang_timeout, "--hang-timeout")),
        grace=None if grace is None else parse_duration(grace, "--grace"),
        warm_standby=warm_standby,
    )
    return Supervisor(command, options).run()


def policy_of(give_up: int, max_restarts: int | None, *, skip_poison_batch: bool) -> RestartPolicy:
    """The policy that the options ask for.

    Raises:
        ConfigurationError: one of them cannot be.
    """
    check_at_least(1, give_up, "--give-up")
    check_at_least(0, max_restarts, "--max-restarts")
    return RestartPolicy(give_up, max_restarts, skip_poison_batch)


def check_at_least(least: int, number: int | None, option: str) -> None:
    """Raises ConfigurationError for a smaller number; None is an option that was not given."""
    if number is not None and number < least:
        raise ConfigurationError(f"{option} {number} is not accepted. Give it a number of at least {least}.")


def program_at(program: str, where: Path = Path()) -> str:
    """The path of a program that is started in `where`.

    Raises:
        ConfigurationError: there is none, or it cannot be run.
    """
    path = str(where / program) if "/" in program else program
    found = shutil.which(path)
    if found is not None:
        return os.path.abspath(found)
    if "/" in program and os.path.isdir(path):
        raise ConfigurationError(f"{program!r} is a directory and no program. Write the command after --, as in `-- python train.py`.")
    if "/" in program and os.path.exists(path):
        raise ConfigurationError(
            f"{program!r} is not executable. Make it so (chmod +x), or run it with python, as in `-- python {program}`."
        )
    raise ConfigurationError(f"There is no program {program!r} to run. Write the command after --, as in `-- python train.py`.")
