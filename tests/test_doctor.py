"""`resilient doctor`: what would fail is found before it does, and nothing of a run is changed."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import socket
from types import SimpleNamespace

import pytest
from cli_samples import a_run, cli, manifest, place, snapshot, the_error
from live_samples import training

from resilient import memory
from resilient.doctoring import Level, examine, machine
from resilient.doctoring import place as disk
from resilient.doctoring.place import Speed, emergency, measure, room
from resilient.errors import CheckpointCorruptError, StorageError
from resilient.journal import Journal
from resilient.observing import Observer
from resilient.status import State
from resilient.store import RunLock, Store, kernel
from resilient.store.lock import LOCK_NAME

GB = 10**9


@pytest.fixture
def quick(monkeypatch):
    """A disk that is measured in no time."""
    monkeypatch.setattr(disk, "measure", lambda place: Speed(1e9, 0.001))


def levels(items):
    """Name -> worst level."""
    found: dict[str, Level] = {}
    for item in items:
        worse = item.level is Level.PROBLEM or item.name not in found or found[item.name] is Level.OK
        found[item.name] = item.level if worse else found[item.name]
    return found


def the(items, name):
    (found,) = [item for item in items if item.name == name]
    return found


def test_a_sound_run_has_no_problem_and_is_left_as_it_was(tmp_path):
    """The real command, with the real measurement; it fits 80 columns."""
    run = a_run(tmp_path / "run")
    Journal(run).append("started", pid=1, run_id="run")
    Journal(run).append("finished", step=25)
    before = snapshot(run)
    done = cli("doctor", run, "--grace", "30s")
    assert done.stdout.endswith(" warnings.\n") and "0 problems" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert snapshot(run) == before
    items = json.loads(cli("doctor", run, "--json").stdout)["items"]
    assert {"file system", "disk", "emergency save", "lock", "journal", "platform", "memory", "versions"} <= {
        item["name"] for item in items
    }


def test_before_the_first_run_the_disk_above_is_looked_at(tmp_path, quick):
    """Nothing is created but what is removed again."""
    found = list(examine(tmp_path / "runs" / "new", environ={}))
    assert the(found, "run").text.endswith("does not hold a run yet.") and Level.PROBLEM not in levels(found).values()
    assert os.listdir(tmp_path) == []


def test_what_is_no_run_is_an_error(tmp_path):
    """A file, or the inside of a run."""
    (tmp_path / "file").touch()
    assert "is a file" in the_error(cli("doctor", tmp_path / "file", code=78))
    inside = a_run(tmp_path / "run") / "checkpoints"
    assert "not a run directory" in the_error(cli("doctor", inside, code=78))


def test_a_directory_with_other_files_is_one_before_the_first_run(tmp_path, quick):
    """`fit` accepts it: a log, say."""
    (tmp_path / "train.log").touch()
    assert the(list(examine(tmp_path, environ={})), "run").text.endswith("does not hold a run yet.")
    assert os.listdir(tmp_path) == ["train.log"]


@pytest.mark.parametrize("saved", [False, True])
def test_where_no_checkpoint_is_valid_the_refusal_is_foretold(tmp_path, quick, saved):
    """As `fit` does it: it begins nothing anew over what is damaged, whatever the journal tells, and the final state is no way on."""
    run = a_run(tmp_path / "run", final=True)
    for step in (0, 10, 20, 25):
        (place(run, step) / "manifest.json").write_text("{")
    if saved:
        Journal(run).append("saved", step=25)
        Journal(run).append("finished", step=25)
    with pytest.raises(CheckpointCorruptError):
        Store(run).latest(lambda name, reason: None)
    found = list(examine(run, environ={}))
    assert "CheckpointCorruptError" in the(found, "checkpoints").text and "anew" not in the(found, "checkpoints").text
    assert "passes it over" not in str(found)
    seen = Observer(run).look()
    assert seen.status.state is State.NEEDS_HUMAN and "CheckpointCorruptError" in seen.status.why
    assert not any(str(place(run, 10)) in problem.reason for problem in seen.survey.damaged)  # the path is beside it


def test_without_a_journal_the_checkpoints_tell_what_the_next_start_does(tmp_path, quick):
    """It goes on, and is not new."""
    seen = Observer(a_run(tmp_path / "run")).look()
    assert "goes on from step 25" in seen.status.why
    alone = a_run(tmp_path / "alone", final=True)
    shutil.rmtree(alone / "checkpoints")
    assert "begins anew" in the(list(examine(alone, environ={})), "checkpoints").text


def test_a_file_system_without_room_for_anything_is_a_problem(tmp_path, monkeypatch):
    """/proc has 0 B of 0 B."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=0, free=0))
    assert [item.level for item in room(tmp_path, None, 0)] == [Level.PROBLEM]


