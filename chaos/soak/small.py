"""A training without a framework that saves and restores for real: starts in a fraction of a second, so that it can die thousands of times.

python -m chaos.soak.small --directory RUN
"""

from __future__ import annotations

import argparse
import datetime as dt
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from resilient.errors import EXIT_PREEMPTED
from resilient.heartbeat import Heartbeat, Section
from resilient.journal import Journal
from resilient.keep import Keep
from resilient.manifest import Manifest, Progress
from resilient.store import RunLock, Store

MODEL = "model.safetensors"
EPOCH = 50
SECONDS = 0.005  # a batch
_SIZE = 4096


def state(step: int) -> np.ndarray[Any, Any]:
    """The weights after so many batches: what is restored can be held against it."""
    return np.arange(_SIZE, dtype=np.int64) * 31 + step


def manifest(step: int, sequence: int) -> Manifest:
    """What a checkpoint of that step says about itself."""
    progress = Progress(step // EPOCH, step % EPOCH, step)
    return Manifest(progress, sequence, "soak", dt.datetime.now(dt.UTC), {}, None, None, best=False, state={}, files={})


class Training:
    """One attempt."""

    def __init__(self, directory: Path) -> None:
        self._asked = False
        self._heartbeat = Heartbeat.claim()
        self._heartbeat.announce(directory)
        self._heartbeat.wait_until_heard()
        self._journal = Journal(directory)
        self._store = Store(directory)
        self._step = self._sequence = 0

    def open(self) -> None:
        """Go on from the newest checkpoint.

        Raises:
            SystemExit: it does not hold what was saved.
        """
        self._store.prepare()
        found = self._store.latest(self._quarantined)
        if found is None:
            return
        self._step, self._sequence = found.manifest.progress.step, found.manifest.sequence
        if not np.array_equal(found.tensors[MODEL]["w"], state(self._step)):
            raise SystemExit(f"The checkpoint of step {self._step} holds something else than was saved.")
        self._heartbeat.resumed(self._step)
        self._journal.append("restored", step=self._step)

    def _quarantined(self, name: str, reason: str) -> None:
        self._journal.append("quarantined", name=name, reason=reason)

    def run(self, every: int) -> int:
        """Train until somebody asks for a stop; the exit code."""
        signal.signal(signal.SIGTERM, self._ask)
        while not self._asked:
            time.sleep(SECONDS)
            self._step += 1
            self._heartbeat.beat(Section.TRAINING, manifest(self._step, 0).progress)
            if self._step % every == 0:
                self.save()
        self._heartbeat.beat(Section.STOPPING, manifest(self._step, 0).progress)
        self.save()
        self._journal.append("preempted", step=self._step)
        return EXIT_PREEMPTED

    def save(self) -> None:
        """Commit, and remove what need not stay."""
        self._heartbeat.saving()
        self._sequence += 1
        self._store.commit(manifest(self._step, self._sequence), {MODEL: {"w": state(self._step)}})
        self._store.prune(Keep())
        self._heartbeat.saved(self._step)
        self._journal.append("saved", step=self._step)

    def _ask(self, *_: Any) -> None:
        self._asked = True


def main() -> int:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--every", type=int, default=5, help="batches between two saves (5)")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    with RunLock(args.directory):
        training = Training(args.directory)
        training.open()
        return training.run(args.every)


if __name__ == "__main__":
    sys.exit(main())
