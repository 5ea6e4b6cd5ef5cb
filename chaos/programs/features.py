"""Features of compile, fit and the callbacks; the data are arrays or a simple `tf.data` pipeline."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from chaos.programs.models import BATCH, STEPS, WHOLE, held_out, network, regression, samples, tapped
from chaos.programs.registry import ALL, JAX, TENSORFLOW, program


def _arrays(run: Any, model: Any, tap: Any, count: int = WHOLE, **options: Any) -> Any:
    return run.fit(model, *samples(count), tap=tap, batch_size=BATCH, shuffle=False, **options)


def _pipeline(count: int = WHOLE) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(samples(count)).shuffle(count, seed=3).batch(BATCH)


@program((*TENSORFLOW, *JAX))
def steps_per_execution(run: Any) -> None:
    """`steps_per_execution=4`, arrays."""
    _arrays(run, *regression(steps_per_execution=4, depth=4))


@program()
def steps_per_execution_odd(run: Any) -> None:
    """`steps_per_execution=3` of 16 batches, `tf.data`."""
    model, tap = regression(steps_per_execution=3, depth=3)
    run.fit(model, _pipeline(), tap=tap)


@program((*TENSORFLOW, *JAX))
def jit_compiled(run: Any) -> None:
    """`jit_compile=True`."""
    _arrays(run, *regression(jit_compile=True))


@program((*TENSORFLOW, *JAX))
def run_eagerly(run: Any) -> None:
    """`run_eagerly=True`."""
    _arrays(run, *regression(run_eagerly=True))


@program()
def large_files(run: Any) -> None:
    """Files of a megabyte and more: each save is written over those of a checkpoint that was removed, and best weights are linked."""
    tap = tapped()
    model = network(tap, width=30_000)
    model.compile(keras.optimizers.Adam(2e-3), "mse", metrics=["mae"])
    _arrays(run, model, tap, callbacks=[keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)])


@program()
def mixed_precision(run: Any) -> None:
    """`mixed_float16` with a `LossScaleOptimizer` whose scale grows and shrinks."""
    tap = tapped()
    keras.config.set_dtype_policy("mixed_float16")
    model = network(tap)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(2e-3), initial_scale=2.0**17, dynamic_growth_steps=6)
    model.compile(scaled, "mse", metrics=["mae"])
    _arrays(run, model, tap)


@program(ALL)
def weight_averages(run: Any) -> None:
    """`use_ema`, overwritten every ten steps."""
    _arrays(run, *regression(keras.optimizers.Adam(2e-3, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=10)))


@program(validates=True)
def swapped_averages(run: Any) -> None:
    """`SwapEMAWeights(swap_on_epoch=True)` around validation."""
    model, tap = regression(keras.optimizers.Adam(2e-3, use_ema=True, ema_momentum=0.9))
    _arrays(run, model, tap, validation_data=held_out(), callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)])


@program(ALL)
def accumulated_gradients(run: Any) -> None:
    """`gradient_accumulation_steps=3`."""
    _arrays(run, *regression(keras.optimizers.Adam(2e-3, gradient_accumulation_steps=3)))


@program(ALL)
def learning_rate_schedule(run: Any) -> None:
    """`CosineDecay` as the learning rate, with momentum and clipping."""
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, 50)
    _arrays(run, *regression(keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, clipnorm=1.0)))


class Warming(keras.callbacks.Callback):
    """Raises the learning rate by hand, a little after each batch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Ten per cent more, up to a hundredth."""
        rate = float(np.asarray(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))
        self.model.optimizer.learning_rate = min(rate * 1.1, 1e-2)


class Losses(keras.callbacks.Callback):
    """Gathers the loss of every batch, as Keras' guide to callbacks does."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """One more."""
        self.losses.append(logs["loss"])


@program()
def gathered_losses(run: Any) -> None:
    """A callback with a list of the losses of all batches."""
    losses = Losses()
    _arrays(run, *regression(), callbacks=[losses], epochs=6)
    run.also("losses", {"all": losses.losses})


@program()
def learning_rate_by_hand(run: Any) -> None:
    """The learning rate set in a callback after each batch."""
    _arrays(run, *regression(keras.optimizers.Adam(1e-4)), callbacks=[Warming()])


