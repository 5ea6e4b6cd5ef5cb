"""`resilient unit PLATFORM`: the commands, their arguments and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

unit = typer.Typer(
    help="Print what makes a platform run a training: a systemd unit, a Slurm batch script, a Kubernetes manifest.",
    epilog="Example: resilient unit systemd -o train.service -- python train.py",
)
_SETTINGS = {"allow_interspersed_args": False}

Command = Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The program and its arguments.", show_default=False)]
Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of the service or job; after the program if not given.", show_default=False)
]
Grace = Annotated[str | None, typer.Option(metavar="TIME", help="From a request to stop to SIGKILL (30s).", show_default=False)]
RunOptions = Annotated[
    str, typer.Option(metavar="TEXT", help="Further options of `resilient run`: '--warm-standby --give-up 3'.", show_default=False)
]
Env = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable for the program; may be repeated.", show_default=False)
]
File = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there and do not print it.", show_default=False)
]
Directory = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the program runs; here if not given.", show_default=False)]


@unit.callback(invoke_without_command=True)
def _unit(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@unit.command(
    context_settings=_SETTINGS, epilog="Example: resilient unit systemd --grace 60s -o train.service -- python train.py --epochs 20"
)
def systemd(
    command: Command,
    user: Annotated[bool, typer.Option("--user", metavar="", help="For your own service manager instead of the machine's.")] = False,
    run_as: Annotated[
        str | None, typer.Option(metavar="USER", help="Whom the machine's service runs as; you if not given.", show_default=False)
    ] = None,
    name: Name = None,
    directory: Directory = None,
    grace: Grace = None,
    run_options: RunOptions = "",
    env: Env = None,
    output: File = None,
) -> int:
    """Print a service: restarted after everything but 0, 78, 93 and `systemctl stop`, started at boot, watched over by progress."""
    from resilient.cli import units

    wanted = units.Wanted(command, name, grace, run_options, env or [])
    return units.print_systemd(wanted, directory, output, user=user, run_as=run_as)


@unit.command(
    context_settings=_SETTINGS, epilog="Example: resilient unit slurm --time 24h --sbatch=--gres=gpu:1 -o train.sbatch -- python train.py"
)
def slurm(
    command: Command,
    time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time limit of one run of the job; the partition's if not given.", show_default=False)
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="An option for sbatch: --sbatch=--gres=gpu:1; repeatable.", show_default=False),
    ] = None,
    name: Name = None,
    directory: Directory = None,
    grace: Grace = None,
    run_options: RunOptions = "",
    env: Env = None,
    output: File = None,
) -> int:
    """Print a batch script that saves before the time limit and goes back into the queue until the training is done."""
    from resilient.cli import units

    wanted = units.Wanted(command, name, grace, run_options, env or [])
    return units.print_slurm(wanted, directory, output, time=time, sbatch=sbatch or [])


@unit.command(
    context_settings=_SETTINGS,
    epilog="Example: resilient unit kubernetes --image me/digits:1 --limit nvidia.com/gpu=1 -o train.yaml -- python train.py",
)
def kubernetes(
    command: Command,
    *,
    image: Annotated[str, typer.Option(metavar="IMAGE", help="With the program, its libraries and resilient.", show_default=False)],
    claim: Annotated[
        str | None, typer.Option(metavar="NAME", help="An existing volume claim; if not given, one is printed.", show_default=False)
    ] = None,
    storage: Annotated[str, typer.Option(metavar="SIZE", help="Size of the volume that is claimed.")] = "20Gi",
    mount: Annotated[str, typer.Option(metavar="PATH", help="Where the volume is for the program: its run directory's place.")] = "/runs",
    limit: Annotated[
        list[str] | None, typer.Option(metavar="NAME=AMOUNT", help="A resource, as nvidia.com/gpu=1; repeatable.", show_default=False)
    ] = None,
    retries: Annotated[int, typer.Option(metavar="N", help="Failures of the whole pod that are allowed.")] = 6,
    jobset: Annotated[bool, typer.Option("--jobset", metavar="", help="A JobSet instead of a Job.")] = False,
    workdir: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where the program runs; the image's if not given.", show_default=False)
    ] = None,
    name: Name = None,
    grace: Grace = None,
    run_options: RunOptions = "",
    env: Env = None,
    output: File = None,
) -> int:
    """Print a Job whose pod is replaced after preemptions free of charge, and which fails at once with 78 and 93."""
    from resilient.cli import units

    wanted = units.Wanted(command, name, grace, run_options, env or [])
    place = units.Place(image, claim, storage, mount, limit or [], retries)
    return units.print_kubernetes(wanted, place, workdir, output, jobset=jobset)
