"""Each platform's watcher against a server that speaks its protocol: what is a notice, and all that is none."""

from __future__ import annotations

import dataclasses
import datetime as dt
import email.message
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos.notices import AwsServer, AzureServer, Fault, GceServer, in_place
from resilient import settings
from resilient.errors import ConfigurationError
from resilient.preemption import Notices, StopRequest, aws, azure, gce, metadata, platform, slurm
from resilient.preemption.notices import PLATFORMS
from resilient.preemption.polling import Polling
from resilient.preemption.source import Announcement, Source

FAULTS = [fault for fault in Fault if fault is not Fault.SLOW]
MAKERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Source], str]] = {
    "aws": (AwsServer, lambda server: aws.Interruption(server.address), "announce"),
    "aws rebalance": (AwsServer, lambda server: aws.Rebalance(server.address), "recommend_rebalance"),
    "gce": (GceServer, lambda server: gce.preempted(server.address), "announce"),
    "azure": (AzureServer, lambda server: azure.ScheduledEvents(server.address), "announce"),
}


class Seen:
    """What a polling thread passed on, and when."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.notices: list[tuple[Announcement, float | None]] = []
        self.lefts: list[float | None] = []

    def __call__(self, announcement: Announcement, deadline: float | None) -> None:
        with self.changed:
            self.notices.append((announcement, deadline))
            self.lefts.append(None if deadline is None else deadline - time.monotonic())
            self.changed.notify_all()

    def wait(self, count: int = 1) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.notices) >= count, 30), self.notices

    @property
    def kinds(self) -> list[str]:
        return [announcement.kind for announcement, _ in self.notices]


@contextmanager
def watching(source: Source, grace: float | None = None) -> Iterator[Seen]:
    """The source asked a hundred times a second."""
    source.interval = 0.01
    seen = Seen()
    polling = Polling(source, grace, seen)
    polling.start()
    try:
        yield seen
    finally:
        polling.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Answers have a fifth of a second, where a test waits for one that does not come."""
    for module, name in ((aws, "_SECONDS"), (gce, "_SECONDS"), (azure, "_SECONDS"), (azure, "_FIRST")):
        monkeypatch.setattr(module, name, 0.2)
    return monkeypatch


# -- nothing but a real notice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("name", MAKERS)
def test_an_answer_that_means_nothing_is_no_notice_and_the_next_good_one_is(name: str, fault: Fault, impatient: pytest.MonkeyPatch) -> None:
    """The notice stands behind the fault all the time; it is passed on only when the server says so properly."""
    make, source, announce = MAKERS[name]
    with make() as server:
        getattr(server, announce)()
        server.change(fault=fault)
        with watching(source(server)) as seen:
            server.wait_for_requests(2)
            assert seen.notices == []
            impatient.undo()
            server.change(fault=None)
            seen.wait()
        assert all("moved" not in request.path for request in server.requests)


@pytest.mark.parametrize("name", MAKERS)
def test_a_slow_answer_is_an_answer(name: str) -> None:
    """Half a second is slow for a metadata server, and no reason not to listen."""
    make, source, announce = MAKERS[name]
    with make() as server:
        getattr(server, announce)()
        server.change(fault=Fault.SLOW)
        with watching(source(server)) as seen:
            seen.wait()


@pytest.mark.parametrize("name", MAKERS)
def test_no_notice_is_no_news(name: str) -> None:
    """A healthy server with nothing to say is asked again and again, and nothing comes of it until something is announced."""
    make, source, announce = MAKERS[name]
    with make() as server, watching(source(server)) as seen:
        server.wait_for_requests(2)
        assert seen.notices == []
        getattr(server, announce)()
        seen.wait()


class Scripted(Source):
    """Answers as it is told to, and then no more."""

    platform = "aws"
    interval = 0.0

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.over, self.closed = threading.Event(), threading.Event()

    def poll(self) -> Any:
        if not self.answers:
            self.over.set()
            self.closed.wait()
            return ()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed.set()


