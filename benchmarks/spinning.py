"""Processes that do nothing but count, one for each processor: what they do not get, something else took.

That sees what no process is charged for: the kernel's writing of pages that a program has left dirty, and on a virtual machine the work
of the host's own threads that serve its disk.
"""

from __future__ import annotations

import contextlib
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
_LINE = 64  # bytes of a line of a processor's cache, of which each count has one
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
        with contextlib.ExitStack() as stack:
            shared = os.memfd_create("counts")
            stack.callback(os.close, shared)
            os.truncate(shared, self.processors * _LINE)
            memory = stack.enter_context(mmap.mmap(shared, self.processors * _LINE))
            self._counts = stack.enter_context(memoryview(memory).cast("Q"))
            for place in range(self.processors):
                command = [sys.executable, "-S", "-E", __file__, str(shared), str(place)]
                self.processes.append(subprocess.Popen(command, pass_fds=[shared]))
                stack.callback(_end, self.processes[-1])
            while sum(map(bool, self._counts)) < self.processors:  # they have begun
                self._check()
                time.sleep(_SETTLE)
            self._stop()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

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
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
        try:
            time.sleep(_SETTLE)
            yield
        finally:
            self._stop()

    def _stop(self) -> None:
        """Returns when all stand still."""
        for process in self.processes:
            process.send_signal(signal.SIGSTOP)
        for process in (process for process in self.processes if process.returncode is None):
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._check()

    def _check(self) -> None:
        if any(process.poll() is not None for process in self.processes):
            raise RuntimeError("A process that counts has ended: what it would have counted looks as if something else had taken it.")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def spin(shared: int, place: int) -> None:
    """Count in the cache line of that number of the memory behind the descriptor, as long as the process that asked for it lives."""
    counts = memoryview(mmap.mmap(shared, 0)).cast("Q")
    parent = os.getppid()
    while os.getppid() == parent:
        for _ in range(_LOOPS):
            pass
        counts[place * _LINE // _WORD] += 1


if __name__ == "__main__":
    spin(int(sys.argv[1]), int(sys.argv[2]))
