"""Everything that `make chaos` does: each part a process of its own, one table at the end, and one verdict.

    python -m chaos.all --minutes 20 --seed 1 --jobs 2

Parts run one after the other, each with all the jobs; soaking takes the time that is left. What a part prints is kept beside its result.
Exit code 0 if every part ended well and enough kills were delivered, 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from chaos import kill, result

LONGEST = 3.0  # times its share of the minutes that a part may take before it is ended
SHORTEST_SOAK = 45.0  # seconds


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a part is told when its turn comes.

    Attributes:
        seed, jobs: of the command line.
        kills: still to be delivered.
        seconds: left of the time that was asked for.
    """

    seed: int
    jobs: int
    kills: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: of it.
        module: run by `python -m`.
        arguments: of it, besides `--result FILE`.
        share: of the minutes that it should take.
        kills: whether what it counts are kills.
    """

    name: str
    module: str
    arguments: Callable[[Plan], Sequence[object]]
    share: float
    kills: bool = False


def _inputs(plan: Plan) -> Sequence[object]:
    # For each program, of which there are 148 with all backends and 93 with TensorFlow alone: about 450 in 10 to 12 minutes.
    kills = 3 if all(map(importlib.util.find_spec, ("jax", "torch"))) else 5
    return ("--kills", kills, "--quick", "--seed", plan.seed, "--jobs", plan.jobs)


def _supervised(plan: Plan) -> Sequence[object]:
    return ("--lean", "--kills", max(60, plan.kills * 2 // 3), "--seed", plan.seed, "--jobs", plan.jobs)


def _storm(plan: Plan) -> Sequence[object]:
    return ("--kills", max(30, plan.kills), "--seed", plan.seed, "--jobs", plan.jobs)


def _jobs(plan: Plan) -> Sequence[object]:
    return ("--jobs", plan.jobs)


def _soak(plan: Plan) -> Sequence[object]:
    return ("--minutes", round(max(SHORTEST_SOAK, plan.seconds - 20) / 60, 2), "--seed", plan.seed, "--jobs", plan.jobs)


# In their order: those that need all cores for long come first, and what takes any time that is left comes last.
PARTS = (
    Part("inputs", "chaos.inputs", _inputs, 0.50, kills=True),
    Part("supervised", "chaos.supervised", _supervised, 0.10, kills=True),
    Part("storm", "chaos.storm", _storm, 0.10, kills=True),
    Part("crash states", "chaos.crash_states", _jobs, 0.10),
    Part("mutants", "chaos.crash_states", lambda plan: ("--mutants", "--jobs", plan.jobs), 0.05),
    Part("n-th call", "chaos.nth_call", _jobs, 0.10),
    Part("soak", "chaos.soak", _soak, 0.10),
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a part ended: its exit code (None: it had to be ended), what it took, and its result."""

    part: Part
    code: int | None
    seconds: float
    report: result.Report

    @property
    def green(self) -> bool:
        """Whether it is as it should be."""
        return self.code == 0 and not self.report.problems and bool(self.report.rows)

    @property
    def kills(self) -> int:
        """Delivered."""
        return sum(row.runs for row in self.report.rows) if self.part.kills else 0


def run(part: Part, plan: Plan, root: Path, patience: float) -> Ended:
    """One part from start to end; whatever becomes of it, the others go on."""
    stem = root / part.name.replace(" ", "-")
    left, output = stem.with_suffix(".json"), stem.with_suffix(".txt")
    command = [sys.executable, "-m", part.module, *map(str, part.arguments(plan)), "--result", str(left)]
    output.write_text(f"{shlex.join(command)}\n")
    began = time.monotonic()
    child = kill.start(command, output)
    try:
        code: int | None = child.wait(patience)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        _end_all(child.process.pid)
        child.send(signal.SIGKILL)  # what is left of its own session
    return Ended(part, code, time.monotonic() - began, _report(left, code, output))


