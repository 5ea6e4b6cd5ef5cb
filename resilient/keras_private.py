"""The private names of Keras and TensorFlow that cannot be avoided, each with its reason.

`tests/test_keras_private.py` uses each of them on its own, so that a release which moves one fails there, by name.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras

# What `Model.save` writes, in its layout, from a snapshot taken earlier: the public functions read the live model and write at once.
from keras.src.saving import saving_lib

# fit() accepts an instance of DataAdapter as `x`; the class for arrays already validates x, y, sample_weight and class_weight, and the
# slicing module knows every array-like input (pandas, sparse, other frameworks' tensors). There is no public way to hand over an order.
from keras.src.trainers.data_adapters import array_slicing, data_adapter_utils, is_grain_dataset, is_tf_dataset, is_torch_dataloader
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter, can_convert_arrays
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

# A PyDataset's workers (threads and processes) and the checks of what it returns are Keras' own.
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

# The class weights of a dataset are mapped onto it there.
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter
from keras.src.trainers.trainer import Trainer

# Keras marks the hooks of its base class so, to know which callbacks have one of their own.
from keras.src.utils import is_default

# CallbackList hands callbacks floats instead of tensors; the checkpoint has to hold the very same numbers.
from keras.src.utils.python_utils import pythonify_logs

__all__ = [
    "ArrayDataAdapter",
    "DataAdapter",
    "PyDatasetAdapter",
    "TFDatasetAdapter",
    "Trainer",
    "array_slicing",
    "can_convert_arrays",
    "clear_initial_epoch",
    "converted_tf_batches",
    "device_memory",
    "dataset_of",
    "dataset_sources",
    "eager_op_seeds",
    "find_global_seed_generator",
    "global_generator",
    "handed_over",
    "has_own_train_step",
    "is_grain_dataset",
    "is_tf_dataset",
    "is_torch_dataloader",
    "iterating_function",
    "iterator_state",
    "listen_to_batch_ends",
    "make_global_seed_generator",
    "moving_statistics",
    "op_definition",
    "op_determinism",
    "python_batches",
    "pythonify_logs",
    "read_all",
    "recurrent_states",
    "replica_parts",
    "restore_iterator",
    "saving_lib",
    "saving_walk",
    "set_eager_op_seeds",
    "stateful_ops_of",
    "strategy_of",
    "strategy_scope",
    "symbolic_build",
    "tensor_spec",
    "torch_dataloader",
    "updated_by_replicas",
]


def symbolic_build(model: Any, batch: tuple[Any, Any, Any], spec: Any = None) -> None:
    """Create the variables of model, loss, metrics and optimizer without training a batch.

    fit() does this itself under a distribution strategy; without one it builds in the first batch, which is too late to restore into.
    Keras does it by calling the model on symbols, which is not to be had for every model: one with a train_step of its own need not have a
    `call`, and a ragged input is no ragged symbol. Then the train_step is traced, as fit would do it in the first batch.

    Args:
        model: a compiled model.
        batch: (x, y, sample_weight) of anything with shapes and dtypes.
        spec: of the batches as TensorFlow's specification; None where tracing is not to be had.
    """
    try:
        model._symbolic_build(data_batch=batch)
    except Exception:  # the program's own code runs here
        if spec is None:
            raise
        import tensorflow as tf

        tf.function(model.train_step).get_concrete_function(spec)


def has_own_train_step(model: Any) -> bool:
    """Whether the model's class trains in its own way, and so may make variables that nothing but its step makes."""
    return type(model).train_step is not keras.Model.train_step


def replica_parts(variable: Any, *, mirrored: bool) -> list[Any]:
    """What each replica of a strategy has of a variable, [] where all of it is one.

    Of a metric's sum each has a part. Read as a whole it is their sum, and a sum that is assigned is split evenly: the same value, but
    other bits after the next batch.

    Args:
        variable: of Keras.
        mirrored: whether to take apart also what is meant to be the same in all replicas.
    """
    value = variable.value
    return list(value.values) if type(value).__name__ in ("SyncOnReadVariable", "MirroredVariable" if mirrored else "") else []


