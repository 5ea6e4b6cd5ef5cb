"""The commands: their arguments, their help, and which function does the work. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resilient.cli import completing
from resilient.cli.unit_commands import unit

app = typer.Typer(
    name="resilient",
    help="Run a training until it is done; look at, verify and use its checkpoints.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(unit, name="unit")

Directory = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="The run directory, as given to resilient.fit.", show_default=False, autocompletion=completing.directories
    ),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON instead of text.")]
Which = Annotated[str, typer.Option(metavar="WHICH", help="latest, best, final, or the number of a step.", autocompletion=completing.steps)]
StepA = Annotated[
    str,
    typer.Argument(
        metavar="STEP_A", help="latest, best, final, or the number of a step.", show_default=False, autocompletion=completing.steps
    ),
]
StepB = Annotated[
    str, typer.Argument(metavar="STEP_B", help="The one to compare it with.", show_default=False, autocompletion=completing.steps)
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write; an old one is replaced at once.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from resilient import __version__

        typer.echo(f"resilient {__version__}")
        raise typer.Exit


# `--debug` is taken out of the arguments before they come here, wherever it stands; it is declared for the help.
@app.callback(invoke_without_command=True)
def resilient(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Run a training until it is done; look at, verify and use its checkpoints."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command("ls", epilog="Example: resilient ls runs/digits")
def ls(directory: Directory, json: Json = False) -> int:
    """List the checkpoints of a run, oldest first."""
    from resilient.cli.listing import list_run

    return list_run(directory, json=json)


@app.command(epilog="Examples: resilient status runs/digits --watch, resilient status runs/digits --json | jq .goodput")
def status(
    directory: Directory,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", metavar="", help="Go on looking until Ctrl-C; into a pipe, print a line for each change.")
    ] = False,
    json: Json = False,
) -> int:
    """Show what a run is doing now and why, its last save, its last attempts, lost work and goodput.

    Exit codes: 0 running, waiting or finished; 1 crashed or not begun; 75 stopped, start it again; 78 needs a human; 93 gave up.
    """
    from resilient.cli.watching import status_run

    return status_run(directory, watch=watch, json=json)


@app.command(epilog="Examples: resilient doctor runs/digits, resilient doctor runs/not-yet-there --grace 30s")
def doctor(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The run directory, or where it is going to be.", show_default=False)],
    grace: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long a request to stop leaves; else the platform's.", show_default=False)
    ] = None,
    json: Json = False,
) -> int:
    """Look for what would fail, before it does: disk, file system, lock, platform, notices; exit with 1 if there is a problem.

    It measures the disk for about a second in the run directory, and cleans up. No request leaves the machine.
    """
    from resilient.cli.doctoring import doctor_run

    return doctor_run(directory, grace, json=json)


@app.command(epilog="Example: resilient verify runs/digits")
def verify(directory: Directory, json: Json = False) -> int:
    """Re-read and re-hash everything; exit with 1 if anything is damaged."""
    from resilient.cli.verifying import verify_run

    return verify_run(directory, json=json)


@app.command(epilog="Example: resilient restore runs/digits --model train.py:build --which best -o model.keras")
def restore(
    directory: Directory,
    model: Annotated[str, typer.Option(metavar="FILE:FUNCTION", help="A function without arguments that returns the Keras model.")],
    output: Output,
    which: Which = "latest",
    json: Json = False,
) -> int:
    """Build the model, load a checkpoint into it, and save it as .keras or .weights.h5.

    FILE is imported, not run as a program: what stands under `if __name__ == "__main__":` is left out.
    """
    from resilient.cli.restoring import restore_run

    return restore_run(directory, model, which, output, json=json)


@app.command(epilog="Example: resilient export runs/digits --which best -o digits.weights.h5")
def export(directory: Directory, output: Output, which: Which = "latest", json: Json = False) -> int:
    """Write a checkpoint's weights as .weights.h5 (for Model.load_weights) or .safetensors.

    The program that trained is not needed, nor TensorFlow. A .weights.h5 also holds the optimizer's variables.
    """
    from resilient.cli.exporting import export_run

    return export_run(directory, which, output, json=json)


@app.command(epilog="Example: resilient prune runs/digits --keep-last 3 --keep-best 1 --every 10 --dry-run")
def prune(
    directory: Directory,
    keep_last: Annotated[int, typer.Option(metavar="N", help="Keep the newest N; at least 1.")] = 3,
    keep_best: Annotated[int, typer.Option(metavar="N", help="Keep the N best by the monitored metric.")] = 1,
    every: Annotated[
        str | None, typer.Option(metavar="N|TIME", help="Keep the end of every N epochs, or one per time (30m).", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Remove nothing, only say what would go.")] = False,
    json: Json = False,
) -> int:
    """Remove checkpoints that none of the rules keeps. The newest valid one always stays, and so does what is damaged."""
    from resilient.cli.pruning import prune_run

    return prune_run(directory, keep_last, keep_best, every, dry_run=dry_run, json=json)


@app.command(epilog="Example: resilient diff runs/digits 1200 latest")
def diff(
    directory: Directory,
    step_a: StepA,
    step_b: StepB,
    json: Json = False,
) -> int:
    """Say which tensors of two checkpoints differ and by how much; exit with 0 if none does and with 1 otherwise."""
    from resilient.cli.differing import diff_run

    return diff_run(directory, step_a, step_b, json=json)


@app.command(epilog="Example: resilient report runs/digits -o report.html")
def report(
    directory: Directory,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page; an old one is replaced at once.")] = Path(
        "report.html"
    ),
) -> int:
    """Write one web page about a run, which opens offline: what ended each attempt, lost work, goodput, losses, saves, checkpoints."""
    from resilient.cli.reporting import report_run

    return report_run(directory, output)


@app.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Example: resilient run --give-up 5 -- python train.py --epochs 20",
)
def run(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The program and its arguments.", show_default=False)],
    give_up: Annotated[int, typer.Option(metavar="N", help="End with 93 after N failures in a row without progress.")] = 5,
    max_restarts: Annotated[
        int | None, typer.Option(metavar="N", help="Bound on restarts after failures without progress, in all.", show_default=False)
    ] = None,
    skip_poison_batch: Annotated[
        bool, typer.Option("--skip-poison-batch", metavar="", help="Leave out a batch at which it failed twice.")
    ] = False,
    hang_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How long one batch may take, and the start if over 30m; learned if not given.", show_default=False
        ),
    ] = None,
    grace: Annotated[str | None, typer.Option(metavar="TIME", help="From a request to stop to SIGKILL (30s).", show_default=False)] = None,
    warm_standby: Annotated[bool, typer.Option("--warm-standby", metavar="", help="Keep a spare interpreter with Keras imported.")] = False,
) -> int:
    """Run a training program, and start it again after crash, kill, hang or preemption until it is done.

    Exit codes: 0 done, 75 stopped on request (start it again), 78 needs a human, 93 gave up.
    """
    from resilient.cli.running import run_command

    return run_command(
        command,
        give_up=give_up,
        max_restarts=max_restarts,
        skip_poison_batch=skip_poison_batch,
        hang_timeout=hang_timeout,
        grace=grace,
        warm_standby=warm_standby,
    )


@app.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Example: resilient chaos --kills 20 -- python train.py --epochs 20",
)
def chaos(  # noqa: PLR0917  each is an option
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The program and its arguments.", show_default=False)],
    kills: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="How many faults (20); with --mtbf: at most.", show_default=False)
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="KIND=SHARE,...",
            help="Of sigkill, sigterm, both, commit, validation, startup, damage, sigstop.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the schedule: the same number gives the same faults.")] = 0,
    mtbf: Annotated[
        str | None, typer.Option(metavar="TIME", help="Instead: every attempt lives for a random time with this mean.", show_default=False)
    ] = None,
    lifetimes: Annotated[
        str | None, typer.Option(metavar="SHAPE", help="With --mtbf: exponential, early or bathtub.", show_default=False)
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead: a recorded trace, CSV with seconds,kind.", show_default=False)
    ] = None,
    scale: Annotated[float | None, typer.Option(metavar="FACTOR", help="With --replay: multiply its seconds.", show_default=False)] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Give the disturbed training up after this.", show_default=False)
    ] = None,
    hang_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long one batch may take; learned where not given.", show_default=False)
    ] = None,
    control: Annotated[bool, typer.Option("--control", metavar="", help="Train undisturbed twice, also if nothing differs.")] = False,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep everything in this new folder.", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A report, .html or .json.", show_default=False)
    ] = None,
    json: Json = False,
) -> int:
    """Run a training program undisturbed, then under kills and faults, and compare the ends bit for bit.

    The program is not changed. It needs resilient.fit and a fixed seed. Its run directories are kept in a folder of the test;
    whatever else it writes, it writes where it always does. In COMMAND, {training} stands for a folder that each training has for itself.

    Exit codes: 0 both ends are equal, 1 they are not, or cannot be compared.
    """
    from resilient.cli.chaos import chaos_command

    return chaos_command(
        command,
        kills=kills,
        mix=mix,
        seed=seed,
        mtbf=mtbf,
        lifetimes=lifetimes,
        replay=replay,
        scale=scale,
        timeout=timeout,
        hang_timeout=hang_timeout,
        control=control,
        root=root,
        output=output,
        json=json,
    )
