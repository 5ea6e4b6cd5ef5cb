"""What `make demo` shows: the digits example undisturbed, then killed in the worst places, and the two compared bit for bit.

The comparison reads only files: what the program saved by itself, and the tensors of the run's final state.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from chaos import kill, oracle
from chaos.faults import damage

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "digits.py"
PATIENCE = 120.0  # seconds until a process counts as hung


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of the example, in a directory of its own."""

    root: Path

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.root / "run"

    @property
    def curve(self) -> Path:
        """A line `step,loss` a batch, and lines where a validation began and ended, of all attempts."""
        return self.root / "losses.csv"

    def start(self) -> kill.Child:
        """The example as a process."""
        self.root.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(EXAMPLE), "--directory", str(self.run), "--out", str(self.root)]
        return kill.start(command, self.root / "output.txt", {"TF_CPP_MIN_LOG_LEVEL": "3"})

    def lines(self, offset: int = 0) -> list[str]:
        """Whole lines of the curve from a byte offset on."""
        return self.curve.read_text()[offset:].split("\n")[:-1] if self.curve.exists() else []

    def losses(self, offset: int = 0) -> list[tuple[int, float]]:
        """(step, running loss of the epoch) of each batch trained."""
        pairs = (line.split(",") for line in self.lines(offset))
        return [(int(step), float(loss)) for step, loss in pairs if loss]

    def epoch_length(self) -> int:
        """Batches of an epoch."""
        return next(index for index, line in enumerate(self.lines()) if line.startswith("validation"))


@dataclasses.dataclass(frozen=True)
class Fault:
    """How the example is killed: `place` names the moment, `harm` the damage done to the newest checkpoint afterwards."""

    signal: signal.Signals
    place: str
    harm: str | None = None


