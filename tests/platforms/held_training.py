"""A real training that waits in its midst until it was told to stop, and what it comes to undisturbed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from supervised import ROOT
from test_supervisor_fit import TRAINING

_HOLD = """
        if sys.argv[1:] == ["held"] and (self.epoch, batch) == (1, 1) and not os.path.exists("released"):
            open("holds", "w").close()
            while not os.path.exists("released"):
                time.sleep(0.01)
"""
# With the argument "held" it makes a file `holds` at batch 1 of epoch 1, and goes on once there is a file `released`.
PROGRAM = "import time" + TRAINING.replace("FAULT", _HOLD.strip())
OPTIONS = ("--env=KERAS_BACKEND=tensorflow", "--env=TF_CPP_MIN_LOG_LEVEL=3")


def undisturbed(directory: Path) -> str:
    """What it prints in the end."""
    place = directory / "undisturbed"
    place.mkdir()
    (place / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"}
    return subprocess.run(
        [sys.executable, "program.py"], cwd=place, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
