"""The service manager's end of sd_notify."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType


class NotifySocket:
    """Receives notifications; `environment` names it to a service. `abstract`: it has no file."""

    def __init__(self, path: Path, *, abstract: bool = False) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{path}" if abstract else str(path))
        self.socket.settimeout(60)
        self.environment = {"NOTIFY_SOCKET": f"@{path}" if abstract else str(path)}
        self.received: list[str] = []

    def __enter__(self) -> NotifySocket:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def wait_for(self, beginning: str) -> str:
        """The next assignment that begins so; those before it are in `received` too."""
        while True:
            lines = self.socket.recv(4096).decode().splitlines()
            self.received += lines
            for line in lines:
                if line.startswith(beginning):
                    return line
