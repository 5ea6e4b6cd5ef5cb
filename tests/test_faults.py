"""The library of faults: each does what its first line says, strikes when its schedule says, and is counted."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from store_samples import commit, is_sample, leftovers, prepared, reports

from chaos import faults, kill
from chaos.calls import ALL, met
from chaos.faults import clock, damage, disk, fail_at, fail_between, fail_by_chance, fail_from, hang, memory, network, strace
from chaos.faults import kill as killing
from chaos.notices import GceServer
from resilient.errors import StorageError
from resilient.journal import Journal, read
from resilient.manifest import step_name
from resilient.store import Store

ROOT = Path(__file__).resolve().parent.parent


def test_each_fault_is_a_file_that_promises_something():
    """The first line of its docstring is one sentence."""
    promises = faults.promises()
    files = {path.stem for path in Path(faults.__file__).parent.glob("*.py")} - {"__init__", "schedule"}
    assert set(promises) == files
    assert all(promise.endswith((".", "loopback")) and len(promise) > 40 for promise in promises.values())


def test_schedules_strike_as_declared_and_count():
    """At, from, between, and by chance with the same draws for the same seed."""

    def struck(schedule, occasions=20):
        assert [schedule.strikes() for _ in range(occasions)].count(True) == len(schedule.struck)
        assert schedule.asked == occasions
        return schedule.struck

    assert struck(fail_at(2, 5)) == [2, 5]
    assert struck(fail_from(18)) == [18, 19, 20]
    assert struck(fail_between(3, 4)) == [3, 4]
    assert struck(faults.never()) == []
    assert struck(fail_by_chance(0.3, 7)) == struck(fail_by_chance(0.3, 7)) != struck(fail_by_chance(0.3, 8))
    assert repr(fail_from(3)) == "from 3 on"


# -- disk --------------------------------------------------------------------------------------------------------------------------


def a_run(place: Path) -> Store:
    store = prepared(place)
    commit(store, 1)
    return store


def newest(place: Path) -> int:
    found = Store(place).latest(reports()[1])
    assert is_sample(found)
    return found.manifest.progress.step


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_refusing_disk_ends_a_save_and_nothing_else(tmp_path, number):
    """The error is ours, what was saved stays, and once the disk takes writes again the next save succeeds."""
    store = a_run(tmp_path)
    fault = fail_from(1)
    with met(disk.refuse(number, fault, disk.FULL), tmp_path), pytest.raises(StorageError):
        commit(store, 2)
    assert fault.struck and newest(tmp_path) == 1
    commit(store, 2)
    assert newest(tmp_path) == 2


def test_a_read_only_disk_still_gives_what_is_on_it(tmp_path):
    """As after the kernel remounted it: saves fail, restores do not."""
    store = a_run(tmp_path)
    with met(disk.read_only(fail_from(1)), tmp_path):
        with pytest.raises(StorageError, match="read-only"):
            commit(store, 2)
        assert newest(tmp_path) == 1


def test_short_writes_are_continued(tmp_path):
    """Each write takes a third of what it is given."""
    store = a_run(tmp_path)
    fault = fail_from(1)
    with met(disk.write_short(fault, 0.3), tmp_path):
        commit(store, 2)
    assert len(fault.struck) > 10 and newest(tmp_path) == 2 and store.verify() == []


def test_a_failed_fsync_is_never_tried_again_on_the_same_file(tmp_path):
    """Its data are gone: the save fails, and the next one writes new files."""
    store = a_run(tmp_path)
    for point in itertools.count(1):
        fault = fail_at(point)
        failing = disk.FailingSync(fault)
        with met(failing, tmp_path), contextlib.suppress(StorageError):
            commit(store, 2)
        assert failing.retried == [] or all(os.path.isdir(path) for path in failing.retried)
        assert Store(tmp_path).verify() == []
        commit(store, 2)
        assert newest(tmp_path) == 2
        if not fault.struck:
            break
    assert point > 5


def test_a_failing_fsync_loses_the_data_and_notices_who_tries_again(tmp_path):
    """Negative control of the fault itself."""
    failing = disk.FailingSync(fail_at(1))
    with met(failing, tmp_path):
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"data")
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(fd)
        os.fsync(fd)
        os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"\0\0\0\0"
    assert failing.retried == [str(tmp_path / "file")]


def test_a_slow_disk_delays_until_it_is_told_to_stop(tmp_path):
    """A save waits in its first fsync, and goes on."""
    store = a_run(tmp_path)
    fault, stop = fail_at(1), threading.Event()
    with met(disk.slow(600, fault, ("fsync",), stop), tmp_path):
        thread = threading.Thread(target=commit, args=(store, 2))
        thread.start()
        while not fault.struck:
            assert thread.is_alive()
        assert leftovers(tmp_path)
        stop.set()
        thread.join(60)
    assert not thread.is_alive() and newest(tmp_path) == 2


def test_calls_elsewhere_are_left_alone(tmp_path):
    """Only what lies below the directory is met, by path, by descriptor and by `open`."""
    (tmp_path / "in").mkdir()
    fault = fail_from(1)
    with met(disk.refuse(errno.EIO, fault), tmp_path / "in"):
        (tmp_path / "out").write_text("x")
        assert (tmp_path / "out").read_text() == "x"
        assert fault.asked == 0
        below = tmp_path / "in"
        for attempt in (lambda: os.mkdir(below / "a"), lambda: (below / "b").write_text("x"), lambda: os.listdir(below)):
            with pytest.raises(OSError, match="Input/output"):
                attempt()
    assert len(fault.struck) == 3
    assert len(ALL) > 20


# -- death -------------------------------------------------------------------------------------------------------------------------

SAVING = "import sys; from pathlib import Path; from chaos.samples import commit, prepared; place = Path(sys.argv[1])\n"


def python(code: str, *arguments: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", SAVING + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, **options)


@pytest.mark.parametrize("fault", ["before_call(fail_at(20), signal.SIGTERM)", "within_write(fail_at(2))"])
def test_a_process_dies_at_a_call_of_its_own(tmp_path, fault):
    """By any signal, and in the middle of a write."""
    a_run(tmp_path)
    code = "import signal; from chaos.calls import met; from chaos.faults import fail_at; from chaos.faults.kill import *\n"
    done = python(f"{code}with met({fault}, place): commit(prepared(place), 2, blocks=1)", tmp_path)
    assert done.returncode == (-signal.SIGTERM if "TERM" in fault else -signal.SIGKILL), done.stderr
    assert prepared(tmp_path).verify() == [] and newest(tmp_path) == 1


def test_a_process_dies_inside_the_chosen_phase_of_a_commit(tmp_path):
    """Found from outside, and true of what is left: tensors are there, the manifest is not."""
    a_run(tmp_path)
    code = "while True: commit(prepared(place), 2, blocks=2000)"
    child = kill.start([sys.executable, "-c", SAVING + code, str(tmp_path)], tmp_path / "output")
    assert kill.kill_at(child, killing.in_phase(tmp_path, killing.Phase.TENSORS), signal.SIGKILL, 120)
    assert child.wait(60) == -signal.SIGKILL
    ((left,),) = ([path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".tmp-") and any(path.iterdir())],)
    assert not (left / "manifest.json").exists()
    assert prepared(tmp_path).verify() == []


def test_every_phase_of_a_commit_is_told_by_what_lies_there(tmp_path):
    """From the empty temporary to the removal of the old."""
    a_run(tmp_path)
    place = tmp_path / "checkpoints"
    moments = {phase: killing.in_phase(tmp_path, phase) for phase in killing.Phase}

    def phase() -> list[killing.Phase]:
        return [phase for phase, moment in moments.items() if moment()]

    assert phase() == []
    temporary = place / ".tmp-1"
    temporary.mkdir()
    assert phase() == [killing.Phase.BEGUN]
    (temporary / "model.safetensors").touch()
    assert phase() == [killing.Phase.TENSORS]
    (temporary / "manifest.json").touch()
    assert phase() == [killing.Phase.MANIFEST]
    temporary.rename(place / step_name(7))
    assert phase() == [killing.Phase.NAMED]
    Journal(tmp_path).append("saved", step=7)
    assert phase() == []
    (place / step_name(1)).rename(place / ".trash-1")
    assert phase() == [killing.Phase.REMOVING]


def test_a_process_dies_at_a_step(tmp_path):
    """The moment comes when the program's log has the batch."""
    log = tmp_path / "log"
    moment = killing.at_step(log, 1, 3)
    for batch in (1, 2):
        log.write_text(f'{{"event":"batch","attempt":1,"epoch":0,"batch":{batch},"ids":[]}}\n')
        assert not moment()
    log.write_text('{"event":"batch","attempt":1,"epoch":0,"batch":3,"ids":[]}\n')
    assert moment()


