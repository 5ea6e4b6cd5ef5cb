"""`resilient unit systemd` on a real systemd."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from held_training import OPTIONS, PROGRAM, undisturbed
from namespaces import wait_until
from supervised import ROOT, events, write
from systemd_machine import Machine, reason_to_skip

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

# Trains a batch every few milliseconds, saves every tenth, and after SIGTERM the last one too.
STEADY = """
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
start_worker()
step = begin()
say("begins", step, "pid", os.getpid())
while not asked and step < 100_000:
    step += 1
    train(step)
    if step % 10 == 0:
        save(step)
    time.sleep(0.005)
heartbeat.beat(Section.STOPPING, at(step))
save(step)
say("saved", step)
sys.exit(75)
"""

_numbers = itertools.count()


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """One machine for all tests: each has a service of its own."""
    with Machine(tmp_path_factory.mktemp("machine")).powered() as machine:
        yield machine


class Service:
    """A training as a service, from `resilient unit systemd` to `systemctl`.

    Args:
        machine: it runs there.
        directory: where it runs.
        options: of `resilient unit systemd`.
        drop_in: see `Machine.install`. Without it a restart would wait for ten seconds.
        amend: what the unit is changed to, where a test wants it wrong.
    """

    def __init__(self, machine: Machine, directory: Path, *options: str, command=(), drop_in="", amend=lambda text: text) -> None:
        self.machine, self.directory, self.name = machine, directory, f"test{next(_numbers)}.service"
        self.output = directory / "output"
        words = [*options, f"--name={self.name.removesuffix('.service')}", f"--env=PYTHONPATH={ROOT}:{ROOT / 'tests'}", "--"]
        text = amend(printed(directory, *words, *(command or (sys.executable, "program.py"))))
        streams = "".join(f"{stream}=append:{str(self.output).replace('%', '%%')}\n" for stream in ("StandardOutput", "StandardError"))
        machine.install(self.name, text, f"[Service]\nRestartSec=50ms\n{streams}{drop_in}")

    def __enter__(self) -> Service:
        self.machine.systemctl("start", "--no-block", self.name)
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.remove(self.name)

    def wait_for(self, **properties: str) -> None:
        """Returns when systemd's properties of the service are as they should be."""
        wait_until(lambda: self.machine.show(self.name, *properties) == properties, f"the service has {properties}", self.output)

    def show(self, name: str) -> str:
        return self.machine.show(self.name, name)[name]

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def lines(self, word: str) -> list[list[str]]:
        """What the program said after `word`, each time."""
        return [line.split()[1:] for line in self.text().splitlines() if line.split()[:1] == [word]]

    def wait_for_line(self, word: str, times: int = 1) -> list[str]:
        wait_until(lambda: len(self.lines(word)) >= times, f"the program has said {word!r} {times} times", self.output)
        return self.lines(word)[times - 1]

    def wait_for_step(self, least: int) -> None:
        """Until a checkpoint of that step is there."""
        wait_until(lambda: self.committed() >= least, f"step {least} is saved", self.output)

    def committed(self) -> int:
        run = self.directory / "run"
        return max((int(name) for name in os.listdir(run) if name.isdecimal()), default=0) if run.exists() else 0


def printed(directory: Path, *arguments: str) -> str:
    """What `resilient unit systemd` prints in `directory`."""
    command = [sys.executable, "-m", "resilient", "unit", "systemd", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=True).stdout


# -- the text ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [[], ["--user"]], ids=["system", "user"])
def test_systemd_analyze_has_nothing_to_say(tmp_path, user):
    """Neither an error nor a warning, for the machine's manager and a user's."""
    unit = tmp_path / "train.service"
    unit.write_text(printed(tmp_path, *user, "--grace", "2m", "--env", "A=b c", "--", sys.executable, "train.py", "--name", "50% of $HOME"))
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        ["systemd-analyze", *user, "--man=no", "verify", str(unit)],
        env={**os.environ, **runtime},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("option", "scope", "place", "target"),
    [([], [], "system", "multi-user"), (["--user"], ["--global"], "user", "default")],
    ids=["system", "user"],
)
def test_enable_has_it_start_with_the_machine_or_the_user(tmp_path, option, scope, place, target):
    """As systemctl itself reads the unit's [Install], in a file system of the test's own."""
    units = tmp_path / "etc" / "systemd" / place
    units.mkdir(parents=True)
    (units / "train.service").write_text(printed(tmp_path, *option, "--", sys.executable, "train.py"))
    subprocess.run(["systemctl", f"--root={tmp_path}", *scope, "enable", "train.service"], check=True, capture_output=True)
    assert [str(link.relative_to(units)) for link in units.rglob("*.wants/*")] == [f"{target}.target.wants/train.service"]


