"""The kill storm: one program undisturbed, then again and again under kills, until the two cannot be told apart or can.

    python -m chaos.storm --kills 200 --seed 1

A round is one training from an empty directory to its end, killed at random moments on the way and started again each time. Rounds
go on until enough kills were delivered. Judged are every exit code, every resume and, at the end of every round, everything the
training ended with. The last line is the verdict; exit code 0 if nothing was wrong, 1 otherwise.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import random
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from chaos import oracle
from chaos.rounds import Kill, Round, RoundResult, Weights, run_undisturbed

DEFAULT_PROGRAM = (sys.executable, "-m", "chaos.program")
CADENCES = ("auto", "epoch", "7", "1s")  # what is saved when must not matter for what comes out


class Budget:
    """The kills that are still to be delivered, shared between the rounds that run at the same time."""

    def __init__(self, kills: int) -> None:
        self._left = kills
        self._lock = threading.Lock()

    def take(self) -> bool:
        """One kill less; False if none was left."""
        with self._lock:
            self._left -= self._left > 0 and 1
            return self._taken()

    def _taken(self) -> bool:
        raise NotImplementedError
