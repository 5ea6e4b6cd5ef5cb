"""Where each variable lies in a Keras `.weights.h5` file, so that one can be written later without the model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from resilient import keras_private
from resilient.state.variables import variables_of


class _Unexpected(Exception):  # noqa: N818 (never leaves this module)
    """The model saves something that is not one of its variables."""


def weights_h5_paths(model: Any) -> dict[int, list[str]]:
    """Datasets of a `.weights.h5` file that hold each variable: `id(variable)` -> paths such as `layers/dense/vars/0`.

    A variable has more than one path where Keras saves it more than once (a loss-scale optimizer repeats its inner one's).
    Found by running Keras' own saving code with a store that only notes what it is given.

    Returns:
        {} where the file cannot be described like this: a layer saves something else than variables (a vocabulary, merged LoRA weights),
        the model is not built, or Keras' saving code is not what it was.
    """
    try:
        store_class, save_state = keras_private.saving_walk()
        recorder = _recorder(store_class)()
        with _without_copies(_optimizers(model)):
            save_state(model, recorder)
    except Exception:  # noqa: BLE001 (Keras' private code and the layers' own: an export is not worth a failed training)
        return {}
    paths: dict[int, list[str]] = {}
    for path, variable in recorder.found:
        paths.setdefault(id(variable), []).append(path)
    named = variables_of(model)
    ours = {id(variable) for group in ("model", "optimizer") for variable in named[group].values()}
    # A variable that no checkpoint holds could not be exported, and a file without it would not load.
    return paths if paths.keys() <= ours else {}


@contextlib.contextmanager
def _without_copies(optimizers: Iterable[Any]) -> Iterator[None]:
    """Optimizers hand a store copies of their variables, hundreds of MB that nobody looks at; here they hand over the variables."""
    saved = []
    try:
        for optimizer in optimizers:
            if type(optimizer).save_own_variables is not keras.optimizers.Optimizer.save_own_variables:
                raise _Unexpected(optimizer.name)
            vars(optimizer)["save_own_variables"] = functools.partial(_save_own_variables, optimizer)
            saved.append(optimizer)
        yield
    finally:
        for optimizer in saved:
            del vars(optimizer)["save_own_variables"]


def _save_own_variables(optimizer: Any, store: Any) -> None:
    """What Keras' own does, with `variable.numpy()`."""
    for index, variable in enumerate(optimizer.variables):
        store[str(index)] = variable


def _optimizers(model: Any) -> Iterable[Any]:
    found = {}
    for value in [getattr(model, "optimizer", None), *vars(model).values()]:
        optimizer = value
        while isinstance(optimizer, keras.optimizers.Optimizer):
            found[id(optimizer)] = optimizer
            optimizer = getattr(optimizer, "inner_optimizer", None)
    return found.values()


def _recorder(store_class: Any) -> Callable[[], Any]:
    """A store that Keras accepts as an HDF5 file and that only notes which variable goes where."""

    class Recorder(store_class):
        def __init__(self) -> None:  # not the base's: that one opens a file
            self.found: list[tuple[str, Any]] = []
            self._group = ""

        def __bool__(self) -> bool:
            return True

        def make(self, path: str, metadata: Any = None) -> Any:
            self._group = f"{path}/vars" if path else "vars"
            return self

        def __setitem__(self, key: str, value: Any) -> None:
            if not isinstance(value, keras.Variable):
                raise _Unexpected(key)
            self.found.append((f"{self._group}/{key}", value))

    return Recorder


def weights_h5_names(model: Any) -> dict[str, list[str]]:
    """`weights_h5_paths` by the names that a checkpoint gives the variables, for its manifest: `model:<name>` and `optimizer:<name>`."""
    paths = weights_h5_paths(model)
    named = variables_of(model)
    return {f"{group}:{name}": paths[id(v)] for group in ("model", "optimizer") for name, v in named[group].items() if id(v) in paths}
