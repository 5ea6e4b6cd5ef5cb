"""A checkpoint as one file for serving: Keras' `.weights.h5`, or safetensors. The file appears whole or not at all, and is durable."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resilient.errors import ConfigurationError
from resilient.store import Checkpoint
from resilient.store.files import sync_directory, write_file
from resilient.store.oserrors import storage_errors
from resilient.store.safetensors_format import layout

_GROUPS = ("model", "optimizer")


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; takes its place, durably, when the block ends without an error.

    Raises:
        StorageError: the disk refused; a file that was there is untouched.
    """
    # The ending is kept: Keras goes by it.
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:12]}-{path.name}")
    with storage_errors("write the file", path):
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def export(checkpoint: Checkpoint, output: Path) -> None:
    """Writes the checkpoint's weights to `output`, in the format its ending names.

    `.weights.h5` holds the optimizer as well and is loaded with `model.load_weights`; `.safetensors` holds the model's variables by
    their Keras paths, seed generators included.

    Raises:
        ConfigurationError: another ending, or the checkpoint does not say how to write `.weights.h5`.
        StorageError: the disk refused.
    """
    check_output(output, (".weights.h5", ".safetensors"))
    if output.name.endswith(".safetensors"):
        plan = layout(checkpoint.tensors["model.safetensors"])
        with appearing(output) as temporary:
            write_file(temporary, plan.size, plan.chunks())
        return
    datasets = _datasets(checkpoint)
    with appearing(output) as temporary:
        _write_h5(temporary, datasets)


def check_output(output: Path, endings: tuple[str, ...]) -> None:
    """Raise ConfigurationError unless `output` ends in one of `endings` and could be a file."""
    if not output.name.endswith(endings):
        raise ConfigurationError(f"The output {output} has an unknown ending. Use {' or '.join(endings)}.")
    if output.is_dir():
        raise ConfigurationError(f"The output {output} is a directory. Name a file.")


def _datasets(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Dataset path -> tensor, from what the training noted in the manifest."""
    noted = checkpoint.manifest.state.get("weights_h5")
    try:
        datasets = {path: _tensor(checkpoint, key) for key, paths in noted.items() for path in _as_list(paths)} if noted else {}
    except (AttributeError, KeyError, TypeError, ValueError):
        datasets = {}
    if not datasets:
        raise ConfigurationError(
            f"The checkpoint at {checkpoint.path} cannot be written as .weights.h5: its model saves more than its variables. "
            "Export to .safetensors, or use `resilient restore` with --model."
        )
    return datasets


def _tensor(checkpoint: Checkpoint, key: str) -> Any:
    group, name = key.split(":", 1)
    if group not in _GROUPS:
        raise KeyError(group)
    return checkpoint.tensors[f"{group}.safetensors"][name]


def _as_list(paths: Any) -> list[str]:
    found = [paths] if isinstance(paths, str) else list(paths)
    if not all(isinstance(path, str) and path for path in found):
        raise TypeError("a dataset's path is not text")
    return found


def _write_h5(path: Path, datasets: Mapping[str, Any]) -> None:
    import h5py  # noqa: PLC0415 (only this command needs it)

    with h5py.File(path, "w") as file:
        for name, tensor in datasets.items():
            dataset = file.create_dataset(name, data=tensor)
            if tensor.dtype.name == "bfloat16":  # HDF5 does not know it; Keras reads this attribute
                dataset.attrs["dtype"] = "bfloat16"
