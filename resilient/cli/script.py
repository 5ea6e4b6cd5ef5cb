"""The caller's own model, from `script.py:build`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from resilient.errors import ConfigurationError


def build_model(target: str) -> Any:
    """Calls the function that `target` ("path/to/script.py:function") names; its directory is importable for the script.

    Raises:
        ConfigurationError: there is no such file or function, it fails, or what it returns is no built Keras model.
    """
    path, _, name = target.rpartition(":")
    if not path or not name.isidentifier():
        raise ConfigurationError(f"--model {target} is not of the form script.py:function. Name the function that builds the model.")
    model = _call(_function(Path(path), name), target)
    import keras  # noqa: PLC0415 (seconds, and only this command needs it)

    if not isinstance(model, keras.Model):
        raise ConfigurationError(f"{target} returned a {type(model).__name__}. It has to return a Keras model.")
    if not model.built:
        raise ConfigurationError(f"{target} returned a model that is not built. Give it an Input layer, or call model.build(shape) in it.")
    return model


def _function(path: Path, name: str) -> Any:
    if not path.is_file():
        raise ConfigurationError(f"There is no script {path}. Name a Python file and a function in it, as script.py:build.")
    sys.path.insert(0, str(path.resolve().parent))  # as `python script.py` would
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is not a Python file. Name one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # classes registered for saving look themselves up here
    _call(lambda: spec.loader.exec_module(module), str(path))  # type: ignore[union-attr]
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigurationError(f"{path} has no function {name!r}. Name the one that builds and returns the model.")
    return function


def _call(function: Any, what: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise ConfigurationError(f"{what} failed with {type(error).__name__}: {error}. Use --debug to see where.") from error
