"""export and diff: what others read, and what differs, without TensorFlow."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from cli_samples import MODEL, OPTIMIZER, STATE, a_run, cli, flip, manifest, place, snapshot, tensors, the_error
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from resilient.comparing import differences
from resilient.store import Store

WEIGHTS = ["net/dense/kernel", "net/dense/bias"]


def test_safetensors_hold_the_weights_bit_for_bit_and_nothing_else(tmp_path):
    """The reference reader finds the model's weights: no seed generator, no optimizer, no metric."""
    out = tmp_path / "out.safetensors"
    done = cli("export", a_run(tmp_path / "run"), "--which", "best", "-o", out)
    assert done.stdout.startswith("Wrote step 10 (epoch 1, batch 0)")
    loaded = safetensors.numpy.load_file(out)
    assert sorted(loaded) == sorted(WEIGHTS)
    assert all(np.array_equal(loaded[name], tensors(10)[MODEL][name]) for name in WEIGHTS)


def test_weights_h5_holds_each_variable_in_each_of_its_places(tmp_path):
    """A variable that Keras saves twice lies in the file twice."""
    out = tmp_path / "out.weights.h5"
    cli("export", a_run(tmp_path / "run"), "--which", 20, "-o", out)
    with h5py.File(out) as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    assert sorted(found) == sorted(["layers/dense/vars/0", "layers/dense/vars/1", "optimizer/vars/0", "optimizer/inner_optimizer/vars/0"])
    assert np.array_equal(found["layers/dense/vars/0"], np.full((2, 3), 20, np.float32))
    assert found["optimizer/inner_optimizer/vars/0"] == 20


@pytest.mark.parametrize(
    "places",
    [
        {},
        None,
        [],
        {"model:gone": ["a"]},
        {"nothing": ["a"]},
        {"model:net/dense/kernel": ["a/vars/0"], "model:net/dense/bias": ["a/vars/0"]},
        {"model:net/dense/kernel": ["vars/0", "a"]},
        {"model:net/dense/kernel": 3},
        {"model:net/dense/kernel": [3]},
        {"model:net/dense/kernel": ["/vars/0"]},
        {"model:net/dense/kernel": ["vars/0\0"]},
    ],
    ids=str,
)
def test_a_model_whose_places_are_unknown_is_refused_with_the_remedy(tmp_path, places):
    """Whatever stands in the manifest, there is a whole file or one sentence; never a file that lacks something."""
    store = Store(tmp_path / "run")
    store.prepare()
    store.commit(manifest(1, places=places), tensors(1))
    error = the_error(cli("export", tmp_path / "run", "-o", tmp_path / "out.weights.h5", code=78))
    assert "resilient restore" in error and ".safetensors" in error
    assert os.listdir(tmp_path) == ["run"]


