"""Which states of a `tf.data` iterator are good enough to go on from: those that are taken give everything that would have come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from resilient import keras_private
from resilient.data import DatasetInput
from resilient.data.anchors import anchors_for
from resilient.data.pipeline import buffered_elements, remembers, reshuffling, shuffles_in, stateful_ops

ENDLESS, FINITE = 18, 6  # batches that are looked at


def numbers(count: int = 24) -> Any:
    return tf.data.Dataset.range(count)


def doubled(value: Any) -> Any:
    return value * 2


PIPELINES: dict[str, Callable[[], Any]] = {
    "shuffle, batch, prefetch": lambda: numbers().shuffle(10, seed=3).batch(4).prefetch(8),
    "shuffle, repeat, batch, prefetch": lambda: numbers().shuffle(10, seed=3).repeat().batch(4).prefetch(2),
    "shuffle, batch, repeat, prefetch": lambda: numbers().shuffle(99, seed=3).batch(4).repeat().prefetch(3),
    "shuffle, prefetch, repeat": lambda: numbers().shuffle(99, seed=3).batch(4).prefetch(8).repeat(),
    "shuffle, parallel map, batch, repeat": lambda: numbers().shuffle(24, seed=3).map(doubled, num_parallel_calls=4).batch(4).repeat(),
    "two shuffles, repeat": lambda: numbers().shuffle(24, seed=3).shuffle(24, seed=4).batch(4).repeat(),
    "shuffled batches of a shuffle": lambda: numbers().shuffle(24, seed=1).batch(2).shuffle(5, seed=2).repeat(),
    "repeat, prefetch, repeat": lambda: numbers().shuffle(24, seed=3).repeat(2).batch(4).prefetch(8).repeat(),
    "one after the other": lambda: numbers().shuffle(24, seed=3).concatenate(numbers(20).shuffle(20, seed=4)).batch(4).repeat(),
    "interleaved": lambda: numbers(6).shuffle(6, seed=3).interleave(lambda x: numbers(4).map(lambda y: x * 10 + y)).batch(4).repeat(),
    "shuffled once, cached, shuffled": lambda: (
        numbers().shuffle(24, seed=3, reshuffle_each_iteration=False).cache().shuffle(24, seed=1).batch(4).repeat()
    ),
    "sampled": lambda: (
        tf.data.Dataset.sample_from_datasets(
            [numbers().shuffle(24, seed=3).repeat(), numbers(20).shuffle(20, seed=4).repeat()], weights=[0.3, 0.7], seed=5
        )
        .batch(4)
        .prefetch(2)
    ),
}


def rest(iterator: Any, count: int) -> list[Any]:
    return [batch.numpy().tolist() for _, batch in zip(range(count), iterator, strict=False)]


@pytest.mark.parametrize("name", PIPELINES)
def test_a_state_that_is_taken_restores_all_that_comes_after(name: str) -> None:
    """At every batch: the rest of this pass and the whole next pass, in a dataset that is made anew."""
    make = PIPELINES[name]
    dataset = make()
    count = FINITE if int(dataset.cardinality()) > 0 else ENDLESS
    needed = reshuffling(dataset)
    iterator, states, batches = iter(dataset), [], []
    for _ in range(count):
        time.sleep(0.01)  # what reads ahead comes to its end
        states.append(keras_private.iterator_state(iterator))
        batches += rest(iterator, 1)
    next_pass = rest(iter(dataset), FINITE)
    taken = [at for at, state in enumerate(states) if shuffles_in(state) >= needed]
    for at in taken:
        fresh = make()
        other = iter(fresh)
        keras_private.restore_iterator(other, states[at])
        assert rest(other, count - at) == batches[at:]
        assert rest(iter(fresh), FINITE) == next_pass or count == ENDLESS


def test_some_states_are_taken_and_some_are_not() -> None:
    """The test above would pass if none were taken; and without the rule, states of a shuffle at its end would be."""
    dataset = PIPELINES["shuffle, batch, prefetch"]().prefetch(1)
    iterator = iter(dataset)
    assert shuffles_in(keras_private.iterator_state(iterator)) == 1
    rest(iterator, 5)
    time.sleep(0.05)
    assert shuffles_in(keras_private.iterator_state(iterator)) == 0


def test_a_state_without_the_seeds_of_a_shuffle_is_not_kept() -> None:
    """The one before it is, from which the place is found by reading on."""
    dataset = PIPELINES["shuffle, batch, prefetch"]()
    anchors, iterator = anchors_for(dataset), iter(dataset)
    anchors.begin_pass()
    anchors.take(0, iterator)
    rest(iterator, 5)
    time.sleep(0.05)  # what reads ahead comes to its end
    anchors.take(5, iterator)
    at, state = anchors.newest(5)
    assert at == 0 and shuffles_in(state.tobytes()) == 1


def test_anchors_are_taken_as_often_as_their_cost_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large buffer is not written down at every save; a small one is, a little after the last."""
    now = [100.0]
    monkeypatch.setattr("resilient.data.anchors.time.monotonic", lambda: now[0])
    small, large = numbers(9), numbers(10**6).shuffle(50_000, seed=1).repeat()
    for dataset, waits in ((small, 0.2), (large, 250.0)):
        anchors = anchors_for(dataset)
        anchors.begin_pass()
        iterator = iter(dataset)
        anchors.take_if_worth(0, iterator)
        assert anchors.newest(3) == (0, None)
        now[0] += waits
        next(iterator)
        anchors.take_if_worth(1, iterator)
        at, state = anchors.newest(3)
        assert at == 1 and state is not None
        assert anchors.newest(0) == (0, None)


