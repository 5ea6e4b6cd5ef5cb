"""Notices at real trainings, in processes of their own: the state is on disk, the journal tells why, and the exit code says start again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import resilient
from resilient import journal

ROOT = Path(__file__).resolve().parent.parent

# Trains for ever unless something stops it; announces in the fourth batch, from when on batches take a moment.
PROGRAM = """
import contextlib, json, os, sys, time
import keras, numpy as np
import resilient
from chaos.notices import AwsServer, AzureServer, GceServer, in_place

class Announce(keras.callbacks.Callback):
    def __init__(self, announce, enough=lambda: False):
        super().__init__()
        self.announce, self.enough, self.announced = announce, enough, False
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            self.announced = True
            self.announce()
        if self.announced:
            time.sleep(0.01)
            self.model.stop_training = self.enough()

def train(directory, announce=lambda: None, enough=lambda: False, **arguments):
    x, y = np.ones((10**6, 2), "float32"), np.ones((10**6, 1), "float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callbacks = [Announce(announce, enough)]
    return resilient.fit(
        model, x, y, epochs=1000, batch_size=16, verbose=0, monitor="loss", callbacks=callbacks, save_every="epoch", directory=directory,
        **arguments,
    )

@contextlib.contextmanager
def at(server):
    with server, in_place(server):
        yield server
"""


def run(directory: Path, body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + body],
        cwd=directory,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def events(directory: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in journal.read(directory) if event["event"] == name]


def check_preempted(directory: Path, platform: str, kind: str) -> None:
    """The position at which it stopped is on disk, and the journal says what for."""
    (preempted,) = events(directory, "preempted")
    notice = events(directory, "notice")[-1]
    assert (notice["platform"], notice["kind"], notice["action"]) == (platform, kind, "stop")
    assert notice["deadline"] > preempted["time"]
    assert preempted["reason"] == f"{platform} {kind}" and preempted["saved"] is True
    assert resilient.checkpoints(directory)[-1].step == preempted["step"] == preempted["resume_step"] >= 4
    assert resilient.verify(directory) == []


def test_a_notice_saves_and_ends_the_process_with_75(tmp_path: Path) -> None:
    """Within the fourth batch Azure schedules a Preempt; it is acknowledged, and not before the state was on disk."""
    body = """
class Reading(AzureServer):
    def _approve(self, body):
        self.change(on_disk=[info.step for info in resilient.checkpoints("run")])
        return super()._approve(body)

with at(Reading()) as server:
    try:
        train("run", server.announce, notices="azure:acknowledge")
    finally:
        print(json.dumps([server.approved, server.on_disk]))
"""
    done = run(tmp_path, body)
    assert done.returncode == 75, done.stderr
    check_preempted(tmp_path / "run", "azure", "Preempt")
    approved, on_disk = json.loads(done.stdout)
    assert approved == ["event-1"]
    assert on_disk[-1] == events(tmp_path / "run", "preempted")[-1]["step"]


def test_each_platforms_notice_stops_fit_and_those_that_end_nothing_do_not(tmp_path: Path) -> None:
    """One process, one training after the other. Each exits with 75, its state on disk, but the one whose platform only warns."""
    body = """
def code(directory, *given, **arguments):
    try:
        train(directory, *given, **arguments)
    except resilient.Preempted as preempted:
        return preempted.code
    return 0

with at(AwsServer()) as server:
    aws = code("aws", server.announce, notices="aws")
with at(GceServer()) as server:
    gce = code("gce", server.announce, notices=("gce", "aws"))
with at(AzureServer()) as server:
    azure = code("azure", server.announce, notices=["azure"])
os.environ["SLURM_JOB_ID"], os.environ["SLURM_JOB_END_TIME"] = "7", str(int(time.time()) + 65)
slurm = code("slurm", grace="1m", notices="slurm")
with at(AwsServer()) as server:
    saved = lambda: len(resilient.checkpoints("rebalance")) > 1
    rebalance = code("rebalance", server.recommend_rebalance, saved, notices="aws")
print(json.dumps([aws, gce, azure, slurm, rebalance]))
"""
    done = run(tmp_path, body)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [75, 75, 75, 75, 0]
    check_preempted(tmp_path / "aws", "aws", "terminate")
    check_preempted(tmp_path / "gce", "gce", "preempted")
    check_preempted(tmp_path / "azure", "azure", "Preempt")
    check_preempted(tmp_path / "slurm", "slurm", "time limit")
    (notice,) = events(tmp_path / "rebalance", "notice")
    assert (notice["kind"], notice["action"], notice["deadline"]) == ("rebalance", "save", None)
    assert events(tmp_path / "rebalance", "preempted") == []


def test_auto_off_cloud_makes_no_connection(tmp_path: Path) -> None:
    """A whole training in which any use of the network is an error."""
    body = """
import socket
from resilient.preemption import platform

def refuse(*given, **named):
    raise AssertionError("the network was used")

platform._field = lambda dmi, name: ""
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
train("run", enough=lambda: True)
"""
    done = run(tmp_path, body)
    assert done.returncode == 0, done.stderr
    assert "not seen" not in done.stderr
    assert events(tmp_path / "run", "finished")
