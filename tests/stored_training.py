"""A training of a few numbers that keeps real checkpoints as `fit` does, without Keras.

Programs under test begin with `from stored_training import *`.
A batch is a function of the state and the step alone, so that every training ends in the same bits, unless a `mistake` is made.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
import time
import uuid
from pathlib import Path

import numpy as np

from resilient.heartbeat import Heartbeat, Section, home_of
from resilient.journal import Journal
from resilient.keep import Keep
from resilient.manifest import Manifest, Progress
from resilient.store import RunLock, Store

__all__ = ["Path", "fit", "np", "os", "sys"]

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.safetensors"


class _Fit:
    def __init__(self, directory, epochs, length, batch_seconds, validates, mistake, seed):
        self.epochs, self.length, self.batch_seconds, self.validates, self.mistake = epochs, length, batch_seconds, validates, mistake
        self.store, self.journal = Store(directory), Journal(directory)
        self.store.prepare()
        self.weights, self.momentum = np.random.default_rng(seed).normal(size=6), np.zeros(6)
        self.history = {"loss": []}
        self.at, self.sequence, self.run_id = Progress(0, 0, 0), 0, uuid.uuid4().hex
        self.asked = False
        if validates:
            self.history["val_loss"] = []

    def open(self, heartbeat):
        checkpoint = self.store.latest(lambda name, reason: self.journal.append("quarantined", name=name, reason=reason))
        self.run_id = checkpoint.manifest.run_id if checkpoint is not None else self.run_id
        self.journal.append("started", pid=os.getpid(), run_id=self.run_id, fresh=checkpoint is None)
        if checkpoint is None:
            return self.commit(heartbeat)
        manifest = checkpoint.manifest
        self.at, self.sequence = manifest.progress, manifest.sequence
        heartbeat.resumed(self.at.step)
        self.weights, self.momentum = checkpoint.tensors[MODEL]["w"].copy(), checkpoint.tensors[OPTIMIZER]["m"].copy()
        self.history = {name: list(values) for name, values in manifest.state["callbacks"][0]["attributes"]["history"]["v"]}
        if self.mistake == "momentum":
            self.momentum[:] = 0
        if self.mistake == "history":
            self.history["loss"] = [value + 1 for value in self.history["loss"]]
        self.journal.append("restored", **_position(self.at), path=str(checkpoint.path))
        return None

    def train(self, heartbeat):
        while self.at.epoch < self.epochs:
            while self.at.batch < self.length:
                self.batch()
                heartbeat.beat(Section.TRAINING, self.at)
                if self.asked:
                    heartbeat.beat(Section.STOPPING, self.at)
                    self.commit(heartbeat)
                    self.journal.append("preempted", durable=True, reason="SIGTERM", saved=True, **_position(self.at))
                    sys.exit(75)
            self.validate(heartbeat)
            self.history["loss"].append(float(np.abs(self.weights).sum()))
            self.at = Progress(self.at.epoch + 1, 0, self.at.step)
            self.commit(heartbeat)
            heartbeat.beat(Section.BETWEEN, self.at)
        self.commit(heartbeat, final=True)
        self.journal.append("finished", durable=True, **_position(self.at))

    def batch(self):
        epoch, batch, step = self.at.epoch, self.at.batch + 1, self.at.step + 1
        self.momentum = 0.9 * self.momentum + 0.1 * np.cos(self.weights + step)
        self.weights = self.weights - 0.1 * self.momentum
        self.at = Progress(epoch, batch, step)
        time.sleep(self.batch_seconds)  # the work of a batch

    def validate(self, heartbeat):
        if self.validates:
            heartbeat.beat(Section.BETWEEN, self.at)
            for _ in range(10):
                time.sleep(self.batch_seconds)
                heartbeat.beat(Section.VALIDATING, self.at)
            self.history["val_loss"].append(float(self.weights.sum()))

    def commit(self, heartbeat, *, final=False):
        heartbeat.saving()
        time.sleep(0.01)  # the work of writing a state that is not as small as this one
        self.sequence += 1
        callbacks = [{"class": "keras.History", "attributes": {"history": {"!": "dict", "v": [[k, v] for k, v in self.history.items()]}}}]
        state = {
            "settings": {"validation": self.validates},
            "callbacks": [*callbacks, {"class": "Clock", "attributes": {"pid": os.getpid()}}],
        }
        manifest = Manifest(
            progress=self.at, sequence=self.sequence, run_id=self.run_id, created=dt.datetime.now(dt.UTC), metrics={}, score=None,
            mode=None, best=False, state=state, files={},
        )  # fmt: skip
        files = {MODEL: {"w": self.weights}, OPTIMIZER: {"m": self.momentum}, STATE: {"metrics/loss": np.float32(self.at.step)}}
        written = (self.store.commit_final if final else self.store.commit)(manifest, files)
        heartbeat.saved(self.at.step)
        self.journal.append("saved", **_position(self.at), final=final, sequence=written.sequence, seconds=0.001, nbytes=written.nbytes)
        self.store.prune(Keep(last=3))


def fit(directory, *, epochs=4, length=20, batch_seconds=0.002, validates=True, mistake=None, seed=1):
    """Train; `mistake`: what is wrong in each resume ("momentum": it is lost, "history": its past is changed)."""
    given = Path(directory)
    directory = home_of(given)
    given.mkdir(parents=True, exist_ok=True)
    heartbeat = Heartbeat.claim()
    heartbeat.announce(directory)
    with RunLock(directory):
        heartbeat.wait_until_heard()
        running = _Fit(directory, epochs, length, batch_seconds, validates, mistake, seed)
        signal.signal(signal.SIGTERM, lambda *_: setattr(running, "asked", True))
        running.open(heartbeat)
        heartbeat.beat(Section.STARTING, running.at)
        running.train(heartbeat)
    heartbeat.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _position(at):
    return {"step": at.step, "epoch": at.epoch, "batch": at.batch}
