"""Checkpoints on disk: named tensors and a manifest -> one durable directory, and back."""

from resilient.store.lock import RunLock, lock_warning
from resilient.store.reading import Checkpoint
from resilient.store.store import Problem, Store

__all__ = ["Checkpoint", "Problem", "RunLock", "Store", "lock_warning"]
