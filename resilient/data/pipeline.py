"""What a `tf.data` pipeline is made of, read from the dataset objects without running it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from resilient import keras_private

_HARMLESS = re.compile(
    r"Dataset(V\d+)?$|^(Assert|If|While|Case|PartitionedCall|StatefulPartitionedCall|Print|PrintV2|NoOp)$|^LookupTable|HashTable"
)
_BEGINS_ANEW = re.compile(r"^(Random|ParameterizedTruncatedNormal|TruncatedNormal|Multinomial)")
# Between a shuffle and a repeat these ask the shuffle for its end only when the repeat is about to begin it anew (measured, each of them).
_TRANSPARENT = re.compile(r"^_?(Parallel)?(Map|Batch|PaddedBatch|Filter|Options)Dataset(V\d+)?$")


def datasets(dataset: Any) -> Iterator[Any]:
    """The dataset and all that it is made from."""
    yield dataset
    for source in dataset._inputs():
        yield from datasets(source)


def stateful_ops(dataset: Any) -> set[str]:
    """Operations whose state no iterator checkpoint holds: Python functions, random generators, variables."""
    found = {op for part in datasets(dataset) for op in keras_private.stateful_ops_of(part)}
    return {op for op in found if not _HARMLESS.search(op)}


def remembers(ops: Iterable[str]) -> bool:
    """Whether any of these stateful operations goes on, in a new iterator, where it was: random kernels begin anew (measured)."""
    return any(not _BEGINS_ANEW.match(op) for op in ops)


def keeps_its_order(dataset: Any, *, repeated: bool = False, clear: bool = True) -> bool:
    """Whether an iterator checkpoint of the pipeline restores the order of what comes after the present repetition, too.

    A reshuffling shuffle that has been read to its end is left out of the checkpoint, with the state of its seeds. That does no harm at the
    end of a pass, and none where a `repeat` notices the end at once; but an operation that reads ahead (prefetch, another shuffle) or
    goes on with something else (concatenate) below a `repeat` leaves the next repetition with the order of the first.

    Args:
        dataset: the pipeline, or the part of it that is looked at.
        repeated: whether a repeat follows.
        clear: whether nothing but transparent operations lies between this part and that repeat.
    """
    name = type(dataset).__name__
    shuffles = "Shuffle" in name and bool(getattr(dataset, "_reshuffle_each_iteration", True))
    if repeated and shuffles and not clear:
        return False
    repeats = "Repeat" in name
    clear = (repeats and not repeated) or (clear and _TRANSPARENT.match(name) is not None)
    repeated = repeated or repeats
    return all(keeps_its_order(source, repeated=repeated, clear=clear) for source in dataset._inputs())


def buffered_elements(dataset: Any) -> int:
    """Elements in the shuffle buffers of the pipeline: what makes an iterator checkpoint slow."""
    total = 0
    for part in datasets(dataset):
        size = getattr(part, "_buffer_size", None)
        if size is not None and "Shuffle" in type(part).__name__:
            total += int(size)
    return total


def element_nbytes(dataset: Any) -> int:
    """About the size of what a shuffle buffer holds, per element; dimensions that are not known count as 1."""
    for part in datasets(dataset):
        if "Shuffle" in type(part).__name__:
            return sum(_nbytes(spec) for spec in keras.tree.flatten(part.element_spec))
    return 0


def _nbytes(spec: Any) -> int:
    size = getattr(getattr(spec, "dtype", None), "size", 8) or 8
    shape = getattr(spec, "shape", None)
    for length in [] if shape is None or shape.rank is None else shape:
        size *= length or 1
    return int(size)
