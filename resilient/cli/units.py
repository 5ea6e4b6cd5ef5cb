"""`resilient unit`: from what was typed to what is launched, and onto the screen or into a file."""

from __future__ import annotations

import dataclasses
import os
import pwd
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from resilient.cli.running import check_at_least, policy_of, program_at
from resilient.durations import parse_duration
from resilient.errors import ConfigurationError
from resilient.store.temporaries import replacing
from resilient.supervisor.vigil import GRACE
from resilient.units import Launch, default_name
from resilient.units.kubernetes import Pod, manifest
from resilient.units.slurm import batch_script
from resilient.units.systemd import service


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What every platform is told, as it was typed."""

    command: Sequence[str]
    name: str | None
    grace: str | None
    run_options: str
    env: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Place:
    """What a pod needs, as it was typed."""

    image: str
    claim: str | None
    storage: str
    mount: str
    limits: Sequence[str]
    retries: int


def print_systemd(wanted: Wanted, directory: Path | None, output: Path | None, *, user: bool, run_as: str | None) -> int:
    """A service for the service manager of the machine, or of the user."""
    if user and run_as is not None:
        raise ConfigurationError("--run-as does not go with --user: a user's services run as that user. Leave one of the two out.")
    account = run_as if run_as is not None or user or os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    return _write(service(_here(wanted, directory), user=user, account=account), output)


def print_slurm(wanted: Wanted, directory: Path | None, output: Path | None, *, time: str | None, sbatch: Sequence[str]) -> int:
    """A batch script."""
    limit = None if time is None else parse_duration(time, "--time")
    return _write(batch_script(_here(wanted, directory), time_limit=limit, directives=sbatch), output)


def print_kubernetes(wanted: Wanted, place: Place, workdir: str | None, output: Path | None, *, jobset: bool) -> int:
    """A Job or a JobSet. The paths are the image's, so nothing is looked up here."""
    check_at_least(0, place.retries, "--retries")
    name = wanted.name or default_name(wanted.command).lower().replace("_", "-").replace(".", "-")
    launch = _launch(wanted, name, ("resilient",), tuple(wanted.command), workdir)
    limits = dict(_pair(text, "--limit", "nvidia.com/gpu=1") for text in place.limits)
    pod = Pod(place.image, place.claim, place.storage, place.mount, limits, place.retries)
    return _write(manifest(launch, pod, jobset=jobset), output)


def _here(wanted: Wanted, directory: Path | None) -> Launch:
    """Of this machine's programs: platforms neither know the PATH of a shell nor an active virtual environment."""
    where = Path(os.path.abspath(directory or Path.cwd()))
    if not where.is_dir():
        raise ConfigurationError(f"--directory {directory}: there is no such directory. Name the one that the program is started in.")
    program, *arguments = wanted.command
    command = (program_at(program, where), *arguments)
    return _launch(wanted, wanted.name or default_name(wanted.command), (sys.executable, "-m", "resilient"), command, str(where))


def _launch(wanted: Wanted, name: str, supervisor: tuple[str, ...], command: tuple[str, ...], directory: str | None) -> Launch:
    grace = [] if wanted.grace is None else ["--grace", wanted.grace]
    return Launch(
        name=name,
        supervisor=supervisor,
        options=(*grace, *_checked(wanted.run_options)),
        command=command,
        grace=GRACE if wanted.grace is None else parse_duration(wanted.grace, "--grace"),
        environment=tuple(_pair(text, "--env", "TF_NUM_INTRAOP_THREADS=4") for text in wanted.env),
        directory=directory,
    )


def _checked(text: str) -> list[str]:
    """Options of `resilient run`, read by `resilient run` itself: better wrong here than on the machine that runs it.

    Raises:
        ConfigurationError: the text is cut off within quotes, or has something that is no option, or an option that is given otherwise.
    """
    from resilient.cli.app import app

    try:
        options = shlex.split(text)
    except ValueError as error:
        raise ConfigurationError(f"--run-options {text!r} ends within quotes. Close them.") from error
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]  # a group, for which typer has no public name
    given = run.make_context("resilient run", [*options, "--", "program"]).params
    if given["command"] != ["program"]:
        raise ConfigurationError(f"--run-options {text!r} holds more than options. Write the program after --.")
    if given["grace"] is not None:
        raise ConfigurationError(
            "--run-options holds --grace. Give it to `resilient unit` itself: the time limits of the unit follow from it."
        )
    policy_of(given["give_up"], given["max_restarts"], skip_poison_batch=given["skip_poison_batch"])
    if given["hang_timeout"] is not None:
        parse_duration(given["hang_timeout"], "--hang-timeout")
    return options


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigurationError(f"{option} {text!r} is not of the form NAME=VALUE. Write it like {option} {example}.")
    return name, value


def _write(text: str, output: Path | None) -> int:
    if output is None:
        typer.echo(text, nl=False)
        return 0
    if output.is_dir() or not output.parent.is_dir():
        raise ConfigurationError(f"--output {output} is no file in an existing folder. Name one, or leave it out and redirect.")
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    typer.echo(f"Wrote {output}.")
    return 0
