"""`resilient status` as an operator meets it: real processes, locks and kills."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys

import pytest
from cli_samples import a_run, cli, flip, place, the_error
from live_samples import environment, let, training
from supervised import wait_until_gone

from resilient.journal import Journal
from resilient.observing import Observer, holder
from resilient.status import State
from resilient.store import RunLock
from resilient.store.lock import LOCK_NAME


def shown(done):
    """Name -> text of the lines above the table of attempts."""
    found: dict[str, str] = {}
    name = ""
    for line in done.stdout.partition("\n\n")[0].splitlines():
        assert len(line) <= 80
        before, _, rest = line.partition("  ")
        name = before or name
        found[name] = f"{found.get(name, '')} {rest.strip()}".strip()
    return found


def test_a_live_training_is_seen_to_the_batch_without_a_supervisor(tmp_path):
    """Position, process, last save, what would be lost, and what lies on disk; then its death, of which nobody wrote anything."""
    run = tmp_path / "run"
    with training(run) as process:
        found = shown(cli("status", run))
        assert found["state"] == "training"
        assert found["position"].startswith("step 14 of 40 (35 %): epoch 1, batch 4 of 10")
        assert f"pid {process.pid}" in found["process"] and found["supervisor"].startswith("none")
        assert found["last save"].startswith("step 10, ") and "in 250 ms, which cost training 62.5 ms" in found["last save"]
        assert found["unsaved"] == "4 steps" and found["on disk"].startswith("2 checkpoints, ")
        document = json.loads(cli("status", run, "--json").stdout)
        assert (document["state"], document["position"]["step"], document["process"]["pid"]) == ("training", 14, process.pid)
        assert document["sign_of_life"]["section"] == "training" and document["last_save"]["step"] == 10
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert shown(cli("status", run))["state"].startswith("suspended")
    found = shown(cli("status", run, code=1))
    assert found["state"].startswith("crashed: it was killed, or its machine was") and "process" not in found
    assert found["lost work"] == "at least 0 steps in 1 attempt"  # nobody told of the last batch
    document = json.loads(cli("status", run, "--json", code=1).stdout)
    assert (document["lost_steps"], document["lost_exactly"], document["attempts"][0]["lost_exactly"]) == (0, False, False)


@pytest.mark.parametrize(
    ("section", "state"), [("VALIDATING", "validating"), ("BETWEEN", "between epochs"), ("STARTING", "starting"), ("STOPPING", "stopping")]
)
def test_what_is_under_way_is_told_in_a_word(tmp_path, section, state):
    """As the process itself says it."""
    with training(tmp_path / "run") as process:
        let(process, f"heartbeat.beat(Section.{section}, Progress(1, 4, 14))")
        assert Observer(tmp_path / "run").look().status.state.value == state


def test_the_end_is_told_with_what_to_do_next(tmp_path):
    """Stopped, failed, finished: in words, and by the exit code."""
    run = tmp_path / "run"
    with training(run) as process:
        let(process, "journal.append('preempted', reason='SIGTERM', saved=True, step=14, epoch=1, batch=4)")
    assert "stopped: it was stopped by SIGTERM. Start it again" in shown(cli("status", run, code=75))["state"]
    Journal(run).append("started", pid=1, run_id="run")
    Journal(run).append("failed", error="CheckpointMismatchError: the kernel has another shape")
    assert shown(cli("status", run, code=78))["state"].startswith("stopped, needs a human: CheckpointMismatchError")
    Journal(run).append("gave_up", failures=["attempt 5 exited with code 1"])
    assert "attempt 5 exited" in shown(cli("status", run, code=93))["state"]
    Journal(run).append("started", pid=1, run_id="run")
    Journal(run).append("restored", step=40, finished=True)
    assert shown(cli("status", run))["state"] == "finished: all epochs are trained"


def test_damage_and_quarantine_are_told(tmp_path):
    """What an operator has to know although training goes on."""
    run = a_run(tmp_path / "run")
    (run / "quarantine" / "step-000000000005").mkdir(parents=True)
    (place(run, 20) / "model.safetensors").write_bytes(b"")
    Journal(run).append("started", pid=1, run_id="run", note="\x1b[2J")
    Journal(run).append("failed", error="\x1b[31mred")
    done = cli("status", run, code=1)
    assert "\x1b" not in done.stdout  # nothing in a file commands the terminal
    found = shown(done)
    assert "000000000020" in found["damaged"] and found["quarantine"] == "step-000000000005"


def test_a_directory_without_a_run_is_an_error(tmp_path):
    """One sentence, as from every command."""
    assert "no directory" in the_error(cli("status", tmp_path / "nowhere", code=78))


def test_watching_into_a_pipe_prints_a_line_for_each_change_and_ends_with_ctrl_c(tmp_path):
    """Not one for each batch: a log is read by people."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "resilient", "status", "--watch", str(run)]
    with training(run) as process, subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as watch:
        assert "training; attempt 1; step 14 of 40" in watch.stdout.readline()
        let(process, "heartbeat.beat(Section.TRAINING, Progress(1, 5, 15))")
        let(process, "heartbeat.beat(Section.VALIDATING, Progress(1, 10, 20))")
        assert " validating; attempt 1; step 20 of 40" in watch.stdout.readline()
        process.kill()
        process.wait()
        assert " crashed; attempt 1; " in watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        assert watch.wait() == 0 and watch.stdout.read() == ""


