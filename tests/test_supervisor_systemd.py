"""sd_notify as a service manager sees it."""

from __future__ import annotations

import os

import pytest
from notify_socket import NotifySocket
from supervised import supervised, wait_for


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_reports_its_whole_life(tmp_path, abstract):
    """READY when the program is started, STATUS with the position, STOPPING when it was asked to; the program itself sees no socket."""
    body = """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    train(begin())
    train(12)
    say("ready", os.environ.get("NOTIFY_SOCKET"))
    forever()
    """
    with (
        NotifySocket(tmp_path / "notify", abstract=abstract) as notify,
        supervised(tmp_path, body, variables=notify.environment) as process,
    ):
        notify.wait_for("READY=1")
        assert wait_for(process, "ready") == ["None"]
        assert notify.wait_for("STATUS=attempt 1: training at epoch 1, batch 2 (step 12)")
        process.terminate()
        notify.wait_for("STOPPING=1")
        assert process.wait() == 75
    assert not any(line.startswith("WATCHDOG") for line in notify.received)


def test_the_watchdog_is_fed_by_progress_alone(tmp_path):
    """Each ping belongs to a beat, and carries how long the next may take; a program that hangs feeds nothing."""
    body = """
    train(begin())
    for step in range(1, 6):
        train(step)
        say("step", step)
        sys.stdin.readline()
    end()
    """
    reader, writer = os.pipe()
    watchdog = {"WATCHDOG_USEC": "10000000"}
    with (
        NotifySocket(tmp_path / "notify") as notify,
        supervised(tmp_path, body, "--hang-timeout", "7m", variables={**notify.environment, **watchdog}, stdin=reader) as process,
    ):
        pings = []
        for step in range(1, 6):
            assert wait_for(process, "step") == [str(step)]
            notify.wait_for(f"STATUS=attempt 1: training at epoch 0, batch {step}")
            pings.append(notify.received.count("WATCHDOG=1"))
            os.write(writer, b"\n")
        assert process.wait() == 0
        os.close(writer)
        os.close(reader)
    # One for each beat, and two before: the pause before the attempt, and its start.
    assert max(pings) <= 7 and "WATCHDOG_USEC=430000000" in notify.received


def test_the_time_to_stop_is_extended_while_a_save_is_under_way(tmp_path):
    """Again and again, also beyond the grace period, until the save is over."""
    body = """
    def stop(*_):
        heartbeat.saving()
        while not os.path.exists("saved"):
            time.sleep(0.01)
        heartbeat.saved(1)
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
    train(begin())
    say("ready")
    forever()
    """
    with (
        NotifySocket(tmp_path / "notify") as notify,
        supervised(tmp_path, body, "--grace", "1s", variables=notify.environment) as process,
    ):
        wait_for(process, "ready")
        process.terminate()
        for _ in range(4):
            notify.wait_for("EXTEND_TIMEOUT_USEC=")
        (tmp_path / "saved").touch()
        assert process.wait() == 75
