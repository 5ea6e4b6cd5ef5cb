"""Signals at real processes, at moments that the process itself announces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import resilient
from resilient import journal

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
import os, sys, time, threading
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np, tensorflow as tf
import resilient

def say(word):
    print(word, flush=True)

class Say(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        say(f"batch {batch}")
        time.sleep(SLOW)
    def on_test_batch_end(self, batch, logs=None):
        say(f"test {batch}")
        time.sleep(SLOW)

SLOW = 0.05
x, y = np.ones((64, 2), "float32"), np.ones((64, 1), "float32")
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
arguments = dict(epochs=50, batch_size=16, verbose=0, directory=sys.argv[1], monitor="loss", callbacks=[Say()], grace="20s")
model.compile("sgd", "mse")
BODY
say("fit")
resilient.fit(model, x, y, **arguments)
say("done")
"""


def start(directory: Path, body: str = "") -> subprocess.Popen[str]:
    script = PROGRAM.replace("BODY", textwrap.dedent(body))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", script, str(directory)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    for line in process.stdout or []:
        if line.strip() == word:
            return
    raise AssertionError(f"the program ended before {word!r}: {process.stderr.read() if process.stderr else ''}")


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and standard error."""
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def last(directory: Path, event: str) -> dict[str, Any]:
    found = [entry for entry in journal.read(directory) if entry["event"] == event]
    assert found, json.dumps(list(journal.read(directory)))
    return found[-1]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Whatever a test starts is gone afterwards."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def test_sigterm_ends_the_process_with_75_and_a_second_one_changes_nothing(tmp_path: Path, processes: Any) -> None:
    """The state is that of the batch which had just ended."""
    process = start(tmp_path)
    processes.append(process)
    wait_for(process, "batch 2")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    code, _ = end(process)
    assert code == 75
    assert resilient.checkpoints(tmp_path)[-1].step == last(tmp_path, "preempted")["step"] == 3
    assert resilient.verify(tmp_path) == []


def test_sigterm_in_validation_does_not_cost_the_training_of_the_epoch(tmp_path: Path, processes: Any) -> None:
    """What is saved is the moment between training and validation."""
    process = start(tmp_path, 'arguments["validation_data"] = (x, y); arguments["validation_batch_size"] = 8')
    processes.append(process)
    wait_for(process, "test 1")
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 75
    newest = resilient.checkpoints(tmp_path)[-1]
    assert (newest.epoch, newest.batch, newest.step) == (0, 4, 4)


def test_sigterm_before_the_first_batch_leaves_at_once(tmp_path: Path, processes: Any) -> None:
    """The first batch never ends (as a compile of minutes does not); there is nothing to save, and the exit code is 75."""
    body = """
    class Slow(keras.layers.Layer):
        def call(self, inputs):
            if built:
                say("tracing")
                threading.Event().wait()
            return inputs
    built = False
    model = keras.Sequential([keras.Input((2,)), Slow(), keras.layers.Dense(1)])
    built = True
    model.compile("sgd", "mse")
    arguments |= {"callbacks": [], "grace": "10m"}  # who waits for its end is found hanging by `end`
    """
    process = start(tmp_path, body)
    processes.append(process)
    wait_for(process, "fit")
    wait_for(process, "tracing")
    process.send_signal(signal.SIGTERM)
    code, errors = end(process)
    assert code == 75, errors
    assert last(tmp_path, "preempted")["resume_step"] == 0


def test_a_batch_that_outlasts_the_grace_period_ends_with_75_before_the_deadline(tmp_path: Path, processes: Any) -> None:
    """The journal names the committed step that the next attempt goes on from."""
    body = """
    def hang(self, batch, logs=None):
        say(f"batch {batch}")
        if batch == 2:
            threading.Event().wait(60)
    Say.on_train_batch_end = hang
    arguments["grace"] = "2s"
    arguments["save_every"] = 1
    """
    process = start(tmp_path, body)
    processes.append(process)
    wait_for(process, "batch 2")
    process.send_signal(signal.SIGTERM)
    code, errors = end(process)
    assert code == 75, errors
    left = last(tmp_path, "preempted")
    assert left["resume_step"] == resilient.checkpoints(tmp_path)[-1].step < 3 and left["saved"] is False


def test_a_second_interrupt_stops_at_once(tmp_path: Path, processes: Any) -> None:
    """Ctrl-C twice: the program dies of KeyboardInterrupt without waiting for the batch."""
    body = """
    def hang(self, batch, logs=None):
        say(f"batch {batch}")
        while batch == 2:
            time.sleep(0.05)
    Say.on_train_batch_end = hang
    """
    process = start(tmp_path, body)
    processes.append(process)
    wait_for(process, "batch 2")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:  # two signals at one moment may arrive as one
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode in (130, 1, -signal.SIGINT)


def test_an_error_that_needs_a_human_ends_the_program_with_78(tmp_path: Path, processes: Any) -> None:
    """Also where the program does not catch it, with the usual traceback."""
    process = start(tmp_path, 'arguments["epochs"] = 1')
    processes.append(process)
    assert end(process)[0] == 0
    process = start(tmp_path, 'arguments["epochs"] = 2; arguments["batch_size"] = 8')
    processes.append(process)
    code, errors = end(process)
    assert code == 78
    assert "batch_size was 16 and is 8" in errors and "Traceback" in errors


def test_a_misspelt_argument_ends_the_program_with_78(tmp_path: Path, processes: Any) -> None:
    """So that no supervisor starts it again."""
    process = start(tmp_path, 'arguments["save_evry"] = 2')
    processes.append(process)
    code, errors = end(process)
    assert code == 78 and "has no argument save_evry. Did you mean save_every?" in errors


def test_a_second_process_is_refused_while_the_first_one_lives_and_not_after_its_death(tmp_path: Path, processes: Any) -> None:
    """RunLockedError names the owner's pid; SIGKILL of the owner frees the directory."""
    first = start(tmp_path)
    processes.append(first)
    wait_for(first, "batch 1")
    second = start(tmp_path)
    processes.append(second)
    code, errors = end(second)
    assert code == 1 and f"{first.pid}" in errors and "RunLockedError" in errors
    first.kill()
    first.wait()
    third = start(tmp_path, "SLOW = 0.0")  # to the end that the first one was to reach
    processes.append(third)
    assert end(third)[0] == 0
    assert last(tmp_path, "finished")["epoch"] == 50
