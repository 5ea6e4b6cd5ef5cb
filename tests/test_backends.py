"""The promises of `fit` on every backend of Keras: each runs the same scenarios in a process of its own, and the results are judged here.

A backend that is not installed is skipped, and the summary says so.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resilient.state.host_copies import HostCopies

ROOT = Path(__file__).resolve().parent.parent
_EVERYWHERE = ["schedule and accumulation", "mixed precision"]
PROGRAMS = {
    "tensorflow": _EVERYWHERE,  # test_fit_exact has the others
    "jax": [*_EVERYWHERE, "moving average", "unbuilt, no validation", "several steps per execution"],
    "torch": [*_EVERYWHERE, "moving average", "unbuilt, no validation"],  # Keras has no several steps there
}

# The first test of a backend waits for its process: compiling under JAX takes most of that.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(params=PROGRAMS)
def backend(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    skip_unless_installed(name)
    return name


def skip_unless_installed(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install 'resilient[{name}]'")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backends")


@pytest.fixture
def results(backend: str, base: Path) -> dict[str, Any]:
    """What the backend's process wrote; it runs once. TensorFlow's leaves a run for the others to try."""
    other = None if backend == "tensorflow" or importlib.util.find_spec("tensorflow") is None else "tensorflow"
    if other:
        run_backend(other, base, None)
    done = run_backend(backend, base, other)
    assert done.returncode == 0, f"{backend}: {done.stderr[-3000:]}"
    return dict(json.loads((base / backend / "results.json").read_text()))


@functools.cache
def run_backend(name: str, base: Path, other: str | None) -> subprocess.CompletedProcess[str]:
    (base / name).mkdir()
    environment = {
        **os.environ,
        "KERAS_BACKEND": name,
        # Every attempt compiles its model anew; as processes do, they find what an earlier one has compiled.
        "JAX_COMPILATION_CACHE_DIR": str(base / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    trained = str(base / other / "trained") if other else ""
    command = [sys.executable, "-m", "tests.backend_scenarios", str(base / name), trained, *PROGRAMS[name]]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("backend", "program"), [(name, program) for name, programs in PROGRAMS.items() for program in programs], indirect=["backend"]
)
def test_a_stopped_run_ends_with_the_bits_of_an_undisturbed_one(program: str, results: dict[str, Any]) -> None:
    """Dropout, moving averages, schedules, accumulation, loss scaling: stopped in training, in validation, at ends and at beginnings."""
    found = results["exactness"][program]
    assert found["stops"] >= 2
    assert found["stopped"] == found["undisturbed"]


def test_an_uninterrupted_run_on_data_in_fixed_order_gives_what_model_fit_gives(results: dict[str, Any]) -> None:
    """Variables, History and what the generators draw next have the same bits as with plain `fit`."""
    plain, ours = results["transparency"]
    assert ours == plain


def test_a_checkpoint_holds_the_bits_of_its_batch_while_training_runs_at_full_speed(results: dict[str, Any]) -> None:
    """Buffers are donated (JAX) and written into (PyTorch) while the writer is at work; files of ModelCheckpoint are compared as well."""
    found = results["snapshots"]
    assert found["wrong"] == []
    assert found["checkpoints"] >= 3 and found["files"] == 3


@pytest.mark.parametrize("backend", ["torch"], indirect=True)
def test_the_comparison_notices_a_snapshot_that_is_no_copy(results: dict[str, Any]) -> None:
    """Negative control, where a careless snapshot is possible at all: JAX does not write into memory that somebody looks at."""
    assert results["careless snapshots"]["wrong"] != []


def test_a_restored_model_does_not_live_in_the_files_it_came_from(results: dict[str, Any]) -> None:
    """Frameworks go on using memory that they are given where they can; here it is a mapped file, whose disk may fail hours later."""
    assert results["outlives its files"]


def test_every_dtype_keeps_its_bits(results: dict[str, Any]) -> None:
    """Also those that NumPy has no name for."""
    assert [dtype for dtype, kept in results["roundtrips"].items() if not kept] == []


def test_a_callbacks_tensors_come_back_as_arrays(results: dict[str, Any]) -> None:
    """Tensors and variables of the backend among a callback's attributes are state like any other."""
    assert results["callback values"]


@pytest.mark.parametrize("backend", ["jax", "torch"], indirect=True)
def test_weights_of_another_backends_run_can_be_restored(results: dict[str, Any]) -> None:
    """Names agree across backends; seeds and counters change only their integer type."""
    skip_unless_installed("tensorflow")
    equal = results["restored"]["equal"]
    assert all(equal["model"]) and all(equal["optimizer"]) and len(equal["model"]) > 8


@pytest.mark.parametrize("backend", ["jax", "torch"], indirect=True)
def test_a_run_of_another_backend_is_refused_with_the_remedy(backend: str, results: dict[str, Any]) -> None:
    """Its bits could not go on here: nothing is changed, and the message says what to set."""
    skip_unless_installed("tensorflow")
    message = results["restored"]["message"]
    assert "KERAS_BACKEND=tensorflow" in message and backend in message and "resilient.restore" in message
    assert results["restored"]["unchanged"]


def test_copies_are_never_written_over_while_anybody_reads_them() -> None:
    """Not even where all that is left is a buffer cut from a view of one of them."""
    copies = HostCopies()
    source = [np.arange(100, dtype="float32"), np.array(7, dtype="int64")]
    taken = copies.take(source)
    reader = np.ascontiguousarray(taken[0]).reshape(-1).view(np.uint8).data[8:16]
    del taken
    gc.collect()
    source[0] += 1
    again = copies.take(source)
    assert bytes(reader) == np.arange(2, 4, dtype="float32").tobytes()
    assert again[0].tolist() == source[0].tolist() and again[1].shape == () and again[1] == 7


def test_memory_of_copies_is_used_again_when_nobody_reads_them() -> None:
    """Which is why they are cheap; arrays without elements are no exception."""
    copies = HostCopies()
    source = [np.arange(10**6, dtype="float32"), np.empty((0, 3))]
    first = copies.take(source)[0].__array_interface__["data"][0]
    assert copies.take(source)[0].__array_interface__["data"][0] == first
    kept = copies.take(source)
    assert copies.take(source)[0].__array_interface__["data"][0] != first and kept[1].shape == (0, 3)
