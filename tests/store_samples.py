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
    placed,
    prepared,
    reports,
    same,
    same_array,
    tensors,
    writes_directly,
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
    "placed",
    "prepared",
    "reports",
    "same",
    "same_array",
    "tensors",
    "writes_directly",
]
