"""Processes that do nothing but count, one for each processor: what they do not get, something else took.

That sees what no process is charged for: the kernel's writing of pages that a program has left dirty, and on a virtual machine the work
of the host's own threads that serve its disk.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_WORD = 8  # bytes of a count
_LOOPS = 500  # between two counts: some microseconds
_SETTLE = 0.1  # seconds until the processes have found a processor each


class Spinners:
    """Context manager; between uses the processes stand still.

    Attributes:
        processors: on which this process may run.
        processes: that count, as many.
    """

    def __init__(self) -> None:
        self.processors = len(os.sched_getaffinity(0))
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Spinners:
        shared = os.memfd_create("counts")
        os.truncate(shared, self.processors * _WORD)
        self._memory = mmap.mmap(shared, self.processors * _WORD)
        self._counts = memoryview(self._memory).cast("Q")
        command = [sys.executable, "-S", "-E", __file__, str(shared)]
        self.processes = [subprocess.Popen([*command, str(place)], pass_fds=[shared]) for place in range(self.processors)]
        os.close(shared)
        while not all(self._counts):  # they have begun
            time.sleep(_SETTLE)
        self._tell(signal.SIGSTOP)
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self._counts.release()
        self._memory.close()

    def counts(self) -> int:
        """What all have counted so far."""
        return sum(self._counts)

    def taken(self, action: Callable[[], None], control: float) -> tuple[float, float]:
        """Processor seconds that `action` takes from them, and the seconds that it lasts.

        They are compared with what they count in as many seconds as `control` says before it, and as many after it.
        """
        with self._running():
            before = self._rate(control)
            counted, began = self.counts(), time.perf_counter()
            action()
            lasted = time.perf_counter() - began
            counted = self.counts() - counted
            rate = (before + self._rate(control)) / 2
        return (lasted - counted / rate) * self.processors, lasted

    def _rate(self, seconds: float) -> float:
        counted, began = self.counts(), time.perf_counter()
        time.sleep(seconds)
        return (self.counts() - counted) / (time.perf_counter() - began)

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._tell(signal.SIGCONT)
        try:
            time.sleep(_SETTLE)
            yield
        finally:
            self._tell(signal.SIGSTOP)

    def _tell(self, number: signal.Signals) -> None:
        for process in self.processes:
            process.send_signal(number)


def spin(shared: int, place: int) -> None:
    """Count until killed, in that word of the memory behind the descriptor."""
    counts = memoryview(mmap.mmap(shared, 0)).cast("Q")
    while True:
        for _ in range(_LOOPS):
            pass
        counts[place] += 1


if __name__ == "__main__":
    spin(int(sys.argv[1]), int(sys.argv[2]))
