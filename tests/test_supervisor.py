"""`resilient run` around real programs that die in every way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest
from supervised import ROOT, events, is_alive, run, supervised, wait_for, wait_until_gone, write

from resilient import journal
from resilient.cli import outcome


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("--give-up 0 -- true", 78, "--give-up 0 is not accepted. Give it a number of at least 1."),
        ("--max-restarts -1 -- true", 78, "--max-restarts -1 is not accepted. Give it a number of at least 0."),
        ("--give-up many -- true", 78, "See `resilient run --help`."),
        ("--grace many -- true", 78, "Write a number with a unit"),
        ("--no-such -- true", 2, "See `resilient run --help`."),
        ("--give-up", 2, "requires an argument"),
        ("", 2, "Missing argument"),
        ("-- no-such-program", 78, "There is no program 'no-such-program' to run."),
        (
            "-- ./train.py",
            78,
            "'./train.py' is not executable. Make it so (chmod +x), or run it with python, as in `-- python ./train.py`.",
        ),
        ("-- ./runs", 78, "'./runs' is a directory and no program."),
    ],
)
def test_what_cannot_be_run_is_one_sentence_with_the_remedy(tmp_path, monkeypatch, capsys, arguments, code, said):
    """78 where the command line can be read and a value cannot be, 2 where it cannot be read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    (tmp_path / "runs").mkdir()
    assert outcome.run(["run", *arguments.split()]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (78, 78), (93, 93)])
def test_an_ending_that_no_restart_would_change_is_passed_on(tmp_path, code, expected):
    """Done, needs a human, gave up: one attempt, and the program's own code."""
    done = run(tmp_path, f"import sys; sys.exit({code})", speaks=False)
    assert (done.returncode, done.stderr.count(" begins ")) == (expected, 1)


@pytest.mark.parametrize(
    ("set_before", "seen"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0:glibc.malloc.check=1"}, "glibc.malloc.hugetlb=0:glibc.malloc.check=1"),
    ],
)
def test_a_program_has_its_memory_in_huge_pages_unless_the_user_says_otherwise(tmp_path, monkeypatch, set_before, seen):
    """The C library reads that once, before the program's first line."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    done = run(tmp_path, "import os; print('tunables', os.environ['GLIBC_TUNABLES'])", speaks=False, variables=set_before)
    assert f"tunables {seen}" in done.stdout.splitlines()


def test_a_program_that_never_calls_fit_is_restarted_by_its_exit_code(tmp_path):
    """Nothing but the exit code is known of it, and that is enough."""
    done = run(
        tmp_path,
        """
        import os, sys
        if not os.path.exists("second"):
            open("second", "w").close()
            sys.exit(1)
        print("went well")
        """,
        speaks=False,
    )
    assert (done.returncode, done.stdout) == (0, "went well\n")
    assert "attempt 1 exited with code 1" in done.stderr and "attempt 2 is done" in done.stderr


def test_failures_without_progress_end_with_93_and_a_summary(tmp_path):
    """After --give-up failures it stops, says what failed and where, and journals it."""
    done = run(tmp_path, "begin(); train(3); sys.exit(5)", "--give-up", "2")
    assert done.returncode == 93
    assert "giving up: 2 failures without progress" in done.stderr
    told = re.findall(r"attempt 2 exited with code 5 after [\d.]+ s, training at epoch 0, batch 3 \(step 3\)", done.stderr)
    assert len(told) == 2  # as it happens, and in the summary
    (gave_up,) = events(tmp_path, "gave_up")
    assert len(gave_up["failures"]) == 2


def test_a_committed_checkpoint_resets_the_count_and_restarts_at_once(tmp_path):
    """A program that gets a little further each time is never given up, however often it dies, and never waits."""
    body = """
    step = begin() + 1
    if step == 6:
        end()
        sys.exit(0)
    train(step)
    save(step)
    die()
    """
    done = run(tmp_path, body, "--give-up", "1")
    assert done.returncode == 0
    exits = events(tmp_path, "exited")
    assert [event["progressed"] for event in exits] == [True] * 5 + [False]
    assert [event["restart_in"] for event in exits] == [0.0] * 5 + [None]
    assert done.stderr.count("starting again at once") == 5


def test_max_restarts_bounds_failures_without_progress(tmp_path):
    """They are counted over the whole run: N restarts, then 93."""
    done = run(tmp_path, "sys.exit(1)", "--max-restarts", "1")
    assert (done.returncode, done.stderr.count(" begins ")) == (93, 2)


def test_the_journal_tells_each_attempt(tmp_path):
    """What was run, how it ended, where it was, what is lost and what follows; also of attempts before the directory was known."""
    body = """
    if attempt == 1:
        sys.exit(7)
    step = begin()
    train(step)
    if attempt == 2:
        train(4)
        save(4)
        train(6)
        die()
    end()
    """
    assert run(tmp_path, body).returncode == 0
    attempts, exits = events(tmp_path, "attempt"), events(tmp_path, "exited")
    assert [event["attempt"] for event in attempts] == [event["attempt"] for event in exits] == [1, 2, 3]
    assert [event["pid"] for event in attempts] == [event["pid"] for event in exits]
    assert [(event["code"], event["signal"]) for event in exits] == [(7, None), (None, "SIGKILL"), (0, None)]
    assert [event["verdict"] for event in exits] == ["failed", "failed", "done"]
    second = exits[1]
    assert (second["step"], second["committed"], second["lost_steps"], second["progressed"]) == (6, 4, 2, True)
    assert all(event["peak_rss"] > 1e6 for event in exits)
    assert "step" not in exits[0]


def test_a_journal_that_cannot_be_written_is_told_and_stops_nothing(tmp_path):
    """Once; the run goes on as if it could."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "journal.jsonl").symlink_to("/dev/full")
    done = run(tmp_path, "step = begin()\nif attempt == 1: die()\nend()")
    assert done.returncode == 0
    assert done.stderr.count("journal.jsonl cannot be written (is the disk full?)") == 1


