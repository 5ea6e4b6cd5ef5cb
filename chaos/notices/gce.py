"""The metadata server of Compute Engine, as far as preemption and maintenance go."""

from __future__ import annotations

import urllib.parse

from chaos.notices.faults import Reply
from chaos.notices.server import FakeServer, Request

_INSTANCE = "/computeMetadata/v1/instance/"


class GceServer(FakeServer):
    """Keys with a value and an etag; a question may wait until the value is another than that of the etag it names."""

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address)
        self._values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self._etags = dict.fromkeys(self._values, "0000000000000001")

    def announce(self) -> None:
        """That the machine is taken back."""
        self.set("preempted", "TRUE")

    def maintain(self, event: str) -> None:
        """Announce MIGRATE_ON_HOST_MAINTENANCE or TERMINATE_ON_HOST_MAINTENANCE, or NONE again."""
        self.set("maintenance-event", event)

    def set(self, key: str, value: str) -> None:
        """Change a key, and let those who wait know."""
        etag = f"{int(self._etags[key], 16) + 1:016x}"
        self.change(_values={**self._values, key: value}, _etags={**self._etags, key: etag})

    def reply(self, request: Request) -> Reply:
        """The value of a key, at once or when it changes."""
        if request.headers.get("metadata-flavor") != "Google":
            return Reply(403)
        path, _, query = request.path.partition("?")
        key = path.removeprefix(_INSTANCE)
        if key not in self._values or request.method != "GET":
            return self._google(Reply(404))
        options = dict(urllib.parse.parse_qsl(query))
        if options.get("wait_for_change") == "true":
            known = options.get("last_etag", self._etags[key])
            self.wait_until(lambda: self._etags[key] != known, float(options.get("timeout_sec", 3600)))
        return self._google(Reply(200, self._values[key], "application/text", {"ETag": self._etags[key]}))

    def _google(self, reply: Reply) -> Reply:
        return Reply(reply.status, reply.body, reply.kind, {**reply.headers, "Metadata-Flavor": "Google"})
