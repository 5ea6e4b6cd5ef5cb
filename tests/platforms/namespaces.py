"""What both platforms need of the machine, and how one waits for them."""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 90.0  # seconds for whatever takes a few at most
_TRIAL = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--cgroup", "--uts", "--ipc", "true"]


@functools.cache
def refusal() -> str | None:
    """Why this machine lets us have no namespaces of our own, None if it does."""
    if os.geteuid() != 0:
        return "needs root"
    try:
        allowed = subprocess.run(_TRIAL, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return "needs unshare, of Debian's package util-linux"
    return None if allowed else "needs namespaces of its own, which this machine does not allow"


def wait_until(reached: Callable[[], object], what: str, log: Path) -> None:
    """Look again and again, for a bounded time; where that was in vain, show the end of `log`."""
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end, f"Waited in vain until {what}.\n{log.read_text()[-3000:] if log.exists() else ''}"
        time.sleep(0.02)