def test_a_preemption_costs_nothing_and_is_followed_by_a_restart(tmp_path):
    """75, and death by a polite signal that came from elsewhere, are no failures."""
    body = """
    step = begin()
    if attempt == 1:
        heartbeat.beat(Section.STOPPING, at(1))
        sys.exit(75)
    if attempt == 2:
        die(signal.SIGTERM)
    end()
    """
    done = run(tmp_path, body, "--give-up", "1")
    assert done.returncode == 0
    assert [event["verdict"] for event in events(tmp_path, "exited")] == ["preempted", "preempted", "done"]


def test_an_attempt_is_told_before_anything_that_it_tells_itself(tmp_path):
    """However short the run: the program goes on when the supervisor has written down that it has begun, and who it is."""
    body = """
    from resilient.journal import Journal
    begin()
    for event in ("started", "finished"):
        Journal(RUN).append(event)
    end()
    """
    assert run(tmp_path, body).returncode == 0
    assert [event["event"] for event in journal.read(tmp_path / "run")] == ["attempt", "started", "finished", "exited"]


# -- the machine is about to go -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [75, 0])
def test_a_standing_notice_is_waited_out_and_a_stop_ends_the_waiting(tmp_path, code):
    """The next attempt would meet it again. 0 is what a program ends with whose fit returns (on_preempt="return")."""
    body = f"""
    train(begin())
    heartbeat.evicted("aws", "terminate", time.monotonic() + 100)
    heartbeat.beat(Section.STOPPING, at(3))
    sys.exit({code})
    """
    with supervised(tmp_path, body) as process:
        lines = []
        while not any("starting again" in line for line in lines):
            lines.append(process.stderr.readline())
        process.terminate()
        assert process.wait() == 75
    assert "if this machine still runs then: its end is announced for " in lines[-1]
    assert code == 0 or re.search(r"was preempted by aws \(terminate\) after [\d.]+ s, stopping at epoch 0, batch 3", lines[-2])
    (exited,) = events(tmp_path, "exited")
    assert 125 <= exited["restart_in"] <= 130 and exited["verdict"] == "preempted"