def passed_on(*answers: Any) -> list[tuple[str, bool]]:
    """Kind of each announcement that was passed on, and whether it stops training."""
    source, seen = Scripted(*answers), Seen()
    polling = Polling(source, None, seen)
    polling.start()
    assert source.over.wait(30)
    polling.close()
    return [(announcement.kind, deadline is not None) for announcement, deadline in seen.notices]


STOP, SAVE = Announcement("aws", "stop", ends=True, left=60.0), Announcement("aws", "rebalance", ends=False)


def test_a_notice_that_stands_is_passed_on_once() -> None:
    """However often it is read, with whatever time left, and whatever fails in between."""
    later = [dataclasses.replace(STOP, left=left) for left in (59.0, 58.0)]
    failure = metadata.Unavailable("busy")
    assert passed_on([STOP], [later[0]], failure, [later[1], SAVE], [SAVE]) == [("stop", True), ("rebalance", False)]


def test_a_notice_that_was_called_off_and_comes_again_is_passed_on_again() -> None:
    """The second live migration of a long training is as good a reason to save as the first."""
    assert passed_on([SAVE], [], [SAVE]) == [("rebalance", False)] * 2


def test_two_notices_of_a_kind_are_two() -> None:
    """They differ in their identity."""
    assert passed_on([SAVE], [SAVE, dataclasses.replace(SAVE, identity="2")]) == [("rebalance", False)] * 2


def test_an_end_that_is_far_off_is_passed_on_as_a_save_and_later_as_a_stop() -> None:
    """Training goes on until three minutes before."""
    far, farther = [dataclasses.replace(STOP, left=left) for left in (200.0, 900.0)]
    assert passed_on([farther], [far], [STOP], [STOP]) == [("stop", False), ("stop", True)]


def test_an_answer_that_breaks_the_watcher_does_not_end_it() -> None:
    """Not even by an error that nobody thought of."""
    assert passed_on(ZeroDivisionError(), RecursionError(), [None], [STOP]) == [("stop", True)]


def test_several_failures_in_a_row_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A run whose notices nobody sees should not look like one that is watched."""
    with AwsServer() as server:
        server.change(fault=Fault.FORBIDDEN)
        with watching(aws.Interruption(server.address)):
            server.wait_for_requests(6)
    said = capsys.readouterr().err
    assert said.count("preemption notices of aws are not seen") == 1
    assert "status 403" in said


# -- AWS -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["terminate", "stop"])
def test_aws_interruption_sets_the_deadline_that_the_notice_tells(action: str) -> None:
    """Two minutes, less the second that the server's date may hide."""
    with AwsServer() as server, watching(aws.Interruption(server.address)) as seen:
        server.interrupt(action, 120)
        seen.wait()
    assert seen.kinds == [action]
    assert 100 < seen.lefts[0] <= 120  # type: ignore[operator]


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
@pytest.mark.parametrize("name", ["aws", "azure"])
def test_the_deadline_is_read_from_the_servers_clock(name: str, skew: float) -> None:
    """A machine whose clock is an hour off gets the same time to save."""
    make, source, _ = MAKERS[name]
    with make() as server:
        server.change(skew=skew)
        with watching(source(server)) as seen:
            server.interrupt(seconds=100) if name == "aws" else server.schedule(seconds=100)
            seen.wait()
    assert 80 < seen.lefts[0] <= 100  # type: ignore[operator]


def test_without_a_date_in_the_answer_the_machines_own_clock_counts() -> None:
    """Also where the date is no date."""
    headers = email.message.Message()
    headers["Date"] = "yesterday"
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=50)
    for given in (headers, email.message.Message()):
        assert 40 < metadata.Answer(200, given, "").seconds_until(moment) <= 50


def test_aws_hibernation_and_rebalance_save_and_go_on() -> None:
    """Memory survives the one, and the other may never come to anything."""
    with AwsServer() as server:
        server.interrupt("hibernate", 0)
        server.recommend_rebalance()
        with watching(aws.Interruption(server.address)) as seen:
            seen.wait()
        with watching(aws.Rebalance(server.address)) as advice:
            advice.wait()
    assert (seen.kinds, seen.lefts) == (["hibernate"], [None])
    assert (advice.kinds, advice.lefts) == (["rebalance"], [None])


