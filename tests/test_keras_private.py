"""Each private name of Keras and TensorFlow that the package uses, on its own: a release that moves one fails here, by name."""

from __future__ import annotations

import random
import unittest.mock

import keras
import numpy as np
import pytest
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


def test_the_saving_code_shows_where_each_variable_lies(monkeypatch):
    """The walk behind `.weights.h5`, with a store that only takes notes: no value is copied for it."""
    from resilient.state.weights_h5 import weights_h5_names

    model = compiled()
    keras_private.symbolic_build(model, (np.ones((2, 3), "float32"), np.ones((2, 2), "float32"), None))
    monkeypatch.setattr(keras.Variable, "numpy", lambda variable: pytest.fail(f"{variable.path} was copied"))
    names = weights_h5_names(model)
    assert "save_own_variables" not in vars(model.optimizer)
    assert {path for paths in names.values() for path in paths} >= {"layers/dense/vars/0", "layers/dense/vars/1", "optimizer/vars/0"}


def test_making_the_shared_generator_draws_from_python_at_most_once():
    """What restoring does to Python's generator is undone by restoring that last."""
    keras_private.make_global_seed_generator()
    state = random.getstate()
    keras_private.make_global_seed_generator()
    assert random.getstate() == state


def test_an_iterator_state_restores_the_place_of_an_iterator():
    """Bytes from one iterator put another one of the same pipeline where the first was."""
    dataset = tf.data.Dataset.range(20).shuffle(8, seed=1).batch(2)
    first, second = iter(dataset), iter(dataset)
    next(first)
    state = keras_private.iterator_state(first)
    keras_private.restore_iterator(second, state)
    assert [batch.numpy().tolist() for batch in first] == [batch.numpy().tolist() for batch in second]


def test_an_iterator_with_a_python_function_has_no_state():
    """It is refused instead of being saved in part."""
    dataset = tf.data.Dataset.range(4).map(lambda x: tf.numpy_function(lambda v: v, [x], tf.int64))
    assert keras_private.iterator_state(iter(dataset)) is None
    assert "PyFunc" in keras_private.stateful_ops_of(dataset)


def test_what_is_handed_over_is_iterated_as_it_is():
    """Keras takes it for a distributed dataset, asks for an iterator and pulls from whatever that is."""
    batch = (tf.ones((2, 3)), tf.ones((2, 1)))
    handed = keras_private.handed_over(lambda: iter([batch] * 4), None, 4)
    assert isinstance(handed, tf.distribute.DistributedDataset)
    assert keras_private.is_tf_dataset(tf.data.Dataset.range(1)) and not keras_private.is_tf_dataset([1])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    class Handing(keras_private.DataAdapter):
        num_batches = 4

        def get_tf_dataset(self):
            return handed

        def on_epoch_begin(self):
            pass

        def on_epoch_end(self):
            pass

    model.fit(Handing(), verbose=0)
    assert int(model.optimizer.iterations) == 4


def test_a_dataset_of_python_batches_is_read_only_when_asked_without_prefetch():
    """tf.data inserts a prefetch by itself unless it is told not to."""
    asked = []

    def batches():
        for number in range(4):
            asked.append(number)
            yield (np.full((2, 3), number, "float32"),)

    spec = keras_private.tensor_spec([(np.zeros((2, 3), "float32"),)])
    iterator = iter(keras_private.dataset_of(batches, spec, prefetch=False))
    assert float(next(iterator)[0][0, 0]) == 0.0
    assert asked == [0]


def test_batches_are_converted_as_keras_does():
    """To NumPy arrays; class weights are mapped onto a dataset by Keras' own adapter."""
    batch = (tf.ones((2, 3)), tf.constant([0, 1]))
    assert all(isinstance(part, np.ndarray) for part in next(iter(keras_private.converted_tf_batches([batch], "numpy"))))
    assert isinstance(next(iter(keras_private.python_batches([batch], "numpy")))[0], np.ndarray)
    weighted = keras_private.TFDatasetAdapter(tf.data.Dataset.from_tensors(batch), class_weight={0: 1.0, 1: 3.0}).get_tf_dataset()
    assert next(iter(weighted))[2].numpy().tolist() == [1.0, 3.0]


def test_a_py_dataset_adapter_fetches_in_order():
    """With threads, too."""

    class Numbers(keras.utils.PyDataset):
        num_batches = 5

        def __getitem__(self, index):
            return (np.full((1, 1), index),)

    adapter = keras_private.PyDatasetAdapter(Numbers(workers=2), shuffle=False)
    batches = [int(batch[0][0, 0]) for batch in adapter._get_iterator()]
    assert batches == [0, 1, 2, 3, 4]