@pytest.mark.parametrize(
    ("nbytes", "seen", "grace", "level"),
    [
        (10**8, None, 15.0, Level.OK),
        (9 * GB, None, 15.0, Level.WARNING),
        (14 * GB, None, 15.0, Level.PROBLEM),
        (10**8, 14.5, 15.0, Level.PROBLEM),  # the disk is fast now, and was not when it mattered
        (10**8, 14.5, 120.0, Level.OK),
        (None, None, 15.0, Level.OK),
    ],
)
def test_the_emergency_save_has_to_fit_into_the_grace_period(nbytes, seen, grace, level):
    """By the disk's speed, or by what the last saves took where that was longer."""
    assert emergency(Speed(1e9, 0.001), nbytes, seen, grace, "as given").level is level


def test_the_measurement_is_bounded_by_time_and_by_the_free_space(tmp_path, monkeypatch):
    """A slow disk is not written to for minutes, a full one not filled; nothing is left there."""
    ticks = itertools.count()
    slow = measure(tmp_path, clock=lambda: next(ticks) * 2.0)
    assert slow.rate == pytest.approx(8 * 2**20 / 2.0) and slow.flush == 2.0
    written: list[int] = []
    whole = disk.write_file
    monkeypatch.setattr(disk, "write_file", lambda path, size, chunks: (written.append(size), whole(path, size, chunks)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=600 * 2**20, total=10**9))
    ticks = itertools.count()
    assert measure(tmp_path, clock=lambda: next(ticks) * 1e-3).rate > 1e9
    assert 8 * 2**20 < sum(written) <= 61 * 2**20 and os.listdir(tmp_path) == []


def test_a_disk_that_refuses_is_a_problem_and_the_rest_is_told_all_the_same(tmp_path, monkeypatch):
    """Full, read-only, quota: in the words of the error that fit would raise."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "write_file", full)
    found = list(examine(tmp_path / "run", environ={}))
    item = the(found, "disk")
    assert item.level is Level.PROBLEM and "the disk is full" in item.text and "Free space" in item.remedy
    assert the(found, "emergency save") and the(found, "versions") and os.listdir(tmp_path) == []


@pytest.mark.parametrize(("free", "level"), [(50, Level.PROBLEM), (300, Level.WARNING), (10**6, Level.OK)])
def test_the_next_saves_have_to_find_room(tmp_path, monkeypatch, free, level):
    """One checkpoint at least, and with `keep` as it is usually six."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free, total=10**9))
    assert levels(room(tmp_path, 100, 200))["free space"] is level


def test_a_file_system_that_cannot_do_everything_says_what_follows(tmp_path, monkeypatch):
    """Without locks nothing can train there; without the rest it costs something."""
    monkeypatch.setattr(kernel, "exchange", lambda *_: False)

    def refuse(*_):
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(os, "link", refuse)
    found = levels(disk.abilities(tmp_path))
    assert (found["exchange of names"], found["hard links"]) == (Level.WARNING, Level.WARNING)
    monkeypatch.setattr("fcntl.flock", refuse)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert levels(disk.abilities(tmp_path))["locks"] is Level.PROBLEM


@pytest.mark.parametrize(
    ("kind", "level"),
    [("ext4", Level.OK), ("tmpfs", Level.PROBLEM), ("overlay", Level.WARNING), ("nfs4", Level.WARNING), ("fuse.sshfs", Level.WARNING)],
)
def test_the_kind_of_file_system_has_consequences(tmp_path, monkeypatch, kind, level):
    """Memory forgets, a container's layer goes with it, a network's locks need not hold."""
    for module in ("resilient.store.lock", "resilient.doctoring.place"):
        monkeypatch.setattr(f"{module}.filesystem_type", lambda path, mounts=None: kind)
    found = disk.kind(tmp_path)
    assert found.level is level and kind in found.text and bool(found.remedy) is (level is not Level.OK)