def test_aws_interruption_that_is_long_over_is_no_notice() -> None:
    """One that is just due is; it then has the shortest grace of any platform."""
    with AwsServer() as server:
        server.interrupt("stop", -3600)
        with watching(aws.Interruption(server.address)) as seen:
            server.wait_for_requests(4)
            assert seen.notices == []
            server.interrupt("stop", -5)
            seen.wait()
    assert 10 < seen.lefts[0] <= 15  # type: ignore[operator]


@pytest.mark.parametrize(
    "body",
    [
        '{"action": "terminate"}',
        '{"action": "terminate", "time": null}',
        '{"action": "terminate", "time": "soon"}',
        '{"action": "terminate", "time": "2040-01-01T00:00:00"}',
        '{"action": "celebrate", "time": "2040-01-01T00:00:00Z"}',
        '{"action": ["terminate"], "time": "2040-01-01T00:00:00Z"}',
        '["terminate", "2040-01-01T00:00:00Z"]',
        "terminate",
        "[" * 100_000,
        "",
    ],
)
def test_aws_item_that_is_no_proper_notice_is_none(body: str) -> None:
    """Status 200 alone does not stop a run."""
    with AwsServer() as server:
        server.put("/latest/meta-data/spot/instance-action", body)
        with watching(aws.Interruption(server.address)) as seen:
            server.wait_for_requests(3)
            assert seen.notices == []
            server.interrupt()
            seen.wait()


def test_aws_token_is_kept_until_shortly_before_its_end() -> None:
    """One token serves many questions; one that ends within the safety margin serves none after the first."""
    with AwsServer() as server:
        kept, short = aws.Interruption(server.address), aws.Interruption(server.address)
        assert [kept.poll(), kept.poll(), kept.poll()] == [(), (), ()]
        server.change(longest_ttl=15)
        assert [short.poll(), short.poll()] == [(), ()]
        assert [request.method for request in server.requests] == ["PUT", "GET", "GET", "GET", "PUT", "GET", "PUT", "GET"]
        assert server.requests[0].headers["x-aws-ec2-metadata-token-ttl-seconds"] == "3600"


def test_aws_token_that_is_refused_is_replaced_within_the_same_poll() -> None:
    """So a restart of the service does not delay a notice."""
    with AwsServer() as server:
        source = aws.Interruption(server.address)
        assert source.poll() == ()
        server.forget_tokens()
        server.interrupt()
        assert [found.kind for found in source.poll()] == ["terminate"]
        assert [request.method for request in server.requests] == ["PUT", "GET", "GET", "PUT", "GET"]


# -- GCE -------------------------------------------------------------------------------------------------------------------------


def test_gce_preemption_is_announced_by_the_question_that_waits() -> None:
    """The first question is a plain one, the second names the etag and returns when the value changes."""
    with GceServer() as server, watching(gce.preempted(server.address)) as seen:
        server.wait_until(lambda: any("wait_for_change=true" in request.path for request in server.requests))
        server.announce()
        seen.wait()
        assert [request.path.partition("?")[2] for request in server.requests[:2]] == [
            "",
            "wait_for_change=true&timeout_sec=10&last_etag=0000000000000001",
        ]
    assert seen.kinds == ["preempted"]
    assert 20 < seen.lefts[0] <= 30  # type: ignore[operator]


def test_gce_change_between_two_questions_is_not_missed() -> None:
    """The etag of the last answer is older than the value, so the next question is answered at once."""
    with GceServer() as server:
        source = gce.preempted(server.address)
        assert source.poll() == ()
        server.announce()
        assert [found.kind for found in source.poll()] == ["preempted"]


def test_gce_machine_made_with_a_longer_notice_gets_it_from_grace() -> None:
    """The metadata does not tell how long it is."""
    with GceServer() as server, watching(gce.preempted(server.address), grace=120) as seen:
        server.announce()
        seen.wait()
    assert 110 < seen.lefts[0] <= 120  # type: ignore[operator]


@pytest.mark.parametrize("event", ["MIGRATE_ON_HOST_MAINTENANCE", "TERMINATE_ON_HOST_MAINTENANCE"])
def test_gce_maintenance_saves_and_goes_on(event: str) -> None:
    """The one ends nothing, and the other comes an hour ahead."""
    with GceServer() as server, watching(gce.maintenance(server.address)) as seen:
        server.maintain(event)
        seen.wait()
    assert (seen.kinds, seen.lefts) == ([event], [None])


