"""`resilient unit` without any platform: what it prints, what it refuses, and what the batch script decides."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import signal as signals
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_samples import cli, the_error

from resilient.cli.unit_commands import unit
from resilient.errors import ConfigurationError
from resilient.units import Launch, default_name
from resilient.units.slurm import batch_script
from resilient.units.systemd import service

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = Launch("train", ("/venv/python", "-m", "resilient"), (), ("python", "train.py"), 30.0)

# A session of the documentation: the command, and in the next fence what it prints.
_SESSION = re.compile(r"^```\n\$ (resilient unit [^\n]*(?:\\\n[^\n]*)*)\n```\n+```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted((ROOT / "docs").glob("run-on-*.md"))
SESSIONS = [(page.name, *found) for page in PAGES for found in _SESSION.findall(page.read_text(encoding="utf-8"))]


# -- what it prints -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "command", "text"), SESSIONS, ids=[f"{page}:{index}" for index, (page, *_) in enumerate(SESSIONS)])
def test_the_pages_show_what_it_prints(tmp_path, page, command, text):
    """Word for word, with this machine's paths in place of the example's."""
    bin_ = os.path.dirname(sys.executable)
    done = cli(*shlex.split(command.replace("\\\n", ""))[1:], cwd=tmp_path, PATH=f"{bin_}:{os.environ['PATH']}")
    shown = done.stdout.replace(sys.executable, "/home/me/venv/bin/python").replace(f"{bin_}/python", "/home/me/venv/bin/python")
    assert shown.replace(str(tmp_path), "/home/me/digits") == text


def test_each_platform_is_shown_in_the_pages():
    """The test above looks at something."""
    assert {command.split()[2] for _, command, _ in SESSIONS} == {"systemd", "slurm", "kubernetes"}


@pytest.mark.parametrize("platform", ["systemd", "slurm", "kubernetes"])
def test_the_example_of_the_help_works(tmp_path, platform):
    """It is taken from there and run, and the file is what would have been printed."""
    (example,) = [command.epilog for command in unit.registered_commands if command.callback and command.callback.__name__ == platform]
    words = shlex.split(str(example).removeprefix("Example: "))[1:]
    file = words[words.index("-o") + 1]
    there = {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}", "cwd": tmp_path}
    assert cli(*words, **there).stdout == f"Wrote {file}.\n"
    del words[words.index("-o") : words.index("-o") + 2]
    assert (tmp_path / file).read_text() == cli(*words, **there).stdout
    assert os.listdir(tmp_path) == [file]
    assert re.sub(r"\s+", "", str(example)) in re.sub(r"\s+", "", cli("unit", platform, "--help").stdout)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python train.py --epochs 20", "train"),
        ("/venv/bin/python3.11 -u -X dev tools/train_digits.py", "train_digits"),
        ("python -m package.train --fast", "train"),
        ("./run.sh", "run"),
        ("python -m", "python"),
        ("python", "python"),
        ("ü", "training"),
    ],
)
def test_a_name_follows_from_the_program(command, name):
    """So that several can be told apart in `systemctl` and `squeue`."""
    assert default_name(command.split()) == name


def test_times_follow_from_the_grace_period():
    """systemd, Slurm and the watchdog leave the supervisor the time to end what does not end by itself."""
    for grace in (5.0, 30.0, 600.0):
        launch = dataclasses.replace(LAUNCH, grace=grace, directory="/srv")
        text = service(launch, user=False)
        assert int(re.findall(r"TimeoutStopSec=(\d+)", text)[0]) >= grace + 10
        assert int(re.findall(r"WatchdogSec=(\d+)", text)[0]) >= grace + 10
        assert int(re.findall(r"TERM@(\d+)", batch_script(launch))[0]) >= max(60, grace + 10)


def test_a_service_of_the_user_needs_nothing_of_the_machine(tmp_path):
    """No account, no network target that a user's manager does not know, and another target to be started by."""
    done = cli("unit", "systemd", "--user", "--", sys.executable, "train.py", cwd=tmp_path).stdout
    assert "WantedBy=default.target" in done and "network-online" not in done and "\nUser=" not in done
    machine = cli("unit", "systemd", "--run-as", "me", "--", sys.executable, "train.py", cwd=tmp_path).stdout
    assert "WantedBy=multi-user.target" in machine and "network-online" in machine and "\nUser=me\n" in machine


