"""What the tests of one backend of Keras run in a process of their own: `python -m tests.backend_scenarios OUT OTHER PROGRAM...`.

KERAS_BACKEND says which. OUT is a directory to work in, `OUT/results.json` what came out. OTHER is the run directory "trained" of another
backend's OUT, or "" where there is none. PROGRAM is one of those that are stopped and have to end with the bits of an undisturbed run.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if os.environ["KERAS_BACKEND"] == "jax":
    sys.modules["tensorflow"] = None  # type: ignore[assignment]  # as if it were not installed: importing it fails from here on

import keras
import ml_dtypes
import numpy as np

import resilient
from resilient.errors import CheckpointCorruptError, CheckpointMismatchError
from resilient.state import apply_to_model, backend, checkpoint_groups, host_copies, plain
from resilient.store import Store
from tests.exactness import digests, run_until_done

BACKEND = keras.backend.backend()
SAMPLES = 75  # with batches of 8: nine whole ones and one of 3
X = np.random.default_rng(0).normal(size=(SAMPLES, 6)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, SAMPLES)
WEIGHTS = np.random.default_rng(2).uniform(0.5, 1.5, SAMPLES).astype("float32")
VALIDATION = (X[:20], Y[:20])
STOPS = [
    ("on_train_batch_end", 3),
    ("on_train_batch_end", 2),  # a second time in the same epoch
    ("on_test_batch_end", 1),
    ("on_train_batch_end", 10),  # the last batch of an epoch
    ("on_epoch_end", 1),
    ("on_epoch_begin", 1),
]
FEWER_STOPS = [("on_train_batch_end", 2), ("on_epoch_end", 1), ("on_test_batch_end", 1)]
DTYPES = ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "uint8", "int32", "bool"]


class OwnNoise(keras.layers.Layer):  # type: ignore[misc]
    """Draws from PyTorch's own generator, as PyTorch's modules do; under other backends nothing."""

    def call(self, x: Any, training: bool = False) -> Any:
        if BACKEND != "torch" or not training or x.device.type == "meta":
            return x
        import torch

        return x + 0.1 * torch.randn(x.shape)


def model(*, built: bool = True, policy: str = "float32", **arguments: Any) -> Any:
    keras.config.set_dtype_policy(policy)
    try:
        layers = [
            keras.layers.Dense(12, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.GaussianNoise(0.1),
            OwnNoise(),
            keras.layers.Dense(3),
        ]
        made = keras.Sequential([keras.Input((6,)), *layers] if built else layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made.compile(loss=loss, **{"optimizer": keras.optimizers.Adam(1e-2), "metrics": ["accuracy"], **arguments})
    finally:
        keras.config.set_dtype_policy("float32")
    return made


def averaged() -> Any:
    return model(optimizer=keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.9))


def scheduled() -> Any:
    rate = keras.optimizers.schedules.ExponentialDecay(0.02, 5, 0.8)
    return model(optimizer=keras.optimizers.Adam(rate, gradient_accumulation_steps=3))


def mixed() -> Any:
    inner = keras.optimizers.Adam(1e-2)
    return model(policy="mixed_float16", optimizer=keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0, dynamic_growth_steps=5))


def stopping() -> list[Any]:
    return [keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True)]


def slowing() -> list[Any]:
    return [*stopping(), keras.callbacks.ReduceLROnPlateau("loss", patience=1, factor=0.5, min_delta=0.05)]


def program(build: Callable[[], Any], callbacks: Callable[[], list[Any]] = slowing, **arguments: Any) -> Any:
    def run(directory: Path, extra: Sequence[Any]) -> tuple[Any, Any]:
        if not (directory / "journal.jsonl").exists():
            keras.utils.set_random_seed(7)
        made = build()
        chosen = {"x": X, "y": Y, "epochs": 4, "batch_size": 8, "verbose": 0, "monitor": "loss", "validation_data": VALIDATION, **arguments}
        history = resilient.fit(
            made, **chosen, callbacks=[*callbacks(), *extra], directory=directory, on_preempt="return", grace="60s"
        )  # fmt: skip
        return made, history

    return run


PROGRAMS = {
    "moving average": program(averaged),
    "schedule and accumulation": program(scheduled, stopping, sample_weight=WEIGHTS, shuffle="batch", steps_per_epoch=4, epochs=6),
    "mixed precision": program(mixed, shuffle=False, save_every=2, seed=11),
    "unbuilt, no validation": program(lambda: model(built=False), validation_data=None),
    "several steps per execution": program(lambda: model(steps_per_execution=4), shuffle=False),
}


def exactness(out: Path, names: Sequence[str]) -> dict[str, Any]:
    """Digests of each of these programs' end, undisturbed and stopped."""
    found = {}
    for name in names:
        run = PROGRAMS[name]
        undisturbed, _ = run_until_done(run, out / name / "undisturbed", [])
        stopped, stops = run_until_done(run, out / name / "stopped", STOPS if name == "moving average" else FEWER_STOPS)
        found[name] = {"undisturbed": undisturbed, "stopped": stopped, "stops": stops}
    return found


