"""AWS: the interruption notice of a Spot instance, and the recommendation to leave it, from the instance metadata service, version 2."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence

from resilient.preemption.metadata import LINK_LOCAL, Address, Answer, MetadataServer, Unavailable
from resilient.preemption.source import Announcement, Source

_TOKEN = "/latest/api/token"  # noqa: S105  a path
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_TTL = 3600  # seconds a token is asked for
_REFRESH = 15  # seconds before its end it is not used any more
_SECONDS = 2.0  # for one answer
_ENDS = {"terminate": True, "stop": True, "hibernate": False}  # memory survives hibernation, and training goes on after it
_STALE = 120.0  # seconds: an interruption that should have been longer ago than the notice is long has not come, or is over


class _Item(Source):
    """One item of the metadata that is there when something is announced, and else is not."""

    platform = "aws"
    interval = 5.0  # what AWS recommends
    path: str

    def __init__(self, address: Address = LINK_LOCAL) -> None:
        self._server = MetadataServer(address)
        self._token = ""
        self._token_ends = 0.0

    def poll(self) -> Sequence[Announcement]:
        """What the item announces; status 404 says that there is nothing."""
        answer = self._get()
        if answer.status == 401:  # the token ended early: the service was restarted, or the machine slept
            self._token_ends = 0.0
            answer = self._get()
        return () if answer.status == 404 else self._read(answer)

    def close(self) -> None:
        """End the poll under way."""
        self._server.close()

    def _read(self, answer: Answer) -> Sequence[Announcement]:
        raise NotImplementedError

    def _get(self) -> Answer:
        if time.monotonic() >= self._token_ends:
            self._fetch_token()
        return self._server.ask("GET", self.path, {"X-aws-ec2-metadata-token": self._token}, seconds=_SECONDS)

    def _fetch_token(self) -> None:
        asked = time.monotonic()
        answer = self._server.ask("PUT", _TOKEN, {_TTL_HEADER: str(_TTL)}, seconds=_SECONDS)
        self._token = answer.text
        told = answer.headers.get(_TTL_HEADER, "")
        self._token_ends = asked + (min(int(told), _TTL) if told.isdecimal() and len(told) < 10 else _TTL) - _REFRESH


class Interruption(_Item):
    """That EC2 takes this Spot instance back, and when: two minutes ahead."""

    path = "/latest/meta-data/spot/instance-action"

    def _read(self, answer: Answer) -> Sequence[Announcement]:
        notice = answer.document()
        action, moment = notice.get("action"), _moment(notice.get("time"))
        if not isinstance(action, str) or action not in _ENDS:
            raise Unavailable(f"an interruption notice with the action {action!r}")
        left = answer.seconds_until(moment)
        if left < -_STALE:
            return ()
        return (Announcement(self.platform, action, _ENDS[action], left, moment.isoformat()),)


class Rebalance(_Item):
    """That this Spot instance is more likely than others to be taken back. Many never are: nothing to stop for."""

    path = "/latest/meta-data/events/recommendations/rebalance"

    def _read(self, answer: Answer) -> Sequence[Announcement]:
        moment = _moment(answer.document().get("noticeTime"))
        return (Announcement(self.platform, "rebalance", ends=False, identity=moment.isoformat()),)


def _moment(text: object) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(text)  # type: ignore[arg-type]
        if moment.tzinfo is None:
            raise ValueError
    except (ValueError, TypeError):
        raise Unavailable(f"a notice with the time {text!r}") from None
    return moment
