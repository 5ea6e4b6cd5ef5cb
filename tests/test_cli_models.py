"""export and restore with real Keras models: what serving loads is what training had."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
from cli_samples import MODEL, OPTIMIZER, STATE, a_run, cli, manifest, snapshot, the_error

from resilient.store import Store

# What a user's program looks like: the models, and training under the guard that must not run.
PROGRAM = """
import keras
import neighbour

def sequential():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), keras.layers.BatchNormalization(),
                              keras.layers.Dropout(0.5), keras.layers.Dense(neighbour.OUTPUTS)])
    model.compile("adam", "mse", metrics=["mae"])
    return model

def nested():
    keras.utils.set_random_seed(2)
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d"), keras.layers.Dropout(0.1)])
    inputs = keras.Input((4,))
    hidden = keras.layers.Bidirectional(keras.layers.LSTM(2))(keras.layers.Reshape((3, 1))(inner(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(neighbour.OUTPUTS)(hidden))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True), "mse")
    return model

@keras.saving.register_keras_serializable("tests")
class Listed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [[keras.layers.Dense(3)], {"head": keras.layers.Dense(3)}]
        self.last = keras.layers.Dense(neighbour.OUTPUTS, dtype="bfloat16")

    def call(self, x):
        return self.last(self.blocks[1]["head"](self.blocks[0][0](x)))

    def get_config(self):
        return {}

def subclassed():
    keras.utils.set_random_seed(3)
    model = Listed()
    model(keras.ops.zeros((1, 4)))
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.01)), "mse")
    return model

def uncompiled():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

def other():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(7)])
    return model

def unbuilt():
    return keras.Sequential([keras.layers.Dense(2)])

if __name__ == "__main__":
    raise SystemExit("this is the training, and must not run")
"""
# The ways to get it wrong that need no TensorFlow, which keeps their tests fast.
WRONG = """
def build(): return 3
def needy(width): return width
def failing(): raise KeyError("no such layer")
def leaving(): raise SystemExit(3)
constant = 5
"""
MODELS = ("sequential", "nested", "subclassed")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The directory of train.py, and the module itself."""
    directory = tmp_path_factory.mktemp("program")
    (directory / "train.py").write_text(PROGRAM)
    (directory / "neighbour.py").write_text("OUTPUTS = 2\n")
    return directory


@pytest.fixture(scope="module")
def built(program):
    """Name -> function that builds the model, in this process."""
    from resilient.cli.scripts import load_function

    return lambda name: load_function(f"{program}/train.py:{name}")()


def trained(model):
    model.optimizer.build(model.trainable_variables)  # before the first batch, as `fit` does; Keras names some variables differently in it
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    model.fit(x, np.stack([x.sum(1), x[:, 0]], 1), epochs=2, batch_size=4, verbose=0)
    return model


def save(model, directory: Path) -> Path:
    """A run of one checkpoint of the model, as `fit` lays it out."""
    from resilient.state.variables import variables_of
    from resilient.state.weights_h5 import weights_h5_names

    named = variables_of(model)
    files = {
        file: {name: np.asarray(v) for name, v in named[group].items()} for file, group in ((MODEL, "model"), (OPTIMIZER, "optimizer"))
    }
    store = Store(directory)
    store.prepare()
    store.commit(manifest(8, epoch=2, batch=0, places=weights_h5_names(model)), {**files, STATE: {}})
    return directory


def datasets(path: Path) -> dict[str, bytes]:
    """Every dataset of an HDF5 file with its type, shape, attributes and bytes."""
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = (item.dtype.str, item.shape, dict(item.attrs), np.asarray(item).tobytes())

    with h5py.File(path) as file:
        file.visititems(note)
    return found


def values(model):
    """Weights and optimizer variables as bytes."""
    return [np.asarray(v).tobytes() for v in [*model.weights, *(model.optimizer.variables if model.optimizer else [])]]


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_file_is_the_one_that_keras_saves(tmp_path, built, name):
    """Same places, same types, same bits as Model.save_weights; load_weights restores model and optimizer from it."""
    model = trained(built(name))
    run = save(model, tmp_path / "run")
    cli("export", run, "-o", tmp_path / "ours.weights.h5")
    model.save_weights(tmp_path / "theirs.weights.h5")
    assert datasets(tmp_path / "ours.weights.h5") == datasets(tmp_path / "theirs.weights.h5")
    fresh = built(name)
    fresh.optimizer.build(fresh.trainable_variables)
    assert values(fresh) != values(model)
    fresh.load_weights(tmp_path / "ours.weights.h5")
    assert values(fresh) == values(model)


