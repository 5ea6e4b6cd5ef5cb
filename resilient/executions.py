"""Train functions that take the place of Keras' own where a batch is not to be trained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import keras


class Position(Protocol):
    """What is known of the batch that comes next."""

    @property
    def left_out(self) -> bool:
        """Whether it is not to be trained."""

    @property
    def last_logs(self) -> Mapping[str, Any]:
        """The logs of the batch that was trained last."""


def without_effect(logs: Mapping[str, Any]) -> Callable[..., Any]:
    """One that does nothing; on JAX it is handed the state, and gives it back."""
    return lambda *given: (dict(logs), given[0]) if len(given) == 2 else dict(logs)


def trace_again(model: Any, callbacks: Any) -> None:
    """Forget a train function that was traced before training, where TensorBoard is among the callbacks.

    A `tf.summary` call in the program's train_step becomes part of the graph only if there is a writer at the trace, and the callback
    sets its own when training begins.
    """
    if any(isinstance(callback, keras.callbacks.TensorBoard) for callback in getattr(callbacks, "callbacks", callbacks) or []):
        model.make_train_function(force=True)


@contextlib.contextmanager
def left_out(model: Any, position: Position) -> Iterator[None]:
    """Within the block `model` takes executions that are left out from its data and does not train them."""
    model.make_train_function()
    train = model.train_function

    def take_or_train(*given: Any) -> Any:
        if not position.left_out:
            return train(*given)
        data = given[-1]
        for _ in range(0 if isinstance(data, list) else int(model.steps_per_execution)):  # PyTorch's come as a list, taken already
            next(data, None)
        return without_effect(position.last_logs)(*given)

    model.train_function = take_or_train
    try:
        yield
    finally:
        model.train_function = train
