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
_BEGINS_ANEW = re.compile(r"^(Random|ParameterizedTruncatedNormal|TruncatedNormal|Multinomial|DummySeedGenerator)")
_SEEDS = re.compile(rb"Shuffle[A-Za-z0-9]*(\[\d+\])?@@epoch_num_random_samples")


def datasets(dataset: Any) -> Iterator[Any]:
    """The dataset and all that it is made from."""
    yield dataset
    for source in keras_private.dataset_sources(dataset):
        yield from datasets(source)


def stateful_ops(dataset: Any) -> set[str]:
    """Operations whose state no iterator checkpoint holds: Python functions, random generators, variables."""
    found = {op for part in datasets(dataset) for op in keras_private.stateful_ops_of(part)}
    return {op for op in found if not _HARMLESS.search(op)}


def remembers(ops: Iterable[str]) -> bool:
    """Whether any of these stateful operations goes on, in a new iterator, where it was: random kernels begin anew (measured)."""
    return any(not _BEGINS_ANEW.match(op) for op in ops)


def reshuffling(dataset: Any) -> int:
    """How many shuffles an iterator's state has to tell of, to restore the order of what comes after the present repetition, too.

    A shuffle that has been read to its end leaves its seeds out of the state: an iterator restored from that goes on with wrong orders, in
    the next repetition and in the next pass (measured with TensorFlow 2.21).
    """
    shuffles = [part for part in datasets(dataset) if "Shuffle" in type(part).__name__]
    return len(shuffles) if any(bool(getattr(part, "_reshuffle_each_iteration", True)) for part in shuffles) else 0


def shuffles_again(dataset: Any, *, repeated: bool = False) -> bool:
    """Whether one iterator reads a reshuffling shuffle several times: then it uses up more of its seeds, the further it is read."""
    name = type(dataset).__name__
    if repeated and "Shuffle" in name and bool(getattr(dataset, "_reshuffle_each_iteration", True)):
        return True
    repeated = repeated or "Repeat" in name
    return any(shuffles_again(source, repeated=repeated) for source in keras_private.dataset_sources(dataset))


def reading_ahead(dataset: Any) -> list[str]:
    """Kinds of datasets above a repetition of reshuffling shuffles that read further than they have given; how far is chance."""
    name = type(dataset).__name__
    if "Repeat" in name or not shuffles_again(dataset):
        return []
    own = [name] if re.search("Prefetch|Parallel|MapAndBatch", name) else []
    return own + [found for source in keras_private.dataset_sources(dataset) for found in reading_ahead(source)]


def without_prefetching(dataset: Any) -> Any:
    """The dataset without the prefetching that TensorFlow puts at its end by itself."""
    import tensorflow as tf

    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return dataset.with_options(options)


def shuffles_in(state: bytes) -> int:
    """How many shuffles an iterator's state tells the seeds of."""
    return len(_SEEDS.findall(state))


def buffered_elements(dataset: Any) -> int:
    """Elements in the shuffle buffers of the pipeline: what makes an iterator checkpoint slow."""
    total = 0
    for part in datasets(dataset):
        size = getattr(part, "_buffer_size", None)
        if size is not None and "Shuffle" in type(part).__name__:
            total += int(size)
    return total


def batch_size(dataset: Any) -> int | None:
    """Samples in a batch, None where the pipeline does not batch by a number."""
    for part in datasets(dataset):
        size = getattr(part, "_batch_size", None)
        if size is not None:
            return int(size)
    return None


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