@pytest.mark.parametrize(("name", "ending"), [*((name, ".keras") for name in MODELS), ("nested", ".weights.h5")])
def test_restore_builds_the_model_and_saves_it_with_the_run_s_values(tmp_path, program, built, name, ending):
    """What load_model or load_weights gives is what training had, optimizer included; the run is as it was."""
    import keras

    model = trained(built(name))
    run = save(model, tmp_path / "run")
    before = snapshot(run)
    out = tmp_path / f"out{ending}"
    done = cli("restore", run, "--model", f"train.py:{name}", "-o", out, cwd=program)
    assert done.stdout.startswith("Wrote step 8 (epoch 2, batch 0)") and "training" not in done.stderr
    if ending == ".keras":
        loaded = keras.models.load_model(out)
    else:
        loaded = built(name)
        loaded.optimizer.build(loaded.trainable_variables)
        loaded.load_weights(out)
    assert values(loaded) == values(model)
    assert snapshot(run) == before and sorted(os.listdir(tmp_path)) == [out.name, "run"]


def test_restore_into_an_uncompiled_model_takes_the_weights_alone(tmp_path, program, built):
    """Serving needs no optimizer."""
    import keras

    model = built("uncompiled")
    model.compile("adam", "mse")
    run = save(trained(model), tmp_path / "run")
    cli("restore", run, "--model", f"{program}/train.py:uncompiled", "-o", tmp_path / "out.keras")
    loaded = keras.models.load_model(tmp_path / "out.keras")
    assert [w.tobytes() for w in loaded.get_weights()] == [w.tobytes() for w in model.get_weights()]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("wrong.py", "FILE:FUNCTION"),
        ("wrong.py:", "FILE:FUNCTION"),
        ("missing.py:build", "there is no file missing.py"),
        ("notes.txt:build", "not a Python file"),
        ("wrong.py:absent", "Its functions are build, needy"),
        ("wrong.py:constant", "no function constant"),
        ("wrong.py:needy", "'width'"),
        ("wrong.py:build", "returned a int"),
        ("wrong.py:failing", "KeyError: 'no such layer' in line 4 of wrong.py"),
        ("wrong.py:leaving", "SystemExit: 3"),
        ("parsing.py:absent", "Its functions are build"),
        ("strict.py:build", "SystemExit: 2 in line 3 of strict.py"),
        ("broken.py:build", "syntax error in line 2"),
        ("raising.py:build", "ZeroDivisionError: division by zero in line 1"),
    ],
)
def test_each_thing_that_can_go_wrong_with_the_program_is_one_sentence(tmp_path, reference, words):
    """The user's own error is named with its line, and no output appears."""
    files = {"wrong.py": WRONG, "notes.txt": "", "broken.py": "x = 1\ndef build(:\n", "raising.py": "1 / 0\n"}
    arguments = "import argparse\np = argparse.ArgumentParser(); p.add_argument('--epochs'){}\nprint(end=p.parse_args().epochs or '')\n"
    files |= {"parsing.py": arguments.format("") + "def build(): pass\n", "strict.py": arguments.format("; p.add_argument('data')")}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    run = a_run(tmp_path / "run")
    before = snapshot(run)
    done = cli("restore", run, "--model", reference, "-o", "out.keras", code=78, cwd=tmp_path)
    assert words in done.stderr.splitlines()[-1] and done.stdout == ""  # argparse has words of its own
    assert reference == "strict.py:build" or words in the_error(done)
    assert snapshot(run) == before and not (tmp_path / "out.keras").exists()


@pytest.mark.parametrize(("name", "words"), [("other", "[7] now"), ("unbuilt", "keras.Input")])
def test_a_model_that_is_not_the_run_s_is_refused(tmp_path, program, built, name, words):
    """Another shape, or no variables at all: one sentence, and no output that looks restored."""
    run = save(built("uncompiled"), tmp_path / "run")
    done = cli("restore", run, "--model", f"train.py:{name}", "-o", tmp_path / "out.keras", code=78, cwd=program)
    last = done.stderr.splitlines()[-1]  # TensorFlow has words of its own for stderr
    assert last.startswith("Error: ") and words in last and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["run"]


def test_a_layer_that_saves_more_than_variables_is_exported_by_restore(tmp_path):
    """Where Keras' file cannot be told from the variables, export refuses and names the way, and that way works."""
    source = """
        import keras, numpy as np

        @keras.saving.register_keras_serializable("tests")
        class Odd(keras.layers.Dense):
            def save_own_variables(self, store):
                super().save_own_variables(store)
                store["extra"] = np.arange(3)

        def build():
            return keras.Sequential([keras.Input((2,)), Odd(2)])
    """
    (tmp_path / "odd.py").write_text(textwrap.dedent(source))
    from resilient.cli.scripts import load_function

    run = save(load_function(f"{tmp_path}/odd.py:build")(), tmp_path / "run")
    error = the_error(cli("export", run, "-o", tmp_path / "out.weights.h5", code=78))
    assert "resilient restore --model" in error
    cli("restore", run, "--model", "odd.py:build", "-o", "out.weights.h5", cwd=tmp_path)
    assert "layers/odd/vars/extra" in datasets(tmp_path / "out.weights.h5")
