"""The commands: their arguments, their help, and which function does the work. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="resilient",
    help="Run a training until it is done; look at, verify and use its checkpoints.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The run directory, as given to resilient.fit.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Which = Annotated[str, typer.Option(metavar="WHICH", help="latest, best, final, or the number of a step.")]
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
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)] = False,
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
) -> int:
    """Build the model, load a checkpoint into it, and save it as .keras or .weights.h5.

    FILE is imported, not run as a program: what stands under `if __name__ == "__main__":` is left out.
    """
    from resilient.cli.restoring import restore_run

    return restore_run(directory, model, which, output)


@app.command(epilog="Example: resilient export runs/digits --which best -o digits.weights.h5")
def export(directory: Directory, output: Output, which: Which = "latest") -> int:
    """Write a checkpoint's weights as .weights.h5 (for Model.load_weights) or .safetensors.

    The program that trained is not needed, nor TensorFlow. A .weights.h5 also holds the optimizer's variables.
    """
    from resilient.cli.exporting import export_run

    return export_run(directory, which, output)


@app.command(epilog="Example: resilient prune runs/digits --keep-last 3 --keep-best 1 --every 10 --dry-run")
def prune(
    directory: Directory,
    keep_last: Annotated[int, typer.Option(metavar="N", help="Keep the newest N; at least 1.")] = 3,
    keep_best: Annotated[int, typer.Option(metavar="N", help="Keep the N best by the monitored metric.")] = 1,
    every: Annotated[
        str | None, typer.Option(metavar="N|TIME", help="Keep the end of every N epochs, or one per time (30m).", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, only say what would go.")] = False,
    json: Json = False,
) -> int:
    """Remove checkpoints that none of the rules keeps. The newest valid one always stays, and so does what is damaged."""
    from resilient.cli.pruning import prune_run

    return prune_run(directory, keep_last, keep_best, every, dry_run=dry_run, json=json)


@app.command(epilog="Example: resilient diff runs/digits 1200 latest")
def diff(
    directory: Directory,
    step_a: Annotated[str, typer.Argument(metavar="STEP_A", help="latest, best, final, or the number of a step.", show_default=False)],
    step_b: Annotated[str, typer.Argument(metavar="STEP_B", help="The one to compare it with.", show_default=False)],
    json: Json = False,
) -> int:
    """Say which tensors of two checkpoints differ and by how much; exit with 0 if none does and with 1 otherwise."""
    from resilient.cli.differing import diff_run

    return diff_run(directory, step_a, step_b, json=json)


@app.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Example: resilient run --give-up 5 -- python train.py --epochs 20",
)
def run(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The program and its arguments.", show_default=False)],
    give_up: Annotated[int, typer.Option(metavar="N", min=1, help="End with 93 after N failures in a row without progress.")] = 5,
    max_restarts: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Bound on restarts after failures without progress, in all.", show_default=False)
    ] = None,
    skip_poison_batch: Annotated[bool, typer.Option("--skip-poison-batch", help="Leave out a batch at which it failed twice.")] = False,
    hang_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long one batch may take; learned where not given.", show_default=False)
    ] = None,
    grace: Annotated[str | None, typer.Option(metavar="TIME", help="From a request to stop to SIGKILL (30s).", show_default=False)] = None,
    warm_standby: Annotated[bool, typer.Option("--warm-standby", help="Keep a spare interpreter with Keras imported.")] = False,
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
