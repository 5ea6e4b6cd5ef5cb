"""`resilient export`: a checkpoint's weights for others, without TensorFlow and without the program that trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resilient import reading
from resilient.cli import tables
from resilient.cli.output import checked_output, replacing, write_safetensors
from resilient.errors import ConfigurationError
from resilient.store import Checkpoint

_MODEL_FILE, _OPTIMIZER_FILE = "model.safetensors", "optimizer.safetensors"
_SEED_STATE = "seed_generator_state"  # Keras' name for the variable of every SeedGenerator; it is no weight


def export_run(directory: Path, which: str, output: Path) -> int:
    """Write the weights of the checkpoint to `output`, in the format that its ending names."""
    remedy = "Use .weights.h5 for Model.load_weights, .safetensors for others, or `resilient restore` for .keras"
    ending = checked_output(output, directory, (".weights.h5", ".safetensors"), remedy)
    checkpoint = reading.choose(directory, step_or_word(which))
    if ending == ".safetensors":
        write_safetensors(output, weights(checkpoint))
    else:
        write_weights_h5(output, checkpoint)
    tables.print_line(f"Wrote {describe(checkpoint)} to {output} ({tables.size(output.stat().st_size)}).")
    return 0


def step_or_word(which: str) -> str | int:
    """The argument as `reading.choose` takes it; what is neither a word nor a step is refused there."""
    return int(which) if which.isdecimal() else which


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
    placed = dict(_placed(checkpoint))
    import h5py

    with replacing(output, ".weights.h5") as temporary, h5py.File(temporary, "x") as file:
        try:
            for path, tensor in placed.items():
                _write_dataset(file, path, tensor)
        except (ValueError, TypeError, KeyError) as error:  # two variables in one place: not a mapping that Keras' walk gives
            raise _unknown_places(checkpoint, str(error)) from error


def _placed(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    """Path in the file and tensor, for every place that the checkpoint knows."""
    places = checkpoint.manifest.state.get("weights_h5")
    if not isinstance(places, Mapping) or not places:
        raise _unknown_places(checkpoint, "the model saves variables in a way of its own")
    groups = {"model": checkpoint.tensors.get(_MODEL_FILE, {}), "optimizer": checkpoint.tensors.get(_OPTIMIZER_FILE, {})}
    for key, paths in places.items():
        group, _, name = key.partition(":")
        if name not in groups.get(group, {}):
            raise _unknown_places(checkpoint, f"it has no tensor {key}")
        # A variable that two layers share lies in the file twice.
        for path in [paths] if isinstance(paths, str) else paths:
            yield path, groups[group][name]


def _write_dataset(file: Any, path: str, tensor: Any) -> None:
    dataset = file.create_dataset(path, data=tensor)
    if tensor.dtype.name == "bfloat16":  # HDF5 has no such type: Keras stores the two bytes and says so beside them
        dataset.attrs["dtype"] = "bfloat16"


def _unknown_places(checkpoint: Checkpoint, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{checkpoint.path} cannot be exported as .weights.h5: {why}. "
        "Use `resilient restore --model FILE:FUNCTION -o NAME.weights.h5`, or export it as .safetensors."
    )
