"""Everything that can be wrong with a metadata server's answer. Each fault is one small function, on the answer or on its way."""

from __future__ import annotations

import dataclasses
import enum
import io
import threading
from collections.abc import Callable

_LATE = 0.5  # seconds
_PAUSE = 0.05  # seconds between two bytes that drip


class Fault(enum.Enum):
    """What is wrong with an answer. All but SLOW make it mean nothing."""

    SLOW = "the truth, half a second late"
    ERROR = "status 500"
    BUSY = "status 503"
    FORBIDDEN = "status 403: the service is switched off"
    REDIRECT = "status 302, to a page with the truth"
    NONSENSE = "a body that means nothing"
    PORTAL = "the truth as a web page, as a captive portal might show it"
    CLOSE = "the connection ends without an answer"
    HANG = "the connection is taken and nothing comes"
    DRIP = "a byte now and then, without end"
    NO_HTTP = "bytes that are no HTTP"
    HUGE = "a body without end"
    SHORT = "the truth, cut off"


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer as it is to be sent. `kind`: its content type."""

    status: int
    body: str = ""
    kind: str = "text/plain"
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    def encode(self, date: str) -> bytes:
        """The bytes of it."""
        body = self.body.encode()
        standing = {"Date": date, "Content-Type": self.kind, "Content-Length": str(len(body)), "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in {**standing, **self.headers}.items())
        return f"HTTP/1.1 {self.status} -\r\n{head}\r\n".encode() + body


def _as_page(reply: Reply) -> Reply:
    return dataclasses.replace(reply, kind="text/html; charset=utf-8")


def _moved(reply: Reply) -> Reply:
    return dataclasses.replace(reply, status=302, headers={**reply.headers, "Location": MOVED})


MOVED = "/moved"  # where a redirect leads; the truth stands there too
_SPOILT: dict[Fault, Callable[[Reply], Reply]] = {
    Fault.ERROR: lambda reply: dataclasses.replace(reply, status=500),
    Fault.BUSY: lambda reply: dataclasses.replace(reply, status=503),
    Fault.FORBIDDEN: lambda reply: dataclasses.replace(reply, status=403),
    Fault.REDIRECT: _moved,
    Fault.NONSENSE: lambda reply: dataclasses.replace(reply, status=200, body='{"action": [], "Events": {}, "noticeTime": "soon'),
    Fault.PORTAL: _as_page,
}


def _late(stream: io.BufferedIOBase, data: bytes, closing: threading.Event) -> None:
    closing.wait(_LATE)
    stream.write(data)


def _hang(stream: io.BufferedIOBase, data: bytes, closing: threading.Event) -> None:
    closing.wait()


def _drip(stream: io.BufferedIOBase, data: bytes, closing: threading.Event) -> None:
    stream.write(b"HTTP/1.1 200 -\r\nX-Padding: ")
    while not closing.wait(_PAUSE):
        stream.write(b"x")


def _pour(stream: io.BufferedIOBase, data: bytes, closing: threading.Event) -> None:
    stream.write(b"HTTP/1.1 200 -\r\nContent-Type: text/plain\r\nMetadata-Flavor: Google\r\n\r\n")
    while not closing.is_set():
        stream.write(b"TRUE" * 2**12)


_SENT: dict[Fault, Callable[[io.BufferedIOBase, bytes, threading.Event], object]] = {
    Fault.SLOW: _late,
    Fault.CLOSE: lambda stream, data, closing: None,
    Fault.HANG: _hang,
    Fault.DRIP: _drip,
    Fault.NO_HTTP: lambda stream, data, closing: stream.write(b"\x00\xff\r\n\r\n" + data),
    Fault.HUGE: _pour,
    Fault.SHORT: lambda stream, data, closing: stream.write(data[:-1]),
}


def send(fault: Fault | None, stream: io.BufferedIOBase, reply: Reply, date: str, closing: threading.Event) -> None:
    """Send the reply with what is wrong with it; returns early when `closing` is set."""
    data = _SPOILT[fault](reply).encode(date) if fault in _SPOILT else reply.encode(date)
    if fault in _SENT:
        _SENT[fault](stream, data, closing)
    else:
        stream.write(data)
