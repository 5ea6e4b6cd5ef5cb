"""What a program is, and the table of all of them."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

ALL = ("tensorflow", "jax", "torch")
TENSORFLOW = ("tensorflow",)
JAX = ("jax",)
TORCH = ("torch",)
NOT_TORCH = ("tensorflow", "jax")

STREAMED = ("tfdata", "pydatasets", "streams")
THEMES = ("arrays", "tfdata", "pydatasets", "streams", "validation", "features", "shapes", "steps", "controls")


@dataclasses.dataclass(frozen=True)
class Program:
    """One training under test.

    Args:
        name: on the command line.
        says: one sentence about what is special in it.
        theme: the module it lives in.
        train: does the training; gets a `training.Training`.
        backends: of Keras, on which it runs.
        validates: whether there is validation in it, to be killed in.
        transparent: whether an undisturbed `resilient.fit` has to end bit for bit like `model.fit`, which it cannot where the order is
            resilient's own.
        parts: names of its calls of fit in their order; each has a directory of that name in the run directory.
        ignores: beginnings of names in the outcome that need not be equal, because they already differ between two undisturbed trainings.
        races: beginnings of names that need not be as after `model.fit`, because there they differ from one training to the next: how far
            Keras' own prefetching has run ahead in the end is chance.
        needs: modules that may not be installed; without them it is left out.
        control: it is broken on purpose, and belongs to no table.
    """

    name: str
    says: str
    theme: str
    train: Callable[[Any], None]
    backends: tuple[str, ...]
    validates: bool = False
    transparent: bool = True
    parts: tuple[str, ...] = ("",)
    ignores: tuple[str, ...] = ()
    races: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    control: bool = False

    def equals_plain(self, backend: str) -> bool:
        """Whether an undisturbed training has to be that of `model.fit`.

        Not where the data are no arrays and the backend is not TensorFlow: there Keras takes a look at the first batch and loses it.
        """
        return self.transparent and (backend == "tensorflow" or self.theme not in STREAMED)

    @property
    def missing(self) -> list[str]:
        """What it needs and is not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def kept(self, outcome: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The part of an outcome that has to be equal."""
        return {
            section: {name: value for name, value in values.items() if not f"{section}: {name} ".startswith(self.ignores or "\0")}
            for section, values in outcome.items()
        }


_programs: dict[str, Program] = {}


def program(backends: tuple[str, ...] = TENSORFLOW, **what: Any) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Put a function into the table, under its own name with dashes; its docstring says what it is."""

    def enter(train: Callable[[Any], None]) -> Callable[[Any], None]:
        name = train.__name__.replace("_", "-")
        if name in _programs:
            raise ValueError(f"There are two programs {name!r}. Rename one.")
        says = (train.__doc__ or "").splitlines()[0].rstrip(".")
        _programs[name] = Program(name, says, Path(train.__code__.co_filename).stem, train, backends, **what)
        return train

    return enter


def installed() -> tuple[str, ...]:
    """Backends that can be imported."""
    return tuple(backend for backend in ALL if importlib.util.find_spec(backend) is not None)


def table() -> dict[str, Program]:
    """Every program by its name, in the order of the themes."""
    for theme in THEMES:
        importlib.import_module(f"chaos.programs.{theme}")
    return dict(sorted(_programs.items(), key=lambda item: THEMES.index(item[1].theme)))