def test_a_buffer_of_large_elements_is_never_written_down() -> None:
    """Half a gigabyte of images is not copied into every checkpoint: the pass is read again."""
    images = numbers(10**4).map(lambda x: tf.zeros((128, 128, 3))).shuffle(4000, seed=1)
    anchors = anchors_for(images)
    anchors.begin_pass()
    anchors._last = float("-inf")
    anchors.take_if_worth(1, iter(images))
    assert anchors.newest(5) == (0, None)
    assert buffered_elements(images) == 4000


def test_operations_with_state_are_found() -> None:
    """Python functions and variables go on where they were, random kernels begin anew, lookups and assertions have none."""
    counter = tf.Variable(0, dtype=tf.int64)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1], [2]), 0)
    function = numbers().map(lambda x: tf.numpy_function(lambda v: v, [x], tf.int64)).batch(2)
    counted = numbers().map(lambda x: x + counter.assign_add(1))
    noisy = numbers().map(lambda x: tf.cast(x, tf.float32) + tf.random.uniform(()))
    clean = numbers().map(lambda x: table.lookup(tf.cast(x, tf.int32))).interleave(tf.data.Dataset.from_tensors)
    assert remembers(stateful_ops(function)) and remembers(stateful_ops(counted))
    assert stateful_ops(noisy) and not remembers(stateful_ops(noisy))
    assert not stateful_ops(clean)


def validation(dataset: Any, steps: int | None) -> DatasetInput:
    return DatasetInput(dataset, class_weight=None, strategy=None, every_epoch=True, validates=True, steps=steps, compiled_loop=False)


def test_a_pass_that_is_left_early_leaves_nothing_to_chance() -> None:
    """How far TensorFlow has read ahead on its own by the time of the next evaluation would decide its order (measured without us too)."""
    made = numbers(28).shuffle(28, seed=4).repeat().batch(8)

    def passes(dataset: Any, pause: float) -> list[Any]:
        iterators = []
        for _ in range(3):
            iterator = iter(dataset)
            iterators.append(rest(iterator, 3))
            time.sleep(pause)  # long enough for a thread to read one batch more, if there is one
        return iterators

    ours = validation(made, 3)._dataset
    assert passes(ours, 0) == passes(validation(numbers(28).shuffle(28, seed=4).repeat().batch(8), 3)._dataset, 0.2)
    assert validation(made, 3).doubts() == [] and ours.options().experimental_optimization.inject_prefetch is False
    assert validation(made.take(9), None)._dataset.options().experimental_optimization.inject_prefetch is None


@pytest.mark.parametrize(
    ("read", "steps", "named"),
    [
        (lambda repeated: repeated.batch(8).prefetch(2), 3, ["PrefetchDataset"]),
        (lambda repeated: repeated.map(doubled, num_parallel_calls=2).batch(8), 3, ["ParallelMapDataset"]),
        (lambda repeated: repeated.batch(8), 3, []),
        (lambda repeated: repeated.take(30).batch(8).prefetch(2), None, []),
    ],
)
def test_reading_ahead_of_an_evaluation_that_is_left_is_a_doubt(read: Any, steps: int | None, named: list[str]) -> None:
    """Where the program itself reads ahead we cannot take it away, so it is said at the start; whole passes are no doubt."""
    found = validation(read(numbers(28).shuffle(28, seed=4).repeat()), steps).doubts()
    assert [what.split()[0] for what, _, _ in found] == named
    once = validation(read(numbers(28).shuffle(28, seed=4, reshuffle_each_iteration=False).repeat()), steps)
    assert once.doubts() == []