def test_gce_value_from_anybody_else_is_no_notice() -> None:
    """Google's server says in every answer that it is Google's."""

    class Impostor(GceServer):
        def _google(self, reply: Any) -> Any:
            return reply

    with Impostor() as server:
        server.announce()
        with watching(gce.preempted(server.address)) as seen:
            server.wait_for_requests(3)
        assert seen.notices == []


@pytest.mark.parametrize("value", ["", "true", "TRUE FALSE", "1", "PREEMPTED"])
def test_gce_value_that_is_not_documented_is_no_notice(value: str) -> None:
    """Only TRUE is."""
    with GceServer() as server:
        server.set("preempted", value)
        with watching(gce.preempted(server.address)) as seen:
            server.wait_for_requests(3)
            assert seen.notices == []
            server.announce()
            seen.wait()


# -- Azure -----------------------------------------------------------------------------------------------------------------------


def test_azure_events_of_other_machines_are_no_notice() -> None:
    """A scale set's events are told to each of its machines; names do not tell capitals from small letters."""
    with AzureServer(name="Train-0") as server:
        server.schedule("Preempt", machines=["train-1", "train-00"])
        with watching(azure.ScheduledEvents(server.address)) as seen:
            server.wait_for_requests(4)
            assert seen.notices == []
            server.schedule("Preempt", 30, machines=["train-1", "TRAIN-0"])
            seen.wait()
        assert seen.notices[0][0].identity == "event-2 Scheduled"
    assert 20 < seen.lefts[0] <= 30  # type: ignore[operator]