def test_who_holds_the_lock_is_told(tmp_path, quick):
    """A training that lives; one on another machine; a dead one whose child has the lock still."""
    run = a_run(tmp_path / "run")
    with training(tmp_path / "live") as process:
        assert f"pid {process.pid}, which lives" in the(list(examine(tmp_path / "live", environ={})), "lock").text
    with RunLock(run) as lock:
        lock.path.write_text(json.dumps({"pid": 2**22 - 1, "host": socket.gethostname(), "started": "2026-01-01T00:00:00+00:00"}))
        item = the(list(examine(run, environ={})), "lock")
        assert item.level is Level.PROBLEM and "fuser -v" in item.remedy
    (run / LOCK_NAME).write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": "2026-01-01T00:00:00+00:00"}))
    assert the(list(examine(run, environ={})), "lock").level is Level.WARNING


def test_damage_and_what_was_left_behind_are_found(tmp_path, quick):
    """A torn checkpoint, a quarantine, temporaries of a killed save."""
    run = a_run(tmp_path / "run")
    (place(run, 20) / "model.safetensors").write_bytes(b"")
    (run / "quarantine" / "step-000000000005").mkdir(parents=True)
    (run / "checkpoints" / f".tmp-{'a' * 32}").mkdir()
    found = list(examine(run, environ={}))
    assert levels(found)["checkpoint"] is Level.PROBLEM and levels(found)["quarantine"] is Level.WARNING
    assert "1 unfinished or removed" in the(found, "leftovers").text
    assert cli("doctor", run, code=1).returncode == 1


def test_checkpoints_that_the_journal_tells_of_and_that_are_gone_are_a_problem(tmp_path, quick):
    """A wrong mount: the next start would begin anew."""
    Store(tmp_path / "run").prepare()
    Journal(tmp_path / "run").append("saved", step=40)
    item = the(list(examine(tmp_path / "run", environ={})), "checkpoints")
    assert item.level is Level.PROBLEM and "step 40" in item.text


def test_how_the_run_ended_and_how_often_it_starved_is_a_problem(tmp_path, quick):
    """Nobody starts it again, and the reason is there."""
    run = a_run(tmp_path / "run")
    diary = Journal(run)
    diary.append("attempt", attempt=1, pid=1)
    diary.append("exited", attempt=1, pid=1, signal="SIGKILL", out_of_memory=True, reason="was ended by SIGKILL for lack of memory")
    diary.append("gave_up", failures=["attempt 1"])
    found = [item for item in examine(run, environ={}) if item.level is Level.PROBLEM]
    assert {item.name for item in found} == {"run", "memory"}


def dmi(tmp_path, **fields):
    """Firmware tables."""
    for name, value in fields.items():
        (tmp_path / name).write_text(f"{value}\n")
    return tmp_path


def test_platform_and_notices_come_from_the_machine_itself(tmp_path):
    """No request is made to find out."""
    (item,) = machine.notices({}, dmi(tmp_path, sys_vendor="QEMU", product_name="Standard PC"))
    assert "none that announces" in item.text and "QEMU Standard PC" in item.text
    found = list(machine.notices({"KUBERNETES_SERVICE_HOST": "x"}, dmi(tmp_path, sys_vendor="Amazon EC2")))
    assert found[0].text.startswith("aws: ") and found[1].level is Level.WARNING and "HopLimit" in found[1].remedy


def test_the_grace_period_is_the_strictest_that_is_known(tmp_path):
    """The operator's word counts; else the default after a signal, which is shorter than what a platform gives after its notice."""
    assert machine.grace(7.0, {}, 15.0, tmp_path) == (7.0, "as given")
    known = dmi(tmp_path, sys_vendor="Amazon EC2")
    assert machine.grace(None, {}, 15.0, known) == (15.0, "the default after a signal; aws gives 120 s after a notice")
    assert machine.grace(None, {"SLURM_JOB_ID": "1"}, 90.0, tmp_path / "none") == (60.0, "what slurm gives")


