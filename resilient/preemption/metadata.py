"""Requests to a cloud's metadata server: bounded in time and size, never redirected, never through a proxy, ended from outside at once."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.message
import email.utils
import errno
import http.client
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

Address = tuple[str, int]

LINK_LOCAL: Address = ("169.254.169.254", 80)  # where AWS, GCE and Azure all answer; as a number, because a resolver may hang

_LARGEST_BODY = 2**18  # bytes; an Azure event names every machine of its scale set
_LARGEST_ANSWER = 2 * _LARGEST_BODY  # with its headers and the lengths of its chunks
_CONTENT_TYPES = ("", "text/plain", "application/text", "application/json")  # a captive portal's page is text/html


class Unavailable(Exception):  # noqa: N818  says what the platform is, not what we did
    """The server gave no answer that means anything; says why. Never a notice, and never the absence of one."""


class Answer:
    """What the server said.

    Args:
        status: of the HTTP answer, any.
        headers: of the answer; looked up in capitals or small letters alike.
        body: text; "" unless the status is 200.
    """

    def __init__(self, status: int, headers: email.message.Message, body: str) -> None:
        self.status = status
        self.headers = headers
        self._body = body
        self._received = time.time()

    @property
    def text(self) -> str:
        """The body.

        Raises:
            Unavailable: the status is not 200, or the body is of a type that no metadata server sends.
        """
        if self.status != 200:
            raise Unavailable(f"it answered with status {self.status}")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in _CONTENT_TYPES:
            raise Unavailable(f"it answered with {kind}")
        return self._body

    def document(self) -> dict[str, Any]:
        """The body's JSON object. Raises Unavailable where it is none."""
        try:
            found = json.loads(self.text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Unavailable("it answered with something that is no JSON object")
        return found

    def seconds_until(self, moment: dt.datetime) -> float:
        """Seconds from this answer to `moment`, by the clock that `moment` was read from: the server's, as far as it tells."""
        return moment.timestamp() - self._now()

    def _now(self) -> float:
        try:
            told = email.utils.parsedate_to_datetime(self.headers.get("Date", ""))
        except (ValueError, OverflowError):
            return self._received
        # Dates leave out what has passed of their second: it is counted as over, so that no deadline comes out too late.
        return told.replace(tzinfo=told.tzinfo or dt.UTC).timestamp() + 1.0


class MetadataServer:
    """One metadata server. Requests come from one thread; any thread may close it, which ends the request under way.

    Each request has a connection of its own: one a second costs nothing on the link-local network, and a connection that outlives a live
    migration or a suspension is silent for ever.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._closed = False

    def close(self) -> None:
        """End the request under way, if any, and refuse all later ones."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # not connected any more
                    self._socket.shutdown(socket.SHUT_RDWR)

    def ask(self, method: str, path: str, headers: Mapping[str, str], *, seconds: float, body: bytes | None = None) -> Answer:
        """One request and its answer, whole within `seconds`.

        Raises:
            Unavailable: there is none.
        """
        deadline = time.monotonic() + seconds
        try:
            with self._connection(deadline) as channel:
                connection = http.client.HTTPConnection(*self._address)
                connection.sock = channel
                connection.request(method, path, body, {**headers, "Connection": "close"})
                return _answer(method, channel, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"{method} {path}: {error or type(error).__name__}") from error

    @contextlib.contextmanager
    def _connection(self, deadline: float) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as channel:
            with self._lock:
                if self._closed:
                    raise OSError("closed")
                # Only begun here: whoever closes always finds a connection, which it can end. Sending waits until there is one.
                channel.setblocking(False)
                error = channel.connect_ex(self._address)
                self._socket = channel
            try:
                if error not in (0, errno.EINPROGRESS):
                    raise OSError(error, os.strerror(error))
                channel.settimeout(_left(deadline))
                yield channel
            finally:
                with self._lock:
                    self._socket = None


def _answer(method: str, channel: socket.socket, deadline: float) -> Answer:
    stream = cast(socket.socket, _Stream(channel, deadline))  # all that HTTPResponse wants of a socket is makefile
    with http.client.HTTPResponse(stream, method=method) as response:
        response.begin()
        if response.status != 200:
            return Answer(response.status, response.headers, "")
        body = response.read(_LARGEST_BODY + 1)
        if response.length or len(body) > _LARGEST_BODY:
            raise ValueError("an answer that ends too early, or not at all")
        return Answer(response.status, response.headers, body.decode())


class _Stream(io.RawIOBase):
    """Reads a socket until a moment, however slowly the bytes come; a time-out of the socket's own would begin anew with each."""

    def __init__(self, channel: socket.socket, deadline: float) -> None:
        super().__init__()
        self._channel = channel
        self._deadline = deadline
        self._left = _LARGEST_ANSWER  # here and not above: a chunk of length -1 makes http.client read for as long as anything comes

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise ValueError("an answer that does not end")
        self._channel.settimeout(_left(self._deadline))
        count = self._channel.recv_into(buffer)
        self._left -= count
        return count


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
