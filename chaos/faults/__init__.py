"""Faults as a library: each is one file whose first line says what it does, and each strikes by a declared schedule that counts."""

from __future__ import annotations

import importlib

from chaos.faults.schedule import Schedule, fail_at, fail_between, fail_by_chance, fail_from, never

FAULTS = ("kill", "hang", "memory", "disk", "damage", "clock", "notices", "network", "strace")


def promises() -> dict[str, str]:
    """Name of each fault -> the first line of its file."""
    return {name: (importlib.import_module(f"chaos.faults.{name}").__doc__ or "").splitlines()[0] for name in FAULTS}


__all__ = ["FAULTS", "Schedule", "fail_at", "fail_between", "fail_by_chance", "fail_from", "never", "promises"]
