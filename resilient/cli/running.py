"""`resilient run`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

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
    if shutil.which(command[0]) is None:
        raise ConfigurationError(f"There is no program {command[0]!r} to run. Write the command after --, as in: -- python train.py")
    if warm_standby and spare_command(command, 0) is None:
        raise ConfigurationError("--warm-standby needs a command of the form `python script.py ...` or `python -m module ...`.")
    options = Options(
        policy=RestartPolicy(give_up, max_restarts, skip_poison_batch),
        patience=Patience(None if hang_timeout is None else parse_duration(hang_timeout, "--hang-timeout")),
        grace=None if grace is None else parse_duration(grace, "--grace"),
        warm_standby=warm_standby,
    )
    return Supervisor(command, options).run()
