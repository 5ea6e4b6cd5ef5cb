"""Run directories and the command line as a real process, for the tests of the commands."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from resilient.manifest import Manifest, Progress, step_name
from resilient.store import Store

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.safetensors"
PLACES = {
    "model:net/dense/kernel": ["layers/dense/vars/0"],
    "model:net/dense/bias": ["layers/dense/vars/1"],
    "optimizer:adam/iteration": ["optimizer/vars/0", "optimizer/inner_optimizer/vars/0"],
}


def tensors(value):
    """A model of two weights and a seed generator, an optimizer of one variable, and a metric."""
    return {
        MODEL: {
            "net/dense/kernel": np.full((2, 3), value, np.float32),
            "net/dense/bias": np.arange(3, dtype=np.float32),
            "seed_generator/seed_generator_state": np.array([7, value], np.uint32),
            "seed_generator/seed_generator_state#2": np.array([8, value], np.uint32),
        },
        OPTIMIZER: {"adam/iteration": np.array(value, np.int64)},
        STATE: {"metrics/mean/total": np.array(value, np.float32)},
    }


def manifest(step, *, epoch=0, batch=None, val_loss=None, sequence=None, places=PLACES, created=None, run_id="run"):
    """A manifest whose score is `val_loss`."""
    metrics = {"accuracy": 0.25, "loss": 1.0 / (step + 1)} | ({} if val_loss is None else {"val_loss": val_loss})
    return Manifest(
        progress=Progress(epoch=epoch, batch=step if batch is None else batch, step=step),
        sequence=step if sequence is None else sequence,
        run_id=run_id,
        created=created or dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5),
        metrics=metrics,
        score=val_loss,
        mode=None if val_loss is None else "min",
        best=False,
        state={"weights_h5": places, "settings": {"monitor": "val_loss"}},
        files={},
    )


def a_run(directory: Path, *, final=False) -> Path:
    """Four checkpoints, the steps 0, 10, 20 and 25, of which step 10 is the best; with `final`, the end of training at step 30."""
    store = Store(directory)
    store.prepare()
    store.commit(manifest(0), tensors(0))
    store.commit(manifest(10, epoch=1, batch=0, val_loss=0.5), tensors(10))
    store.commit(manifest(20, epoch=2, batch=0, val_loss=0.75), tensors(20))
    store.commit(manifest(25, epoch=2, batch=5), tensors(25))
    if final:
        store.commit_final(manifest(30, epoch=3, batch=0, val_loss=0.6), tensors(30))
    return directory


def place(directory: Path, step) -> Path:
    """The directory of a step, or of "final"."""
    return directory / "final" if step == "final" else directory / "checkpoints" / step_name(step)


def flip(path: Path, offset: int = -1) -> None:
    """Change one bit of a file: the kind of damage that only a checksum finds."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file below a directory with its content."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def cli(*arguments: object, code: int | None = 0, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m resilient ARGUMENTS`; fails the test on another exit code than `code`, unless that is None."""
    command = [sys.executable, "-m", "resilient", *map(str, arguments)]
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, "COLUMNS": "80", "PYTHONPATH": root, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=cwd, env=env)
    assert code is None or done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def the_error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command leaves on stderr."""
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert line.endswith(".")
    return line.removeprefix("Error: ")
