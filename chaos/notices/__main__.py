"""A cloud's metadata server at its own address, for a program that is tried as it is: `python -m chaos.notices gce --after 60`."""

from __future__ import annotations

import argparse
import contextlib

from chaos.notices import SERVERS
from resilient.preemption.metadata import LINK_LOCAL


def main() -> None:
    """Serve until interrupted."""
    host, port = LINK_LOCAL
    parser = argparse.ArgumentParser(prog="python -m chaos.notices", description="A cloud's metadata server that announces a preemption.")
    parser.add_argument("platform", choices=SERVERS)
    parser.add_argument("--after", type=float, default=60.0, help="seconds until it announces the preemption (60)")
    parser.add_argument("--host", default=host, help=f"address to listen on; it has to be one of this machine's ({host})")
    parser.add_argument("--port", type=int, default=port, help=f"port to listen on ({port})")
    arguments = parser.parse_args()
    with SERVERS[arguments.platform]((arguments.host, arguments.port)) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"{arguments.platform}: metadata on {arguments.host}:{arguments.port}, a preemption in {arguments.after:g} s", flush=True)
        server.closing.wait(arguments.after)
        server.announce()
        print(f"{arguments.platform}: the preemption is announced", flush=True)
        server.closing.wait()


if __name__ == "__main__":
    main()