def test_an_export_replaces_a_file_at_once_and_a_failing_one_leaves_it(tmp_path):
    """The old file is whole until the new one is; a symbolic link stays one."""
    run = a_run(tmp_path / "run")
    (tmp_path / "real.safetensors").write_text("old")
    (tmp_path / "link.safetensors").symlink_to("real.safetensors")
    for step in (10, 20):
        flip(place(run, step) / MODEL)
        the_error(cli("export", run, "--which", step, "-o", tmp_path / "link.safetensors", code=78))
    assert (tmp_path / "real.safetensors").read_text() == "old"
    cli("export", run, "-o", tmp_path / "link.safetensors")
    assert (tmp_path / "link.safetensors").is_symlink()
    assert sorted(safetensors.numpy.load_file(tmp_path / "real.safetensors")) == sorted(WEIGHTS)
    assert sorted(os.listdir(tmp_path)) == ["link.safetensors", "real.safetensors", "run"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("out.onnx", ".weights.h5"),
        (".safetensors", "does not end in"),
        ("out.keras", "resilient restore"),
        ("missing/out.safetensors", "there is no folder"),
        ("folder.safetensors", "no file"),
        ("run/out.safetensors", "lies in the run directory"),
        ("run/final/out.weights.h5", "lies in the run directory"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_read(tmp_path, output, words):
    """One sentence says what is wrong with the name, and nothing is written, least of all into the run."""
    a_run(tmp_path / "run", final=True)
    (tmp_path / "folder.safetensors").mkdir()
    before = snapshot(tmp_path)
    assert words in the_error(cli("export", "run", "-o", output, code=78, cwd=tmp_path))
    assert snapshot(tmp_path) == before


def test_an_output_on_a_full_or_forbidden_disk_is_one_sentence(tmp_path):
    """The operating system's refusal comes with a remedy and leaves no temporary."""
    run = a_run(tmp_path / "run")
    shell = f"ulimit -f 0; exec {sys.executable} -m resilient export {run} -o {tmp_path}/out.safetensors"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "out.safetensors" in the_error(done)
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("which", ["newest", "-1", "1.5", "True", ""])
def test_a_checkpoint_that_cannot_be_meant_is_refused(tmp_path, which):
    """The sentence lists what is accepted."""
    error = the_error(cli("export", a_run(tmp_path / "run"), f"--which={which}", "-o", tmp_path / "x.safetensors", code=78))
    assert f"--which {which} is not accepted. Use latest, best, final".replace("  ", " ") in error


def test_a_step_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    """Names of steps to choose from, instead of a path that does not exist."""
    error = the_error(cli("export", a_run(tmp_path / "run"), "--which", 11, "-o", tmp_path / "x.safetensors", code=78))
    assert "0, 10, 20, 25" in error


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path):
    """The export is the older valid one, stderr says so, and the run directory is as it was."""
    run = a_run(tmp_path / "run")
    flip(place(run, 25) / OPTIMIZER)
    before = snapshot(run)
    done = cli("export", run, "-o", tmp_path / "x.safetensors")
    assert done.stdout.startswith("Wrote step 20") and snapshot(run) == before
    (line,) = done.stderr.splitlines()
    assert line.startswith("Warning: ") and str(place(run, 25)) in line and "step 20 is used instead" in line


def test_diff_of_equal_checkpoints_exits_with_0_and_of_others_with_1(tmp_path):
    """As diff(1): scripts ask by exit code, people read the table."""
    run = a_run(tmp_path / "run", final=True)
    assert "All 6 tensors are equal bit for bit." in cli("diff", run, "10", "best").stdout
    done = cli("diff", run, 10, "final", code=1)
    assert "5 of 6 tensors differ" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    document = json.loads(cli("diff", run, 10, "latest", "--json", code=1).stdout)
    assert (document["a"]["step"], document["b"]["step"]) == (10, 30)
    kernel = next(item for item in document["differences"] if item["name"] == "model:net/dense/kernel")
    assert (kernel["differing"], kernel["size"], kernel["max_abs"], kernel["mean_abs"]) == (6, 6, 20.0, 20.0)


def test_diff_names_tensors_that_only_one_has_and_those_of_another_shape_or_dtype(tmp_path):
    """What cannot be compared by value is said in words."""
    store = Store(tmp_path)
    store.prepare()
    a, b = tensors(1), tensors(1)
    a[MODEL]["gone"] = b[MODEL]["new"] = np.zeros(2)
    b[MODEL]["net/dense/kernel"] = np.zeros((3, 2), np.float32)
    b[STATE]["metrics/mean/total"] = np.array(1.0)
    store.commit(manifest(1), a)
    store.commit(manifest(2), b)
    document = json.loads(cli("diff", tmp_path, 1, 2, "--json", code=1).stdout)
    assert {item["name"]: item["note"] for item in document["differences"]} == {
        "model:gone": "only in A",
        "model:net/dense/kernel": "shape [2, 3] -> [3, 2]",
        "model:new": "only in B",
        "state:metrics/mean/total": "dtype float32 -> float64",
    }
    assert "only in A" in cli("diff", tmp_path, 1, 2, code=1).stdout


def one(a, b):
    found = list(differences({"x.safetensors": {"t": a}}, {"x.safetensors": {"t": b}}))
    return found[0] if found else None


@given(st.data())
def test_differences_are_those_of_exact_arithmetic(data):
    """Counts, distances and ulps agree with Python's own integers and floats, whatever the dtype."""
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.int8, np.uint64, np.bool_]))
    shape = data.draw(arrays.array_shapes(max_dims=2, max_side=5))
    finite = {"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else None
    a, b = (data.draw(arrays.arrays(dtype, shape, elements=finite)) for _ in range(2))
    found = one(a, b)
    pairs = list(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    changed = sum(x.tobytes() != y.tobytes() for x, y in zip(a.ravel(), b.ravel(), strict=True))
    if found is None:
        assert changed == 0
        return
    apart = [abs(x - y) if np.dtype(dtype).kind == "f" else abs(int(x) - int(y)) for x, y in pairs]
    assert (found.differing, found.size) == (changed, a.size)
    assert math.isclose(found.max_abs, max(apart), rel_tol=1e-12) and math.isclose(found.mean_abs, sum(apart) / a.size, rel_tol=1e-9)
    assert (found.max_ulp is None) == (np.dtype(dtype).kind != "f")


@given(st.floats(width=32, allow_infinity=False, allow_nan=False), st.integers(0, 50))
@example(-(2.0**-147), 10)  # from below zero to above it
def test_ulps_count_the_representable_values_between(value, steps):
    """Walking n neighbours up, across zero too, is n ulps."""
    start = end = np.float32(value)
    for _ in range(steps):
        end = np.nextafter(end, np.float32(np.inf))
    found = one(np.array([start]), np.array([end]))
    assert (found.max_ulp if found else 0) == steps or not np.isfinite(end)


def test_bits_decide_what_differs():
    """Equal NaNs are equal, a NaN against a number is infinitely far, -0.0 is not 0.0, and bfloat16 counts its own ulps."""
    nan = np.array([np.nan, 1.0])
    assert one(nan, nan.copy()) is None
    assert math.isnan(one(nan, np.array([2.0, 1.0])).max_abs)
    zeros = one(np.array([0.0]), np.array([-0.0]))
    assert (zeros.differing, zeros.max_abs, zeros.max_ulp) == (1, 0.0, 0)
    brain = one(np.array([1.0], ml_dtypes.bfloat16), np.array([1.0078125], ml_dtypes.bfloat16))
    assert (brain.max_ulp, brain.max_abs) == (1, 0.0078125)
    extremes = one(np.array([2**63 - 1], np.int64), np.array([-(2**63)], np.int64))
    assert extremes.max_abs == 2.0**64


def test_tensors_larger_than_a_chunk_are_compared_to_the_end():
    """The last element counts, and the mean is over all of them."""
    a = np.zeros(3 * 2**20 + 5, np.float32)
    b = a.copy()
    b[0], b[-1] = 1, 3
    found = one(a, b)
    assert (found.differing, found.max_abs) == (2, 3.0) and math.isclose(found.mean_abs, 4 / a.size)
    b[2**20] = np.nan
    assert math.isnan(one(a, b).max_abs)
