"""What `resilient run` costs: until the program runs, until it runs again after a kill, and while it watches.

    python -m benchmarks.supervise [--quick]

The program is `date`, or a Python of the standard library: what is measured is the supervisor and its guard, and no imports of a training.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.spread import spread
from benchmarks.tables import Bar, Table, digits, megabytes, milliseconds

# Says when it began, and beats as `fit` does; a checkpoint each time, so that the policy starts it again at once.
_PROGRAM = """
import time
began = time.time()
import os
from pathlib import Path
from resilient.heartbeat import Heartbeat, Section
from resilient.manifest import Progress
heartbeat = Heartbeat.claim()
Path("run").mkdir(exist_ok=True)
heartbeat.announce(Path("run").absolute())
step = len(os.listdir("run")) + 1
heartbeat.beat(Section.TRAINING, Progress(0, step, step))
Path("run", str(step)).touch()
heartbeat.saved(step)
print("began", began, os.getpid(), os.getppid(), flush=True)
while True:
    step += 1
    heartbeat.beat(Section.TRAINING, Progress(0, step, step))
    time.sleep(0.01)
"""
_MEMORY, _START, _AGAIN = 40e6, 0.3, 0.2


@dataclasses.dataclass(frozen=True)
class Scale:
    """How many starts and kills, and seconds of watching."""

    starts: int
    kills: int
    watched: float


SCALES = {"full": Scale(20, 20, 30.0), "quick": Scale(5, 5, 10.0), "toy": Scale(1, 1, 0.5)}


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Starts of a command that ends at once, then one supervisor under kills, and left alone."""
    starts = [_start(directory) for _ in range(scale.starts)]
    bare = [_bare(directory) for _ in range(scale.starts)]
    return {"starts": spread(starts), "bare": spread(bare), **_watched(scale, directory)}


def _start(directory: Path) -> float:
    """Seconds from our exec to the program's: a shell that tells the time has it to the millisecond."""
    began = time.time()
    done = subprocess.run(_run("date", "+%s.%N"), cwd=directory, capture_output=True, text=True, check=True)
    return float(done.stdout) - began


def _bare(directory: Path) -> float:
    """The same without a supervisor."""
    began = time.time()
    done = subprocess.run(["date", "+%s.%N"], cwd=directory, capture_output=True, text=True, check=True)
    return float(done.stdout) - began


def _run(*command: str) -> list[str]:
    return [sys.executable, "-m", "resilient", "run", "--", *command]


def _watched(scale: Scale, directory: Path) -> dict[str, Any]:
    (directory / "program.py").write_text(_PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    command = _run(sys.executable, "program.py")
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as supervisor:
        try:
            _, pid, guard = _begun(supervisor)
            again = []
            for _ in range(scale.kills):
                killed = time.time()
                os.kill(pid, signal.SIGKILL)
                began, pid, guard = _begun(supervisor)
                again.append(began - killed)
            return {"again": spread(again), **_left_alone(supervisor.pid, guard, scale.watched)}
        finally:
            supervisor.terminate()


def _begun(supervisor: subprocess.Popen[str]) -> tuple[float, int, int]:
    """When the program's first line ran, its pid and that of its guard."""
    for line in supervisor.stdout or []:
        words = line.split()
        if words[:1] == ["began"]:
            return float(words[1]), int(words[2]), int(words[3])
    raise RuntimeError("the supervisor has ended")


def _left_alone(supervisor: int, guard: int, seconds: float) -> dict[str, Any]:
    """Memory and processor time of both, while the program beats a hundred times a second. What they share is halved (PSS)."""
    processes = [psutil.Process(supervisor), psutil.Process(guard)]
    before = _processor(processes)
    time.sleep(seconds)
    used = _processor(processes) - before
    memory = [process.memory_full_info() for process in processes]
    return {
        "rss": memory[0].rss,
        "guard": memory[1].uss,
        "pss": sum(one.pss for one in memory),
        "processor": used / seconds,
        "watched": seconds,
    }


def _processor(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def tables(figures: dict[str, Any]) -> list[Table]:
    """Times, and what it takes while it watches."""
    times = [
        (f"start of `resilient run` to that of the program ({figures['starts']['count']} starts)", milliseconds(figures["starts"])),
        ("start of the same program without it", milliseconds(figures["bare"])),
        (f"SIGKILL to the program's first line again ({figures['again']['count']} kills)", milliseconds(figures["again"])),
    ]
    rows = [
        ("resident memory of the supervisor", megabytes(figures["rss"])),
        ("memory of its guard that is not shared with it", megabytes(figures["guard"])),
        ("both together (proportional set size)", megabytes(figures["pss"])),
        (f"processor, of one core, over {digits(figures['watched'])} s", f"{digits(figures['processor'] * 100)} %"),
    ]
    return [Table("Times, in ms", ("", "ms"), times), Table("While it watches", ("", ""), rows)]


def bars(figures: dict[str, Any]) -> list[Bar]:
    """What is promised of it."""
    start, again = figures["starts"], figures["again"]
    return [
        Bar("start of the program under `resilient run`", "< 300 ms", f"{milliseconds(start)} ms", start["median"] < _START),
        Bar("running again after a SIGKILL", "< 200 ms", f"{milliseconds(again)} ms", again["median"] < _AGAIN),
        Bar("memory of the supervisor", "< 40 MB", megabytes(figures["rss"]), figures["rss"] < _MEMORY),
    ]


if __name__ == "__main__":
    from benchmarks.running import run

    run("supervise", trains=False)