def test_azure_that_does_not_know_the_machines_name_is_a_server_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing tells whose the events are, and that is said."""
    with AzureServer(name="<html>?") as server:
        server.schedule()
        with watching(azure.ScheduledEvents(server.address)) as seen:
            server.wait_for_requests(7)
        assert seen.notices == []
    assert "the machine's name is '<html>?'" in capsys.readouterr().err


def test_azure_event_that_has_begun_has_the_shortest_grace() -> None:
    """It comes without a time; a hardware failure is announced no earlier."""
    with AzureServer() as server, watching(azure.ScheduledEvents(server.address)) as seen:
        server.schedule("Redeploy", None)
        seen.wait()
    assert 10 < seen.lefts[0] <= 15  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["Reboot", "Redeploy", "Terminate", "Preempt"])
def test_azure_event_that_is_far_off_saves_at_once_and_stops_three_minutes_before(kind: str) -> None:
    """Training a quarter of an hour less would be a loss, and a restart would meet the same event."""
    with AzureServer() as server, watching(azure.ScheduledEvents(server.address)) as seen:
        server.schedule(kind, 900)
        seen.wait(1)
        server.change(skew=750.0)  # the server's clock goes on
        seen.wait(2)
    assert seen.kinds == [kind, kind]
    assert seen.lefts[0] is None
    assert 130 < seen.lefts[1] <= 150  # type: ignore[operator]


def test_azure_freeze_saves_and_goes_on_and_an_unknown_event_does_nothing() -> None:
    """Some seconds of standstill end nothing."""
    with AzureServer() as server, watching(azure.ScheduledEvents(server.address)) as seen:
        server.schedule("Celebration", 10)
        server.wait_for_requests(3)
        server.schedule("Freeze", 10)
        seen.wait()
    assert (seen.kinds, seen.lefts) == (["Freeze"], [None])


@pytest.mark.parametrize(
    "change",
    [
        {"NotBefore": "soon"},
        {"NotBefore": 7},
        {"EventId": None},
        {"EventStatus": "Completed"},
        {"EventType": ["Preempt"]},
        {"Resources": "train-0"},
        {"ResourceType": "Toaster"},
    ],
)
def test_azure_event_that_is_no_proper_event_is_no_notice(change: dict[str, Any]) -> None:
    """However well the rest of it looks."""
    with AzureServer() as server:
        server.schedule()
        server._events[0].update(change)
        with watching(azure.ScheduledEvents(server.address)) as seen:
            server.wait_for_requests(3)
            assert seen.notices == []


def test_azure_is_told_only_when_asked_to_and_only_of_events_of_this_machine_alone() -> None:
    """The word lets an event begin on all of its machines."""
    with AzureServer() as server:
        server.schedule("Reboot", 900, machines=["train-0", "train-1"])
        mine = server.schedule("Reboot", 900)
        server.schedule("Freeze", 900)
        server.schedule("Reboot", 900, machines=["train-1"])
        silent, telling = azure.ScheduledEvents(server.address), azure.ScheduledEvents(server.address, acknowledges=True)
        with watching(silent) as seen, watching(telling) as at_once:
            seen.wait(3)
            at_once.wait(3)
        assert [left is None for left in seen.lefts] == [True, True, True]
        assert [left is None for left in at_once.lefts] == [True, False, True]  # no reason to wait for what may begin at once
        silent.acknowledge()
        assert server.approved == []
        telling.acknowledge()
        assert server.approved == [mine]


def test_azure_that_does_not_take_the_acknowledgement_stops_nothing(impatient: None) -> None:
    """Then the event begins when it would have begun anyway."""
    with AzureServer() as server:
        server.schedule()
        source = azure.ScheduledEvents(server.address, acknowledges=True)
        source.poll()
        server.change(fault=Fault.HANG)
        source.acknowledge()
        assert server.requests[-1].method == "POST"


# -- Slurm -----------------------------------------------------------------------------------------------------------------------


def test_slurm_time_limit_is_announced_when_the_margin_begins() -> None:
    """Not before, and with the time that is left."""
    end = time.time() + 1000
    assert slurm.TimeLimit(end, margin=60).poll() == ()
    (found,) = slurm.TimeLimit(end, margin=1001).poll()
    assert found.ends and found.left is not None and 900 < found.left <= 1000


def test_slurm_margin_is_a_minute_a_tenth_of_a_short_job_or_the_callers_own() -> None:
    """So a job of two minutes is not stopped after one."""

    def margin(seconds: float, grace: float | None = None) -> float:
        (found,) = slurm.time_limit({"SLURM_JOB_END_TIME": str(int(time.time() + seconds))}, grace)
        return found._margin  # type: ignore[attr-defined,no-any-return]

    assert margin(7200) == 60
    assert 10 < margin(120) <= 12
    assert margin(120, grace=90) == 90


@pytest.mark.parametrize("told", [None, "", "never", "-5", "1e99", "12.5", "1000000000", "0"])
def test_slurm_end_that_is_not_told_or_is_over_is_not_watched(told: str | None) -> None:
    """A variable that a shell inherited from yesterday's job stops nothing."""
    assert slurm.time_limit({} if told is None else {"SLURM_JOB_END_TIME": told}, None) == []


# -- where they run --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sys_vendor": "Amazon EC2\n", "bios_version": "1.0"}, ("aws",)),
        ({"sys_vendor": "Xen\n", "bios_version": "4.11.amazon\n"}, ("aws",)),
        ({"product_name": "Google Compute Engine\n"}, ("gce",)),
        ({"sys_vendor": "Google\n", "product_name": "Eve\n"}, ()),
        ({"chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77\n"}, ("azure",)),
        ({"sys_vendor": "Microsoft Corporation\n", "product_name": "Virtual Machine\n"}, ()),
        ({"sys_vendor": "QEMU\n"}, ()),
        ({}, ()),
    ],
)
def test_the_platform_is_known_by_the_machines_firmware(fields: dict[str, str], expected: tuple[str, ...], tmp_path: Path) -> None:
    """A vendor's laptop or hypervisor is not its cloud."""
    for name, value in fields.items():
        (tmp_path / name).write_text(value)
    assert platform.detect({}, tmp_path) == expected
    assert platform.detect({"SLURM_JOB_ID": "7"}, tmp_path) == (*expected, "slurm")


