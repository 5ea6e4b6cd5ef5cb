"""Programs that stop moving, and those that only seem to."""

from __future__ import annotations

import os
import signal

from notify_socket import NotifySocket
from supervised import events, run, supervised, wait_for

STUCK = """
def stuck():
    time.sleep(300)
"""


def test_a_hang_shows_the_stacks_and_is_restarted(tmp_path):
    """The log names the function it hung in, the journal the batch; the program that ignores SIGTERM is killed, and the next goes on."""
    body = (
        STUCK
        + """
train(begin())
if attempt == 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    save(3)
    train(4)
    stuck()
end()
"""
    )
    done = run(tmp_path, body, "--hang-timeout", "1s", "--grace", "1s")
    assert done.returncode == 0
    assert "in stuck" in done.stderr and "most recent call first" in done.stderr
    (hung,) = events(tmp_path, "hung")
    assert (hung["attempt"], hung["section"], hung["epoch"], hung["batch"], hung["lost_steps"]) == (1, "training", 0, 4, 1)
    first, second = events(tmp_path, "exited")
    assert (first["signal"], first["verdict"], second["verdict"]) == ("SIGKILL", "failed", "done")
    assert "no sign of life" in first["reason"]


def test_a_hang_that_ends_in_75_is_still_a_failure(tmp_path):
    """`fit` leaves a batch that does not end with 75 when it gets SIGTERM; a program that hangs each time must be given up."""
    body = STUCK + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); train(begin()); stuck()"
    done = run(tmp_path, body, "--hang-timeout", "1s", "--give-up", "1")
    assert done.returncode == 93


def test_long_work_outside_the_batches_is_no_hang(tmp_path):
    """Before the first batch, once an epoch, in a save and after fit, the time for one batch is no measure."""
    body = """
    step = begin()
    time.sleep(2.5)
    for section in (Section.BETWEEN, Section.STOPPING):
        heartbeat.beat(section, at(10))
        time.sleep(2.5)
    train(11)
    end()
    time.sleep(2.5)
    """
    done = run(tmp_path, body, "--hang-timeout", "1s")
    assert (done.returncode, events(tmp_path, "hung")) == (0, [])


def test_a_suspended_program_does_not_hang(tmp_path):
    """While it is stopped (SIGSTOP) its silence is not counted, however long; the watchdog is told that all is well."""
    body = """
    train(begin())
    say("pid", os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)
    train(1)
    end()
    """
    with NotifySocket(tmp_path / "notify") as notify:
        variables = {**notify.environment, "WATCHDOG_USEC": "60000000"}
        with supervised(tmp_path, body, "--hang-timeout", "3s", variables=variables) as process:
            (pid,) = wait_for(process, "pid")
            for _ in range(8):  # one a second, and the first only after two of silence
                notify.wait_for("WATCHDOG=1")
            os.kill(int(pid), signal.SIGCONT)
            assert process.wait() == 0
    assert events(tmp_path, "hung") == []
