"""A training that costs nothing and speaks to its supervisor as `fit` does. Programs under test begin with `from fake_training import *`.

The checkpoint of a step is an empty file of that name in the run directory; an epoch has ten batches.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from resilient.heartbeat import Heartbeat, Section
from resilient.manifest import Progress

__all__ = ["RUN", "Section", "attempt", "heartbeat", "orders", "os", "signal", "subprocess", "sys", "time"]
__all__ += ["at", "begin", "die", "end", "forever", "save", "say", "start_worker", "train"]

RUN = Path("run").absolute()
RUN.mkdir(exist_ok=True)
heartbeat = Heartbeat.claim()
orders = heartbeat.orders
attempt = orders.attempt


def say(*words):
    """A line that a test can wait for."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def at(step):
    """The position after so many batches."""
    return Progress(step // 10, step % 10, step)


def begin():
    """Go on from the newest checkpoint that the supervisor's orders allow, and return its step; 0 where there is none."""
    heartbeat.announce(RUN)
    heartbeat.wait_until_heard()
    steps = sorted(int(name) for name in os.listdir(RUN) if name.isdecimal())
    allowed = [step for step in steps if orders.resume_at_most is None or step <= orders.resume_at_most] or steps
    step = allowed[-1] if allowed else 0
    if allowed:
        heartbeat.resumed(step)
    heartbeat.beat(Section.STARTING, at(step))
    return step


def train(step):
    """So many batches are trained."""
    heartbeat.beat(Section.TRAINING, at(step))


def save(step):
    """Their state is on disk."""
    heartbeat.saving()
    (RUN / str(step)).touch()
    heartbeat.saved(step)


def end():
    """The training is over."""
    heartbeat.close()


def die(number=signal.SIGKILL):
    """Of a signal."""
    os.kill(os.getpid(), number)
    forever()


def forever():
    """Do nothing, until somebody ends it."""
    while True:
        time.sleep(60)


def start_worker():
    """A process in a session of its own, deaf to whatever can be ignored."""
    code = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 10, 15)]; time.sleep(300)"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
