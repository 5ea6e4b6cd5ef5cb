"""A training as a process of its own, for the measurements that need one. It tells on stdout, one JSON object a line, when what happened.

python -m benchmarks.program '{"method": "resilient", "directory": "...", ...}'
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def tell(mark: str, **fields: Any) -> None:
    """One line, written at once: what a killed process has told is there."""
    os.write(1, json.dumps({"mark": mark, "time": time.time(), **fields}).encode() + b"\n")


def peak_memory() -> int:
    """Bytes of memory that this process had at its fullest."""
    return _memory("VmHWM")


def own_memory() -> int:
    """Bytes that it has now and no file can give back."""
    return _memory("RssAnon")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main(
    method: str,
    directory: str,
    megabytes: float,
    batch: int,
    steps: int,
    epochs: int,
    save_every: str | int | None = None,
) -> None:
    """Train `epochs` of `steps` steps, saving by `method`; `save_every` is that of the method, None its default."""
    tell("interpreter")
    import keras

    tell("keras")
    import resilient

    _ = resilient.fit  # loads what it needs
    tell("resilient")
    import numpy as np

    from benchmarks.workload import dense

    workload = dense(megabytes, batch)
    x = np.broadcast_to(workload.x, (steps, *workload.x.shape)).reshape(-1, workload.x.shape[-1])
    y = np.zeros((len(x), workload.y.shape[-1]), np.float32)
    given: dict[str, Any] = {"x": x, "y": y, "batch_size": batch, "epochs": epochs, "verbose": 0}
    tell("built", state=workload.nbytes)
    marks = _marks(keras)
    if method == "resilient":
        cadence = "auto" if save_every is None else save_every
        resilient.fit(workload.model, **given, callbacks=[marks], directory=directory, monitor="loss", save_every=cadence)
    else:
        saving = _saving(method, workload, Path(directory), save_every)
        workload.model.fit(**given, callbacks=[*saving, marks])
    tell("end", peak=peak_memory(), own=own_memory())


def _marks(keras: Any) -> Any:
    class Marks(keras.callbacks.Callback):  # type: ignore[misc]  # the base is there only after the import that is timed
        epoch = 0

        def on_train_begin(self, logs: Any = None) -> None:
            tell("training")

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            tell("batch", epoch=self.epoch, batch=batch)

    return Marks()


def _saving(method: str, workload: Any, directory: Path, save_every: str | int | None) -> list[Any]:
    """Callbacks of `Model.fit` by which the method saves; BackupAndRestore is used as its users do, to resume too."""
    import keras

    from benchmarks import peers
    from benchmarks.cadence import SaveEvery

    if method == "nothing":
        return []
    if method == peers.BackupAndRestore.name:
        return [keras.callbacks.BackupAndRestore(directory, save_freq=save_every or "epoch")]
    chosen = next(peer for peer in peers.peers(workload.model, directory) if peer.name == method)
    return [SaveEvery(chosen, int(save_every or 1))]


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
