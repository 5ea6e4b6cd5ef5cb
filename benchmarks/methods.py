"""One interface for everything that is measured: ours, the peers, and the floors below which nobody can get."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

_POLL = 0.01  # seconds between two looks whether a save has ended


class Method:
    """A way of saving a model's state and of getting it back. As it stands here it does nothing: the control.

    Attributes:
        name: as tables and plots show it.
        directory: where it writes; nothing else writes there.
    """

    name = "nothing"

    def __init__(self, model: Any, directory: Path) -> None:
        self.model = model
        self.directory = directory

    def save(self, step: int) -> None:
        """Save the state after `step`. Returns when training may go on; steps only grow."""

    def finished(self) -> bool:
        """Whether nothing is being written any more. Cheap: it is asked after every batch."""
        return True

    def wait(self) -> None:
        """Return when nothing is being written any more."""

    def let_end(self) -> None:
        """The same as in a training, where nobody waits: ours writes otherwise for who does."""
        while not self.finished():
            time.sleep(_POLL)
        self.wait()  # raises what went wrong

    def durable(self, step: int) -> None:
        """Save, and return when a power cut could not undo it. None of the peers syncs by itself, so it is done for them."""
        self.save(step)
        self.wait()
        for path in [*self.directory.rglob("*"), self.directory]:
            sync(path)

    def restore(self) -> Any:
        """Put back what was saved last; returns the model that holds it."""

    def clear(self) -> None:
        """Remove what earlier saves have left and later ones do not need."""

    def close(self) -> None:
        """End threads and close files."""


def sync(path: Path) -> None:
    """Make a file or directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
