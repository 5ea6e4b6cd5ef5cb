"""The framework under Keras: what each backend has to offer, and which one is live."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import keras

from resilient.errors import ConfigurationError

SUPPORTED = ("tensorflow", "jax", "torch")


class Backend(Protocol):
    """One framework, as far as state is concerned."""

    def snapshot(self, model: Any, variables: tuple[Any, ...]) -> list[Any]:
        """Present values, which stay what they are: arrays, or what `np.asarray` makes into one on any thread.

        As long as the variables are the same, `variables` should be the same object.
        """

    def shared(self, variables: Sequence[Any]) -> int:
        """Bytes of host memory that snapshots of these share with training, which copies a buffer before it writes into one."""

    def same(self, before: Any, now: Any) -> bool | None:
        """Whether two snapshots of a variable are one buffer, so that nobody has written to it in between; None if that cannot be told.

        `before` has to have been held all the time.
        """

    def freeze(self, value: Any) -> Any:
        """The same for one variable or tensor that training does not hold elsewhere."""

    def assign(self, variable: Any, value: Any) -> None:
        """Write an array into a variable."""

    def hold(self, model: Any, variables: Sequence[Any]) -> Callable[[], None]:
        """What, called after Model.fit was left by an exception, undoes what it did to the variables on its way out."""

    def facts(self) -> dict[str, Any]:
        """Versions, devices, threads and switches that the bits of results depend on, as plain JSON."""

    def reapply(self, saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
        """Switch on again what the run had switched on and can be switched late; `now` as it is afterwards."""


def live() -> Backend:
    """The backend that Keras runs on.

    Raises:
        ConfigurationError: it is none of those whose state can be saved.
    """
    name = keras.backend.backend()
    if name == "tensorflow":
        from resilient.state.tensorflow_backend import TensorFlowBackend

        return TensorFlowBackend()
    if name == "jax":
        from resilient.state.jax_backend import JaxBackend

        return JaxBackend()
    if name == "torch":
        from resilient.state.torch_backend import TorchBackend

        return TorchBackend()
    raise ConfigurationError(f"KERAS_BACKEND is {name!r}, which cannot be saved and resumed. Use one of {', '.join(SUPPORTED)}.")
