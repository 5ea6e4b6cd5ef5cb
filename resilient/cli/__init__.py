"""The command line: arguments and printing. TensorFlow and Keras are imported by `restore` alone."""

from __future__ import annotations

from resilient.cli.app import main

__all__ = ["main"]
