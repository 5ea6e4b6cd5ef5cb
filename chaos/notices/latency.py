"""How long it takes from a notice's appearance to the request to stop, and what watching costs: `python -m chaos.notices.latency`."""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time

from chaos.notices import SERVERS, in_place
from resilient.preemption import Notices, StopRequest
from resilient.preemption.notices import PLATFORMS


def main() -> None:
    """Measure each platform with its own interval, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notices", type=int, default=5, help="notices a platform")
    arguments = parser.parse_args()
    print("platform  notice to request: median   worst   processor time of a question")
    for name in SERVERS:
        found = [latency(name) for _ in range(arguments.notices)]
        print(f"{name:8}  {statistics.median(found):23.2f} s {max(found):5.2f} s {cost(name):25.2f} ms")


def latency(name: str) -> float:
    """Seconds from a notice, at a random moment between two questions, to the request."""
    requested = threading.Event()
    with SERVERS[name]() as server, in_place(server), Notices((name,), None, StopRequest(requested.set), lambda **_: None):
        server.wait_for_requests(3)
        time.sleep(random.uniform(0, 5))
        announced = time.perf_counter()
        server.announce()
        requested.wait()
        return time.perf_counter() - announced


def cost(name: str) -> float:
    """Milliseconds of processor time that one question takes of this process; the fake's own time is not in it."""
    with SERVERS[name]() as server, in_place(server):
        asking = [PLATFORMS[name](None)[0] for _ in range(100)]  # a question to GCE's would wait from the second time on
        begun = time.thread_time()
        for source in asking:
            source.poll()
        return (time.thread_time() - begun) / len(asking) * 1000


if __name__ == "__main__":
    main()
