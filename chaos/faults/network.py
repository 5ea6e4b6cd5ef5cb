"""A network between a program and a server that refuses, resets, cuts off, swallows or delays what passes: a proxy on loopback."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import threading
from types import TracebackType

from chaos.faults.schedule import Schedule, never

_PIECE = 65536
_POLL = 0.05  # seconds between two looks at whether it is over


class Kind(enum.Enum):
    """What happens to a connection."""

    RESET = "it is reset at once"
    CUT = "it is reset after some bytes of the answer"
    SWALLOW = "it is taken, and no answer ever comes"
    DELAY = "every piece of the answer is late"


class Proxy:
    """Passes connections to `target` on, and does what `kind` says to those at which the schedule strikes. A context manager.

    Args:
        target: host and port of the genuine server.
        kind: the fault.
        schedule: asked at each connection; None: none is met.
        after: bytes of the answer that still come through before CUT.
        seconds: how late each piece is with DELAY.
    """

    def __init__(
        self, target: tuple[str, int], kind: Kind = Kind.RESET, schedule: Schedule | None = None, after: int = 0, seconds: float = 0.5
    ) -> None:
        self._target = target
        self._kind = kind
        self._schedule = schedule or never()
        self._after = after
        self._seconds = seconds
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_POLL)
        self._threads = [threading.Thread(target=self._accept, name="chaos-proxy")]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def __enter__(self) -> Proxy:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        for thread in self._threads:  # the first one adds to the list until it ends
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(client, self._schedule.strikes())))
                self._threads[-1].start()

    def _serve(self, client: socket.socket, struck: bool) -> None:
        with client, contextlib.suppress(OSError):
            if struck and self._kind is Kind.RESET:
                _reset(client)
                return
            if struck and self._kind is Kind.SWALLOW:
                self._closing.wait()
                return
            with socket.create_connection(self._target, 10) as server:
                onward = threading.Thread(target=self._pump, args=(client, server, None, 0.0))
                onward.start()
                cut = self._after if struck and self._kind is Kind.CUT else None
                self._pump(server, client, cut, self._seconds if struck and self._kind is Kind.DELAY else 0.0)
                _shut(client)
                onward.join()

    def _pump(self, source: socket.socket, sink: socket.socket, most: int | None, late: float) -> None:
        """Passes bytes on until one side ends, or `most` have passed and the connection is reset."""
        source.settimeout(_POLL)
        with contextlib.suppress(OSError):
            while not self._closing.is_set():
                try:
                    piece = source.recv(_PIECE)
                except TimeoutError:
                    continue
                if not piece:
                    sink.shutdown(socket.SHUT_WR)
                    return
                self._closing.wait(late) if late else None
                sink.sendall(piece if most is None else piece[:most])
                if most is not None:
                    most -= min(most, len(piece))
                    if not most:
                        _reset(sink)
                        return


def _reset(connection: socket.socket) -> None:
    """Ends it with RST: to the other side that is an error, and no end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
