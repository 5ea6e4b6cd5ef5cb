"""A convolutional network on scikit-learn's handwritten digits, trained so that nothing can stop it for good.

    python examples/digits.py --directory runs/digits

Stop it however you like (Ctrl-C, kill, kill -9, a power cut) and start the same line again: it goes on where it was.
"""

import argparse
import json
from pathlib import Path

import keras
from keras import layers
from sklearn.datasets import load_digits

import resilient


def build():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.RandomTranslation(0.1, 0.1),
            layers.RandomRotation(0.05),
            layers.Conv2D(16, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class LossCurve(keras.callbacks.Callback):
    """Appends a line `step,loss` for every batch, and says where a validation begins and ends."""

    def __init__(self, path):
        super().__init__()
        self.path = str(path)

    def on_train_batch_end(self, batch, logs=None):
        self.append(f"{int(self.model.optimizer.iterations)},{logs['loss']}")

    def on_test_begin(self, logs=None):
        self.append("validation begins,")

    def on_test_end(self, logs=None):
        self.append("validation ends,")

    def append(self, line):
        with open(self.path, "a") as file:
            file.write(line + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", default="runs/digits", type=Path, help="the run directory")
    parser.add_argument("--epochs", default=12, type=int)
    parser.add_argument("--out", type=Path, help="where to write the model, the history and the curves (beside the run directory)")
    args = parser.parse_args()
    out = args.out or args.directory.with_name(args.directory.name + "-out")
    out.mkdir(parents=True, exist_ok=True)

    keras.utils.set_random_seed(42)
    digits = load_digits()
    images = (digits.images / 16).astype("float32")[..., None]
    model = build()

    history = resilient.fit(  # the one line that is not model.fit(
        model,
        images,
        digits.target,
        batch_size=32,
        epochs=args.epochs,
        validation_split=0.2,
        class_weight={digit: 1.5 if digit == 8 else 1.0 for digit in range(10)},  # eights are hard
        callbacks=[
            keras.callbacks.EarlyStopping(patience=4, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(patience=2, factor=0.5),
            keras.callbacks.CSVLogger(str(out / "epochs.csv")),
            LossCurve(out / "losses.csv"),
        ],
        verbose=2,
        directory=args.directory,
    )

    model.save(out / "digits.keras")
    (out / "history.json").write_text(json.dumps(history.history))
    print(f"validation accuracy {max(history.history['val_accuracy']):.3f}, written to {out}")


if __name__ == "__main__":
    main()
