"""`resilient export`: a checkpoint's weights for others, without TensorFlow and without the program that trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resilient import reading
from resilient.cli import tables
from resilient.cli.output import checked_output, write_safetensors
from resilient.cli.progress import sign_of_life
from resilient.errors import ConfigurationError
from resilient.store import Checkpoint
from resilient.store.temporaries import replacing

_MODEL_FILE, _OPTIMIZER_FILE = "model.safetensors", "optimizer.safetensors"
_SEED_STATE = "seed_generator_state"  # Keras' name for the variable of every SeedGenerator; it is no weight
_LONGEST_STEP = 12  # digits, of the name of a checkpoint's directory
_PART = r"(?!\.{1,2}(?:/|$))[^/\0]+"
_PLACE = re.compile(rf"(?:{_PART}/)*vars(?:/{_PART})+")


def export_run(directory: Path, which: str, output: Path, *, json: bool) -> int:
    """Write the weights of the checkpoint to `output`, in the format that its ending names."""
    remedy = "Use .weights.h5 for Model.load_weights, .safetensors for others, or `resilient restore` for .keras"
    ending = checked_output(output, directory, (".weights.h5", ".safetensors"), remedy)
    with sign_of_life(f"reading {directory}"):
        checkpoint = reading.choose(directory, step_or_word(which, "--which"))
    with sign_of_life(f"writing {output}"):
        if ending == ".safetensors":
            write_safetensors(output, weights(checkpoint))
        else:
            write_weights_h5(output, checkpoint)
    tell_of(output, checkpoint, json=json)
    return 0


def tell_of(output: Path, checkpoint: Checkpoint, *, json: bool) -> None:
    """Say what was written where."""
    nbytes = output.stat().st_size
    if json:
        tables.print_json({"output": str(output), "nbytes": nbytes, "checkpoint": tables.as_json(checkpoint.info)})
    else:
        tables.print_line(f"Wrote {describe(checkpoint)} to {output} ({tables.size(nbytes)}).")


def step_or_word(which: str, option: str) -> str | int:
    """The argument as `reading.choose` takes it; `option`: its name, for the message.

    Raises:
        ConfigurationError: it is neither a word nor a step.
    """
    if which in ("latest", "best", "final"):
        return which
    if which.isascii() and which.isdecimal() and len(which) <= _LONGEST_STEP:
        return int(which)
    raise ConfigurationError(f"{option} {which} is not accepted. Use latest, best, final, or the number of a step.")


def describe(checkpoint: Checkpoint) -> str:
    """Which one it is, for a line of output."""
    progress = checkpoint.manifest.progress
    return f"step {progress.step} (epoch {progress.epoch}, batch {progress.batch})"


def weights(checkpoint: Checkpoint) -> dict[str, Any]:
    """The model's weights: its tensors without the states of seed generators, in the model's order."""
    tensors = checkpoint.tensors.get(_MODEL_FILE, {})
    return {name: tensor for name, tensor in tensors.items() if name.rpartition("/")[2].partition("#")[0] != _SEED_STATE}


def write_weights_h5(output: Path, checkpoint: Checkpoint) -> None:
    """Write the file that `Model.save_weights` would have written.

    Raises:
        ConfigurationError: the checkpoint does not say where Keras keeps every variable in such a file.
    """
    placed = _placed(checkpoint)
    import h5py

    with replacing(output, ".weights.h5") as temporary, h5py.File(temporary, "x") as file:
        for path, tensor in placed.items():
            _write_dataset(file, path, tensor)


def _placed(checkpoint: Checkpoint) -> dict[str, Any]:
    """Path in the file -> tensor, for every place that the checkpoint knows."""
    places = checkpoint.manifest.state.get("weights_h5")
    if not isinstance(places, Mapping) or not places:
        raise _unknown_places(checkpoint, "its model saves more than its variables")
    groups = {"model": checkpoint.tensors.get(_MODEL_FILE, {}), "optimizer": checkpoint.tensors.get(_OPTIMIZER_FILE, {})}
    placed: dict[str, Any] = {}
    for key, paths in places.items():
        group, _, name = key.partition(":")
        if name not in groups.get(group, {}):
            raise _unknown_places(checkpoint, f"it has no tensor {key!r}")
        for path in _checked_paths(checkpoint, paths):
            if path in placed:
                raise _unknown_places(checkpoint, f"two tensors have the place {path!r}")
            placed[path] = groups[group][name]
    return placed


def _checked_paths(checkpoint: Checkpoint, paths: object) -> list[str]:
    """The places of one tensor, several where Keras saves it several times. Keras puts each in a group `vars` under its number or name."""
    listed = [paths] if isinstance(paths, str) else paths
    if not isinstance(listed, list) or not all(isinstance(path, str) and _PLACE.fullmatch(path) for path in listed):
        raise _unknown_places(checkpoint, f"{paths!r} is no place in such a file")
    return listed


def _write_dataset(file: Any, path: str, tensor: Any) -> None:
    dataset = file.create_dataset(path, data=tensor)
    if tensor.dtype.name == "bfloat16":  # HDF5 has no such type: Keras stores the two bytes and says so beside them
        dataset.attrs["dtype"] = "bfloat16"


def _unknown_places(checkpoint: Checkpoint, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{checkpoint.path} cannot be exported as .weights.h5: {why}. "
        "Use `resilient restore --model FILE:FUNCTION -o NAME.weights.h5`, or export it as .safetensors."
    )