NASTY = [
    "", " ", "a b", "  two  ", "tab\there", "new\nline", "\r", "'", '"', "it's", '"quoted"', "\\", "\\n", "back\\slash ", "\\x41",
    "\x01\x7f", "$", "$$", "$HOME", "${HOME}", "$A b", "100%", "%n", "%%", "%i.%h", ";", "a;b", "\\;", "#", "# no comment", "[Unit]",
    "=", "a=b", "*", "?", "~", "|", "&", "<", ">", "(", ")", "{", "}", "`ls`", "$(ls)", "!", "@", "-", "--", "-x", "+", ":", "ü", "日本",
    "🙂", "\u00a0", "\u2028", "e\u0301", "x" * 5000, "--flag=va lue", "'a' \"b\"", "\\\\\\", "trailing\\",
]  # fmt: skip


def test_systemd_reads_back_every_argument_and_variable(machine, tmp_path):
    """Quotes, spaces, dollars, percent signs, control characters: the program gets what was typed."""
    code = "import json, os, sys; json.dump([sys.argv[1:], os.environ['ODD'], os.getcwd()], open('seen', 'w'))"
    odd = "".join(text for text in NASTY if len(text) < 100)
    directory = tmp_path / "odd place, 100% 'quoted' $HOME"
    directory.mkdir()
    with Service(machine, directory, f"--env=ODD={odd}", command=(sys.executable, "-c", code, *NASTY)) as service:
        service.wait_for(ActiveState="inactive", Result="success", ExecMainStatus="0")
    assert json.loads((directory / "seen").read_text()) == [NASTY, odd, str(directory)]


# A data worker that tells of what it gets.
WORKER = """
telling = "import signal, time; signal.signal(15, lambda *_: print('worker got SIGTERM', flush=True)); print('worker listens', flush=True)"
subprocess.Popen([sys.executable, "-c", telling + "; time.sleep(300)"])
"""

# -- its life ---------------------------------------------------------------------------------------------------------------------


def test_start_is_ready_and_stop_saves_first(machine, tmp_path):
    """Active, with the position as its status. After `systemctl stop` the state is saved, no data worker was told, nothing has failed."""
    write(tmp_path, STEADY.replace("start_worker()", WORKER))
    with Service(machine, tmp_path) as service:
        service.wait_for_line("worker")
        service.wait_for_step(20)
        assert service.show("ActiveState") == "active"
        told = "attempt 1: training at epoch"
        wait_until(lambda: service.show("StatusText").startswith(told), "its status tells the position", service.output)
        machine.systemctl("stop", service.name)
        service.wait_for(ActiveState="inactive", SubState="dead", Result="success", ExecMainStatus="75", NRestarts="0")
        assert [service.committed()] == [int(step) for (step,) in service.lines("saved")]
    assert service.lines("worker") == [["listens"]]
    assert [event["verdict"] for event in events(tmp_path, "exited")] == ["preempted"]


def test_the_time_to_stop_is_extended_while_a_save_is_under_way(machine, tmp_path):
    """A save that outlasts both the grace period and the unit's own limit is waited for."""
    body = """
    def stop(*_):
        heartbeat.saving()
        say("saving")
        while not os.path.exists("enough"):
            time.sleep(0.01)
        (heartbeat.saved(1), say("saved"), sys.exit(75))
    signal.signal(signal.SIGTERM, stop)
    train(begin())
    say("ready")
    forever()
    """
    write(tmp_path, body)
    with Service(machine, tmp_path, "--grace=1s", drop_in="TimeoutStopSec=2s\n") as service:
        service.wait_for_line("ready")
        machine.systemctl("stop", "--no-block", service.name)
        service.wait_for_line("saving")
        longer_than_both = time.monotonic() + 4
        while time.monotonic() < longer_than_both:
            assert service.show("ActiveState") == "deactivating"
        (tmp_path / "enough").touch()
        service.wait_for(ActiveState="inactive", Result="success", ExecMainStatus="75")
    assert service.lines("saved")


def test_a_killed_supervisor_is_started_again_and_the_training_goes_on(machine, tmp_path):
    """SIGKILL to the supervisor: nothing of the training is left, systemd starts another, and it goes on from the last checkpoint."""
    write(tmp_path, STEADY)
    with Service(machine, tmp_path) as service:
        service.wait_for_step(20)
        machine.systemctl("kill", "--kill-whom=main", "--signal=KILL", service.name)
        assert int(service.wait_for_line("begins", 2)[0]) >= 20
        service.wait_for(ActiveState="active", NRestarts="1")


def test_a_crashed_program_is_the_supervisors_affair(machine, tmp_path):
    """It goes on from the last checkpoint, and systemd has nothing to restart."""
    write(tmp_path, STEADY)
    with Service(machine, tmp_path) as service:
        service.wait_for_step(20)
        program = service.wait_for_line("begins")[2]
        machine.call("kill", "-SEGV", program)
        assert int(service.wait_for_line("begins", 2)[0]) >= 20
        assert service.show("NRestarts") == "0" and service.show("ActiveState") == "active"


