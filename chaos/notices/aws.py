"""The instance metadata service of EC2, version 2, as far as Spot notices go."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import time

from chaos.notices.faults import Reply
from chaos.notices.server import FakeServer, Request

_TTL = "x-aws-ec2-metadata-token-ttl-seconds"
_INTERRUPTION = "/latest/meta-data/spot/instance-action"
_REBALANCE = "/latest/meta-data/events/recommendations/rebalance"


class AwsServer(FakeServer):
    """Items are there only behind a token, which ends; an item that is not there is status 404.

    Attributes:
        longest_ttl: seconds after which a token ends at the latest, however long it was asked for.
    """

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address)
        self.longest_ttl = 21600
        self._numbers = itertools.count(1)
        self._tokens: dict[str, float] = {}
        self._items: dict[str, str] = {}

    def interrupt(self, action: str = "terminate", seconds: float = 120.0) -> None:
        """Announce that the instance is terminated, stopped or hibernated in so many seconds."""
        self.put(_INTERRUPTION, json.dumps({"action": action, "time": self._moment(seconds)}))

    def announce(self) -> None:
        """That the instance is terminated in two minutes."""
        self.interrupt()

    def recommend_rebalance(self) -> None:
        """Announce that the instance is at an elevated risk."""
        self.put(_REBALANCE, json.dumps({"noticeTime": self._moment(0)}))

    def put(self, path: str, body: str) -> None:
        """Have an item say anything."""
        self.change(_items={**self._items, path: body})

    def forget_tokens(self) -> None:
        """As when the service is restarted: every token is refused from now on."""
        self._tokens.clear()

    def reply(self, request: Request) -> Reply:
        """A token for a PUT, an item for a GET with one."""
        if (request.method, request.path) == ("PUT", "/latest/api/token"):
            return self._token(request.headers.get(_TTL, ""))
        if time.monotonic() >= self._tokens.get(request.headers.get("x-aws-ec2-metadata-token", ""), 0.0):
            return Reply(401)
        if request.method != "GET" or request.path not in self._items:
            return Reply(404, "<html>404 - Not Found</html>", "text/html")
        return Reply(200, self._items[request.path], "application/json")

    def _token(self, asked: str) -> Reply:
        if not asked.isdecimal() or not 1 <= int(asked) <= 21600:
            return Reply(400)
        ttl = min(int(asked), self.longest_ttl)
        token = f"token-{next(self._numbers)}=="
        self._tokens[token] = time.monotonic() + ttl
        return Reply(200, token, headers={_TTL: str(ttl)})

    def _moment(self, seconds: float) -> str:
        return dt.datetime.fromtimestamp(self.now() + seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
