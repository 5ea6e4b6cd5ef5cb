"""A model as the file that Keras would write, captured now and written later, on any thread.

Keras' saving code walks the live model and reads its variables one by one. Here the walk happens at once, into a store that keeps
references to the buffers of this moment (TensorFlow copies a buffer when a later step writes into it) or, under other backends, copies;
the file is made from those afterwards by Keras' own store. What is Python in the model (configuration, assets, what a layer's own
`save_own_variables` computes) is taken at once as well, so a layer that is unfrozen one batch later does not leak into the file.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import zipfile
from collections.abc import Callable, Iterator, KeysView
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resilient.keras_private import saving_lib
from resilient.state import backend
from resilient.state.variables import LiveVariables

Write = Callable[[Path], None]
WEIGHTS_SUFFIX = ".weights.h5"
_WEIGHTS_MEMBER = "model.weights.h5"
_COPY_BYTES = 8 << 20


def capture(model: Any, suffix: str) -> Write | None:
    """What writes the file later: `capture(model, ".keras")(path)` leaves at `path` what `model.save` would have written now.

    Args:
        model: a built Keras model.
        suffix: ".keras" for the whole model, ".weights.h5" for the weights.

    Returns:
        A function of the path to write to, or None where only the model itself can do it: the legacy `.h5` format, and a model that
        brings its own `save` or `save_weights`.
    """
    if suffix == WEIGHTS_SUFFIX and _is_kerass_own(model, "save_weights"):
        return _WeightsFile(model).write
    if suffix == ".keras" and _is_kerass_own(model, "save"):
        return _ModelFile(model).write
    return None


def shared(model: Any) -> int:
    """Bytes of host memory that training may copy while what was captured is not written yet, the optimizer's among them."""
    live = LiveVariables(model)
    live.find()
    return live.shared(backend.live())


def _is_kerass_own(model: Any, method: str) -> bool:
    return getattr(getattr(model, method, None), "__func__", None) is getattr(keras.Model, method)


class _WeightsFile:
    def __init__(self, model: Any) -> None:
        self._recorded = _RecordingStore()
        _walk(model, self._recorded, None)

    def write(self, path: Path) -> None:
        self._recorded.write(path)


class _ModelFile:
    def __init__(self, model: Any) -> None:
        self._config, self._metadata = saving_lib._serialize_model_as_json(model)
        self._recorded = _RecordingStore()
        self._assets = io.BytesIO()
        with zipfile.ZipFile(self._assets, "w") as archive:
            assets = saving_lib.DiskIOStore("assets", archive=archive, mode="w")
            try:
                _walk(model, self._recorded, assets)
            finally:
                assets.close()

    def write(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", self._metadata)
            archive.writestr("config.json", self._config)
            with self._weights_beside(path) as weights, archive.open(_WEIGHTS_MEMBER, "w", force_zip64=True) as member:
                shutil.copyfileobj(weights, member, _COPY_BYTES)
            with zipfile.ZipFile(self._assets) as assets:
                for name in assets.namelist():
                    archive.writestr(name, assets.read(name))

    @contextlib.contextmanager
    def _weights_beside(self, path: Path) -> Iterator[io.BufferedReader]:
        # HDF5 needs random access, which a member of a zip has not. A file and not a BytesIO: memory is not needed twice, and h5py
        # writes into a file without holding the GIL (into a BytesIO it held training up for 70 ms at a time).
        beside = path.with_name(f"{path.name}.h5")
        try:
            self._recorded.write(beside)
            with beside.open("rb") as weights:
                yield weights
        finally:
            beside.unlink(missing_ok=True)


def _walk(model: Any, weights: _RecordingStore, assets: Any) -> None:
    saving_lib._save_state(model, weights_store=weights, assets_store=assets, inner_path="", visited_saveables=set())


class _RecordingStore(saving_lib.H5IOStore):
    """Keras' HDF5 store without the file: remembers what was put where, and puts it into a real one later.

    It derives from `H5IOStore` because the walk accepts no other class.
    """

    def __init__(self) -> None:  # not the base's, which opens a file
        self._groups: list[tuple[str, Any, dict[str, Any]]] = []
        self._group: dict[str, Any] = {}
        self._framework = backend.live()
        self.mode = "w"

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: Any = None) -> _RecordingStore:
        self._group = {}
        self._groups.append((path, metadata, self._group))
        return self

    def write(self, path: Path) -> None:
        store = saving_lib.H5IOStore(path, mode="w")
        try:
            for inner_path, metadata, group in self._groups:
                entry = store.make(inner_path, metadata=metadata)
                for key, value in group.items():
                    entry[key] = np.asarray(value)
        finally:
            store.close()

    def close(self) -> None:
        """There is no file to close."""

    def keys(self) -> KeysView[str]:
        return self._group.keys()

    def __len__(self) -> int:
        return len(self._group)

    def __getitem__(self, key: str) -> Any:
        return np.array(self._group[key])

    def __setitem__(self, key: str, value: Any) -> None:
        self._group[key] = self._framework.freeze(value)

    def __delitem__(self, key: str) -> None:
        del self._group[key]

    def __contains__(self, key: object) -> bool:
        return key in self._group
