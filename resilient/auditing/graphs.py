"""Graphs as TensorFlow has traced them: their operations, what is random in them, what they write, and which line of a program made it.

Read from the traced graph and not from a serialized one: a `GraphDef` has no line numbers, and that of a dataset holds all its arrays
(`DatasetToGraphV2` of 400 MB of them took 4 s). Walking ResNet50's training function, 16,000 operations, takes 20 ms.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from resilient import keras_private

# Everything else that takes a variable's handle reads it, or is not about variables: tables, iterators, summary writers, and the scalar
# that collectives pass along under MirroredStrategy to keep their order.
_WRITES = ("Assign", "ResourceApply", "ResourceSparseApply", "ResourceScatter", "ResourceStridedSliceAssign", "ResourceCountUpTo", "Rng")
_RANDOM_WRITES = ("StatefulUniform", "StatefulStandardNormal", "StatefulTruncatedNormal", "StatefulRandomBinomial", "RngReadAndSkip")
_TABLE_WRITES = ("LookupTableInsertV2", "LookupTableRemoveV2", "LookupTableImportV2")
_SAME_POSITIONS = {"PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile"}
_AFTER_THE_BRANCH = {"If", "StatelessIf", "Case", "StatelessCase"}


class _Kind(NamedTuple):
    """What TensorFlow says of a type of operation."""

    random: bool  # draws from a generator inside its kernel
    functions: tuple[str, ...]  # attributes that name functions
    seeds: tuple[int, ...]  # inputs that are seeds


@functools.cache
def _kind(op_type: str) -> _Kind:
    definition = keras_private.op_definition(op_type)
    if definition is None:
        return _Kind(random=False, functions=(), seeds=())
    attributes = {attribute.name: attribute.type for attribute in definition.attr}
    return _Kind(
        random=definition.is_stateful and {"seed", "seed2"} <= attributes.keys(),
        functions=tuple(name for name, kind in attributes.items() if kind in ("func", "list(func)")),
        seeds=tuple(i for i, argument in enumerate(definition.input_arg) if argument.name in ("seed", "seed2")),
    )


def operations(graph: Any, *, parallel: bool = False) -> Iterator[tuple[Any, bool]]:
    """Every operation of a graph and of the functions it calls, each once, and whether several calls of it may run at the same time."""
    waiting, seen = [(graph, parallel)], set()
    while waiting:
        present, many = waiting.pop()
        if (id(present), many) in seen:
            continue
        seen.add((id(present), many))
        for op in present.get_operations():
            yield op, many
            waiting += [(inner, many or is_parallel(op)) for inner in _functions(op)]


def _functions(op: Any) -> list[Any]:
    """The graphs of the functions that an operation calls."""
    graphs = []
    for attribute in _kind(op.type).functions:
        value = op.get_attr(attribute)
        for entry in value if isinstance(value, (list, tuple)) else [value]:
            # The functions of a graph are not public.
            function = op.graph._get_function(entry.name) if entry.name else None
            graphs.append(getattr(function, "graph", None))
    return [graph for graph in graphs if graph is not None]


def is_parallel(op: Any) -> bool:
    """Whether it is an operation of tf.data that runs its function for several elements at the same time."""
    return "Dataset" in op.type and ("Parallel" in op.type or op.type.startswith("MapAndBatch"))


def is_random(op: Any) -> bool:
    """Whether it draws from a generator inside its kernel, whose position nobody can read or set."""
    if op.type in ("FractionalMaxPool", "FractionalAvgPool"):
        return not op.get_attr("deterministic")
    if op.type.startswith("Cudnn"):
        return _kind(op.type).random and op.get_attr("dropout") > 0
    return _kind(op.type).random


def is_unseeded(op: Any) -> bool:
    """Whether a random operation begins with numbers that nobody chose."""
    return int(op.get_attr("seed")) == 0 and int(op.get_attr("seed2")) == 0


def is_unseeded_dataset(op: Any) -> bool:
    """The same for an operation that makes a dataset inside of a function. Seeds that are computed count as given."""
    import tensorflow as tf

    if "Dataset" not in op.type or len(_kind(op.type).seeds) != 2:
        return False
    seeds = [tf.get_static_value(op.inputs[index]) for index in _kind(op.type).seeds]
    return all(seed is not None and int(seed) == 0 for seed in seeds)


def order_of(op: Any) -> str | None:
    """What a dataset's operation inside of a function says about the order of its elements: "true", "false", "default"; None if nothing."""
    if not is_parallel(op) or not any(attribute.name == "deterministic" for attribute in op.op_def.attr):
        return None
    value = op.get_attr("deterministic")
    return value.decode() if isinstance(value, bytes) else str(value)


def order_in_graph(dataset: Any) -> str:
    """The same of a dataset, from its serialized graph; "default" where TensorFlow cannot serialize it."""
    import tensorflow as tf

    try:
        serialized = tf.raw_ops.DatasetToGraphV2(
            input_dataset=tf.data.experimental.to_variant(dataset),
            external_state_policy=1,  # leave out the state of its functions, and say nothing of it
            strip_device_assignment=True,
        )
    except tf.errors.OpError:
        return "default"
    graph = tf.compat.v1.GraphDef.FromString(serialized.numpy())
    nodes = {node.name: node for node in graph.node}
    last = next(nodes[node.input[0].partition(":")[0]] for node in graph.node if node.op == "_Retval")
    return str(last.attr["deterministic"].s.decode()) or "default"