# -- what it refuses ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("systemd -- no-such-program train.py", 78, "There is no program 'no-such-program' to run. Write the command after --"),
        ("systemd", 2, "Missing argument"),
        ("systemd --name a/b -- PYTHON train.py", 78, "--name 'a/b' is no name. Use letters"),
        ("systemd --env A -- PYTHON", 78, "Write it like --env"),
        ("systemd --env 1A=x -- PYTHON", 78, "does not begin with the name of a variable"),
        ("systemd --grace 5 -- PYTHON", 78, "--grace='5' is not a duration"),
        ("systemd --directory nowhere -- PYTHON", 78, "there is no such directory"),
        ("systemd --user --run-as me -- PYTHON", 78, "Leave one of the two out"),
        ("systemd --run-as 'a b' -- PYTHON", 78, "is no name of a user. Name one"),
        ("systemd --run-options --no-such -- PYTHON", 2, "See `resilient run --help`"),
        ("systemd --run-options '--grace 5s' -- PYTHON", 78, "Give it to `resilient unit` itself"),
        ("systemd --run-options '--hang-timeout soon' -- PYTHON", 78, "--hang-timeout='soon' is not a duration"),
        ("systemd --run-options '--give-up 0' -- PYTHON", 78, "--give-up 0 is not accepted. Give it a number of at least 1"),
        ("systemd --run-options 'python train.py' -- PYTHON", 78, "holds more than options"),
        ('systemd --run-options "\'" -- PYTHON', 78, "ends within quotes"),
        ("systemd -o nowhere/train.service -- PYTHON", 78, "Name one, or leave it out"),
        ("slurm --time 3 -- PYTHON", 78, "--time='3' is not a duration"),
        ("slurm --time 30s --grace 10m -- PYTHON", 78, "leaves no time to train: Slurm asks the job to stop up to 690 s before that"),
        ("slurm --time 2m -- PYTHON", 78, "Give it at least 3m, or a shorter --grace"),
        ("slurm --sbatch gres=gpu:1 -- PYTHON", 78, "is no option of sbatch. Write it like"),
        ("kubernetes -- python", 2, "Missing option '--image'"),
        ("kubernetes --image 'a b' -- python", 78, "is no image. Name one as in"),
        ("kubernetes --image a --name Train_1 -- python", 78, "Use up to 40 small letters"),
        ("kubernetes --image a --limit cpu=lots -- python", 78, "is no quantity. Write it as Kubernetes does"),
        ("kubernetes --image a --retries -1 -- python", 78, "--retries -1 is not accepted. Give it a number of at least 0"),
        ("kubernetes --image a --limit cpu -- python", 78, "is not of the form NAME=VALUE"),
        ("kubernetes --image a --mount runs -- python", 78, "Name an absolute path"),
        ("kubernetes --image a --claim A -- python", 78, "`kubectl get pvc` lists them"),
        ("kubernetes --image a --storage much -- python", 78, "is no quantity"),
        ("nomad -- python", 2, "No such command 'nomad'. See `resilient unit --help`"),
    ],
)
def test_bad_input_is_one_sentence_with_the_remedy(tmp_path, arguments, code, said):
    """And nothing is printed or written."""
    words = [sys.executable if word == "PYTHON" else word for word in shlex.split(arguments)]
    assert said in the_error(cli("unit", *words, code=code, cwd=tmp_path))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "change", [{"directory": "/a\nb"}, {"directory": "/a\\"}, {"command": ("python", "\udcff")}, {"environment": (("A", "\0"),)}]
)
def test_text_that_no_file_holds_is_refused(change):
    """Line ends in a directory, and what is not UTF-8."""
    with pytest.raises(ConfigurationError):
        dataclasses.replace(LAUNCH, **change)


# -- the batch script's decision ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(command: list[Any], **arguments: Any) -> Iterator[subprocess.Popen[str]]:
    """A shell that can trap SIGHUP, which is impossible where it begins with that ignored, as under nohup; it does not outlive the test."""
    previous = signals.signal(signals.SIGHUP, signals.SIG_DFL)
    try:
        process = subprocess.Popen(command, **arguments)
    finally:
        signals.signal(signals.SIGHUP, previous)
    with process:
        try:
            yield process
        finally:
            process.kill()


