"""GCE: that a Spot or preemptible machine is taken back, and maintenance of its host, from a metadata server that waits for a change."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence

from resilient.preemption.metadata import LINK_LOCAL, Address, MetadataServer, Unavailable
from resilient.preemption.source import Announcement, Source

_INSTANCE = "/computeMetadata/v1/instance/"
_HEADERS = {"Metadata-Flavor": "Google"}
_WAIT = 10  # seconds a question may wait for a change; a connection that died of a live migration blinds no longer than that
_SECONDS = 2.0  # for an answer that does not wait, and on top of the wait

_NOTHING: Sequence[Announcement] = ()
_PREEMPTED = {"FALSE": _NOTHING, "TRUE": (Announcement("gce", "preempted", ends=True),)}
# A live migration ends nothing. A machine with a GPU is told an hour ahead that it will be stopped: it had better train that hour, and its
# shutdown sends SIGTERM.
_MAINTENANCE = {
    "NONE": _NOTHING,
    "MIGRATE_ON_HOST_MAINTENANCE": (Announcement("gce", "MIGRATE_ON_HOST_MAINTENANCE", ends=False),),
    "TERMINATE_ON_HOST_MAINTENANCE": (Announcement("gce", "TERMINATE_ON_HOST_MAINTENANCE", ends=False),),
}


class Key(Source):
    """One key of the instance's metadata.

    Args:
        name: of the key.
        meanings: what each of its values announces; any other value means nothing.
        address: of the metadata server.
    """

    platform = "gce"
    grace = 30.0  # from the notice to the end of a Spot machine, at best; longer where the machine was made so, which nothing here tells

    def __init__(self, name: str, meanings: Mapping[str, Sequence[Announcement]], address: Address = LINK_LOCAL) -> None:
        self._path = _INSTANCE + name
        self._meanings = meanings
        self._server = MetadataServer(address)
        self._etag = ""

    def poll(self) -> Sequence[Announcement]:
        """The first time what stands there, then what stands there when it changes, or after some seconds."""
        # The etag says which value the server compares with: a change between two questions is answered at once. Whatever goes wrong,
        # the next question is a plain one.
        etag, self._etag = self._etag, ""
        wait = f"?wait_for_change=true&timeout_sec={_WAIT}&last_etag={urllib.parse.quote(etag, safe='')}" if etag else ""
        answer = self._server.ask("GET", self._path + wait, _HEADERS, seconds=_SECONDS + (_WAIT if etag else 0))
        if answer.headers.get("Metadata-Flavor") != "Google":
            raise Unavailable("it is not Google's metadata server that answers")
        if answer.status == 404:
            return _NOTHING
        value = answer.text.strip()
        if value not in self._meanings:
            raise Unavailable(f"{self._path} is {value[:40]!r}")
        self._etag = answer.headers.get("ETag", "")
        return self._meanings[value]

    def close(self) -> None:
        """End the poll under way, also one that waits."""
        self._server.close()


def preempted(address: Address = LINK_LOCAL) -> Source:
    """The key that says that the machine is taken back."""
    return Key("preempted", _PREEMPTED, address)


def maintenance(address: Address = LINK_LOCAL) -> Source:
    """The key that says what will become of the machine when its host is maintained."""
    return Key("maintenance-event", _MAINTENANCE, address)
