"""What a `tf.data` pipeline contains that another process could not repeat.

A pipeline goes on from a checkpoint of its iterator, or, where it has state of its own, by reading again from the beginning. So what is
left to find is what comes out differently the second time. Measured, each in a fresh process:

- A random operation with a seed begins anew with every iterator and gives the same numbers, also below `flat_map`, `filter` and the like.
  In a parallel `map` or `interleave` the numbers are the same and their order is not: no finding without, one with.
- Without a seed (both seeds 0) it is different every time. `tf.random.set_seed` gives every operation and every shuffle made afterwards a
  seed that is not 0.
- Variables that a function writes (a `tf.random.Generator`, the generator of a Keras layer) start as the program makes them, and reading
  from the beginning repeats them. Not so in parallel, and not where a checkpoint restores the variable as well: it is ahead by then.
- With op determinism TensorFlow keeps the order whatever the pipeline says.
- Python functions and `from_generator` are repeated too. What they do cannot be seen.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from resilient import keras_private
from resilient.auditing import graphs
from resilient.auditing.finding import Finding
from resilient.auditing.saved import saved_handles

_SMALL = 2**26
_SEED = "pass a seed, or call keras.utils.set_random_seed before the dataset is made"
_STATELESS = "draw with tf.random.stateless_* from a seed that is part of the element (zip in tf.data.Dataset.random with a seed)"


def dataset_findings(dataset: Any, model: Any = None) -> list[Finding]:
    """What of this dataset cannot be repeated exactly; [] if all can, or if it is no `tf.data.Dataset`. No element is read.

    Args:
        dataset: a `tf.data.Dataset`, for training or for validation.
        model: the model whose variables are saved; a dataset that writes one of them is a finding.
    """
    if "tensorflow" not in sys.modules:
        return []
    import tensorflow as tf

    dataset = getattr(dataset, "_original_dataset", dataset)  # of a distributed one
    if not isinstance(dataset, tf.data.Dataset):
        return []
    pipeline = _Pipeline(dataset, {id(handle) for handle in saved_handles(model)})
    pipeline.look(dataset)
    return list(dict.fromkeys(pipeline.found))


class _Pipeline:
    def __init__(self, dataset: Any, saved: set[int]) -> None:
        self._saved = saved
        self._relaxed = dataset.options().deterministic is False
        self._kept = keras_private.op_determinism()
        self._seen: set[int] = set()
        self.found: list[Finding] = []

    def look(self, dataset: Any) -> None:
        """Find what there is in the dataset and in those it is made from."""
        waiting = [dataset]
        while waiting:
            node = waiting.pop()
            if id(node) in self._seen:
                continue
            self._seen.add(id(node))
            self._look_at(node)
            waiting += keras_private.dataset_sources(node)

    def _look_at(self, node: Any) -> None:
        name = _transformation(node)
        if _is_unseeded(node):
            self._add_unseeded(f"{name}{_buffer(node)}")
        if "DataService" in type(node).__name__:
            self.found.append(
                Finding(name, "which worker answers first decides the order", "read the data without tf.data's service, sharded by index")
            )
        order = _order(node)
        functions = node._functions() if hasattr(node, "_functions") else []
        labels = [f"{name}({_function_name(function)})" for function in functions] or [name]
        self._look_at_order(order, labels[0])
        for function, label in zip(functions, labels, strict=False):
            graph = getattr(function.function, "graph", None)  # none in TensorFlow 1's functions
            if graph is not None:
                self._look_into(graph, label, parallel=order is not None and not self._kept)

    def _look_at_order(self, order: Any, label: str) -> None:
        """`order` is "true", "false", "default", or None where elements cannot overtake each other."""
        if self._kept or not (order == "false" or (order == "default" and self._relaxed)):
            return
        how = "deterministic=False" if order == "false" else "Options.deterministic=False"
        self.found.append(
            Finding(f"{label} with {how}", "elements come in the order in which they are ready, another one every time", f"leave {how} out")
        )

    def _look_into(self, graph: Any, label: str, *, parallel: bool) -> None:
        for op, many in graphs.operations(graph, parallel=parallel):
            if graphs.is_random(op):
                self._look_at_random(op, label, parallel=many and not self._kept)
            elif "Dataset" in op.type:
                self._look_at_inner(op, f"{op.type} in {label}{graphs.place(op)}")
        many = parallel or any(graphs.is_parallel(op) for op, _ in graphs.operations(graph))
        for written in graphs.written_variables(graph):
            self._look_at_variable(written, label, parallel=many and not self._kept)

    def _look_at_inner(self, op: Any, what: str) -> None:
        if graphs.is_unseeded_dataset(op):
            self._add_unseeded(what)
        self._look_at_order(graphs.order_of(op), what)

    def _look_at_random(self, op: Any, label: str, *, parallel: bool) -> None:
        what = f"{op.type} in {label}{graphs.place(op)}"
        if graphs.is_unseeded(op):
            self.found.append(
                Finding(what, "it has no seed, so that another process draws other numbers", f"{_SEED}; in a parallel call {_STATELESS}")
            )
        elif parallel:
            self.found.append(
                Finding(
                    what,
                    "calls run at the same time, and which of them draws first is left to chance",
                    f"{_STATELESS}, or leave num_parallel_calls out",
                )
            )

    def _look_at_variable(self, written: graphs.Written, label: str, *, parallel: bool) -> None:
        name = written.name or "without a name"
        what = f"{'the tf.random.Generator' if written.random else 'the'} variable {name!r} that {label} writes"
        random = written.random or "seed_generator" in name
        remedy = (
            f"{_STATELESS}, or do it in a layer of the model"
            if random
            else "keep what is counted in the elements (Dataset.scan, Dataset.enumerate)"
        )
        if id(written.handle) in self._saved:
            why = "checkpoints hold it, and the pipeline, which runs ahead of the training, has changed it further by then"
            self.found.append(Finding(what, why, remedy))
        elif parallel:
            self.found.append(Finding(what, "calls run at the same time, and which of them comes first is left to chance", remedy))

    def _add_unseeded(self, what: str) -> None:
        self.found.append(Finding(f"{what} without a seed", "another process draws another order", _SEED))


def _order(node: Any) -> str | None:
    """What the program said of the order in which parallel calls give their elements: "true", "false", "default"; None if not parallel."""
    if type(node).__name__ != "_ParallelInterleaveDataset":
        return getattr(node, "_deterministic", None)
    # The one dataset that does not keep it. Its graph has it, and costs a copy of all arrays above: of file names as a rule.
    return graphs.order_in_graph(node) if _array_nbytes(node) <= _SMALL else "default"


def _array_nbytes(node: Any) -> int:
    """Size of the arrays that a dataset is made from."""
    own = sum(int(getattr(tensor, "nbytes", 0)) for tensor in getattr(node, "_tensors", ()))
    return own + sum(_array_nbytes(source) for source in keras_private.dataset_sources(node))


def _is_unseeded(node: Any) -> bool:
    import tensorflow as tf

    seeds = [getattr(node, name, None) for name in ("_seed", "_seed2")]
    values = [None if seed is None else tf.get_static_value(seed) for seed in seeds]
    return all(value is not None and int(value) == 0 for value in values)


def _buffer(node: Any) -> str:
    import tensorflow as tf

    size = getattr(node, "_buffer_size", None)
    value = None if size is None else tf.get_static_value(size)
    return "" if value is None else f"(buffer_size={int(value)})"


def _transformation(node: Any) -> str:
    """A dataset as the program writes it: _ParallelMapDataset is "Dataset.map"."""
    name = re.sub(r"^_?(Parallel)?|Dataset(V\d+)?$", "", type(node).__name__)
    return "Dataset." + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _function_name(function: Any) -> str:
    """What the program calls a function that it gave to a dataset."""
    python = getattr(function, "_func", None)
    return str(getattr(python, "__qualname__", type(python).__name__)).rpartition(".")[2]