def test_off_cloud_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto makes no connection and starts no thread where the machine is on no platform."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(platform, "_field", lambda dmi, name: "")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = threading.active_count()
    with Notices(None, None, StopRequest(), refuse):
        assert threading.active_count() == before


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would answer for another machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with AwsServer() as server, watching(aws.Interruption(server.address)) as seen:
        server.interrupt()
        seen.wait()


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.DRIP])
def test_closing_ends_a_question_that_waits(fault: Fault) -> None:
    """Training that is over does not wait for a server: this question would go on for two minutes."""
    with AzureServer() as server:
        server.change(fault=fault)
        polling = Polling(azure.ScheduledEvents(server.address), None, Seen())
        polling.start()
        server.wait_for_requests(1)
        polling.close()
        polling._thread.join(60)
        assert not polling._thread.is_alive()


def test_closing_ends_a_connection_that_nobody_takes() -> None:
    """As where packets to the address are dropped."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):  # the one place in its queue
            source = azure.ScheduledEvents(listener.getsockname())
            polling = Polling(source, None, Seen())
            polling.start()
            while source._server._socket is None:
                time.sleep(0.001)
            polling.close()
            polling._thread.join(60)
            assert not polling._thread.is_alive()


def test_notices_request_the_stop_first_and_record_what_was_announced() -> None:
    """With the deadline as a time of day, which whoever reads the journal later understands."""
    stop, recorded = StopRequest(), threading.Event()
    records: list[dict[str, Any]] = []

    def record(**fields: Any) -> None:
        records.append({**fields, "requested": stop.requested})
        recorded.set()

    with AwsServer() as server, in_place(server), Notices(("aws",), None, stop, record):
        server.interrupt("terminate", 120)
        assert recorded.wait(30)
    assert stop.notice is not None and stop.notice.reason == "aws terminate"
    (found,) = records
    left = dt.datetime.fromisoformat(found.pop("deadline")) - dt.datetime.now(dt.UTC)
    assert 90 < left.total_seconds() <= 120
    assert found == {"platform": "aws", "kind": "terminate", "action": "stop", "requested": True}


def test_notices_that_end_nothing_ask_for_a_save_only() -> None:
    """The flag is the training loop's to set back."""
    stop, recorded = StopRequest(), threading.Event()
    with AwsServer() as server, in_place(server), Notices(("aws",), None, stop, lambda **_: recorded.set()):
        server.recommend_rebalance()
        assert recorded.wait(30)
    assert (stop.save_requested, stop.requested) == (True, False)


# -- the argument ----------------------------------------------------------------------------------------------------------------


def test_every_accepted_name_has_a_watcher() -> None:
    """And no watcher is without a name."""
    assert set(settings.NOTICES) == PLATFORMS.keys()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("auto", None),
        ((), ()),
        ("aws", ("aws",)),
        (["gce", "slurm", "gce"], ("gce", "slurm")),
        ("azure:acknowledge", ("azure:acknowledge",)),
    ],
)
def test_notices_are_names_of_platforms(given: Any, expected: Any) -> None:
    """One, several, none, or those of the machine itself."""
    assert settings._notices(given) == expected


@pytest.mark.parametrize("given", ["", "AWS", "ec2", ("aws", "ec2"), None, True, 5, ["auto"], b"aws", {"aws": 1}])
def test_notices_of_no_known_platform_are_refused(given: Any) -> None:
    """With what is accepted."""
    with pytest.raises(ConfigurationError, match="azure:acknowledge"):
        settings._notices(given)


@pytest.mark.parametrize(
    ("ends", "left", "grace", "expected"),
    [
        (True, 100.0, None, 1100.0),
        (True, 100.0, 20.0, 1020.0),
        (True, 100.0, 500.0, 1100.0),
        (True, None, None, 1015.0),
        (True, None, 40.0, 1040.0),
        (True, -3.0, None, 1015.0),
        (True, 181.0, None, None),
        (False, 10.0, None, None),
        (False, None, 10.0, None),
    ],
)
def test_the_deadline_is_the_platforms_and_the_callers_grace_bounds_it(
    ends: bool, left: float | None, grace: float | None, expected: float | None
) -> None:
    """Grace shortens what a platform tells, and stands in for what it does not tell."""
    assert Source().deadline(Announcement("aws", "stop", ends, left), 1000.0, grace) == expected
