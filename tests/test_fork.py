"""Processes that a program forks while it trains: the workers of a data loader."""

from __future__ import annotations

import os
import signal
import time

from resilient.preemption import StopRequest, Watch


def test_a_forked_worker_dies_of_a_signal_and_does_not_stop_the_training() -> None:
    """Without care it would inherit the handler, survive SIGTERM, and report its own signal as the training's."""
    stop = StopRequest()
    with Watch(stop, [signal.SIGTERM], 60.0, nothing_to_save=lambda: False, leave=lambda notice: None):
        for _ in range(50):  # the signal meets some of them before they have run a single instruction
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
        time.sleep(0.1)  # what must not come would come at once
    assert not stop.requested