def _end_all(pid: int) -> None:
    """Kill the part and all that it has started, which lives in sessions of its own."""
    with contextlib.suppress(psutil.Error):
        part = psutil.Process(pid)
        for process in (*part.children(recursive=True), part):
            with contextlib.suppress(psutil.Error):
                process.kill()


def _report(left: Path, code: int | None, output: Path) -> result.Report:
    try:
        return result.decode(left.read_text())
    except (OSError, ValueError) as error:
        last = next((line for line in reversed(output.read_text(errors="replace").splitlines()) if line.strip()), "")
        ended = "took too long" if code is None else f"ended with {code}"
        return result.Report((), (f"it {ended} and left no result ({error}); its last line: {last[:300]}",))


def table(parts: Sequence[Ended]) -> Table:
    """One row a fault: how often, what was survived, what was equal in the end, and what it cost."""
    right = {"justify": "right"}
    columns = [Column(name, **right) for name in ("runs", "survived", "bit-identical", "lost steps")]  # type: ignore[arg-type]
    view = Table(Column("fault", no_wrap=True), *columns, title="chaos")
    for ended in parts:
        view.add_row(f"[bold]{ended.part.name}")
        for row in ended.report.rows:
            identical = "" if row.identical is None else str(row.identical)
            lost = "" if row.lost_steps is None else f"{row.lost_steps:.1f}"
            color = "" if row.survived == row.runs and row.identical in (None, row.runs) else "[red]"
            view.add_row(f"  {color}{escape(row.fault)}", str(row.runs), str(row.survived), identical, lost)
    return view


def verdict(parts: Sequence[Ended], kills: int) -> list[str]:
    """What is wrong; [] if everything is green."""
    wrong = []
    for ended in parts:
        wrong += [f"{ended.part.name}: {problem}" for problem in ended.report.problems]
        if not ended.green and not ended.report.problems:
            wrong.append(f"{ended.part.name}: it ended with {ended.code}, {len(ended.report.rows)} rows and no problem told")
    delivered = sum(ended.kills for ended in parts)
    if any(ended.part.kills for ended in parts) and delivered < kills:
        wrong.append(f"{delivered} kills were delivered, and {kills} should have been")
    return wrong


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="of which soaking takes what is left (20)")
    parser.add_argument("--hours", type=float, help="the same in hours")
    parser.add_argument("--kills", type=int, default=500, help="to deliver in all, at least (500)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (1)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at the same time (2)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help=f"of {', '.join(names)} (all)")
    parser.add_argument("--root", type=Path, help="where results and output are left (a new temporary directory)")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> int:
    """Run the parts; 0 if all is green, else 1."""
    args = arguments(given)
    console = Console(soft_wrap=True, highlight=False)
    root = args.root or Path(tempfile.mkdtemp(prefix="chaos-"))
    root.mkdir(parents=True, exist_ok=True)
    seconds = 60 * (60 * args.hours if args.hours is not None else args.minutes)
    end = time.monotonic() + seconds
    done: list[Ended] = []
    for part in (part for part in parts if not args.only or part.name in args.only):
        left = end - time.monotonic()
        plan = Plan(args.seed, args.jobs, args.kills - sum(ended.kills for ended in done), left)
        console.print(f"{part.name} …")
        ended = run(part, plan, root, max(LONGEST * part.share * 60 * args.minutes, left) + 60)
        console.print(f"{part.name}: {'[green]well[/]' if ended.green else '[red]NOT WELL[/]'}, {ended.seconds:.0f} s")
        done.append(ended)
    console.print(table(done))
    wrong = verdict(done, args.kills)
    for problem in wrong[:20]:
        console.print(f"  {problem}", markup=False)
    kills = sum(ended.kills for ended in done)
    if wrong:
        console.print(f"NOT WELL: {len(wrong)} problems in {len(done)} parts under {kills} kills (seed {args.seed}). What is left: {root}")
        return 1
    console.print(f"WELL: {len(done)} parts under {kills} kills (seed {args.seed}).")
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
