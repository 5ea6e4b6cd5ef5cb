"""The service manager's protocol: one datagram of KEY=VALUE lines to the socket that the environment names."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

_EXTENSION = 10.0  # seconds asked for at a time, while a save is under way
_LONGEST_EXTENSION = 600.0  # seconds in all: a disk that hangs must not hold up the machine for ever
_YEAR = 365 * 86400.0


class Notifier:
    """Tells systemd how the service is. Without a socket it tells nobody.

    Args:
        environment: NOTIFY_SOCKET and the watchdog's variables are taken out of it: they are meant for us, not for the program.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        interval, owner = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        self._watchdog = int(interval) / 1e6 if interval and owner in ("", str(os.getpid())) else None
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None
        self._status = ""
        self._extended_until: float | None = None

    def send(self, *assignments: str) -> None:
        """Send assignments such as "READY=1". What cannot be delivered is dropped: nobody there waits for it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(assignments).encode(), self._address)

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        if text != self._status:
            self._status = text
            self.send(f"STATUS={text}")

    def alive(self, limit: float) -> None:
        """Feed the watchdog: something has moved, and the next move may take `limit` seconds.

        The unit's own interval is a lower bound: it is set anew each time, so that nothing but progress ever has to feed the watchdog.
        """
        if self._watchdog is not None:
            self.send("WATCHDOG=1", f"WATCHDOG_USEC={(self._watchdog + min(limit, _YEAR)) * 1e6:.0f}")

    def extend(self, now: float) -> float:
        """Ask for more time to stop, and return how many seconds there are from `now` on; 0.0 where nobody grants any."""
        if self._socket is None:
            return 0.0
        if self._extended_until is None:
            self._extended_until = now + _LONGEST_EXTENSION
        if now >= self._extended_until:
            return 0.0
        self.send(f"EXTEND_TIMEOUT_USEC={_EXTENSION * 1e6:.0f}")
        return _EXTENSION
