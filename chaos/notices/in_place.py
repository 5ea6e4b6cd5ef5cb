"""Has `resilient.fit` of this process ask a fake instead of the cloud."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

from chaos.notices.aws import AwsServer
from chaos.notices.gce import GceServer
from chaos.notices.server import FakeServer
from resilient.preemption import aws, azure, gce
from resilient.preemption.notices import PLATFORMS
from resilient.preemption.source import Source


@contextlib.contextmanager
def in_place(server: FakeServer) -> Iterator[None]:
    """While it lasts, the platform's name in `notices` means this server."""
    with mock.patch.dict(PLATFORMS, _sources(server)):
        yield


def _sources(server: FakeServer) -> dict[str, Callable[[float | None], list[Source]]]:
    at = server.address
    if isinstance(server, AwsServer):
        return {"aws": lambda _: [aws.Interruption(at), aws.Rebalance(at)]}
    if isinstance(server, GceServer):
        return {"gce": lambda _: [gce.preempted(at), gce.maintenance(at)]}
    return {
        "azure": lambda _: [azure.ScheduledEvents(at)],
        "azure:acknowledge": lambda _: [azure.ScheduledEvents(at, acknowledges=True)],
    }
