"""How much of the processor a background thread gets beside the training."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

_STEPS_BACK = 10  # the scheduler gives such a thread a tenth of what one of training gets, and all that those leave
_LAST = 19


def step_back() -> None:
    """Let this thread, and those it starts, have the processor after everybody else.

    What it does has time; a step that waits for one of its threads has not.
    """
    if sys.platform == "linux":  # elsewhere priorities belong to whole processes
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, min(_LAST, os.getpriority(os.PRIO_PROCESS, thread) + _STEPS_BACK))
