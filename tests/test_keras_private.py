"""Each private name of Keras and TensorFlow that the package uses, on its own: a release that moves one fails here, by name."""

from __future__ import annotations

import random

import keras
import numpy as np
import tensorflow as tf

from resilient import keras_private


def compiled():
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    model.compile("adam", "mse", metrics=["mae"])
    return model


def test_symbolic_build_creates_every_variable_without_training():
    """Model, metrics, loss and optimizer; weights are those that building by a batch would have drawn."""
    model = compiled()
    x, y = np.ones((2, 3), "float32"), np.ones((2, 2), "float32")
    keras_private.symbolic_build(model, (x, y, None))
    before = [w.copy() for w in model.get_weights()]
    assert model.optimizer.built and len(model.metrics_variables) == 4
    assert len(model.variables) == 3 and int(model.optimizer.iterations.numpy()) == 0
    model.fit(x, y, verbose=0)
    assert len(model.metrics_variables) == 4 and [w.shape for w in before] == [(3, 2), (2,)]


def test_an_epoch_that_another_callback_left_is_forgotten():
    """BackupAndRestore's mark on the model would move later fits."""
    model = compiled()
    model._initial_epoch = 3
    keras_private.clear_initial_epoch(model)
    assert model.fit(np.ones((2, 3)), np.ones((2, 2)), epochs=2, verbose=0).epoch == [0, 1]


def test_keras_shared_seed_generator_is_found_once_it_exists():
    """The one that unseeded keras.random calls draw from."""
    keras.random.normal((1,))
    found = keras_private.find_global_seed_generator()
    assert found is keras_private.make_global_seed_generator()
    before = keras.ops.convert_to_numpy(found.state)
    first = keras.ops.convert_to_numpy(keras.random.normal((3,)))
    found.state.assign(before)
    assert np.array_equal(first, keras.ops.convert_to_numpy(keras.random.normal((3,))))


def test_the_sequence_of_seeds_for_eager_ops_can_be_put_back():
    """Unseeded eager random ops give the same numbers again."""
    tf.random.set_seed(5)
    tf.random.uniform([2])
    seed, state = keras_private.eager_op_seeds()
    first = [tf.random.uniform([2]).numpy().tolist() for _ in range(3)]
    tf.random.set_seed(9)
    keras_private.set_eager_op_seeds(seed, state)
    assert [tf.random.uniform([2]).numpy().tolist() for _ in range(3)] == first


def test_tensorflow_global_generator_is_not_made_by_looking():
    """And is the public one once it is there."""
    keras_private.global_generator()
    public = tf.random.get_global_generator()
    assert keras_private.global_generator() is public


def test_logs_become_the_floats_that_callbacks_see():
    """Tensors and NumPy scalars alike."""
    assert keras_private.pythonify_logs({"loss": tf.constant(0.5), "mae": np.float32(0.25)}) == {"loss": 0.5, "mae": 0.25}


def test_array_adapter_takes_in_memory_arrays_and_nothing_else():
    """The class that ArrayInput derives from, and its test of what it can take."""
    assert keras_private.can_convert_arrays((np.ones(2), None, None))
    assert not keras_private.can_convert_arrays((tf.data.Dataset.range(2), None, None))
    adapter = keras_private.ArrayDataAdapter(np.ones((5, 1)), batch_size=2)
    assert (adapter._size, adapter._batch_size, adapter._num_samples, adapter._partial_batch_size) == (3, 2, 5, 1)
    assert hasattr(keras_private.array_slicing, "train_validation_split")
    assert hasattr(keras_private.array_slicing, "convert_to_sliceable")


def test_the_saving_code_shows_where_each_variable_lies():
    """The walk behind `.weights.h5`, with a store that only takes notes."""
    from resilient.state.weights_h5 import weights_h5_names

    model = compiled()
    keras_private.symbolic_build(model, (np.ones((2, 3), "float32"), np.ones((2, 2), "float32"), None))
    names = weights_h5_names(model)
    assert {path for paths in names.values() for path in paths} >= {"layers/dense/vars/0", "layers/dense/vars/1", "optimizer/vars/0"}


def test_making_the_shared_generator_draws_from_python_at_most_once():
    """What restoring does to Python's generator is undone by restoring that last."""
    keras_private.make_global_seed_generator()
    state = random.getstate()
    keras_private.make_global_seed_generator()
    assert random.getstate() == state
