"""Starts a program, watches it, and starts it again by policy until it is done: `resilient run`. Knows Linux, and nothing of Keras."""

from __future__ import annotations

from resilient.supervisor.standby import spare_command
from resilient.supervisor.supervising import Options, Supervisor

__all__ = ["Options", "Supervisor", "spare_command"]
