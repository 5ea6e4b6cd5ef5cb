"""A `resilient.fit` that saves after every batch and does not end by itself.

python -m chaos.soak.long --directory RUN
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import layers

import resilient

EPOCHS = 10**6
WIDTH = 64
SAMPLES = 40_000  # a long epoch: History, which is saved as well, grows by a row with each


def main() -> None:
    """Train until somebody asks for a stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", required=True, type=Path)
    directory = parser.parse_args().directory
    keras.utils.set_random_seed(3)
    x = np.random.default_rng(0).normal(size=(SAMPLES, WIDTH)).astype("float32")
    model = keras.Sequential([keras.Input((WIDTH,)), layers.Dense(WIDTH, "relu"), layers.Dropout(0.2), layers.Dense(1)])
    model.compile("adam", "mse")
    resilient.fit(
        model,
        x,
        x.sum(axis=1),
        epochs=EPOCHS,
        batch_size=32,
        validation_split=0.02,
        callbacks=[keras.callbacks.ReduceLROnPlateau(patience=50)],
        directory=directory,
        save_every=1,
        verbose=0,
    )


if __name__ == "__main__":
    main()