@program(ALL)
def learning_rate_scheduler(run: Any) -> None:
    """The callback `LearningRateScheduler`."""
    _arrays(run, *regression(), callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.7)])


@program(
    ALL,
    transparent=False,
    validates=True,
    # A name drawn for each run; and whether the table had a header when the process began, which is so after a resume.
    ignores=("callbacks: 2 ModelCheckpoint._run ", "callbacks: 3 CSVLogger.append_header "),
)
def remembering_callbacks(run: Any) -> None:
    """`EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint` and `CSVLogger` together."""
    import resilient

    table = run.file("epochs.csv")
    model, tap = regression(keras.optimizers.Adam(2e-2))
    callbacks = [
        keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True, min_delta=0.5),
        keras.callbacks.ReduceLROnPlateau(patience=1, factor=0.5, min_delta=0.3),
        resilient.ModelCheckpoint(str(run.file("best.weights.h5")), save_best_only=True, save_weights_only=True),
        keras.callbacks.CSVLogger(str(table)),
    ]
    run.fit(model, *samples(), tap=tap, batch_size=BATCH, epochs=6, validation_data=held_out(), callbacks=callbacks)
    best = model.get_weights()
    model.load_weights(str(run.file("best.weights.h5")))
    run.also("files", {"epochs.csv": table.read_text().splitlines(), "best": [float(np.sum(value)) for value in model.get_weights()]})
    model.set_weights(best)


@program()
def terminated_on_nan(run: Any) -> None:
    """`TerminateOnNaN`, and a loss that becomes NaN in the third epoch."""
    x, y = samples(WHOLE)
    model, tap = regression(keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay([40], [1e-3, 1e30])))
    run.fit(model, x, y, tap=tap, batch_size=BATCH, shuffle=False, callbacks=[keras.callbacks.TerminateOnNaN()])


@program(validates=True, needs=("tensorboard",))
def tensorboard(run: Any) -> None:
    """The callback `TensorBoard`, with weights and batches."""
    board = keras.callbacks.TensorBoard(str(run.file("board")), histogram_freq=1, update_freq=5)
    model, tap = regression()
    _arrays(run, model, tap, validation_data=held_out(), callbacks=[board])


@program()
def lambda_callback(run: Any) -> None:
    """`LambdaCallback` that sets the learning rate."""
    model, tap = regression()
    slower = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model.optimizer, "learning_rate", 2e-3 / (epoch + 2)))
    _arrays(run, model, tap, callbacks=[slower])


@program(TENSORFLOW)
def class_weights(run: Any) -> None:
    """`class_weight` on a `tf.data` pipeline."""
    import tensorflow as tf

    tap = tapped()
    base = network(tap)
    model = keras.Model(base.input, keras.layers.Activation("sigmoid")(base.output))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC(num_thresholds=20)])
    x, y = samples(WHOLE)
    data = tf.data.Dataset.from_tensor_slices((x, (y > 0).astype("int32"))).shuffle(WHOLE, seed=3).batch(BATCH)
    run.fit(model, data, tap=tap, class_weight={0: 1.0, 1: 2.5})


def _mirrored(run: Any, data: Any, **options: Any) -> None:
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model, tap = regression()
    # Validation is what shows it where a replica has not got its own batch statistics back.
    run.fit(model, *data(), tap=tap, validation_data=held_out(), **options)


@program(transparent=False)
def mirrored_arrays(run: Any) -> None:
    """`MirroredStrategy` over two CPUs, arrays; the log has the first replica's samples."""
    _mirrored(run, lambda: samples(WHOLE), batch_size=BATCH)


@program()
def mirrored_tfdata(run: Any) -> None:
    """`MirroredStrategy` over two CPUs, `tf.data`; the log has the first replica's samples."""
    _mirrored(run, lambda: (_pipeline(),))


@program()
def endless_epochs(run: Any) -> None:
    """`initial_epoch=2`, `steps_per_epoch`, an infinite pipeline."""
    model, tap = regression()
    run.fit(model, _pipeline().repeat(), tap=tap, steps_per_epoch=STEPS, initial_epoch=2, epochs=6)
