"""One thread-safe stop request, fed by signals and by the platforms' own notices, and the deadline that comes with it."""

from __future__ import annotations

from resilient.preemption.notices import Notices
from resilient.preemption.stop import Notice, StopRequest
from resilient.preemption.watch import Watch

__all__ = ["Notice", "Notices", "StopRequest", "Watch"]