def test_a_machine_that_lives_on_after_its_announced_end_trains_on(tmp_path):
    """The wait is over, and the next attempt begins, in the same supervisor."""
    code = """
    import sys
    from resilient.restarts import RestartPolicy
    from resilient.supervisor import Options, Supervisor
    sys.exit(Supervisor([sys.executable, "program.py"], Options(RestartPolicy(first=0.0, after_eviction=0.2))).run())
    """
    write(
        tmp_path,
        """
        train(begin())
        if attempt == 1:
            heartbeat.evicted("gce", "preempted", time.monotonic() - 100)
            sys.exit(75)
        end()
        """,
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "starting again in 0.2 s, if this machine still runs then" in done.stderr
    assert [event["restart_in"] for event in events(tmp_path, "exited")] == [0.2, None]


def test_the_end_of_a_job_s_time_ends_the_supervisor_too(tmp_path):
    """Whoever queues the job again waits for its exit code; waiting for the limit would end it as a failure."""
    done = run(tmp_path, 'train(begin()); heartbeat.evicted("slurm", "time limit", time.monotonic() + 50); sys.exit(75)')
    assert done.returncode == 75
    assert done.stderr.count(" begins ") == 1 and "Start it again to go on" in done.stderr


def test_a_request_to_stop_that_comes_before_the_supervisor_is_there_is_kept(tmp_path):
    """From the first line of ours on: no program is started, and the answer is 75, not death by the signal."""
    code = """
    import os, signal, sys
    from importlib import abc

    class Early(abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "typer":
                os.kill(os.getpid(), signal.SIGTERM)

    from resilient.cli import main
    sys.meta_path.insert(0, Early())
    sys.exit(main(["run", "--", "touch", "started"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 75
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_goes_to_the_program_alone_and_ends_with_75(tmp_path, number):
    """The program saves and leaves; its worker hears nothing of it while it does, and is gone in the end."""
    body = """
    worker = start_worker()
    def stop(number, frame):
        say("stopped", signal.Signals(number).name, worker.poll())
        sys.exit(75)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    train(begin())
    say("worker", worker.pid)
    forever()
    """
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{signal.Signals(number).name} is ignored here (nohup), and so it stays")
    with supervised(tmp_path, body) as process:
        (worker,) = wait_for(process, "worker")
        process.send_signal(number)
        heard = "SIGTERM" if number == signal.SIGHUP else number.name
        assert wait_for(process, "stopped") == [heard, "None"]
        assert process.wait() == 75
        wait_until_gone(int(worker))


def test_death_by_the_signal_that_was_passed_on_is_a_preemption(tmp_path):
    """A program outside of fit, which has no handler, dies of SIGTERM: that was asked for."""
    with supervised(tmp_path, "train(begin()); say('ready'); forever()") as process:
        wait_for(process, "ready")
        process.terminate()
        assert process.wait() == 75
        assert events(tmp_path, "exited")[-1]["verdict"] == "preempted"


def test_a_program_that_does_not_stop_is_killed_when_the_grace_period_ends(tmp_path):
    """With everything below it, and the supervisor still ends with 75."""
    body = "worker = start_worker(); signal.signal(signal.SIGTERM, signal.SIG_IGN); train(begin()); say('worker', worker.pid); forever()"
    with supervised(tmp_path, body, "--grace", "1s") as process:
        (worker,) = wait_for(process, "worker")
        process.terminate()
        assert process.wait() == 75
        wait_until_gone(int(worker))
        assert events(tmp_path, "exited")[-1]["signal"] == "SIGKILL"


def test_a_stop_during_back_off_ends_at_once(tmp_path):
    """There is no program to wait for, and no reason to wait for the next one."""
    code = """
    import sys
    from resilient.restarts import RestartPolicy
    from resilient.supervisor import Options, Supervisor, supervising
    supervising.random.random = lambda: 1.0
    sys.exit(Supervisor(["false"], Options(RestartPolicy(first=1000.0, longest=1000.0))).run())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert any("starting again in 1000.0 s" in line for line in process.stderr)
        process.terminate()
        assert process.wait() == 75


def test_a_program_that_stops_before_its_end_but_says_0_is_not_done(tmp_path):
    """on_preempt="return" lets a program end well after a stop that was passed on to it; the run goes on another time."""
    body = """
    signal.signal(signal.SIGTERM, lambda *_: (heartbeat.beat(Section.STOPPING, at(1)), sys.exit(0)))
    train(begin())
    say("ready")
    forever()
    """
    with supervised(tmp_path, body) as process:
        wait_for(process, "ready")
        process.terminate()
        assert process.wait() == 75


# -- nothing is left behind ----------------------------------------------------------------------------------------------------


def test_what_the_program_leaves_running_is_killed_before_the_next_attempt(tmp_path):
    """A worker that moved to a session of its own does not meet its successor."""
    body = """
    worker = start_worker()
    if attempt == 2:
        pid = int((RUN / "worker").read_text())
        say("alive" if os.path.exists(f"/proc/{pid}") else "gone")
        sys.exit(0)
    begin()
    (RUN / "worker").write_text(str(worker.pid))
    die()
    """
    assert run(tmp_path, body).stdout == "gone\n"


@pytest.mark.parametrize("victim", ["supervisor", "guardian", "program"])
def test_whoever_is_killed_nothing_is_left_running(tmp_path, victim):
    """SIGKILL to the supervisor ends program and workers; SIGKILL to the guardian, or to the program, is one more attempt that failed."""
    body = """
    worker = start_worker()
    if attempt == 2:
        say("again")
        end()
        sys.exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    train(begin())
    say("pids", os.getppid(), os.getpid(), worker.pid)
    forever()
    """
    with supervised(tmp_path, body) as process:
        guardian, program, worker = map(int, wait_for(process, "pids"))
        os.kill({"supervisor": process.pid, "guardian": guardian, "program": program}[victim], signal.SIGKILL)
        assert process.wait() == (-signal.SIGKILL if victim == "supervisor" else 0)
        wait_until_gone(guardian, program, worker)
        first = events(tmp_path, "exited")[0]
        assert (first["attempt"], first["pid"]) == (1, program)
        assert first["reason"] == "its supervisor died" if victim == "supervisor" else first["verdict"] == "failed"


def test_a_program_whose_supervisor_and_guardian_die_together_dies_too(tmp_path):
    """Then nobody is left to kill it, and the kernel does."""
    with supervised(tmp_path, "train(begin()); say('pids', os.getppid(), os.getpid()); forever()") as process:
        guardian, program = map(int, wait_for(process, "pids"))
        os.kill(guardian, signal.SIGSTOP)  # so that it cannot act on the supervisor's death
        process.kill()
        os.kill(guardian, signal.SIGKILL)
        wait_until_gone(guardian, program)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_training_below_a_shell_script_is_stopped_and_killed_as_any(tmp_path, number, code):
    """A shell passes no signal on; the process that beats gets it nevertheless, and dies with the supervisor."""
    training = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); train(begin()); say('pid', os.getpid()); forever()"
    (tmp_path / "training.py").write_text(f"from fake_training import *\n{training}")
    body = "import os, sys; os.execvp('sh', ['sh', '-c', f'{sys.executable} training.py; exit $?'])"
    with supervised(tmp_path, body, speaks=False) as process:
        (pid,) = wait_for(process, "pid")
        process.send_signal(number)
        assert process.wait() == code
        wait_until_gone(int(pid))


