"""What the fake metadata servers share: threads, a record of what was asked, a clock of their own, and faults."""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import http.server
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from chaos.notices import faults
from chaos.notices.faults import Fault, Reply

Self = TypeVar("Self", bound="FakeServer")


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as it came; header names in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class FakeServer:
    """Context manager: a metadata server, on a free port of loopback unless told otherwise. Any thread may change it while it answers.

    Attributes:
        requests: all that came so far.
        fault: what is wrong with every answer, None while all is well.
        skew: seconds that its clock is ahead of this machine's.
    """

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.requests: list[Request] = []
        self.fault: Fault | None = None
        self.skew = 0.0
        self.closing = threading.Event()
        self._changed = threading.Condition()
        self._server = _Server(address, _Exchange)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def __enter__(self: Self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.change()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def now(self) -> float:
        """Its own clock, seconds since 1970."""
        return time.time() + self.skew

    def change(self, **attributes: Any) -> None:
        """Set attributes, and let whoever waits look again."""
        with self._changed:
            for name, value in attributes.items():
                setattr(self, name, value)
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30.0) -> bool:
        """Whether `condition` comes to hold within `seconds`; it is looked at whenever something was asked or changed."""
        with self._changed:
            return self._changed.wait_for(lambda: condition() or self.closing.is_set(), seconds) and condition()

    def wait_for_requests(self, count: int) -> None:
        """Return when so many requests have come in all.

        Raises:
            TimeoutError: they do not come.
        """
        if not self.wait_until(lambda: len(self.requests) >= count):
            raise TimeoutError(f"Only {len(self.requests)} requests came, the last ones {self.requests[-3:]}")

    def note(self, request: Request) -> None:
        """Remember what was asked."""
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def announce(self) -> None:
        """That the machine is taken back, as early as the platform says so."""
        raise NotImplementedError

    def reply(self, request: Request) -> Reply:
        """The true answer; each platform's own."""
        raise NotImplementedError


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    fake: FakeServer


class _Exchange(http.server.BaseHTTPRequestHandler):
    """One request and what comes of it; the connection ends with it."""

    server: _Server

    def do_GET(self) -> None:
        """Any method: what it means is each platform's own."""
        fake = self.server.fake
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        fake.note(request)
        reply = fake.reply(request)
        date = email.utils.formatdate(fake.now(), usegmt=True)
        with contextlib.suppress(OSError):  # the other side has heard enough
            faults.send(fake.fault, self.wfile, reply, date, fake.closing)

    do_PUT = do_POST = do_GET  # noqa: N815  the names that the base class looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it
        """Nothing: what was asked is in `requests`."""
