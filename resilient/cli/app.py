"""The commands, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from resilient import reading
from resilient.cli import output
from resilient.errors import EXIT_DONE, EXIT_FAILED, ConfigurationError, ResilientError
from resilient.store import Checkpoint, RunLock, Store

app = typer.Typer(
    name="resilient",
    help="Looks after the checkpoints of a Keras run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The run directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Which = Annotated[str, typer.Option("--which", help='"latest", "best", "final" (the state after training ended), or a step.')]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0 done, 1 failed or something was found, 2 wrong usage, 78 needs a human."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in options  # accepted anywhere, since it is added to a command that has just failed
    rest = [argument for argument in options if argument != "--debug"] + given[len(options) :]
    warnings.showwarning = _show_warning
    try:
        get_command(app)(args=rest, prog_name="resilient")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED if stop.code else EXIT_DONE
    except Exception as error:  # noqa: BLE001 (the boundary: whatever it is, people get one sentence)
        return _fail(error, debug=debug)
    return EXIT_DONE


def _fail(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if isinstance(error, ResilientError):
        output.complain("Error", str(error))
        return error.exit_code
    advice = "" if debug else " Run it again with --debug to see where."
    output.complain("Error", f"{type(error).__name__}: {error}.{advice}")
    return EXIT_FAILED


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    output.complain("Warning", str(message))


def _print_version(value: bool) -> None:
    if not value:
        return
    try:
        output.say(f"resilient {version('resilient')}")
    except PackageNotFoundError:
        output.say("resilient (not installed)")
    raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Looks after the checkpoints of a Keras run."""


@app.command()
def ls(directory: Directory, json: Json = False) -> None:
    """List the checkpoints, oldest first."""
    store = reading.open_store(directory)
    infos = store.infos()
    if json:
        output.show_json([output.checkpoint_json(info) for info in infos])
    elif infos:
        output.show_table(output.checkpoint_table(infos))
    else:
        output.say(f"No checkpoints in {directory} yet.")
    if bad := reading.unreadable(store):
        output.complain("Warning", f"{', '.join(bad)} cannot be read and is left out. Run `resilient verify {directory}`.")


@app.command()
def verify(directory: Directory, json: Json = False) -> None:
    """Re-read and re-hash everything; exit code 1 if anything is damaged."""
    problems = reading.verify(directory)
    if json:
        output.show_json([{"path": str(problem.path), "reason": problem.reason} for problem in problems])
    elif not problems:
        output.say(f"Everything in {directory} is as it was saved.")
    else:
        table = output.new_table(damaged="left", reason="left")
        for problem in problems:
            table.add_row(str(problem.path.relative_to(directory)), problem.reason)
        output.show_table(table)
    if problems:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def restore(
    directory: Directory,
    model: Annotated[str, typer.Option("--model", metavar="SCRIPT:FUNCTION", help="Where the function is that builds the model.")],
    target: Annotated[Path, typer.Option("-o", "--output", help="File to write: .keras or .weights.h5.")],
    which: Which = "latest",
) -> None:
    """Put a checkpoint into your model and save it as a Keras file."""
    from resilient.cli import export as files  # noqa: PLC0415 (the quick commands do without)
    from resilient.cli.script import build_model  # noqa: PLC0415

    files.check_output(target, (".keras", ".weights.h5"))
    checkpoint = _select(reading.open_store(directory), which)
    built = build_model(model)
    from resilient.state import apply_to_model  # noqa: PLC0415 (imports Keras)

    apply_to_model(built, checkpoint)
    with files.appearing(target) as temporary:
        save = built.save if target.suffix == ".keras" else built.save_weights
        save(temporary)
    _say_written(checkpoint, target)


@app.command()
def export(
    directory: Directory,
    target: Annotated[Path, typer.Option("-o", "--output", help="File to write: .weights.h5 or .safetensors.")],
    which: Which = "latest",
) -> None:
    """Write a checkpoint's weights to one file. Needs no model and no TensorFlow."""
    from resilient.cli import export as files  # noqa: PLC0415

    checkpoint = _select(reading.open_store(directory), which)
    files.export(checkpoint, target)
    _say_written(checkpoint, target)


@app.command()
def prune(
    directory: Directory,
    keep_last: Annotated[int, typer.Option("--keep-last", metavar="N", help="Keep the newest N.")] = 3,
    keep_best: Annotated[int, typer.Option("--keep-best", metavar="N", help="Keep the best N.")] = 1,
    every: Annotated[str | None, typer.Option("--every", metavar="X", help='Also keep one per X: epochs ("5") or time ("1h").')] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    json: Json = False,
) -> None:
    """Remove checkpoints by the same rules as `keep` in `resilient.fit`."""
    from resilient.keep import Keep  # noqa: PLC0415

    keep = Keep(keep_last, keep_best, int(every) if every is not None and every.isdecimal() else every)
    store = reading.open_store(directory)
    if dry_run:
        removed = store.prune(keep, dry_run=True)
    else:
        with RunLock(directory):
            removed = store.prune(keep)
    if json:
        output.show_json([output.checkpoint_json(info) for info in removed])
        return
    if removed:
        output.show_table(output.checkpoint_table(removed))
    freed = output.decimal(sum(info.nbytes for info in removed))
    output.say(f"{'Would remove' if dry_run else 'Removed'} {_count(len(removed))}, {freed}.")


@app.command()
def diff(
    directory: Directory,
    step_a: Annotated[str, typer.Argument(metavar="STEP_A", help='"latest", "best", "final", or a step.')],
    step_b: Annotated[str, typer.Argument(metavar="STEP_B", help="The other one.")],
    json: Json = False,
) -> None:
    """Compare the tensors of two checkpoints bit by bit; exit code 1 if any differ."""
    from resilient.cli.compare import differences  # noqa: PLC0415

    store = reading.open_store(directory)
    a, b = _select(store, step_a), _select(store, step_b)
    found = differences(a, b)
    if json:
        tensors = [dict(vars(difference)) for difference in found]
        output.show_json({"a": str(a.path), "b": str(b.path), "equal": not found, "tensors": tensors})
    else:
        _show_differences(a, b, found)
    if found:
        raise typer.Exit(EXIT_FAILED)


def _show_differences(a: Checkpoint, b: Checkpoint, found: list[Any]) -> None:
    total = sum(len(tensors) for tensors in a.tensors.values())
    if not found:
        output.say(f"{a.path.name} and {b.path.name} are equal: {total} tensors, bit for bit.")
        return
    table = output.new_table(tensor="left", max_abs="right", mean_abs="right", differ="right")
    for entry in found:
        numbers = [f"{entry.max_abs:.3g}", f"{entry.mean_abs:.3g}", f"{entry.count}/{entry.size}"]
        table.add_row(entry.tensor, *(["", "", entry.note] if entry.note else numbers))
    output.show_table(table)
    output.say(f"{len(found)} of {total} tensors differ between {a.path.name} (A) and {b.path.name} (B).")


def _select(store: Store, which: str) -> Checkpoint:
    if which.isdecimal():
        return reading.select(store, int(which))
    if which != "final":
        return reading.select(store, which)
    final = store.load_final()
    if final is None:
        raise ConfigurationError(f'The run in {store.directory} has not ended, so it has no final state. Use "latest".')
    return final


def _say_written(checkpoint: Checkpoint, target: Path) -> None:
    progress = checkpoint.manifest.progress
    output.say(f"Wrote {target} from {checkpoint.path.name} (epoch {progress.epoch}, batch {progress.batch}).")


def _count(number: int) -> str:
    return f"{number} checkpoint" if number == 1 else f"{number} checkpoints"
