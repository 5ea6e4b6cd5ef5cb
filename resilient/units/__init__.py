"""Texts by which a platform runs `resilient run`: pure functions of what the operator wants, so that each can be read back and compared."""

from __future__ import annotations

from resilient.units.launch import Launch, default_name

__all__ = ["Launch", "default_name"]
