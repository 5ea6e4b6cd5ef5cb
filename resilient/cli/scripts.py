"""The user's own program as the place of a function: `train.py:build`."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resilient.errors import ConfigurationError


def load_function(reference: str) -> Callable[[], Any]:
    """The function that `FILE:FUNCTION` names. The file is imported under its own name, so what is guarded by `__main__` does not run.

    Raises:
        ConfigurationError: the reference is malformed, the file cannot be read or fails, or has no such function without arguments.
    """
    file, _, name = reference.rpartition(":")
    if not file or not name.isidentifier():
        raise ConfigurationError(f"--model {reference!r} is not of the form FILE:FUNCTION. Write it like train.py:build.")
    path = Path(file)
    if not path.is_file():
        raise ConfigurationError(f"--model {reference!r}: there is no file {path}. Name the program that defines the model.")
    if path.suffix != ".py":
        raise ConfigurationError(f"--model {reference!r}: {path} is not a Python file. Name the .py file that defines the model.")
    module = _import_file(path)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigurationError(f"{path} defines no function {name}. {_suggestion(module)}.")
    _check_needs_nothing(function, path, name)
    return function  # type: ignore[no-any-return]  # callable() says no more than that


def call(function: Callable[[], Any], reference: str) -> Any:
    """What the function returns; its own error becomes a sentence that names the line.

    Raises:
        ConfigurationError: the function raised.
    """
    path = Path(reference.rpartition(":")[0])
    try:
        with _own_arguments(path):
            return function()
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{reference} failed with {_told(error, path)}. Make it run on its own first.") from error


def _import_file(path: Path) -> types.ModuleType:
    name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else f"_resilient_{len(sys.modules)}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} cannot be imported. Name a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and Keras' registry look their module up there
    sys.path.insert(0, str(path.resolve().parent))  # as `python train.py` does: the program may import its neighbours
    try:
        with _own_arguments(path):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigurationError(
            f"{path} failed while it was imported, with {_told(error, path)}. "
            'Put what should only run as a program under `if __name__ == "__main__":`.'
        ) from error
    return module


@contextlib.contextmanager
def _own_arguments(path: Path) -> Iterator[None]:
    """The program sees no arguments, instead of those of `resilient`: it may read them while it is imported."""
    before, sys.argv = sys.argv, [str(path)]
    try:
        yield
    finally:
        sys.argv = before


def _told(error: BaseException, path: Path) -> str:
    """Kind, text and line of an error in the user's code: the last line of `path`, whatever it called there."""
    if isinstance(error, SyntaxError):
        return f"a syntax error in line {error.lineno} ({error.msg})"
    all_frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in all_frames if frame.filename == str(path.resolve())] or all_frames
    place = f" in line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}{f': {text}' if text else ''}{place}"


def _suggestion(module: types.ModuleType) -> str:
    functions = [name for name, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__]
    return f"Its functions are {', '.join(functions)}" if functions else "Write one that takes no arguments and returns the Keras model"


def _check_needs_nothing(function: Callable[..., Any], path: Path, name: str) -> None:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ConfigurationError(f"{name} of {path} cannot be called without arguments ({error}). Give its arguments defaults.") from error
    except ValueError:  # a callable without a signature: calling it will tell
        return
