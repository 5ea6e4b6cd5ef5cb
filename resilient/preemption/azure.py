"""Azure: scheduled events of this virtual machine, and, where asked for, the word that they may begin."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import email.utils
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from resilient.preemption.metadata import LINK_LOCAL, Address, Answer, MetadataServer, Unavailable
from resilient.preemption.source import Announcement, Source

_NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
_EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
_HEADERS = {"Metadata": "true"}
_MACHINE = re.compile(r"[a-z0-9._-]{1,64}", re.ASCII)
_FIRST = 130.0  # seconds: the first question of a machine switches the service on, which takes up to two minutes
_SECONDS = 5.0  # for every later answer
_ENDS = {"Preempt": True, "Terminate": True, "Reboot": True, "Redeploy": True, "Freeze": False}  # frozen for some seconds, memory and all


class ScheduledEvents(Source):
    """The events of this machine. Those of its whole scale set or availability set are told to each of its machines.

    Args:
        address: of the metadata server.
        acknowledges: stop for an event of this machine alone as soon as it is known, and once the state is durable let it begin.
    """

    platform = "azure"

    def __init__(self, address: Address = LINK_LOCAL, *, acknowledges: bool = False) -> None:
        self._address = address
        self._acknowledges = acknowledges
        self._server = MetadataServer(address)
        self._seconds = _FIRST
        self._approvable: Sequence[str] = ()

    def poll(self) -> Sequence[Announcement]:
        """What is scheduled for this machine, or under way."""
        answer = self._get(_EVENTS)
        self._seconds = _SECONDS
        events = [event for event in _events(answer) if str(event.get("EventType")) in _ENDS]
        name = self._name() if events else ""  # asked each time: a wrong one, once believed, would hide every event
        # The word that an event may begin counts for all its machines, and the others may still train.
        alone = [event for event in events if _machines(event) == [name] and self._acknowledges]
        found = [self._announcement(event, answer, wait=event not in alone) for event in events if name in _machines(event)]
        self._approvable = [event["EventId"] for event in alone if _ENDS[event["EventType"]]]
        return found

    def acknowledge(self) -> None:
        """Let the events begin that training has stopped for."""
        if not self._approvable:
            return
        body = json.dumps({"StartRequests": [{"EventId": identity} for identity in self._approvable]}).encode()
        with contextlib.suppress(Unavailable):  # then the event begins when it would have begun anyway
            MetadataServer(self._address).ask("POST", _EVENTS, _HEADERS, seconds=_SECONDS, body=body)

    def close(self) -> None:
        """End the poll under way."""
        self._server.close()

    def _name(self) -> str:
        name = self._get(_NAME).text.strip().casefold()
        if not _MACHINE.fullmatch(name):
            raise Unavailable(f"the machine's name is {name[:40]!r}")
        return name

    def _get(self, path: str) -> Answer:
        return self._server.ask("GET", path, _HEADERS, seconds=self._seconds)

    def _announcement(self, event: Mapping[str, Any], answer: Answer, *, wait: bool) -> Announcement:
        kind, identity, status = event["EventType"], event.get("EventId"), event.get("EventStatus")
        if not isinstance(identity, str) or status not in ("Scheduled", "Started"):
            raise Unavailable(f"an event with the id {identity!r} and the status {status!r}")
        moment = _moment(event.get("NotBefore"))
        left = None if moment is None else answer.seconds_until(moment)
        found = Announcement(self.platform, kind, _ENDS[kind], left, f"{identity} {status}")
        return found if wait else dataclasses.replace(found, early=math.inf)


def _events(answer: Answer) -> list[Mapping[str, Any]]:
    events = answer.document().get("Events")
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise Unavailable("scheduled events without a list of events")
    return events


def _machines(event: Mapping[str, Any]) -> list[str]:
    resources = event.get("Resources")
    if not isinstance(resources, list) or event.get("ResourceType") != "VirtualMachine":
        return []
    return [str(name).casefold() for name in resources]  # names in Azure do not tell capitals from small letters


def _moment(text: object) -> dt.datetime | None:
    """When an event begins at the earliest; None where it has begun."""
    if text == "":
        return None
    try:
        moment = email.utils.parsedate_to_datetime(text)  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise Unavailable(f"an event with the time {text!r}") from None
    return moment.replace(tzinfo=moment.tzinfo or dt.UTC)
