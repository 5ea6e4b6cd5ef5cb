"""Checkpoints on disk: named tensors and a manifest -> one durable directory, and back."""

from resilient.store.commit import CommitCancelled
from resilient.store.lock import RunLock, lock_warning
from resilient.store.output import WriteOptions
from resilient.store.reading import Checkpoint, Problem
from resilient.store.store import Store

__all__ = ["Checkpoint", "CommitCancelled", "Problem", "RunLock", "Store", "WriteOptions", "lock_warning"]