# -- what the program is told --------------------------------------------------------------------------------------------------

POISON = """
for step in range(begin() + 1, 10):
    if step == 8 and (0, 7) not in orders.skip:
        sys.exit(3)
    train(step)
    if step in (2, 4, 6):
        save(step)
say("went well", orders.resume_at_most)
end()
"""


def test_a_program_that_fails_twice_at_one_batch_goes_on_from_the_checkpoint_before(tmp_path):
    """And from the one before that if it fails there again, until it is given up."""
    done = run(tmp_path, POISON, "--give-up", "3")
    assert done.returncode == 93
    assert [event["resume_at_most"] for event in events(tmp_path, "attempt")] == [None, None, 5, 3]
    assert all((event["epoch"], event["batch"]) == (0, 7) for event in events(tmp_path, "exited"))
    assert "from a checkpoint before step 6 if there is one: it failed twice at epoch 0, batch 7" in done.stderr


def test_where_there_is_no_older_checkpoint_it_goes_on_from_the_latest_and_says_so(tmp_path):
    """From then on, and not from it and from an older one in turn. The program stands behind `python -c`, and is shown as one line."""
    code = """
    import sys
    from resilient.restarts import RestartPolicy
    from resilient.supervisor import Options, Supervisor
    sys.exit(Supervisor([sys.executable, "-c", sys.argv[1]], Options(RestartPolicy(give_up=4, first=0.0))).run())
    """
    program = "from fake_training import *" + POISON.replace("(2, 4, 6)", "(4, 6)")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", textwrap.dedent(code), program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 93, done.stderr
    assert [event["resume_at_most"] for event in events(tmp_path, "attempt")] == [None, None, 5, 3, None]
    assert re.findall(r"from a checkpoint before[^:]*|from the latest checkpoint, [^.]*", done.stderr) == [
        "from a checkpoint before step 6 if there is one",
        "from a checkpoint before step 4 if there is one",
        "from the latest checkpoint, as there was none before step 4 to go on from",
    ]
    assert all(line.startswith("resilient: ") for line in done.stderr.splitlines())
    begins = [line for line in done.stderr.splitlines() if " begins (" in line]
    assert len(begins) == 5 and all("fake_training import * for step in" in line and len(line) < 250 for line in begins)