def updated_by_replicas(model: Any) -> list[Any]:
    """Variables that each replica of a strategy may update by its own share of a batch, so that their values differ (batch statistics).

    All that layers have made as not trainable; `trainable` says too little, since a frozen layer's weights are not so either.
    """
    layers = model._flatten_layers() if strategy_of(model) is not None else []
    return [variable for layer in layers for variable in layer._non_trainable_variables]


def read_all(variables: Sequence[Any]) -> Callable[[], list[Any]]:
    """What reads these resource variables of one device, all in one operation, into tensors over their buffers of that moment.

    The public way takes an operation for each, and ten times as long.
    """
    from tensorflow.python.eager import context, execute

    dtypes = tuple(variable.dtype.as_datatype_enum for variable in variables)
    handles = [variable.handle for variable in variables]
    attributes = ("N", len(handles), "dtypes", dtypes)

    def read() -> list[Any]:
        return list(execute.execute(b"_ReadVariablesOp", len(handles), handles, attributes, context.context()))

    return read if handles else list


def recurrent_states(model: Any) -> list[Any]:
    """The states that stateful recurrent layers carry from batch to batch, which Keras counts among no variables."""
    layers = [layer for layer in model._flatten_layers() if getattr(layer, "stateful", False)]
    states = [state for layer in layers for state in keras.tree.flatten(getattr(layer, "states", None))]
    return [state for state in states if isinstance(state, keras.Variable)]


def moving_statistics(model: Any) -> set[int]:
    """`id` of every variable in which a layer keeps averages of its inputs: not trainable, and written in each step.

    `model.layers` has no layers within layers; this list has.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    return {id(variable) for layer in layers for variable in layer.non_trainable_variables}


def strategy_of(model: Any) -> Any | None:
    """The `tf.distribute` strategy that the model was made under, None for none; asking the public property would set one."""
    return getattr(model, "_distribute_strategy", None)


def strategy_scope(model: Any) -> Any:
    """The scope in which the model's variables have to be made."""
    strategy = strategy_of(model)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


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

    Nothing public says under which path a variable is saved.
    """

    def save_state(model: Any, store: Any) -> None:
        saving_lib._save_state(model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set())

    return saving_lib.H5IOStore, save_state


# -- data -----------------------------------------------------------------------------------------------------------------------------


def iterator_state(iterator: Any) -> bytes | None:
    """A `tf.data` iterator's whole state, None where its pipeline contains what cannot be saved.

    `tf.train.Checkpoint` does the same, through files. The policy 2 is FAIL: refuse rather than leave out.
    """
    import tensorflow as tf

    try:
        variant = tf.raw_ops.SerializeIterator(resource_handle=iterator._iterator_resource, external_state_policy=2)
        return bytes(tf.io.serialize_tensor(variant).numpy())
    except tf.errors.OpError:
        return None


def restore_iterator(iterator: Any, state: bytes) -> None:
    """Put a fresh iterator of the same pipeline where `iterator_state` was taken."""
    import tensorflow as tf

    tf.raw_ops.DeserializeIterator(resource_handle=iterator._iterator_resource, serialized=tf.io.parse_tensor(state, tf.variant))


def stateful_ops_of(dataset: Any) -> set[str]:
    """Names of the stateful operations in the functions of one dataset (not of those it is made from)."""
    names: set[str] = set()
    for function in dataset._functions() if hasattr(dataset, "_functions") else ():
        graph = function.function.graph.as_graph_def()
        names |= {node.op for node in graph.node}
        names |= {node.op for inner in graph.library.function for node in inner.node_def}
    definitions = {name: op_definition(name) for name in names}
    return {name for name, definition in definitions.items() if definition is not None and definition.is_stateful}


def op_definition(name: str) -> Any | None:
    """What TensorFlow says of a type of operation, None if it knows none of that name.

    `Operation.op_def` is public, at the price of a parsed message for each operation; and a graph that is read as a message has none.
    """
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(name)


@functools.cache
def device_memory(device: str) -> int | None:
    """Bytes that TensorFlow may use of a device, None if it does not say. What is in use is public, what there is is not."""
    from tensorflow.python.client import device_lib

    limits = {found.name: found.memory_limit for found in device_lib.list_local_devices()}
    return limits.get("/device:" + device.rpartition("/device:")[2])


def op_determinism() -> bool:
    """Whether `tf.config.experimental.enable_op_determinism` was called. There is no public way to ask."""
    from tensorflow.python.framework import config

    return bool(config.is_op_determinism_enabled())


def listen_to_batch_ends(callbacks: Sequence[Any]) -> bool:
    """Whether any of them has a hook for the end of a batch."""
    for one in callbacks:
        for hook in ("on_train_batch_end", "on_batch_end"):
            if is_default(getattr(one, hook, None)) is not True:  # a mock has every attribute
                return True
    return False


def dataset_sources(dataset: Any) -> list[Any]:
    """The datasets that a dataset is made from; none where it is of a class of the program's own that does not say."""
    try:
        return list(dataset._inputs())
    except (AttributeError, NotImplementedError):
        return []


