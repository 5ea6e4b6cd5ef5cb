"""Small checkpoints for the tests of the store: those that `chaos` works with."""

from __future__ import annotations

from chaos.samples import (
    FAST,
    FROZEN,
    MODEL,
    OPTIMIZER,
    START,
    STATE,
    commit,
    is_sample,
    leftovers,
    manifest,
    prepared,
    reports,
    same,
    same_array,
    tensors,
)

__all__ = [
    "FAST",
    "FROZEN",
    "MODEL",
    "OPTIMIZER",
    "START",
    "STATE",
    "commit",
    "is_sample",
    "leftovers",
    "manifest",
    "prepared",
    "reports",
    "same",
    "same_array",
    "tensors",
]
