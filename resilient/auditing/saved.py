"""What checkpoints hold, as handles of TensorFlow's variables: a traced function knows what it captured by its handle alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from resilient import keras_private
from resilient.auditing import graphs
from resilient.state.variables import ReplicaPart, variables_of


def saved_handles(model: Any = None, callbacks: Iterable[Any] = ()) -> list[Any]:
    """The handles of all variables that a checkpoint of this training restores: the model's, the callbacks', the process' generators'."""
    variables = [] if model is None else [variable for named in variables_of(model).values() for variable in named.values()]
    variables = [variable.value if isinstance(variable, ReplicaPart) else variable for variable in variables]
    variables += [value for callback in callbacks for value in vars(callback).values()]
    shared, generator = keras_private.find_global_seed_generator(), keras_private.global_generator()
    variables += [owner.state for owner in (shared, generator) if owner is not None]
    return [handle for variable in variables if _is_variable(variable) for handle in graphs.handles(variable)]


def _is_variable(value: Any) -> bool:
    import keras
    import tensorflow as tf

    return isinstance(value, (keras.Variable, tf.Variable))
