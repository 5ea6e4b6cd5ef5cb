"""A program that looks from outside as a training does (lock, journal, heartbeat, checkpoints), without Keras."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_PROGRAM = """
import os, sys, time
from pathlib import Path
from cli_samples import manifest, tensors
from resilient.heartbeat import Heartbeat, Section
from resilient.journal import Journal
from resilient.manifest import Progress
from resilient.store import RunLock, Store

directory = Path(sys.argv[1])
heartbeat = Heartbeat.claim()
heartbeat.announce(directory)
lock = RunLock(directory)
lock.acquire()
store, journal = Store(directory), Journal(directory)
store.prepare()
heartbeat.wait_until_heard()
journal.append("started", pid=os.getpid(), run_id="run", epochs=4, steps=10)

def save(step, epoch, batch):
    heartbeat.saving()
    written = store.commit(manifest(step, epoch=epoch, batch=batch, val_loss=1.0 / (step + 1)), tensors(step))
    heartbeat.saved(step)
    journal.append("saved", step=step, epoch=epoch, batch=batch, nbytes=written.nbytes, seconds=0.25, training_seconds=0.0625, final=False)

save(0, 0, 0)
save(10, 1, 0)
heartbeat.beat(Section.TRAINING, Progress(1, 4, 14))
print("trains", flush=True)
for line in sys.stdin:
    exec(line)
    print("did", flush=True)
"""


def environment() -> dict[str, str]:
    """Of the program and of what looks at it."""
    return {**os.environ, "COLUMNS": "80", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


def command(directory: Path) -> list[str]:
    """The program, training in `directory`."""
    return [sys.executable, "-c", _PROGRAM, str(directory)]


@contextlib.contextmanager
def training(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """It has two checkpoints, of the steps 0 and 10, trains step 14, and does what lines of its standard input say; killed in the end."""
    process = subprocess.Popen(command(directory), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert process.stdout is not None and process.stdout.readline() == "trains\n"
        yield process
    finally:
        process.kill()
        with process:
            pass


def let(process: subprocess.Popen[str], line: str) -> None:
    """Have it do something, and return when it has."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "did\n"
