"""Run one program: `python -m chaos.programs NAME --directory RUN --log RUN.log --out RUN.json [--save-every auto]`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from chaos.programs import registry, training


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the program")
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--log", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--save-every", default="auto", type=lambda text: int(text) if text.isdigit() else text)
    parser.add_argument("--how", choices=(training.RESILIENT, training.PLAIN), default=training.RESILIENT)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Train and write down what came out."""
    args = arguments(given)
    attempt = int(os.environ.get("CHAOS_ATTEMPT", "1"))
    session = training.Training(args.directory, args.log, args.out, args.save_every, attempt, args.how)
    training.train(session, registry.table()[args.name])


if __name__ == "__main__":
    main()
