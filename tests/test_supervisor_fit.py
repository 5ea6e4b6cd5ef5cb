"""`resilient run` around real trainings."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest
from supervised import ROOT, events, run, supervised

from resilient.heartbeat import ENVIRONMENT, Heartbeat, Page
from resilient.store import RunLock

TRAINING = """
import os, signal, sys
import keras, numpy as np
import resilient

class Fault(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_begin(self, batch, logs=None):
        FAULT

keras.utils.set_random_seed(1)
x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dropout(0.3), keras.layers.Dense(1)])
model.compile("adam", "mse")
arguments = dict(epochs=3, batch_size=8, verbose=0, callbacks=[Fault()], save_every=1, validation_split=0.25)
history = resilient.fit(model, x, x.sum(axis=1), directory="run", **arguments)
print("weights", [weight.tolist() for weight in model.get_weights()], history.history["loss"])
"""
# Each fault once: the file it leaves says that it has happened.
ONCE = """
        fault = {(0, 2): signal.SIGKILL, (1, 1): signal.SIGTERM, (2, 0): signal.SIGSEGV}.get((self.epoch, batch))
        if sys.argv[1:] != ["undisturbed"] and fault and not os.path.exists(fault.name):
            open(fault.name, "w").close()
            os.kill(os.getpid(), fault)
"""
POISON = """
        if (self.epoch, batch) == (1, 2):
            raise ValueError("this batch cannot be trained")  # as most programs die: by an error that passes through fit
"""


def test_a_training_that_dies_in_several_ways_ends_as_if_nothing_had_happened(tmp_path):
    """Killed, preempted and crashed, it ends with the bits of an undisturbed one, and the journal tells what each attempt cost."""
    (tmp_path / "undisturbed").mkdir()
    body = TRAINING.replace("FAULT", ONCE.strip())
    done = run(tmp_path, body, speaks=False)
    assert done.returncode == 0, done.stderr[-3000:]
    command = [sys.executable, str(tmp_path / "program.py"), "undisturbed"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    plain = subprocess.run(command, cwd=tmp_path / "undisturbed", env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == plain.stdout
    exits = events(tmp_path, "exited")
    assert [event["verdict"] for event in exits] == ["failed", "preempted", "failed", "done"]
    assert [event["signal"] for event in exits] == ["SIGKILL", None, "SIGSEGV", None]
    assert (exits[1]["code"], exits[1]["lost_steps"]) == (75, 0)
    assert [(event["epoch"], event["batch"]) for event in exits[:1]] == [(0, 2)]


def test_a_poison_batch_is_left_out_of_a_training(tmp_path):
    """After two failures there it is not trained, not shown to callbacks, and everything else is."""
    done = run(tmp_path, TRAINING.replace("FAULT", POISON.strip()), "--skip-poison-batch", speaks=False)
    assert done.returncode == 0, done.stderr[-3000:]
    attempts = events(tmp_path, "attempt")
    assert [event["skip"] for event in attempts] == [[], [], [[1, 2]]]
    assert attempts[2]["resume_at_most"] < events(tmp_path, "exited")[1]["committed"]
    finished = events(tmp_path, "finished")[0]
    assert (finished["epoch"], finished["step"]) == (3, 12)


NOTICE = """
import contextlib, os, sys
import keras, numpy as np
import resilient
from chaos.notices import GceServer, in_place

x, y = np.ones((10**6, 2), "float32"), np.ones((10**6, 1), "float32")
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
with GceServer() as server, in_place(server):
    told = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: server.announce() if batch == 3 else None)
    resilient.fit(model, x, y, epochs=1000, batch_size=16, verbose=0, monitor="loss", notices="gce", callbacks=[told], directory="run")
"""


def test_a_training_on_a_machine_that_is_taken_back_is_not_started_into_the_same_notice(tmp_path):
    """The supervisor hears from `fit` until when the machine may live, says so, and waits."""
    with supervised(tmp_path, NOTICE, speaks=False) as process:
        lines = []
        while not any("starting again" in line for line in lines):
            lines.append(process.stderr.readline())
        process.terminate()
        assert process.wait() == 75
    assert "attempt 1 was preempted by gce (preempted) after" in lines[-2] and "lost since" not in lines[-2]
    (exited,) = events(tmp_path, "exited")
    assert 50 < exited["restart_in"] <= 60  # Google gives 30 s, and half a minute more has to pass
    (preempted,) = events(tmp_path, "preempted")
    assert preempted["saved"] is True


def test_what_a_spare_interpreter_imports_touches_no_device():
    """TensorFlow can still be told which devices and threads to use: it has looked at none yet."""
    code = "import resilient; resilient.fit; import tensorflow as tf; tf.config.threading.set_intra_op_parallelism_threads(1)"
    code += "; tf.config.set_visible_devices(tf.config.list_physical_devices('CPU'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]


class Killed(BaseException):
    """What a supervisor does to a program that may not train there."""


def test_a_supervisor_can_refuse_a_directory_that_another_training_has(tmp_path, monkeypatch):
    """It hears of it before the lock is asked for: its one sentence is not hidden behind the program's traceback about a lock."""
    import keras
    import numpy

    import resilient

    def kill(self):
        raise Killed

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    monkeypatch.setattr(Heartbeat, "wait_until_heard", kill)
    with contextlib.closing(Page()) as page, RunLock(tmp_path):
        monkeypatch.setenv(ENVIRONMENT, page.path)
        with pytest.raises(Killed):
            resilient.fit(model, numpy.ones((1, 1)), numpy.ones(1), monitor="loss", directory=tmp_path)
