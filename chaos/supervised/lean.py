"""A training that costs nothing: a chain of digests in place of a model, and towards its supervisor and on disk what `resilient.fit` is.

    python -m chaos.supervised.lean --directory RUN --log RUN.log --out RUN.json

It starts in a tenth of a second, so that a storm can kill it thousands of times. What is proved with it is the supervisor; that `fit`
keeps to the same protocol is proved with `chaos.supervised.training`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from chaos.supervised.sabotage import Sabotage, append
from resilient.errors import EXIT_NEEDS_HUMAN, EXIT_PREEMPTED, ConfigurationError, RunLockedError
from resilient.heartbeat import Heartbeat, Section
from resilient.journal import Journal
from resilient.manifest import Progress

BATCHES = 20  # an epoch
_SECONDS = 0.004  # a batch
_WRITING = 0.002  # a checkpoint
_SAMPLES = 4


@dataclasses.dataclass
class Model:
    """What is trained, and where it stands."""

    chain: str = ""
    step: int = 0

    @property
    def progress(self) -> Progress:
        """As `fit` counts."""
        return Progress(self.step // BATCHES, self.step % BATCHES, self.step)

    def train(self) -> list[int]:
        """One batch; the ids of its samples."""
        first = self.step * 37 % 1000
        ids = list(range(first, first + _SAMPLES))
        self.chain = hashlib.sha256(f"{self.chain}{self.step}{ids}".encode()).hexdigest()
        self.step += 1
        return ids


class Training:
    """One attempt."""

    def __init__(self, directory: Path, log: Path, heartbeat: Heartbeat, journal: Journal) -> None:
        self._checkpoints, self._log = directory / "checkpoints", log
        self._heartbeat, self._journal = heartbeat, journal
        self._asked = False
        self._unsaved_from: int | None = None
        self.model = Model()

    def open(self) -> None:
        """Go on from the newest checkpoint that the orders allow."""
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        steps = sorted(int(name.removeprefix("step-")) for name in os.listdir(self._checkpoints) if name.startswith("step-"))
        at_most = self._heartbeat.orders.resume_at_most
        allowed = [step for step in steps if at_most is None or step <= at_most] or steps
        self._journal.append("started", pid=os.getpid(), fresh=not steps)
        if not allowed:
            self.save()
            return
        self.model = Model((self._path(allowed[-1]) / "chain").read_text(), allowed[-1])
        self._unsaved_from = allowed[-1]
        self._heartbeat.resumed(self.model.step)
        self._journal.append("restored", **dataclasses.asdict(self.model.progress))

    def run(self, epochs: int, every: int, sabotage: Sabotage) -> bool:
        """Train; False if it was asked to stop before the end."""
        signal.signal(signal.SIGTERM, self._ask)
        self._heartbeat.beat(Section.STARTING, self.model.progress)
        while self.model.step < epochs * BATCHES:
            if self._asked:
                return self._leave()
            progress = self.model.progress
            if (progress.epoch, progress.batch) in self._heartbeat.orders.skip:
                self.model.step += 1
                continue
            sabotage.before_batch(progress.epoch, progress.batch)
            time.sleep(_SECONDS)
            ids = self.model.train()
            append(self._log, attempt=os.getpid(), event="batch", epoch=progress.epoch, batch=progress.batch, ids=ids)
            self._heartbeat.beat(Section.TRAINING, self.model.progress)
            if self.model.step % every == 0 or self.model.step % BATCHES == 0:
                self.save()
        return True

    def save(self) -> None:
        """Commit by a rename, as the store does; what a run that was sent back has left behind is abandoned with the first new one."""
        self._heartbeat.saving()
        unfinished = self._checkpoints / f".tmp-{os.getpid()}"
        unfinished.mkdir()
        time.sleep(_WRITING)
        (unfinished / "chain").write_text(self.model.chain)
        if self._unsaved_from is not None:
            self._abandon(self._unsaved_from)
            self._unsaved_from = None
        unfinished.rename(self._path(self.model.step))
        self._heartbeat.saved(self.model.step)
        self._journal.append("saved", **dataclasses.asdict(self.model.progress))

    def _abandon(self, step: int) -> None:
        for name in os.listdir(self._checkpoints):
            if name.startswith("step-") and int(name.removeprefix("step-")) > step:
                shutil.rmtree((self._checkpoints / name).rename(self._checkpoints / f".tmp-abandoned-{name}-{os.getpid()}"))

    def _leave(self) -> bool:
        self._heartbeat.beat(Section.STOPPING, self.model.progress)
        if not self._path(self.model.step).exists():
            self.save()
        self._journal.append("preempted", **dataclasses.asdict(self.model.progress))
        return False

    def _path(self, step: int) -> Path:
        return self._checkpoints / f"step-{step:012d}"

    def _ask(self, *_: Any) -> None:
        self._asked = True


def arguments() -> argparse.Namespace:
    """The command line, as `chaos.program` has it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--log", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--save-every", type=int, default=7)
    return parser.parse_args()


def train(args: argparse.Namespace, sabotage: Sabotage) -> int:
    """One attempt; the exit code."""
    from resilient.store.lock import RunLock

    with Heartbeat.claim() as heartbeat:
        heartbeat.announce(args.directory)
        with RunLock(args.directory):
            return _train(args, sabotage, heartbeat)


def _train(args: argparse.Namespace, sabotage: Sabotage, heartbeat: Heartbeat) -> int:
    heartbeat.wait_until_heard()
    sabotage.begin()
    journal = Journal(args.directory)
    training = Training(args.directory, args.log, heartbeat, journal)
    training.open()
    if not training.run(args.epochs, args.save_every, sabotage):
        return EXIT_PREEMPTED
    journal.append("finished", durable=True, **dataclasses.asdict(training.model.progress))
    append(args.out.with_suffix(".unfinished"), variables={"chain": training.model.chain}, history={"steps": training.model.step})
    args.out.with_suffix(".unfinished").replace(args.out)
    return 0


def main() -> int:
    """Train; errors of ours end it with their own code, as they end `fit`'s programs."""
    args = arguments()
    sabotage = Sabotage(args.directory.parent)
    sabotage.at_import()
    try:
        return train(args, sabotage)
    except RunLockedError as error:
        sys.stderr.write(f"RunLockedError: {error}\n")
        return error.exit_code
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_NEEDS_HUMAN


if __name__ == "__main__":
    sys.exit(main())