def transparency(out: Path) -> list[dict[str, str]]:
    """Digests after Model.fit and after resilient.fit, of data in fixed order."""
    ends = []
    for fit in (keras.Model.fit, resilient.fit):
        keras.utils.set_random_seed(5)
        made = averaged()
        own = {} if fit is keras.Model.fit else {"directory": out / "transparent"}
        history = fit(made, X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0, validation_data=VALIDATION, **own)
        ends.append({**digests(made, history), "torch": next_of_torch()})
    return ends


def next_of_torch() -> str:
    if BACKEND != "torch":
        return ""
    import torch

    return repr(torch.rand(1).item())


class BlockingCopies(keras.callbacks.Callback):  # type: ignore[misc]
    """Copies everything after every batch, at once and without the code under test."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: dict[int, dict[str, bytes]] = {}

    def get_state(self) -> None:
        return None

    def set_state(self, state: None) -> None:
        pass

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        live = self._model  # not self.model, which under JAX would bring the values back into the variables
        variables = [*live.trainable_variables, *live.non_trainable_variables, *live.optimizer.variables, *live.metrics_variables]
        if BACKEND == "jax":
            state = live._jax_state
            kinds = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
            values = [np.array(array) for kind in kinds for array in state[kind]]
        else:
            values = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
        self.copies[batch + 1] = {v.path: value.tobytes() for v, value in zip(variables, values, strict=True)}


def snapshots(out: Path) -> dict[str, Any]:
    """Trains fast while checkpoints are written behind; how many there are and which of their tensors are not those of their batch."""
    out.mkdir()
    keras.utils.set_random_seed(3)
    layers = [layer for _ in range(3) for layer in (keras.layers.Dense(256, activation="relu"), keras.layers.Dropout(0.1))]
    made = keras.Sequential([keras.Input((256,)), *layers])
    made.compile("adam", "mse", metrics=["mae"])
    data = np.random.default_rng(4).normal(size=(8 * 120, 256)).astype("float32")
    copies, directory, written = BlockingCopies(), out / "run", [0]

    def breathe(batch: int, logs: Any) -> None:
        """Every thirtieth batch until one more is written: a slow disk shall not leave us with nothing to compare."""
        if batch % 30 == 29:
            while len(resilient.checkpoints(directory)) <= written[0]:
                time.sleep(0.01)
            written[0] = len(resilient.checkpoints(directory))

    weights = resilient.ModelCheckpoint(str(out / "batch-{batch:03d}.weights.h5"), save_weights_only=True, save_freq=40)
    resilient.fit(
        made, data, data, batch_size=8, epochs=1, verbose=0, directory=directory, save_every=1, keep=resilient.Keep(last=1000),
        callbacks=[copies, weights, keras.callbacks.LambdaCallback(on_train_batch_end=breathe)], monitor="loss",
    )  # fmt: skip
    store, wrong, seen = Store(directory), [], 0
    for info in resilient.checkpoints(directory):
        if info.batch == 0:
            continue
        seen += 1
        try:
            groups = checkpoint_groups(store.load(info.step).tensors)
        except CheckpointCorruptError as error:  # the memory changed between hashing and writing
            wrong.append(str(error))
            continue
        saved = {name: array.tobytes() for group in groups.values() for name, array in group.items()}
        wrong += [f"step {info.step}: {name}" for name, value in copies.copies[info.step].items() if saved.pop(name) != value]
        wrong += [f"step {info.step}: {name} is too much" for name in saved]
    files = sorted(out.glob("*.weights.h5"))
    for file in files:
        made.load_weights(file)
        copy = copies.copies[int(file.name[6:9])]
        held = {v.path: keras.ops.convert_to_numpy(v).tobytes() for v in made.trainable_variables}
        wrong += [f"{file.name}: {name}" for name, value in held.items() if copy[name] != value]
    return {"checkpoints": seen, "files": len(files), "wrong": wrong}


def careless_snapshots(out: Path) -> dict[str, Any]:
    """The same where a snapshot is the memory that training goes on to write into: the control that shows that it would be noticed."""
    take = host_copies.HostCopies.take
    host_copies.HostCopies.take = lambda _self, arrays: list(arrays)  # type: ignore[method-assign]
    try:
        return snapshots(out)
    finally:
        host_copies.HostCopies.take = take  # type: ignore[method-assign]


def restored(other: str) -> dict[str, Any]:
    """What becomes of a run of another backend: its weights here, and the attempt to go on with it here."""
    directory = Path(other)
    checkpoint = Store(directory).load_final()
    saved = checkpoint_groups(checkpoint.tensors)
    made = model()
    resilient.restore(made, directory)
    live = {"model": made.variables, "optimizer": made.optimizer.variables}
    equal = {
        group: [
            bool(np.array_equal(tensor, keras.ops.convert_to_numpy(v)))
            for tensor, v in zip(saved[group].values(), variables, strict=True)
        ]
        for group, variables in live.items()
    }  # fmt: skip
    before = sorted(str(path) for path in directory.rglob("*"))
    try:
        resilient.fit(model(), X, Y, batch_size=8, epochs=9, verbose=0, directory=directory)
        message = ""
    except CheckpointMismatchError as error:
        message = str(error)
    return {"equal": equal, "message": message, "unchanged": sorted(str(path) for path in directory.rglob("*")) == before}


def outlives_its_files(directory: Path) -> bool:
    """Whether a restored model keeps its bits when the files they came from are cut to nothing; one that lived in them would die of it."""
    trained, fresh = model(), model()
    resilient.fit(trained, X, Y, batch_size=8, epochs=1, verbose=0, directory=directory, monitor="loss")
    checkpoint = Store(directory).load_final()
    apply_to_model(fresh, checkpoint)
    for path in checkpoint.path.glob("*.safetensors"):
        os.truncate(path, 0)
    pairs = zip([*trained.variables, *trained.optimizer.variables], [*fresh.variables, *fresh.optimizer.variables], strict=True)
    return all(_numpy(mine).tobytes() == _numpy(other).tobytes() for mine, other in pairs)


def roundtrips() -> dict[str, bool]:
    """Whether each dtype comes through snapshot and assign with its bits.

    Neither another value of the variable nor one of the memory that it was assigned from reaches the snapshot.
    """
    found = {}
    for dtype in DTYPES:
        expected = np.arange(24).reshape(4, 6).astype(getattr(ml_dtypes, dtype, dtype))
        memory = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.uint8)  # aligned as a framework needs it to live in it
        array = memory[: expected.nbytes].view(expected.dtype).reshape(expected.shape)
        array[...] = expected
        variable = keras.Variable(lambda shape, dtype: keras.ops.cast(keras.ops.zeros(shape), dtype), (4, 6), dtype, trainable=False)
        framework = backend.live()
        framework.assign(variable, array)
        memory[:] = 255
        taken = framework.snapshot(None, (variable,))[0]
        framework.assign(variable, np.zeros_like(expected))
        found[dtype] = np.asarray(taken).tobytes() == expected.tobytes() and np.asarray(taken).dtype == expected.dtype
    return found


def callback_values() -> bool:
    """Whether tensors of this backend, held by a callback, come back as arrays of the same bits."""
    tensors = [keras.ops.convert_to_tensor(np.arange(5, dtype="float32")), keras.Variable(np.eye(2, dtype="float32"))]
    if BACKEND == "torch":
        tensors.append(keras.ops.convert_to_tensor(np.ones(3, "float32")).requires_grad_())
    arrays: dict[str, Any] = {}
    decoded = plain.decode(plain.encode(tensors, arrays, "key"), arrays)
    return all(np.array_equal(array, _numpy(t)) for array, t in zip(decoded, tensors, strict=True))


def _numpy(value: Any) -> Any:
    return np.array(keras.ops.convert_to_numpy(value))


def main(out: Path, other: str, *programs: str) -> None:
    results = {
        "exactness": exactness(out, programs),
        "transparency": transparency(out),
        "snapshots": snapshots(out / "snapshots"),
        "careless snapshots": careless_snapshots(out / "careless") if BACKEND == "torch" else None,
        "outlives its files": outlives_its_files(out / "cut"),
        "roundtrips": roundtrips(),
        "callback values": callback_values(),
        "restored": restored(other) if other else None,
    }
    if not other:
        keras.utils.set_random_seed(1)
        resilient.fit(model(), X, Y, batch_size=8, epochs=1, verbose=0, directory=out / "trained", monitor="loss")
    (out / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
