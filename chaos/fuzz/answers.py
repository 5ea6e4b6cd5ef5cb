"""Whatever answers in the place of a metadata server: bytes over a real connection, into the real watchers."""

from __future__ import annotations

import contextlib
import functools
import math
import socket
import threading
import time
from collections.abc import Callable, Collection

from chaos.fuzz.finding import expect
from resilient.preemption import aws, azure, gce
from resilient.preemption.metadata import Address, MetadataServer, Unavailable
from resilient.preemption.source import Source

MACHINE = b"vm-1"
SECONDS = 0.5  # for one answer
_LARGEST_ANSWER = 2**18
_NAME_PATH = b"/metadata/instance/compute/name"


class Answerer:
    """A server on loopback that answers every request with `answer` (all of it, headers too) and closes the connection.

    Azure's question for the machine's name gets `MACHINE`. With `endless` the answer goes on until nobody reads it any more.
    """

    def __init__(self) -> None:
        self.answer = b""
        self.endless = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self) -> Address:
        """Where it listens."""
        host, port = self._socket.getsockname()
        return host, port

    def _serve(self) -> None:
        while True:
            channel, _ = self._socket.accept()
            with channel, contextlib.suppress(OSError):  # the other side has heard enough
                self._reply(channel)

    def _reply(self, channel: socket.socket) -> None:
        channel.settimeout(SECONDS)
        request = b""
        while b"\r\n\r\n" not in request and (part := channel.recv(65536)):
            request += part
        channel.sendall(ok(MACHINE) if _NAME_PATH in request else self.answer)
        while self.endless:
            channel.sendall(b"x" * 2**16)


@functools.cache
def answerer() -> Answerer:
    """One for the whole process."""
    return Answerer()


def ok(body: bytes, headers: bytes = b"") -> bytes:
    """A whole answer with status 200."""
    lines = [b"HTTP/1.1 200 OK", b"Metadata-Flavor: Google", b"Content-Length: %d" % len(body), *([headers] if headers else [])]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def http(data: bytes) -> None:
    """An answer from its first byte on: it is one, whole and of a bounded size, or there is none."""
    server = answerer()
    server.answer = data
    try:
        answer = MetadataServer(server.address).ask("GET", "/", {}, seconds=SECONDS)
        text = answer.text
    except Unavailable:
        return
    expect(answer.status == 200 and len(text) <= _LARGEST_ANSWER, "a body of bounded size with status 200")


def source(make: Callable[[Address], Source], kinds: Collection[str]) -> Callable[[bytes], None]:
    """The target for one watcher: `kinds` is all that it may announce. Data before a zero byte are header lines, the rest is the body."""

    def target(data: bytes) -> None:
        headers, zero, body = data.partition(b"\0")
        server = answerer()
        server.answer = ok(body, headers) if zero else ok(data)
        watcher = make(server.address)
        try:
            found = watcher.poll()
        except Unavailable:
            return
        for announcement in found:
            expect(announcement.kind in kinds, f"one of {kinds}, and not {announcement.kind!r}")
            expect(announcement.left is None or math.isfinite(announcement.left), "a finite time")
            deadline = watcher.deadline(announcement, time.monotonic(), None)
            expect(deadline is None or math.isfinite(deadline), "a deadline that comes")
            expect(deadline is None or announcement.ends, "no stop for what does not end the machine")

    return target


TARGETS: dict[str, Callable[[bytes], None]] = {
    "http": http,
    "aws": source(aws.Interruption, {"terminate", "stop", "hibernate"}),
    "aws-rebalance": source(aws.Rebalance, {"rebalance"}),
    "gce": source(gce.preempted, {"preempted"}),
    "gce-maintenance": source(gce.maintenance, {"MIGRATE_ON_HOST_MAINTENANCE", "TERMINATE_ON_HOST_MAINTENANCE"}),
    "azure": source(azure.ScheduledEvents, {"Preempt", "Terminate", "Reboot", "Redeploy", "Freeze"}),
}
_EVENT = (
    b'{"DocumentIncarnation":1,"Events":[{"EventId":"A-1","EventStatus":"Scheduled","EventType":"Preempt","ResourceType":"VirtualMachine",'
    b'"Resources":["vm-1"],"NotBefore":"Mon, 19 Sep 2033 18:29:47 GMT","Description":"","EventSource":"Platform","DurationInSeconds":-1}]}'
)
SAMPLES: dict[str, list[bytes]] = {
    "http": [
        ok(b"FALSE"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nFALSE\r\n0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
    ],
    "aws": [
        b'{"action": "terminate", "time": "2033-09-18T08:22:00Z"}',
        b'Date: Sun, 18 Sep 2033 08:20:00 GMT\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\0{"action":"stop","time":"2033-09-18T08:22:00Z"}',
    ],
    "aws-rebalance": [b'{"noticeTime": "2033-10-26T17:20:32Z"}'],
    "gce": [b"TRUE", b"FALSE", b'ETag: "1f"\0TRUE'],
    "gce-maintenance": [b"NONE", b"TERMINATE_ON_HOST_MAINTENANCE"],
    "azure": [_EVENT, b"Date: Mon, 19 Sep 2033 18:20:00 GMT\0" + _EVENT],
}
