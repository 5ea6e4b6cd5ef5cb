"""What a process and a directory take, sampled from outside while they live."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from chaos.soak.leaks import Sample, Tolerance, Trend, trend

MB = 2.0**20
# What may rise by so much after the warm-up. Memory: allocators keep what they were once given. The rest is counted, and stays.
TOLERANCES: Mapping[str, Tolerance] = {
    "memory": Tolerance(absolute=6.0, relative=0.05),  # MB of the process' own
    "descriptors": Tolerance(absolute=1.5),
    "threads": Tolerance(absolute=1.5),
    "children": Tolerance(absolute=1.5),
    "disk": Tolerance(absolute=1.0, relative=0.10),  # MB of the run directory, but for the journal
    "files": Tolerance(absolute=3.5),
}
UNITS = {"memory": " MB", "disk": " MB"}


def of_process(pid: int) -> dict[str, float]:
    """Memory that is the process' own (MB), descriptors, threads and children.

    Raises:
        psutil.Error: it is gone.
    """
    process = psutil.Process(pid)
    with process.oneshot():
        return {
            "memory": process.memory_full_info().uss / MB,
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "children": len(process.children()),
        }


def of_directory(directory: Path) -> dict[str, float]:
    """Megabytes and files below a directory, without the journal, which is there to grow. What vanishes meanwhile does not count."""
    sizes = list(_sizes(directory))
    return {"disk": sum(sizes) / MB, "files": len(sizes)}


def _sizes(directory: Path) -> list[int]:
    found = []
    for root, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if name != "journal.jsonl":
                    found.append(os.stat(os.path.join(root, name)).st_size)
    return found


@dataclasses.dataclass
class Watcher:
    """Samples of several measures, taken every `interval` seconds on a thread, from `start` to `stop`."""

    look: Callable[[], Mapping[str, float]]
    interval: float
    samples: dict[str, list[Sample]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """No more samples."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self.interval):
            try:
                seen = self.look()
            except psutil.Error:  # gone, or on its way: nothing to see
                continue
            now = time.monotonic()
            for name, value in seen.items():
                self.samples.setdefault(name, []).append((now, value))

    def trends(self) -> dict[str, Trend | None]:
        """The verdict on each measure, None where it was not seen often enough."""
        return {name: trend(samples, TOLERANCES[name]) for name, samples in self.samples.items()}
