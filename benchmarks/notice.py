"""From a notice's appearance at a metadata server to the state on disk.

    python -m benchmarks.notice [--quick]

A real training with batches of a known length asks a fake of each platform's server (`chaos/notices`) as often as it asks the real
one; the notice appears at a random moment. It may take: the interval of asking (none where the server answers at the change), the
longest batch that was seen, and the writing. For Slurm it is the moment at which its margin before the time limit begins.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.spread import spread
from benchmarks.tables import Bar, Table, milliseconds
from resilient import journal

_INTERVALS = {
    "aws": 5.0,
    "gce": 0.0,
    "azure": 1.0,
    "slurm": 1.0,
}  # seconds between two questions; Google's server answers at the change
_ANSWER = 0.1  # seconds that a question may take on a busy machine
_MARGIN = 4.0  # seconds before the end of the job's time that training stops, where the caller says so
_ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Scale:
    """Notices for each platform, and seconds of one batch."""

    notices: int
    batch: float
    platforms: tuple[str, ...] = tuple(_INTERVALS)


SCALES = {"full": Scale(5, 0.1), "quick": Scale(2, 0.1), "toy": Scale(1, 0.01, ("gce",))}

# Trains until it is stopped. The notice comes from a thread, at a random moment of the interval; the last line is the longest batch.
_PROGRAM = """
import contextlib, os, random, sys, threading, time
import keras, numpy as np
import resilient
from chaos.notices import SERVERS, in_place

platform, batch, directory, seed = sys.argv[1], float(sys.argv[2]), sys.argv[3], int(sys.argv[4])
server = SERVERS[platform]() if platform in SERVERS else None
margin = float(sys.argv[5])

class Steady(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.longest, self.before, self.begun = 0.0, None, False
    def on_train_batch_end(self, number, logs=None):
        time.sleep(batch)
        now = time.perf_counter()
        if self.before is not None:
            self.longest = max(self.longest, now - self.before)
        self.before = now
        if not self.begun:
            self.begun = True
            if server is not None:
                threading.Thread(target=announce, daemon=True).start()

def announce():
    server.wait_for_requests(2)
    time.sleep(random.Random(seed).uniform(0, 5))
    print("announced", time.time(), flush=True)
    server.announce()

if server is None:
    end = int(time.time() + 8 + margin + random.Random(seed).uniform(0, 2))
    os.environ["SLURM_JOB_END_TIME"] = str(end)
    print("announced", end - margin, flush=True)
x, y = np.ones((4096, 64), "float32"), np.ones((4096, 1), "float32")
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(256), keras.layers.Dense(1)])
model.compile("adam", "mse")
steady = Steady()
with contextlib.ExitStack() as stack:
    if server is not None:
        stack.enter_context(server)
        stack.enter_context(in_place(server))
    grace = {} if server is not None else {"grace": f"{margin}s"}
    resilient.fit(model, x, y, batch_size=64, epochs=10_000, verbose=0, directory=directory, monitor="loss", notices=platform,
                  callbacks=[steady], save_every="epoch", on_preempt="return", **grace)
print("longest", steady.longest, flush=True)
"""


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Several trainings for each platform, each stopped by one notice."""
    return {
        "batch": scale.batch,
        "platforms": {
            name: [_one(name, scale.batch, directory / f"{name}-{number}", number) for number in range(scale.notices)]
            for name in scale.platforms
        },
    }


def _one(platform: str, batch: float, run: Path, seed: int) -> dict[str, float]:
    """Seconds from the notice to the committed checkpoint, and what may take how long on the way."""
    command = [sys.executable, "-c", _PROGRAM, platform, str(batch), str(run), str(seed), str(_MARGIN)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run(command, env={**clean, "PYTHONPATH": str(_ROOT)}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The training under {platform}'s notice ended with {done.returncode}: {done.stderr[-2000:]}")
    told = dict(line.split() for line in done.stdout.splitlines() if line.split()[:1] in (["announced"], ["longest"]))
    events = journal.read(run)
    notice = _moment(next(event for event in events if event["event"] == "notice"))
    saved = [event for event in events if event["event"] == "saved"][-1]
    announced, writing = float(told["announced"]), float(saved["seconds"])
    return {
        "seen": notice - announced,
        "took": _moment(saved) - announced,
        "batch": float(told["longest"]),
        "writing": writing,
        "allowed": _INTERVALS[platform] + _ANSWER + float(told["longest"]) + writing,
    }


def _moment(event: dict[str, Any]) -> float:
    return dt.datetime.fromisoformat(event["time"]).timestamp()


def tables(figures: dict[str, Any]) -> list[Table]:
    """By platform."""
    rows = [
        (
            name,
            *(milliseconds(spread(one[part] for one in found)) for part in ("seen", "took")),
            f"{max(one['took'] for one in found) * 1e3:.0f}",
            milliseconds(spread(one["allowed"] for one in found)),
        )
        for name, found in figures["platforms"].items()
    ]
    title = f"From a notice to the state on disk, in ms, with batches of {figures['batch'] * 1e3:.0f} ms"
    return [Table(title, ("", "until it is seen", "until it is durable", "at worst", "allowed"), rows)]


def bars(figures: dict[str, Any]) -> list[Bar]:
    """Each in its time."""
    found = []
    for name, several in figures["platforms"].items():
        over = max(one["took"] - one["allowed"] for one in several)
        worst = max(one["took"] for one in several)
        found.append(
            Bar(f"{name}: notice to durable save", "≤ interval + one batch + writing", f"{worst * 1e3:.0f} ms at worst", over <= 0)
        )
    return found


if __name__ == "__main__":
    from benchmarks.running import run

    run("notice")