def test_a_poison_batch_is_left_out_where_the_operator_allows_it(tmp_path):
    """From then on, in all attempts, and the journal says which."""
    done = run(tmp_path, POISON, "--skip-poison-batch")
    assert (done.returncode, done.stdout) == (0, "went well 5\n")
    assert [event["skip"] for event in events(tmp_path, "attempt")] == [[], [], [[0, 7]]]


def test_a_second_supervisor_of_a_directory_is_refused(tmp_path):
    """Its program is stopped before it can meet the other one, it says who is there, and ends with 78; the first goes on undisturbed."""
    with supervised(tmp_path, "train(begin()); say('pid', os.getpid()); forever()") as first:
        (pid,) = wait_for(first, "pid")
        second = run(tmp_path, "say('pid', os.getpid()); train(begin()); say('trains'); forever()")
        assert second.returncode == 78
        assert f"supervised by another `resilient run` (pid {first.pid} on host" in second.stderr
        assert "trains" not in second.stdout
        wait_until_gone(int(second.stdout.split()[1]))
        assert is_alive(int(pid))
    assert len(events(tmp_path, "attempt")) == 1


def test_a_program_with_two_runs_is_journaled_in_both(tmp_path):
    """Each directory's journal tells of the attempts that trained there."""
    body = """
    begin()
    end()
    heartbeat = heartbeat.claim()
    heartbeat.announce(RUN.parent / "other")
    heartbeat.wait_until_heard()
    heartbeat.close()
    """
    (tmp_path / "other").mkdir()
    assert run(tmp_path, body).returncode == 0
    assert [event["event"] for event in journal.read(tmp_path / "run")] == ["attempt"]
    assert [event["event"] for event in journal.read(tmp_path / "other")] == ["attempt", "exited"]


# -- a spare interpreter -------------------------------------------------------------------------------------------------------


def test_a_warm_spare_becomes_the_next_attempt(tmp_path):
    """It is started once the program trains, with the variables that the program had set, and is that program in all it can see."""
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import os, sys, types
            sys.modules["resilient.fitting"] = types.ModuleType("resilient.fitting")
            sys.modules["resilient.fitting"].fit = os.environ.get("XLA_FLAGS")
            """
        )
    )
    body = """
    import resilient
    def is_spare(pid):
        try:
            command = open(f"/proc/{pid}/cmdline").read()
        except OSError:
            return False
        return "supervisor.standby" in command and os.getcwd() in command
    if attempt == 1:
        os.environ["XLA_FLAGS"] = "set by the program"
        train(begin())
        while not any(is_spare(pid) for pid in os.listdir("/proc") if pid.isdecimal()):
            time.sleep(0.01)
        die()
    begin()
    say(__name__, __file__, __spec__, sys.argv, sys.path[0], resilient.fit, "wait" in globals())
    raise SystemExit(0)
    """
    variables = {"PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'tests'}"}
    done = run(tmp_path, body, "--warm-standby", variables=variables)
    assert done.returncode == 0
    assert done.stdout == f"__main__ {tmp_path}/program.py None ['program.py'] {tmp_path} set by the program False\n"
    assert [event["warm"] for event in events(tmp_path, "attempt")] == [False, True]


@pytest.mark.parametrize(
    ("ending", "code", "name"),
    [
        ("kill -SEGV $$", None, "SIGSEGV"),
        ("kill -41 $$", None, "signal 41"),
        ("exit 137", None, "SIGKILL"),
        ("exit 200", 200, None),
        ("exit 3", 3, None),
    ],
)
def test_a_signal_is_told_by_its_name(tmp_path, ending, code, name):
    """Also one that has none, and one that a shell tells of in its own way."""
    body = f"begin(); end(); os.execvp('sh', ['sh', '-c', '{ending}'])"
    run(tmp_path, body, "--give-up", "1")
    (event,) = events(tmp_path, "exited")
    assert (event["code"], event["signal"]) == (code, name)
