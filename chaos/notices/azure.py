"""The metadata service of Azure's virtual machines, as far as scheduled events go."""

from __future__ import annotations

import email.utils
import json
import urllib.parse
from collections.abc import Sequence
from typing import Any

from chaos.notices.faults import Reply
from chaos.notices.server import FakeServer, Request

_EVENTS = "/metadata/scheduledevents"
_NAME = "/metadata/instance/compute/name"


class AzureServer(FakeServer):
    """Events of the machine and of its neighbours, until they are over.

    Attributes:
        name: of this machine.
        approved: ids of the events that somebody let begin.
    """

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0), name: str = "train-0") -> None:
        super().__init__(address)
        self.name = name
        self.approved: list[str] = []
        self._events: list[dict[str, Any]] = []

    def schedule(
        self, kind: str = "Preempt", seconds: float | None = 30.0, machines: Sequence[str] | None = None, status: str = "Scheduled"
    ) -> str:
        """Announce an event in so many seconds, None for one that has begun; returns its id."""
        event = {
            "EventId": f"event-{len(self._events) + 1}",
            "EventType": kind,
            "ResourceType": "VirtualMachine",
            "Resources": [self.name] if machines is None else list(machines),
            "EventStatus": status if seconds is not None else "Started",
            "NotBefore": "" if seconds is None else email.utils.formatdate(self.now() + seconds, usegmt=True),
            "Description": "",
            "EventSource": "Platform",
            "DurationInSeconds": -1,
        }
        self.change(_events=[*self._events, event])
        return str(event["EventId"])

    def announce(self) -> None:
        """That the machine is taken back in half a minute."""
        self.schedule()

    def reply(self, request: Request) -> Reply:
        """The machine's name, the list of events, or the approval of some."""
        path, _, query = request.path.partition("?")
        if request.headers.get("metadata", "").lower() != "true" or "api-version" not in dict(urllib.parse.parse_qsl(query)):
            return Reply(400, '{"error": "Bad request"}', "application/json")
        if (request.method, path) == ("GET", _NAME):
            return Reply(200, self.name, "text/plain; charset=utf-8")
        if (request.method, path) == ("GET", _EVENTS):
            document = json.dumps({"DocumentIncarnation": len(self._events), "Events": self._events})
            return Reply(200, document, "application/json; charset=utf-8")
        if (request.method, path) == ("POST", _EVENTS):
            return self._approve(request.body)
        return Reply(404)

    def _approve(self, body: bytes) -> Reply:
        try:
            ids = [str(asked["EventId"]) for asked in json.loads(body)["StartRequests"]]
        except (ValueError, TypeError, KeyError):
            return Reply(400)
        self.change(approved=[*self.approved, *ids])
        return Reply(200)