def test_schedulers_tell_what_can_be_known_from_within(monkeypatch):
    """A unit that is killed too early is a problem; Slurm's and Kubernetes' own limits cannot be read, and that is said."""
    monkeypatch.setattr(machine, "_unit", lambda cgroup: "train.service")
    monkeypatch.setattr(machine, "_timeout_of", lambda unit: 10.0)
    environ = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "1000", "KUBERNETES_SERVICE_HOST": "x"}
    found = {item.name: item for item in machine.schedulers(environ, 15.0, now=400.0)}
    assert found["systemd"].level is Level.PROBLEM and "TimeoutStopSec=30" in found["systemd"].remedy
    assert "600 s until its time limit" in found["slurm"].text and "KillWait" in found["slurm"].text
    assert "cannot be read from within" in found["kubernetes"].text


@pytest.mark.parametrize(
    ("told", "seconds"), [("1min 30s", 90.0), ("15s", 15.0), ("infinity", float("inf")), ("500ms", 0.5), ("", None), ("what", None)]
)
def test_the_time_that_systemd_grants_is_read_as_it_writes_it(tmp_path, monkeypatch, told, seconds):
    """From systemctl's own words."""
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\necho '{told}'\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert machine._timeout_of("train.service") == seconds


@pytest.mark.parametrize(("line", "unit"), [("0::/system.slice/train.service", "train.service"), ("0::/user.slice/session-1.scope", None)])
def test_the_unit_is_that_of_the_own_control_group(tmp_path, line, unit):
    """A login session is none."""
    (tmp_path / "cgroup").write_text(f"{line}\n")
    assert machine._unit(tmp_path / "cgroup") == unit
    assert machine._unit(tmp_path / "none") is None


def test_the_memory_limit_is_the_strictest_of_the_groups_above(tmp_path):
    """Version 2 and version 1; none where nothing limits."""
    assert memory.limit(tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job/step\n5:memory:/old\n")
    (tmp_path / "sys/fs/cgroup/job/step").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/job/step/memory.max").write_text("max\n")
    (tmp_path / "sys/fs/cgroup/job/memory.max").write_text("5000\n")
    assert memory.limit(tmp_path) == 5000
    (tmp_path / "sys/fs/cgroup/memory/old").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory/old/memory.limit_in_bytes").write_text("4000\n")
    assert memory.limit(tmp_path) == 4000
    assert machine.memory(3900, tmp_path).level is Level.WARNING and machine.memory(3000, tmp_path).level is Level.OK


def test_doctor_says_that_training_waits_for_its_saves_where_memory_is_short(tmp_path):
    """Of the last ones, not of one at the beginning."""
    diary = Journal(tmp_path)
    diary.append("started", pid=1, run_id="r", fresh=True)
    for step, waited in enumerate([True, False, *[True] * 20]):
        diary.append("saved", step=step, epoch=0, batch=step, nbytes=9, seconds=0.1, waited=waited)
        (item,) = (item for item in examine(tmp_path) if item.name == "memory") if step in (0, 1, 2, 21) else (None,)
        if item is not None:
            assert ("training waited for each" in item.text) is (step in (0, 21))
            assert item.level is (Level.WARNING if step in (0, 21) else Level.OK)


def test_other_versions_than_those_of_the_run_are_a_warning():
    """Its bits may change."""
    assert [item.level for item in machine.versions({"python": "3.1.0"})] == [Level.OK, Level.WARNING]
    assert [item.level for item in machine.versions({"backend": "tensorflow", "machine": "x"})] == [Level.OK]
    assert [item.level for item in machine.versions(None)] == [Level.OK]


def test_a_folder_that_may_not_be_written_is_told_by_the_disk(tmp_path, monkeypatch):
    """As fit would say it."""

    def refuse(*_args, **_more):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(StorageError, match="permission is denied"), disk.corner(tmp_path):
        pass


def test_a_run_whose_state_no_longer_fits_is_told(tmp_path, monkeypatch):
    """The whole way: a checkpoint on disk, a slow disk, a short grace."""
    run = a_run(tmp_path / "run")
    Store(run).commit(manifest(40), {"model.safetensors": {"w": __import__("numpy").zeros(1000, "float32")}})
    monkeypatch.setattr(disk, "measure", lambda place: Speed(100.0, 0.001))
    item = the(list(examine(run, grace=5.0, environ={})), "emergency save")
    assert item.level is Level.PROBLEM and "5 s (as given)" in item.text