def on_a_terminal(*arguments, until, **variables):
    """What the command writes to a terminal of 80 columns until it has written that, and its exit code after Ctrl-C."""
    master, slave = pty.openpty()
    env = {**environment(), "TERM": "xterm-256color", "LINES": "40", **variables}
    process = subprocess.Popen([sys.executable, "-m", "resilient", *map(str, arguments)], stdout=slave, stderr=slave, env=env)
    os.close(slave)
    text = ""
    while until not in text:
        assert select.select([master], [], [], 60)[0]
        text += os.read(master, 65536).decode()
    process.send_signal(signal.SIGINT)
    code = process.wait()
    os.close(master)
    return text, code


def test_watching_on_a_terminal_redraws_and_leaves_with_0(tmp_path):
    """With colours, unless NO_COLOR is set."""
    run = tmp_path / "run"
    with training(run) as process:
        text, code = on_a_terminal("status", "--watch", run, until="attempt ")
        assert code == 0 and "\x1b[1;32mtraining" in text and f"pid {process.pid}" in text
        text, code = on_a_terminal("status", "--watch", run, until="attempt ", NO_COLOR="1")
        assert code == 0 and "\x1b[1;32m" not in text and "training" in text


def test_the_lock_is_looked_at_and_never_taken(tmp_path):
    """A training that starts while somebody looks must not be refused: looking opens no lock."""
    with RunLock(tmp_path / "run") as lock:
        assert holder(lock.path).pid == os.getpid()
        flip(tmp_path / "run" / LOCK_NAME, 0)
        assert holder(lock.path).pid is None  # held, by whom nobody can read
    assert holder(lock.path) is None and holder(tmp_path / "none") is None


def test_a_lock_of_another_host_is_believed_as_long_as_the_journal_tells_of_an_attempt_that_goes_on(tmp_path):
    """It cannot be asked. After the end of the attempt it is nobody's."""
    run = a_run(tmp_path / "run")
    (run / LOCK_NAME).write_text(json.dumps({"pid": 1, "host": f"not-{socket.gethostname()}", "started": "2026-01-01T00:00:00+00:00"}))
    Journal(run).append("started", pid=1, run_id="run")
    seen = Observer(run).look()
    assert seen.status.state is State.RUNNING and not seen.facts.trainer.ours
    Journal(run).append("preempted", reason="SIGTERM")
    assert Observer(run).look().facts.trainer is None


def test_an_observer_sees_what_has_changed_since(tmp_path):
    """It reads of the journal only what is new, and forgets a journal that another has taken the place of."""
    run = a_run(tmp_path / "run")
    observer = Observer(run)
    assert observer.look().status.state is State.NEW
    diary = Journal(run)
    diary.append("started", pid=1, run_id="run")
    diary.append("saved", step=0, epoch=0, batch=0)
    assert len(observer.look().run.saves) == 1
    diary.append("saved", step=5, epoch=0, batch=5)
    assert [save.step for save in observer.look().run.saves] == [0, 5]
    diary.close()
    diary.path.unlink()
    assert observer.look().run is None


def test_between_attempts_the_supervisor_is_seen_to_wait(tmp_path):
    """A program that fails at once: the terminal says when the next attempt begins, and who waits for it."""
    from live_samples import command as program

    run = tmp_path / "run"
    body = program(run)
    body[2] = body[2].replace("for line in sys.stdin:", "os._exit(3)\nfor line in ():")
    command = [sys.executable, "-m", "resilient", "run", "--give-up", "50", "--", *body]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()) as supervisor:
        for line in supervisor.stderr:
            if "starting again in" in line and float(line.split("starting again in ")[1].split()[0]) > 1:
                break
        seen = Observer(run).look()
        assert seen.facts.supervisor.pid == supervisor.pid
        assert seen.status.state in (State.WAITING, State.STARTING, State.TRAINING)
        if seen.status.state is State.WAITING:
            assert "exited with code 3" in seen.status.why and seen.status.next_attempt is not None
        supervisor.kill()
    wait_until_gone(supervisor.pid)


def test_a_long_error_stands_in_the_state_and_in_short_in_the_table(tmp_path):
    """Once is enough; attempts are numbered as in the sentences."""
    run = tmp_path / "run"
    run.mkdir()
    for supervisor in (5, 6):
        Journal(run).append("attempt", attempt=1, pid=supervisor, supervisor=supervisor)
        Journal(run).append("failed", error=f"ValueError: {'long ' * 60}end")
        Journal(run).append("exited", attempt=1, pid=supervisor, code=1, reason="exited with code 1", verdict="failed")
    done = cli("status", run, code=1)
    assert " ".join(done.stdout.split()).count("long end") == 1 and len(done.stdout.splitlines()) < 20 and "…" in done.stdout
    assert "attempt 2 failed" in shown(done)["state"]
    attempts = json.loads(cli("status", run, "--json", code=1).stdout)["attempts"]
    assert [(attempt["number"], attempt["supervisor_number"]) for attempt in attempts] == [(1, 1), (2, 1)]