def traces() -> bool:
    """Whether strace is here and may trace."""
    return strace.installed() and subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not traces(), reason="strace cannot be used here")
def test_an_unmodified_program_meets_faults_by_strace(tmp_path):
    """Killed at its third fsync, and refused by a full disk, without a line of it changed."""
    a_run(tmp_path)
    command = [sys.executable, "-c", f"{SAVING}commit(prepared(place), 2)", str(tmp_path)]
    done = subprocess.run(killing.by_strace(command, "fsync", 3), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert newest(tmp_path) == 1
    injection = strace.failing("fallocate", errno.ENOSPC)
    done = subprocess.run(strace.under(command, [injection]), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1 and "the disk is full" in done.stderr
    assert newest(tmp_path) == 1


def test_without_strace_its_faults_say_so(monkeypatch):
    """It is not required."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="not installed"):
        strace.under(["true"], [])


# -- hang, memory ------------------------------------------------------------------------------------------------------------------


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_stopped_process_goes_on_afterwards():
    """SIGSTOP and SIGCONT."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with hang.stopped(child.pid):
            wait_until(lambda: state_of(child.pid) == "T")
        wait_until(lambda: state_of(child.pid) != "T")
        child.communicate(b"\n")
    assert child.returncode == 0


def test_blocked_data_come_when_they_are_released(tmp_path):
    """The third item is withheld."""
    blocked, got = hang.BlockedData(fail_at(3)), []
    thread = threading.Thread(target=lambda: got.extend(blocked.through(range(5))))
    thread.start()
    assert blocked.blocked.wait(60)
    blocked.release()
    thread.join(60)
    assert got == [0, 1, 2, 3, 4]
    assert hang.blocked_file(tmp_path / "pipe").is_fifo()


def test_a_process_without_memory_is_refused_it():
    """The limit counts from what it has."""
    code = "print('ready', flush=True); input()\ntry: bytearray(2**28); print('got it')\nexcept MemoryError: print('refused')"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        with memory.limited(child.pid, 2**26):
            assert child.communicate("\n")[0] == "refused\n"


def test_a_process_beyond_its_group_is_killed(group):
    """By the kernel, with SIGKILL, and counted; with more, or without a limit, it ends."""
    for limit, code in ((2**26, -signal.SIGKILL), (2**30, 0), (None, 0)):
        group.limit(limit)
        with subprocess.Popen([sys.executable, "-c", "input(); x = bytearray(2**28)"], stdin=subprocess.PIPE) as child:
            group.take(child.pid)
            assert group.members() == [child.pid]
            child.communicate(b"\n")
        assert child.returncode == code and group.kills() == 1


# -- damage, time, network ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", damage.KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_damage_to_any_file_at_rest_costs_one_checkpoint_at_most(tmp_path, kind, seed):
    """Found by its checksum, moved to quarantine, and the older one is used."""
    store = a_run(tmp_path)
    commit(store, 2)
    said = damage.damage(tmp_path / "checkpoints" / step_name(2), kind, random.Random(seed))
    assert len(Store(tmp_path).verify()) == 1, said
    assert newest(tmp_path) == 1, said
    assert (tmp_path / "quarantine" / step_name(2)).is_dir()


def test_a_clock_that_jumps_both_ways_changes_nothing(tmp_path):
    """Which checkpoint is the newest is not a question of time, and the journal reads on."""
    jumping = clock.JumpingClock(fail_from(1))
    journal = Journal(tmp_path)
    with jumping.in_place():
        assert isinstance(dt.datetime.now(dt.UTC), dt.datetime)
        first = time.time()
        assert abs(time.time() - first) > 1000
        store = prepared(tmp_path)
        for step in range(1, 6):
            commit(store, step, created=dt.datetime.now(dt.UTC))
            assert journal.append("saved", step=step)
            assert newest(tmp_path) == step
    journal.close()
    created = [info.created for info in Store(tmp_path).infos()]
    assert created != sorted(created) and jumping.ahead != 0
    assert [event["step"] for event in read(tmp_path)] == [1, 2, 3, 4, 5]
    assert abs(time.time() - dt.datetime.now(dt.UTC).timestamp()) < 60


def ask(address: tuple[str, int]) -> str:
    url = f"http://{address[0]}:{address[1]}/computeMetadata/v1/instance/preempted"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("kind", [network.Kind.RESET, network.Kind.CUT])
def test_a_network_breaks_one_connection_and_carries_the_next(kind):
    """The second of three is met."""
    fault = fail_at(2)
    with GceServer() as server, network.Proxy(server.address, kind, fault, after=20) as proxy:
        assert ask(proxy.address) == "FALSE"
        with pytest.raises(OSError, match=r"."):
            ask(proxy.address)
        assert ask(proxy.address) == "FALSE"
    assert fault.asked == 3 and fault.struck == [2]


def test_a_network_swallows_or_delays():
    """No answer ends with the caller's own patience; a late one is an answer."""
    with GceServer() as server:
        with network.Proxy(server.address, network.Kind.SWALLOW, fail_from(1)) as proxy:
            connection = socket.create_connection(proxy.address)
            connection.settimeout(0.2)
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.close()
        with network.Proxy(server.address, network.Kind.DELAY, fail_from(1), seconds=0.1) as proxy:
            assert ask(proxy.address) == "FALSE"