def test_states_of_stateful_recurrent_layers_are_found():
    """And those of other layers are not, as they begin anew with each batch."""
    stateful = keras.layers.LSTM(3, stateful=True)
    model = keras.Sequential([keras.Input((4, 2), batch_size=5), stateful, keras.layers.RepeatVector(2), keras.layers.GRU(3)])
    model(np.ones((5, 4, 2), "float32"))
    assert [state.shape for state in keras_private.recurrent_states(model)] == [(5, 3), (5, 3)]
    assert all(state is not variable for state in keras_private.recurrent_states(model) for variable in model.variables)


def test_the_function_that_takes_an_iterator_is_found_inside_of_the_training_function():
    """And is traced through it; a function of another make has none."""
    model = compiled()
    model.make_train_function()
    assert hasattr(keras_private.iterating_function(model.train_function), "get_concrete_function")
    assert keras_private.iterating_function(lambda iterator: None) is None


def test_operations_and_datasets_tell_what_they_are_made_of():
    """Definitions by name, sources of a dataset, none of one that does not say; determinism is off unless asked for."""
    assert keras_private.op_definition("RandomUniform").is_stateful and keras_private.op_definition("NoSuchOp") is None
    dataset = tf.data.Dataset.range(3)
    assert keras_private.dataset_sources(dataset.batch(2)) == [dataset]
    assert keras_private.dataset_sources(object()) == []
    assert keras_private.op_determinism() is False


def test_a_strategy_is_found_where_the_model_was_made_under_one():
    """And none otherwise: asking Keras' public property would hand out the default strategy."""
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    assert keras_private.strategy_of(plain) is None
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        distributed = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    assert keras_private.strategy_of(distributed) is strategy
    with keras_private.strategy_scope(distributed):
        assert tf.distribute.get_strategy() is strategy


def test_what_replicas_update_by_themselves_is_found_in_parts():
    """Batch statistics; not weights, frozen or not, which are the same in all replicas."""
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        statistics, weights = keras.layers.BatchNormalization(), keras.layers.Dense(1)
        model = keras.Sequential([keras.Input((3,)), weights, keras.Sequential([statistics])])
    weights.trainable = False
    found = keras_private.updated_by_replicas(model)
    assert {id(variable) for variable in found} >= {id(statistics.moving_mean), id(statistics.moving_variance)}
    assert not {id(variable) for variable in found} & {id(weights.kernel), id(statistics.gamma)}
    assert len(keras_private.replica_parts(statistics.moving_mean, mirrored=True)) == 1
    assert keras_private.replica_parts(statistics.moving_mean, mirrored=False) == []
    plain = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    assert keras_private.updated_by_replicas(plain) == []


def test_all_variables_are_read_at_once_into_what_they_were():
    """As by read_value: over their buffers, whatever is assigned to them later."""
    variables = [tf.Variable(np.full(2**16, number, "float32")) for number in range(3)] + [tf.Variable([7, 8])]
    read = keras_private.read_all(variables)
    before, public = read(), [variable.read_value() for variable in variables]
    assert [np.asarray(value).ctypes.data for value in before] == [np.asarray(value).ctypes.data for value in public]
    for variable in variables:
        variable.assign_add(variable)
    assert [np.asarray(value).flat[-1] for value in (*before, *read())] == [0, 1, 2, 8, 0, 2, 4, 16]
    assert keras_private.read_all([])() == []


class Silent(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        pass

    def on_train_batch_begin(self, batch, logs=None):
        pass


@pytest.mark.parametrize("hook", ["on_batch_end", "on_train_batch_end"])
def test_who_listens_to_the_ends_of_batches_is_known(hook):
    """Either name counts, in a class and in an instance; what is no Callback of Keras is taken for a listener."""
    assert not keras_private.listen_to_batch_ends([]) and not keras_private.listen_to_batch_ends([Silent(), keras.callbacks.History()])
    assert keras_private.listen_to_batch_ends([Silent(), type("Loud", (Silent,), {hook: lambda self, batch, logs=None: None})()])
    assert keras_private.listen_to_batch_ends([keras.callbacks.ProgbarLogger()]) and keras_private.listen_to_batch_ends([object()])
    late = Silent()
    setattr(late, hook, lambda batch, logs=None: None)
    assert keras_private.listen_to_batch_ends([late])
    assert keras_private.listen_to_batch_ends([unittest.mock.Mock(spec=keras.callbacks.Callback)])
