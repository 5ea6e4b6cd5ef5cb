"""The private names of Keras and TensorFlow that cannot be avoided, each with its reason.

`tests/test_keras_private.py` uses each of them on its own, so that a release which moves one fails there, by name.
"""

from __future__ import annotations

from typing import Any

# What `Model.save` writes, in its layout, from a snapshot taken earlier: the public functions read the live model and write at once.
from keras.src.saving import saving_lib

# fit() accepts an instance of DataAdapter as `x`; the class for arrays already validates x, y, sample_weight and class_weight, and the
# slicing module knows every array-like input (pandas, sparse, other frameworks' tensors). There is no public way to hand over an order.
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter, can_convert_arrays

# CallbackList hands callbacks floats instead of tensors; the checkpoint has to hold the very same numbers.
from keras.src.utils.python_utils import pythonify_logs

__all__ = [
    "ArrayDataAdapter",
    "array_slicing",
    "can_convert_arrays",
    "clear_initial_epoch",
    "eager_op_seeds",
    "find_global_seed_generator",
    "global_generator",
    "make_global_seed_generator",
    "pythonify_logs",
    "saving_lib",
    "saving_walk",
    "set_eager_op_seeds",
    "symbolic_build",
]


def symbolic_build(model: Any, batch: tuple[Any, Any, Any]) -> None:
    """Create the variables of model, loss, metrics and optimizer without training a batch.

    fit() does this itself under a distribution strategy; without one it builds in the first batch, which is too late to restore into.
    """
    model._symbolic_build(data_batch=batch)


def clear_initial_epoch(model: Any) -> None:
    """Forget an epoch that BackupAndRestore left on the model: fit() prefers it to its own argument, also in later calls."""
    model._initial_epoch = None


def find_global_seed_generator() -> Any | None:
    """The SeedGenerator that unseeded `keras.random` calls share, None if nothing made it yet. No public function tells the two apart."""
    from keras.src.backend.common import global_state

    return global_state.get_global_attribute("global_seed_generator")


def make_global_seed_generator() -> Any:
    """The same generator, made if need be (which draws one number from Python's `random`)."""
    from keras.src.random.seed_generator import global_seed_generator

    return global_seed_generator()


def eager_op_seeds() -> tuple[int | None, Any | None]:
    """TensorFlow's global seed and the state of the generator that draws op seeds for unseeded eager ops."""
    from tensorflow.python.eager import context

    eager = context.context()
    rng = eager._rng if eager._seed is not None else None
    return eager._seed, rng.getstate() if rng is not None else None


def set_eager_op_seeds(seed: int | None, state: Any | None) -> None:
    """Put back what `eager_op_seeds` returned. `tf.random.set_seed` could only begin its sequence anew."""
    from tensorflow.python.eager import context

    if seed is None or state is None:
        return
    eager = context.context()
    eager._set_global_seed(seed)
    eager._rng.setstate(state)


def global_generator() -> Any | None:
    """TensorFlow's global Generator, None if nothing made it yet (asking through the public function would make one)."""
    from tensorflow.python.ops import stateful_random_ops

    return stateful_random_ops.global_generator


def saving_walk() -> tuple[Any, Any]:
    """Keras' store class for `.weights.h5` and its saving code as `save_state(model, store)`, to learn a weights file's layout.

    Nothing public says under which path a variable is saved. `store.settle(id)` is called after the object with that id has written.
    """

    class Visited(set[int]):
        def __init__(self, store: Any) -> None:
            super().__init__()
            self._store = store

        def add(self, owner: int) -> None:
            super().add(owner)
            self._store.settle(owner)

    def save_state(model: Any, store: Any) -> None:
        saving_lib._save_state(model, weights_store=store, assets_store=None, inner_path="", visited_saveables=Visited(store))

    return saving_lib.H5IOStore, save_state
