"""`resilient unit slurm` on a real Slurm of one node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from held_training import OPTIONS, PROGRAM, undisturbed
from slurm_cluster import Cluster, Job, has_freezer, reason_to_skip
from supervised import ROOT, events, write

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

# Trains a batch every few milliseconds and saves every tenth; after SIGTERM it saves and ends with 75, the second time it is done at once.
STEADY = """
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
step = begin()
say("begins", step)
while not asked and not step > 100_000 and not os.path.exists("enough"):
    step += 1
    train(step)
    if step % 10 == 0:
        save(step)
    time.sleep(0.005)
if not asked:
    end()
    sys.exit(0)
heartbeat.beat(Section.STOPPING, at(step))
save(step)
say("saved", step)
open("enough", "w").close()
sys.exit(75)
"""


@pytest.fixture(scope="module", params=["cgroup", "linuxproc"])
def cluster(request):
    """One cluster for all tests of a kind."""
    if request.param == "cgroup" and not has_freezer():
        pytest.skip("Slurm's process tracking by cgroups needs the freezer of cgroups' first version here")
    with Cluster(request.param).running() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def any_cluster():
    """As most are, where that is possible."""
    with Cluster("cgroup" if has_freezer() else "linuxproc").running() as cluster:
        yield cluster


def submitted(cluster: Cluster, directory: Path, body: str, *options: str, speaks: bool = True, arguments=()) -> Job:
    """A program as a job, from `resilient unit slurm` to `sbatch`."""
    write(directory, body, speaks=speaks)
    script = directory / "train.sbatch"
    path = f"--env=PYTHONPATH={ROOT}:{ROOT / 'tests'}"
    command = [
        sys.executable,
        "-m",
        "resilient",
        "unit",
        "slurm",
        path,
        *options,
        "-o",
        str(script),
        "--",
        sys.executable,
        "program.py",
        *arguments,
    ]
    subprocess.run(command, cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    return cluster.submit(script)


# -- whoever gets the signal --------------------------------------------------------------------------------------------------------


def test_a_stopped_job_saves_and_goes_back_into_the_queue_until_it_is_done(cluster, tmp_path):
    """SIGTERM to the batch shell, as --signal sends it before the time limit: exit code 75, requeued, gone on from there, completed."""
    job = submitted(cluster, tmp_path, STEADY)
    job.wait_for_line("begins")
    job.control("scancel", "--batch", "--signal=TERM")
    saved = job.wait_for_line("saved")
    job.hurry()
    assert job.wait_for_line("begins", 2) == saved
    job.wait_for(JobState="COMPLETED", Restarts="1")
    assert [event["verdict"] for event in events(tmp_path, "exited")] == ["preempted", "done"]


def test_a_cancelled_job_saves_and_does_not_rise_from_the_dead(cluster, tmp_path):
    """After scancel the state is saved, and the job stays cancelled."""
    job = submitted(cluster, tmp_path, STEADY)
    job.wait_for_line("begins")
    job.control("scancel")
    job.wait_for_line("saved")
    job.wait_for(JobState="CANCELLED", Restarts="0")
    assert [event["verdict"] for event in events(tmp_path, "exited")] == ["preempted"]


# -- what else there is -------------------------------------------------------------------------------------------------------------


def test_a_job_that_is_requeued_from_outside_goes_on(any_cluster, tmp_path):
    """`scontrol requeue`, or a preemption: it is queued once and not twice."""
    job = submitted(any_cluster, tmp_path, STEADY)
    job.wait_for_line("begins")
    job.control("scontrol", "requeue")
    saved = job.wait_for_line("saved")
    job.hurry()
    assert job.wait_for_line("begins", 2) == saved
    job.wait_for(JobState="COMPLETED", Restarts="1")


@pytest.mark.parametrize(("code", "body"), [(78, "sys.exit(78)"), (93, "sys.exit(1)")], ids=["78", "93"])
def test_what_is_final_is_not_queued_again(any_cluster, tmp_path, code, body):
    """The job has failed with that code."""
    job = submitted(any_cluster, tmp_path, body, "--run-options=--give-up 1")
    job.wait_for(JobState="FAILED", ExitCode=f"{code}:0", Restarts="0")


def test_a_time_limit_is_announced_and_survived(any_cluster, tmp_path):
    """With --signal ahead of the limit, and at the limit itself: saved, requeued and gone on from there, as often as it takes."""
    (tmp_path / "warned").mkdir()
    (tmp_path / "struck").mkdir()
    warned = submitted(any_cluster, tmp_path / "warned", STEADY, "--time=10m")
    # No warning comes here (the last option counts), as when the limit is shortened at the last moment.
    struck = submitted(any_cluster, tmp_path / "struck", STEADY, "--time=10m", "--sbatch=--signal=B:URG@1")
    for job, end in ((warned, "now+85"), (struck, "now+1")):
        job.wait_for_line("begins")
        job.update(f"EndTime={end}")
    for job in (warned, struck):
        saved = job.wait_for_line("saved")
        job.hurry()
        assert job.wait_for_line("begins", 2) == saved
        job.wait_for(JobState="COMPLETED", Restarts="1")


def test_arguments_and_variables_arrive_as_they_were_typed(any_cluster, tmp_path):
    """The script is bash, and its quoting is bash's own."""
    odd = ["", "a b", "'", '"', "$HOME", "`ls`", "\\", "new\nline", "%j", "#SBATCH --hold", "ü 🙂", ";", "*", "!"]
    code = "import os, sys; print('seen', ascii([sys.argv[1:], os.environ['ODD']]))"
    job = submitted(any_cluster, tmp_path, code, f"--env=ODD={''.join(odd)}", speaks=False, arguments=odd)
    job.wait_for(JobState="COMPLETED")
    assert " ".join(job.wait_for_line("seen")) == " ".join(ascii([odd, "".join(odd)]).split())


@pytest.mark.timeout(240)
def test_a_real_training_that_is_requeued_ends_as_an_undisturbed_one(any_cluster, tmp_path):
    """Stopped in its midst, requeued, gone on: the same weights and losses, bit for bit."""
    job = submitted(any_cluster, tmp_path, PROGRAM, *OPTIONS, speaks=False, arguments=["held"])
    job.wait_until((tmp_path / "holds").exists, "it trains")
    job.control("scancel", "--batch", "--signal=TERM")
    job.wait_until(lambda: "SIGTERM: passed on" in job.log.read_text(), "it was told to stop")
    (tmp_path / "released").touch()
    job.hurry()
    job.wait_for(JobState="COMPLETED", Restarts="1")
    assert undisturbed(tmp_path) in job.log.read_text()
    assert [(event["verdict"], event["step"]) for event in events(tmp_path, "exited")] == [("preempted", 6), ("done", 12)]