def test_a_stop_that_systemd_did_not_ask_for_is_gone_on_from(machine, tmp_path):
    """Somebody else's SIGTERM: the state is saved, exit code 75 counts as no failure, and the service starts again by itself."""
    write(tmp_path, STEADY)
    with Service(machine, tmp_path) as service:
        service.wait_for_step(20)
        machine.systemctl("kill", "--kill-whom=main", "--signal=TERM", service.name)
        saved = service.wait_for_line("saved")[0]
        assert service.wait_for_line("begins", 2)[0] == saved
        service.wait_for(NRestarts="1", ActiveState="active")


HANGS_ONCE = """
step = begin()
say("begins", step)
train(step)
if step == 0:
    train(7)
    save(7)
    say("hangs")
    forever()
train(8)
end()
"""


def test_a_hang_is_found_and_gone_on_from(machine, tmp_path):
    """By the supervisor: its stacks, a stop, the next attempt; systemd sees one service that runs all the time."""
    write(tmp_path, HANGS_ONCE)
    with Service(machine, tmp_path, "--run-options=--hang-timeout 1s", "--grace=1s") as service:
        assert service.wait_for_line("begins", 2) == ["7"]
        service.wait_for(ActiveState="inactive", Result="success", NRestarts="0")
    assert len(events(tmp_path, "hung")) == 1


def test_the_watchdog_ends_a_supervisor_that_hangs_itself(machine, tmp_path):
    """Stopped with SIGSTOP it finds nothing any more, so systemd kills it, and its successor goes on."""
    write(tmp_path, HANGS_ONCE)
    short = "WatchdogSec=1s\nTimeoutAbortSec=1s\n"
    with Service(machine, tmp_path, "--run-options=--hang-timeout 3s", drop_in=short) as service:
        service.wait_for_line("hangs")
        # Before it has seen the training begin, the watchdog waits for as long as that may take.
        wait_until(lambda: "training at" in service.show("StatusText"), "the supervisor has seen it", service.output)
        machine.systemctl("kill", "--kill-whom=main", "--signal=STOP", service.name)
        assert service.wait_for_line("begins", 2) == ["7"]
        service.wait_for(ActiveState="inactive", NRestarts="1")


@pytest.mark.parametrize("fit", [True, False], ids=["fit", "no-fit"])
def test_the_watchdog_waits_for_what_may_take_long(machine, tmp_path, fit):
    """Neither imports that outlast the unit's WatchdogSec nor a program that never calls fit are taken for dead."""
    body = "time.sleep(3)\ntrain(begin())\nend()\n" if fit else "import time\ntime.sleep(3)\n"
    write(tmp_path, body, speaks=fit)
    with Service(machine, tmp_path, drop_in="WatchdogSec=1s\n") as service:
        service.wait_for(ActiveState="inactive", Result="success", ExecMainStatus="0", NRestarts="0")


def test_after_a_reboot_the_training_goes_on(machine, tmp_path):
    """Shut down, it saves; booted, it starts by itself from there, to the end."""
    write(tmp_path, STEADY.replace("100_000", "int(open('last').read())"))
    (tmp_path / "last").write_text("100000")
    with Service(machine, tmp_path) as service:
        service.wait_for_step(20)
        (tmp_path / "last").write_text("100020")
        machine.shut_down()
        saved = service.wait_for_line("saved")
        assert [event["verdict"] for event in events(tmp_path, "exited")] == ["preempted"]
        machine.boot()
        assert service.wait_for_line("begins", 2)[:1] == saved[:1]


@pytest.mark.parametrize(
    ("code", "body", "amend"),
    [
        (78, "sys.exit(78)", None),
        (93, "sys.exit(1)", None),
        (2, "", lambda text: text.replace(" run ", " run --no-such-option ")),
    ],
    ids=["78", "93", "2"],
)
def test_what_is_final_is_not_started_again(machine, tmp_path, code, body, amend):
    """78, 93 and a wrong command line: the service has failed, and stays so."""
    write(tmp_path, body)
    with Service(machine, tmp_path, "--run-options=--give-up 1", amend=amend or (lambda text: text)) as service:
        service.wait_for(ActiveState="failed", SubState="failed", ExecMainStatus=str(code), NRestarts="0")


# -- a real training --------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_a_real_training_that_is_stopped_and_started_ends_as_an_undisturbed_one(machine, tmp_path):
    """`systemctl stop` in its midst, `systemctl start`: the same weights and losses, bit for bit."""
    write(tmp_path, PROGRAM, speaks=False)
    with Service(machine, tmp_path, *OPTIONS, command=(sys.executable, "program.py", "held")) as service:
        wait_until((tmp_path / "holds").exists, "it trains", service.output)
        machine.systemctl("stop", "--no-block", service.name)
        wait_until(lambda: "SIGTERM: passed on" in service.text(), "it was told to stop", service.output)
        (tmp_path / "released").touch()
        service.wait_for(ActiveState="inactive", ExecMainStatus="75")
        machine.systemctl("start", service.name)
        service.wait_for(ActiveState="inactive", Result="success", ExecMainStatus="0", NRestarts="0")
    assert undisturbed(tmp_path) in service.text()
    assert [(event["verdict"], event["step"]) for event in events(tmp_path, "exited")] == [("preempted", 6), ("done", 12)]
