"""The process' generators as a fetch of data sees them: Python's, NumPy's global one and, where it is loaded, PyTorch's."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np


def capture() -> dict[str, Any]:
    """Their present states, as plain data with arrays."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    state = {
        "python": [version, np.array(words, np.uint32), gauss],
        "numpy": [np.array(numpy_state["state"]["key"]), int(numpy_state["state"]["pos"]), numpy_state["has_gauss"], numpy_state["gauss"]],
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = [torch.get_rng_state().numpy().copy()]
    return state


def restore(state: Any) -> None:
    """Put back what `capture` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(int(word) for word in words), gauss))
    key, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", np.array(key), position, has_gauss, gauss))
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in state:
        torch.set_rng_state(torch.from_numpy(np.array(state["torch"][0])))


def differ(before: Any, after: Any) -> bool:
    """Whether something has been drawn between two captures."""
    return before.keys() != after.keys() or any(not _same(before[name], after[name]) for name in before)


def _same(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