def changes_table(op: Any) -> bool:
    """Whether it changes a lookup table."""
    return op.type in _TABLE_WRITES


# -- variables ------------------------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """A variable that a function writes."""

    handle: Any
    name: str | None
    random: bool  # as the state of a tf.random.Generator


def written_variables(graph: Any) -> list[Written]:
    """The variables from outside of a traced function that it writes, through whatever it calls."""
    names = {id(handle): variable.name.partition(":")[0] for variable in graph.variables for handle in handles(variable)}
    found = []
    for handle, inside in graph.captures:
        writers = _writers(inside, {}) if handle is not None and inside.dtype.name == "resource" else set()
        if writers:
            found.append(Written(handle, names.get(id(handle)), any(writer.startswith(_RANDOM_WRITES) for writer in writers)))
    return found


def handles(variable: Any) -> list[Any]:
    """The handles of a variable of Keras or TensorFlow: one, or under a distribution strategy one for each replica."""
    import keras

    value = variable.value if isinstance(variable, keras.Variable) else variable
    parts = getattr(value, "values", None)
    return [part.handle for part in (parts if isinstance(parts, (list, tuple)) else [value]) if hasattr(part, "handle")]


def _writers(tensor: Any, known: dict[int, set[str]]) -> set[str]:
    """Types of the operations that write the variable behind a handle."""
    if id(tensor) in known:
        return known[id(tensor)]
    found = known[id(tensor)] = set()  # entered first: a function may call itself
    for op in tensor.consumers():
        if op.type.startswith(_WRITES) or op.type.startswith(_RANDOM_WRITES):
            found.add(op.type)
        for inner in _functions(op):
            for argument in _arguments(op, tensor, inner):
                found |= _writers(argument, known)
    return found


def _arguments(op: Any, tensor: Any, inner: Any) -> list[Any]:
    """What `tensor` is inside of a function that an operation calls."""
    positions = [index for index, value in enumerate(op.inputs) if value is tensor]
    if op.type in _AFTER_THE_BRANCH:
        positions = [index - 1 for index in positions if index > 0]
    elif op.type not in _SAME_POSITIONS:  # tf.data, whose functions get elements first: any variable may be the one
        return [value for value in inner.inputs if value.dtype.name == "resource"]
    return [inner.inputs[index] for index in positions if index < len(inner.inputs)]


# -- the program's own lines --------------------------------------------------------------------------------------------------------------


def place(op: Any) -> str:
    """The line of the program that made an operation, as in " at train.py:12"; "" where no line of it did."""
    for frame in reversed(op.traceback or ()):
        path = os.path.abspath(frame.filename)
        if path.startswith(_own_root()):
            return ""  # above stands the call of `fit`, which made them all
        if not path.startswith(_library_roots()) and not os.path.basename(path).startswith(("<frozen", "__autograph_generated")):
            return f" at {os.path.basename(path)}:{frame.lineno}"
    return ""


@functools.cache
def _library_roots() -> tuple[str, ...]:
    import keras
    import tensorflow as tf

    return tuple(_directory(str(module.__file__)) for module in (keras, tf, functools))


@functools.cache
def _own_root() -> str:
    return _directory(os.path.dirname(__file__))


def _directory(file: str) -> str:
    return os.path.dirname(os.path.abspath(file)) + os.sep


# -- the training function ------------------------------------------------------------------------------------------------------------


def training_graph(model: Any, spec: Any) -> Any | None:
    """The graph of the model's training function for batches of this specification, None where there is none to be had.

    It is traced as `Model.fit` would do it in the first batch, and fit then finds it traced: `train_step` ran once in both orders, and
    the results were the same bit for bit (plain, XLA, several steps in one execution, MirroredStrategy, variables that only
    `train_step` makes). Python's and NumPy's generators are not put back: tracing draws from them what it would have drawn later.
    """
    if model.run_eagerly:
        return None
    before = model.train_function
    try:
        model.make_train_function()
        function = keras_private.iterating_function(model.train_function)
        return None if function is None else function.get_concrete_function(_iterator(model, spec)).graph
    except Exception:  # noqa: BLE001  the program's own code runs here; what is wrong with it is for fit to say, in the batch where it is
        model.train_function = before
        return None


def _iterator(model: Any, spec: Any) -> Any:
    """What stands for the iterator that fit will pass. An iterator of the caller's data would move a reshuffling dataset on."""
    import tensorflow as tf

    distribute = model.distribute_strategy.experimental_distribute_dataset
    if isinstance(distribute(tf.data.Dataset.range(1).batch(1)), tf.data.Dataset):  # no strategy: datasets are left as they are
        return tf.data.IteratorSpec(spec)
    return iter(distribute(tf.data.Dataset.from_generator(lambda: iter(()), output_signature=spec)))