FAULTS = (
    Fault(signal.SIGKILL, "mid-epoch"),
    Fault(signal.SIGTERM, "mid-epoch"),
    Fault(signal.SIGKILL, "inside a commit"),
    Fault(signal.SIGKILL, "in validation"),
    Fault(signal.SIGKILL, "mid-epoch", harm="flip"),
    Fault(signal.SIGTERM, "in validation"),
    Fault(signal.SIGKILL, "inside a commit", harm="truncate"),
)


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One process: how it died (None: it ended by itself), its exit code, and the batches it trained."""

    fault: Fault | None
    code: int
    losses: list[tuple[int, float]]
    harm: str
    seconds: float

    @property
    def first(self) -> int:
        """The step it began after."""
        return self.losses[0][0] - 1 if self.losses else 0

    @property
    def last(self) -> int:
        """The last step it trained."""
        return self.losses[-1][0] if self.losses else 0


def moment(training: Training, fault: Fault, step: int, length: int) -> kill.Moment:
    """True once the attempt that begins now has trained `step`, and is where the fault wants it in an epoch of `length` batches."""
    offset = training.curve.stat().st_size if training.curve.exists() else 0
    places: dict[str, Callable[[], bool]] = {
        "mid-epoch": lambda: training.losses(offset)[-1][0] % length != 0,
        "in validation": lambda: training.lines(offset)[-1] == "validation begins,",
        "inside a commit": kill.inside_commit(training.run),
    }
    return kill.both(lambda: any(done >= step for done, _ in training.losses(offset)), places[fault.place])


def attempt(training: Training, fault: Fault | None, step: int, length: int, chance: random.Random) -> Attempt:
    """Start the example and let `fault` happen at `step` or soon after it.

    Raises:
        TimeoutError, subprocess.TimeoutExpired: it hangs.
    """
    began = time.monotonic()
    offset = training.curve.stat().st_size if training.curve.exists() else 0
    when = moment(training, fault, step, length) if fault else kill.never
    child = training.start()
    try:
        struck = fault is not None and kill.kill_at(child, when, fault.signal, PATIENCE)
        code = child.wait(PATIENCE)
    finally:
        child.send(signal.SIGKILL)  # the demo itself was interrupted; nothing if the child is gone
    harm = ""
    newest = damage.newest(training.run)
    if struck and fault and fault.harm and newest:
        harm = damage.damage(newest, fault.harm, chance)
    return Attempt(fault if struck else None, code, training.losses(offset), harm, time.monotonic() - began)


def undisturbed(training: Training) -> None:
    """Train once without a kill."""
    code = training.start().wait(PATIENCE)
    if code != 0:
        raise SystemExit(f"The undisturbed example ended with {code}. See {training.root / 'output.txt'}.")


def killed(training: Training, reference: Training, console: Console) -> list[Attempt]:
    """Train under all faults, spread over the length of the reference, and start again until it is done."""
    chance = random.Random(0)
    steps, length = len(reference.losses()), reference.epoch_length()
    attempts: list[Attempt] = []
    for number, fault in enumerate((*FAULTS, None), start=1):
        done = attempt(training, fault, number * steps // (len(FAULTS) + 1), length, chance)
        attempts.append(done)
        how = f"{done.fault.signal.name} {done.fault.place} at step {done.last}" if done.fault else "it ended"
        console.print(f"  attempt {number}: from step {done.first}, {how}, exit code {done.code}{done.harm and ', then ' + done.harm}")
        if done.code not in (0, 75, -signal.SIGKILL):
            raise SystemExit(f"The example ended with {done.code}. See {training.root / 'output.txt'}.")
    return attempts


def results(training: Training) -> dict[str, dict[str, Any]]:
    """Everything the training left behind, by file and name: digests of arrays, values of the rest."""
    final = training.run / "final"
    return {
        "model variables": _tensors(final / "model.safetensors"),
        "optimizer variables": _tensors(final / "optimizer.safetensors"),
        "digits.keras": dict(_keras_file(training.root / "digits.keras")),
        "History": json.loads((training.root / "history.json").read_text()),
        "epochs.csv": {"rows": (training.root / "epochs.csv").read_text().splitlines()},
        "loss of every batch": {str(step): loss for step, loss in training.losses()},
    }


def _tensors(path: Path) -> dict[str, str]:
    return {name: oracle.digest(array) for name, array in load_file(path).items()}


def _keras_file(path: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
        found: list[Any] = []
        weights.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        yield from [(item.name, oracle.digest(item[()])) for item in found]


def attempts_table(attempts: list[Attempt]) -> Table:
    """One row a process; `lost` are the batches that the next one had to train again."""
    view = Table("#", "killed by", "where", "damage", "exit", "steps", "lost", "s", title="processes")
    for number, (done, later) in enumerate(zip(attempts, [*attempts[1:], None], strict=True), start=1):
        how = (done.fault.signal.name, done.fault.place, done.fault.harm or "") if done.fault else ("", "ran to its end", "")
        lost = str(done.last - later.first) if later else ""
        view.add_row(str(number), *how, str(done.code), f"{done.first + 1} to {done.last}", lost, f"{done.seconds:.1f}")
    return view


def digests_table(reference: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> Table:
    """One row a section: its digest in both trainings."""
    view = Table("what", "values", "undisturbed", "killed", "", title="digests of what was saved")
    for name, values in reference.items():
        pair = oracle.combined(values), oracle.combined(other[name])
        view.add_row(name, str(len(values)), *pair, "equal" if pair[0] == pair[1] else "[red]DIFFERENT[/]")
    return view


def plot(path: Path, reference: Training, attempts: list[Attempt]) -> None:
    """Loss over steps of both trainings on top of each other, the kills marked."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 5), layout="constrained")
    axes.plot(*zip(*reference.losses(), strict=True), color="0.75", linewidth=6, solid_capstyle="round", label="undisturbed")
    for number, done in enumerate(attempts, start=1):
        axes.plot(*zip(*done.losses, strict=True), linewidth=1.5, label=f"attempt {number}")
        if done.fault:
            axes.plot(*done.losses[-1], marker="x", color="black", markersize=9, markeredgewidth=2)
            text = f"{done.fault.signal.name}\n{done.fault.place}" + ("\n+ damage" if done.harm else "")
            axes.annotate(text, done.losses[-1], (0, 14), textcoords="offset points", fontsize=7, ha="center")
    axes.set(
        xlabel="batches trained (step)",
        ylabel="training loss (running mean of the epoch)",
        title="examples/digits.py: killed and undisturbed",
    )
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    """Run the demo; 0 if the two trainings are bit-identical, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/demo"), help="where to work; emptied first")
    root = parser.parse_args().root
    shutil.rmtree(root, ignore_errors=True)
    console = Console(soft_wrap=True, highlight=False)
    quiet, stormy = Training(root / "undisturbed"), Training(root / "killed")
    console.print("training examples/digits.py undisturbed …")
    undisturbed(quiet)
    console.print(f"training it again ({len(quiet.losses())} steps), killed {len(FAULTS)} times on the way …")
    try:
        attempts = killed(stormy, quiet, console)
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        raise SystemExit(f"The example hangs: {error} See {stormy.root / 'output.txt'}.") from error
    plot(root / "demo.png", quiet, attempts)
    reference, other = results(quiet), results(stormy)
    console.print(attempts_table(attempts), digests_table(reference, other))
    console.print(f"plot: {root / 'demo.png'}")
    found = oracle.differences(reference, other)
    for difference in found[:5]:
        console.print(f"  {difference}", markup=False)
    kills = sum(done.fault is not None for done in attempts)
    verdict = "no" if found or kills < len(FAULTS) else "yes"
    console.print(
        f"bit-identical after {kills} kills: {verdict} ({oracle.combined(reference)} undisturbed, {oracle.combined(other)} killed)"
    )
    return 0 if verdict == "yes" else 1


if __name__ == "__main__":
    sys.exit(main())
