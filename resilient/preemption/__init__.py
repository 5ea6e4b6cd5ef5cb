"""One thread-safe stop request, fed by signals, and the deadline that comes with it."""

from __future__ import annotations

from resilient.preemption.stop import Notice, StopRequest
from resilient.preemption.watch import Watch

__all__ = ["Notice", "StopRequest", "Watch"]
