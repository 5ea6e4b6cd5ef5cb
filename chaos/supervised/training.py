"""`chaos.program`, which does to itself what the storm orders.

python -m chaos.supervised.training --directory RUN --log RUN.log --out RUN.json
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from chaos.supervised.sabotage import Sabotage


def main() -> None:
    """Orders for the start come before the imports that take seconds."""
    root = Path(sys.argv[sys.argv.index("--directory") + 1]).parent
    sabotage = Sabotage(root)
    sabotage.at_import()

    from chaos import program

    class BatchLog(program.BatchLog):
        """Also does what is ordered; where it stands is no state of the run."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            """The first one comes with the directory's lock in hand."""
            super().on_epoch_begin(epoch, logs)
            begin()

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            """Before the batch."""
            begin()
            sabotage.before_batch(self.epoch, batch)

    begun: list[bool] = []

    def begin() -> None:
        if not begun:
            begun.append(True)
            sabotage.begin()

    program.BatchLog = BatchLog  # type: ignore[misc]
    program.ATTEMPT = os.getpid()
    program.main()


if __name__ == "__main__":
    main()