def decided(directory: Path, code: str, state: str, signal: str = "", down: str = "", **variables: str) -> tuple[int, str]:
    """Exit code of the script whose supervisor ends by the shell code `code`, and what it had scontrol do.

    Slurm is played by two programs: squeue answers `state`, and scontrol writes down what it is told. Of the two the one called `down`
    fails three times before that. Pauses of whole seconds are none. `signal`: comes to the shell. What it says on stderr is in `errors`.
    """
    bin_ = directory / "bin"
    bin_.mkdir()
    fails = f"echo >>{directory}/failed; [ $(wc -l <{directory}/failed) -gt 3 ] || exit 1; "
    programs = {"squeue": f"echo '{state}'", "scontrol": f'echo "$@" >{directory}/told'}
    programs = {name: (fails if name == down else "") + line for name, line in programs.items()}
    programs["sleep"] = f'case $1 in 0.*) exec {shutil.which("sleep")} "$1" ;; esac'
    for name, line in programs.items():
        (bin_ / name).write_text(f"#!/bin/sh\n{line}\n")
        (bin_ / name).chmod(0o755)
    script = directory / "train.sbatch"
    script.write_text(batch_script(dataclasses.replace(LAUNCH, supervisor=("bash", "-c", code))))
    environment = {"PATH": f"{bin_}:{os.environ['PATH']}", "SLURM_JOB_ID": "9", **variables}
    errors = (directory / "errors").open("w")
    with errors, started(["bash", script], env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        assert process.stdout is not None
        if signal:
            assert process.stdout.readline() == "ready\n"
            subprocess.run(["kill", f"-{signal}", str(process.pid)], check=True)
        process.communicate()
    told = directory / "told"
    return process.returncode, told.read_text().strip() if told.exists() else ""


@pytest.mark.parametrize("state", ["RUNNING None", "COMPLETING TimeLimit"])
def test_a_job_that_was_asked_to_stop_queues_itself_again(tmp_path, state):
    """75 with time left, or at the time limit."""
    assert decided(tmp_path, "exit 75", state) == (75, "requeue 9")


def test_a_job_of_an_array_queues_itself_and_not_the_array(tmp_path):
    """Its number is that of the array and its own index."""
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert decided(tmp_path, "exit 75", "RUNNING None", **array) == (75, "requeue 7_3")


@pytest.mark.parametrize("state", ["COMPLETING None", "COMPLETING Preempted"])
def test_a_job_that_leaves_anyway_does_not_queue_itself(tmp_path, state):
    """It was cancelled, or Slurm requeues it itself; and there is nothing to say about it."""
    assert decided(tmp_path, "exit 75", state) == (75, "")
    assert (tmp_path / "errors").read_text() == ""


@pytest.mark.parametrize("down", ["squeue", "scontrol"])
def test_a_controller_that_fails_over_is_asked_again(tmp_path, down):
    """Each time it is said, as the shell may be killed before there is an answer."""
    assert decided(tmp_path, "exit 75", "RUNNING None", down=down) == (75, "requeue 9")
    said = (tmp_path / "errors").read_text().splitlines()
    assert len(said) == 3 and said[0].startswith("resilient: job 9 is not back in the queue yet: Slurm does not answer, or refuses.")


def test_a_controller_that_never_answers_is_given_up_with_the_remedy(tmp_path):
    """The state is saved, and somebody has to submit the job again."""
    assert decided(tmp_path, "exit 75", "") == (75, "")
    assert (tmp_path / "errors").read_text().splitlines()[-1].endswith("The state is saved. Submit it again to go on.")


@pytest.mark.parametrize("code", [0, 1, 2, 78, 93])
def test_any_other_end_is_the_end_of_the_job(tmp_path, code):
    """With the same code."""
    assert decided(tmp_path, f"exit {code}", "RUNNING None") == (code, "")


@pytest.mark.parametrize("signal", ["TERM", "HUP", "USR1", "USR2"])
def test_the_shell_passes_signals_on_and_waits(tmp_path, signal):
    """However often, and until the supervisor has ended in its own time."""
    code = f"trap 'sleep 0.2; exit 75' {signal}; echo ready; while :; do sleep 0.01; done"
    assert decided(tmp_path, code, "RUNNING None", signal) == (75, "requeue 9")


def test_a_signal_before_the_supervisor_can_take_it_counts_as_heard(tmp_path):
    """It dies of it, and the job is queued again like any that was asked to stop."""
    assert decided(tmp_path, "echo ready; while :; do sleep 0.01; done", "RUNNING None", "USR1") == (75, "requeue 9")
