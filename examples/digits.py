"""A small convolutional network on scikit-learn's handwritten digits, trained so that it may be killed at any time.

    python examples/digits.py --directory runs/digits

Kill it, start the same command again: it goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import resilient


def build_model() -> keras.Model:
    """A compiled classifier of 8x8 grey images into ten digits."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.RandomTranslation(0.1, 0.1),
            layers.RandomRotation(0.05),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    """Train, report, and save the model."""
    parser = argparse.ArgumentParser(description="Train a classifier of handwritten digits.")
    parser.add_argument("--directory", type=Path, default=Path("runs/digits"), help="the run directory")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, help="where to save the trained model, such as digits.keras")
    args = parser.parse_args()

    keras.utils.set_random_seed(42)
    digits = load_digits()
    images = (digits.images / 16.0).astype("float32")[..., None]
    x, x_val, y, y_val = train_test_split(images, digits.target, test_size=0.2, random_state=0, stratify=digits.target)

    args.directory.mkdir(parents=True, exist_ok=True)
    model = build_model()
    history = resilient.fit(
        model,
        x,
        y,
        epochs=args.epochs,
        batch_size=64,
        validation_data=(x_val, y_val),
        class_weight={digit: 1.5 if digit in (8, 9) else 1.0 for digit in range(10)},  # the two that it confuses most
        callbacks=[
            keras.callbacks.EarlyStopping(patience=8, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=3),
            keras.callbacks.CSVLogger(str(args.directory / "epochs.csv")),
        ],
        directory=args.directory,
        verbose=2,
    )
    print(f"{len(history.epoch)} epochs, best validation accuracy {max(history.history['val_accuracy']):.4f}")
    if args.out:
        model.save(args.out)


if __name__ == "__main__":
    main()
