"""The program that calls fit, compared with the one whose run is in the directory."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from resilient.data import ROWS, Input
from resilient.errors import CheckpointMismatchError, ConfigurationError, ResilientError
from resilient.manifest import Progress
from resilient.settings import Settings
from resilient.state import environment
from resilient.state.variables import mismatch


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of Model.fit that are not training data.

    `validation`: the validation data where it has a position of its own; then `validation_data` is it.
    """

    epochs: int
    initial_epoch: int
    batch_size: int | None
    verbose: Any
    callbacks: Any
    steps_per_epoch: int | None
    validation_data: Any
    validation: Input | None
    validation_steps: int | None
    validation_batch_size: int | None
    validation_freq: Any


class Program:
    """What a run was begun with and has to be continued with."""

    def __init__(self, model: Any, data: Input, arguments: Arguments, settings: Settings) -> None:
        self._model = model
        self._data = data
        self._arguments = arguments
        self._settings = settings
        self._where = str(settings.directory)

    def settings(self) -> dict[str, Any]:
        """As plain JSON: data, epochs, optimizer and loss."""
        arguments = self._arguments
        freq = arguments.validation_freq
        return {
            **self._data.settings(),
            "steps_per_epoch": arguments.steps_per_epoch,
            "steps_per_execution": int(self._model.steps_per_execution),
            "validation": arguments.validation_data is not None,
            "validation_freq": int(freq) if hasattr(freq, "__index__") else sorted(int(epoch) for epoch in freq),
            "optimizer": type(self._model.optimizer).__name__,
            "loss": [getattr(loss, "name", None) or getattr(loss, "__name__", None) or str(loss) for loss in _leaves(self._model.loss)],
        }

    def check(self, run: Mapping[str, Any]) -> None:
        """Raise CheckpointMismatchError where these are not the run's; values that `run` does not know are new and pass."""
        changed = {name: value for name, value in self.settings().items() if name in run and run[name] != value}
        values_only = changed.pop(ROWS, None) is not None and not changed
        found = [f"{name} was {run[name]!r} and is {value!r}" for name, value in changed.items()]
        if values_only:
            found = ["the values in x, y or the sample weights are others"]
        if found:
            raise mismatch(found, self._where)

    def check_epochs(self, at: Progress) -> None:
        """Raise ConfigurationError where fewer epochs are asked for than are trained."""
        epochs = self._arguments.epochs
        if (at.epoch, at.batch) > (epochs, 0):
            raise ConfigurationError(
                f"epochs={epochs} is less than what the run in {self._where} has trained (epoch {at.epoch}, batch {at.batch}). "
                f"Pass at least {at.epoch + (at.batch > 0)}, or resume= an earlier step."
            )

    def check_environment(self, saved: Mapping[str, Any], now: dict[str, Any]) -> dict[str, Any]:
        """Re-apply what can be, report what differs; returns the environment as it is then."""
        now = environment.reapply(saved, now)
        found = environment.differences(saved, now)
        if found:
            text = f"The run in {self._where} began under other conditions ({'; '.join(found)}), so its end may differ in bits."
            self.tell(f"{text} Restore those conditions to make it exact.")
        return now

    def tell(self, text: str, error: type[ResilientError] = CheckpointMismatchError) -> None:
        """What keeps the run from being exact: a warning, or where exactness is required this error. `text` ends with the remedy."""
        if self._settings.exact == "require":
            raise error(f'{text} Or pass exact="warn".')
        warnings.warn(text, stacklevel=2)


def _leaves(structure: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
