"""One process of one program: what a program gets, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras

import resilient
from chaos.programs import recorder

EPOCHS = 4
RESILIENT = "resilient"
PLAIN = "plain"


@dataclasses.dataclass
class Training:
    """What a program works with: where things go, and a fit to call.

    Args:
        directory: the run directory.
        log: a line for each trained batch.
        out: digests of what the training ended with, written at the end.
        save_every: as in `resilient.fit`.
        attempt: which process of the training this is, from 1.
        how: "resilient" for `resilient.fit`, "plain" for `model.fit`.
    """

    directory: Path
    log: Path
    out: Path
    save_every: Any = "auto"
    attempt: int = 1
    how: str = RESILIENT

    def __post_init__(self) -> None:
        self._result: dict[str, dict[str, Any]] = {}
        self._log = recorder.Log(self.log, self.attempt)
        self._epochs = 0  # trained in earlier fits

    @property
    def root(self) -> Path:
        """Where everything of this training lies."""
        return self.out.parent

    def file(self, name: str) -> Path:
        """Path for a file of the program's own."""
        return self.root / name

    def fit(
        self, model: Any, x: Any, y: Any = None, *, tap: Any, callbacks: Any = (), draws: bool = True, part: str = "", **options: Any
    ) -> Any:
        """`resilient.fit` or `model.fit`, with a recorder that reads the ids from the layer `tap`.

        Args:
            model: the model.
            x: as in Model.fit.
            y: as in Model.fit.
            callbacks: as in Model.fit.
            **options: as in Model.fit.
            tap: the model's `LastIds`.
            draws: whether the recorder may draw from the global generators.
            part: name of this fit where a program has several.
        """
        options = {"epochs": EPOCHS, "verbose": 0, **options}
        callbacks = [*callbacks, recorder.Recorder(self._log, tap, self._epochs - options.get("initial_epoch", 0), draws)]
        if self.how == PLAIN:
            history = model.fit(x, y, callbacks=callbacks, **options)
        else:
            history = resilient.fit(
                model, x, y, callbacks=callbacks, directory=self.directory / part, save_every=self.save_every, on_preempt="exit", **options
            )
        self._epochs += len(history.epoch)
        self._log.seen = None
        ended = recorder.outcome(model, history, callbacks, self.root)
        self._result.update({f"{part} {section}".strip(): values for section, values in ended.items()})
        return history

    def also(self, section: str, values: dict[str, Any]) -> None:
        """Something else that has to be equal in the end."""
        self._result[section] = values

    def finish(self) -> None:
        """Write the outcome, whole or not at all."""
        self.also("generators", recorder.next_draws())
        unfinished = self.out.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self._result), encoding="ascii")
        unfinished.replace(self.out)


def train(training: Training, program: Any) -> None:
    """Run a program from its seed to its outcome."""
    keras.utils.set_random_seed(7)
    program.train(training)
    training.finish()