def iterating_function(train_function: Any) -> Any | None:
    """The tf.function that takes an iterator, inside of what Keras' `make_train_function` makes. Nothing public leads to it."""
    if hasattr(train_function, "get_concrete_function"):  # a `make_train_function` of the program's own
        return train_function
    if not inspect.isfunction(train_function):
        return None
    inner = inspect.getclosurevars(train_function).nonlocals.get("multi_step_on_iterator")
    return inner if hasattr(inner, "get_concrete_function") else None


def handed_over(iterate: Any, spec: Any, cardinality: int) -> Any:
    """What fit() takes for a distributed dataset and therefore leaves alone: `iter()` of it is `iterate()`, whatever that returns."""
    import tensorflow as tf

    class HandedOver(tf.distribute.DistributedDataset):
        def __iter__(self) -> Any:
            return iterate()

        @property
        def element_spec(self) -> Any:
            return spec

        @property
        def cardinality(self) -> int:
            return cardinality

    return HandedOver()


def converted_tf_batches(batches: Any, target: str) -> Any:
    """Batches of a `tf.data` iterator as NumPy or JAX arrays, as Keras' own adapter gives them."""
    adapter = TFDatasetAdapter.__new__(TFDatasetAdapter)
    adapter._dataset = batches
    return adapter.get_jax_iterator() if target == "jax" else adapter.get_numpy_iterator()


def python_batches(batches: Any, target: str) -> Any:
    """Batches of any Python iterable as NumPy or JAX arrays."""
    convert = data_adapter_utils.get_jax_iterator if target == "jax" else data_adapter_utils.get_numpy_iterator
    return convert(batches)


def torch_dataloader(batches: Any) -> Any:
    """A DataLoader over any Python iterable of batches, as Keras' own adapters make it.

    Each iterator of a DataLoader draws a seed for its workers, by default from PyTorch's global generator, from which dropout draws too: a
    resumed run makes other iterators than one that was never stopped.
    """
    import torch

    loader = data_adapter_utils.get_torch_dataloader(batches)
    loader.generator = torch.Generator()
    return loader


def tensor_spec(batches: list[Any]) -> Any:
    """The TensorFlow specification that Keras derives from the first batches."""
    return data_adapter_utils.get_tensor_spec(batches)


def dataset_of(batches: Any, spec: Any, *, prefetch: bool) -> Any:
    """A `tf.data.Dataset` over the iterator that `batches()` returns, as Keras' adapters for Python inputs make it.

    Without `prefetch` a batch is fetched when it is asked for and never earlier: tf.data would insert a prefetch by itself.
    """
    import tensorflow as tf

    def convert(value: Any, _spec: Any) -> Any:
        if value is None:
            return tf.experimental.Optional.empty(None)
        if data_adapter_utils.is_scipy_sparse(value):
            return data_adapter_utils.scipy_sparse_to_tf_sparse(value)
        return data_adapter_utils.jax_sparse_to_tf_sparse(value) if data_adapter_utils.is_jax_sparse(value) else value

    def each() -> Any:
        for batch in batches():
            yield keras.tree.map_structure(convert, keras.tree.lists_to_tuples(batch), spec)

    dataset = tf.data.Dataset.from_generator(each, output_signature=spec)
    if prefetch:
        return dataset.prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    return dataset.with_options(options)
