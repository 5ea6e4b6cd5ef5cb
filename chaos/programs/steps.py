"""Custom training steps."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from chaos.programs.models import BATCH, WHOLE, WIDTH, inputs, network, samples, tapped
from chaos.programs.registry import ALL, JAX, TENSORFLOW, TORCH, program


def _compiled(kind: type[Any]) -> tuple[Any, Any]:
    tap = tapped()
    base = network(tap)
    model = kind(base.input, base.output)
    model.compile(keras.optimizers.Adam(2e-3), "mse", metrics=["mae"])
    return model, tap


def _fit(run: Any, model: Any, tap: Any, **options: Any) -> None:
    run.fit(model, *samples(WHOLE), tap=tap, batch_size=BATCH, **options)


class TensorFlowStep(keras.Model):
    """A `train_step` with a gradient tape, noise from a seed generator and logs of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.noise = keras.random.SeedGenerator(13)

    def train_step(self, data: Any) -> Any:
        """Logs of one step."""
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(x, y + 0.1 * keras.random.normal(ops.shape(y), seed=self.noise), predicted)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            metric.update_state(loss) if metric.name == "loss" else metric.update_state(y, predicted)
        return {**{metric.name: metric.result() for metric in self.metrics}, "gradient": tf.linalg.global_norm(gradients)}


@program(transparent=False)
def custom_step(run: Any) -> None:
    """A custom `train_step` with a gradient tape and a seed generator."""
    _fit(run, *_compiled(TensorFlowStep))


def _jax_step() -> type[Any]:
    import jax

    class JaxStep(keras.Model):
        """A stateless `train_step`."""

        def loss_of(self, trainable: Any, fixed: Any, x: Any, y: Any) -> Any:
            predicted, fixed = self.stateless_call(trainable, fixed, x, training=True)
            return ops.mean(ops.square(y - predicted)), fixed

        def train_step(self, state: Any, data: Any) -> Any:
            trainable, fixed, optimizer, metrics = state
            x, y = data
            (loss, fixed), gradients = jax.value_and_grad(self.loss_of, has_aux=True)(trainable, fixed, x, y)
            trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
            return {"loss": loss}, (trainable, fixed, optimizer, metrics)

    return JaxStep


@program(JAX, transparent=False)
def custom_step_jax(run: Any) -> None:
    """A custom stateless `train_step`."""
    _fit(run, *_compiled(_jax_step()))


class TorchStep(keras.Model):
    """A `train_step` with `backward()`."""

    def train_step(self, data: Any) -> Any:
        """Logs of one step."""
        import torch

        x, y = data
        self.zero_grad()
        loss = self.compute_loss(x, y, self(x, training=True))
        loss.backward()
        variables = list(self.trainable_weights)
        with torch.no_grad():
            self.optimizer.apply([variable.value.grad for variable in variables], variables)
        return {"loss": loss}


@program(TORCH, transparent=False)
def custom_step_torch(run: Any) -> None:
    """A custom `train_step` with `backward()`."""
    _fit(run, *_compiled(TorchStep))


class Adversaries(keras.Model):
    """A GAN: two models, two optimizers, a `compile` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tap = tapped()
        self.seeds = keras.random.SeedGenerator(17)
        self.generator = keras.Sequential([keras.Input((3,)), layers.Dense(8, activation="relu"), layers.Dense(WIDTH)])
        x, ids = inputs()
        judged = layers.Dropout(0.2)(layers.Dense(8, activation="relu")(self.tap(x, ids)))
        self.discriminator = keras.Model({"x": x, "ids": ids}, layers.Dense(1)(judged))
        self.generator_loss = keras.metrics.Mean("generator_loss")
        self.discriminator_loss = keras.metrics.Mean("discriminator_loss")
        self.built = True

    def compile(self, discriminator_optimizer: Any, generator_optimizer: Any) -> None:
        """Two optimizers, and no loss that Keras knows."""
        super().compile()
        self.discriminator_optimizer = discriminator_optimizer
        self.generator_optimizer = generator_optimizer
        self.loss_of = keras.losses.BinaryCrossentropy(from_logits=True)

    @property
    def metrics(self) -> list[Any]:
        """Reset at every epoch."""
        return [self.generator_loss, self.discriminator_loss]

    def _made(self, count: Any) -> Any:
        return self.generator(keras.random.normal((count, 3), seed=self.seeds), training=True)

    def train_step(self, data: Any) -> Any:
        """One step of each."""
        import tensorflow as tf

        count = ops.shape(data["x"])[0]
        with tf.GradientTape() as tape:
            real = self.discriminator(data, training=True)
            fake = self.discriminator({"x": self._made(count), "ids": data["ids"]}, training=False)
            loss = self.loss_of(ops.ones_like(real), real) + self.loss_of(ops.zeros_like(fake), fake)
        variables = self.discriminator.trainable_variables
        self.discriminator_optimizer.apply(tape.gradient(loss, variables), variables)
        self.discriminator_loss.update_state(loss)
        with tf.GradientTape() as tape:
            fake = self.discriminator({"x": self._made(count), "ids": data["ids"]}, training=False)
            loss = self.loss_of(ops.ones_like(fake), fake)
        variables = self.generator.trainable_variables
        self.generator_optimizer.apply(tape.gradient(loss, variables), variables)
        self.generator_loss.update_state(loss)
        return {metric.name: metric.result() for metric in self.metrics}


@program(TENSORFLOW, transparent=False)
def adversaries(run: Any) -> None:
    """A GAN: two optimizers, a custom `compile`, no targets."""
    model = Adversaries()
    model.compile(keras.optimizers.Adam(1e-3), keras.optimizers.RMSprop(1e-3))
    x, _ = samples(WHOLE)
    run.fit(model, x, tap=model.tap, batch_size=BATCH)


class OwnLoss(keras.Model):
    """A custom `compute_loss` and `compute_metrics`."""

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True) -> Any:
        """Mean absolute error, and a penalty for its square."""
        error = ops.abs(y - y_pred)
        return ops.mean(error) + 0.1 * ops.mean(error * error)


@program(ALL, transparent=False)
def custom_loss(run: Any) -> None:
    """A custom `compute_loss`."""
    _fit(run, *_compiled(OwnLoss))
