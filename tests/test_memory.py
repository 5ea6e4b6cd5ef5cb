"""What is left of memory, kills for the lack of it, and saving where there is none: from files as kernels have them, and for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from supervised import ROOT, events, run

from chaos.faults.memory import Group
from resilient import memory
from resilient.memory import Copies, Room, Usage, oom_kills

MB = 10**6
GB = 1000 * MB

V2 = {
    "proc/self/cgroup": "0::/user.slice/run-1\n",
    "sys/fs/cgroup/user.slice/run-1/memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n",
}
V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/jobs/7\n0::/\n",
    "sys/fs/cgroup/memory/jobs/7/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
}
V1_CONTAINER = {**V1, "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 6\n"}
del V1_CONTAINER["sys/fs/cgroup/memory/jobs/7/memory.oom_control"]
NONE = {"proc/self/cgroup": "0::/\n", "proc/vmstat": "nr_free_pages 1\noom_kill 9\n"}


def write(root, files):
    """These files below `root`."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(("files", "kills"), [(V2, 2), (V1, 5), (V1_CONTAINER, 6), (NONE, 9), ({}, 0)])
def test_kills_are_counted_by_whoever_counts_them(tmp_path, files, kills):
    """Cgroup v2, v1, v1 seen from a container, the machine as a whole, and nobody."""
    write(tmp_path, files)
    assert oom_kills(tmp_path) == kills


MACHINE = {
    "proc/meminfo": "MemTotal:       1000000 kB\nMemFree: 5 kB\nMemAvailable:    600000 kB\n",
    "proc/self/status": "Name:\tpython\nVmHWM:\t    300 kB\nVmRSS:\t    200 kB\nThreads:\t9\n",
}
LIMITED_V2 = {
    **MACHINE,
    "proc/self/cgroup": "0::/job/step\n",
    "sys/fs/cgroup/job/step/memory.max": "max\n",
    "sys/fs/cgroup/job/memory.max": "90000000\n",
    "sys/fs/cgroup/job/memory.current": "80000000\n",
    "sys/fs/cgroup/job/memory.stat": "anon 1\ninactive_anon 7\nactive_file 2000000\ninactive_file 3000000\ninactive_file_other 9\n",
}
LIMITED_V1 = {
    **MACHINE,
    "proc/self/cgroup": "4:cpu,memory:/old\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/old/memory.limit_in_bytes": "90000000\n",
    "sys/fs/cgroup/memory/old/memory.usage_in_bytes": "60000000\n",
    "sys/fs/cgroup/memory/old/memory.stat": "inactive_file 1\ntotal_active_file 1000000\ntotal_inactive_file 500000\n",
}
NO_STRICTER = {**LIMITED_V2, "sys/fs/cgroup/job/memory.max": "1024000001\n"}
FULL_PARENT = {
    **LIMITED_V2,
    "sys/fs/cgroup/job/step/memory.max": "80000000\n",
    "sys/fs/cgroup/job/step/memory.current": "10000000\n",
}
THROTTLED = {**LIMITED_V2, "sys/fs/cgroup/job/memory.high": "85000000\n"}


@pytest.mark.parametrize(
    ("files", "total", "free"),
    [
        (MACHINE, 1_024_000_000, 614_400_000),
        (NO_STRICTER, 1_024_000_000, 614_400_000),
        (LIMITED_V2, 90_000_000, 15_000_000),
        (LIMITED_V1, 90_000_000, 31_500_000),
        (FULL_PARENT, 80_000_000, 15_000_000),
        (THROTTLED, 85_000_000, 10_000_000),
    ],
)
def test_what_is_free_is_what_all_limits_leave_and_the_page_cache_gives_way(tmp_path, files, total, free):
    """The machine, a group that allows more than there is, groups of both versions, one above that is full, and one that brakes."""
    write(tmp_path, files)
    assert memory.usage(tmp_path) == Usage(total, free, 204_800, 307_200)


def test_where_the_system_does_not_tell_nothing_is_known(tmp_path):
    """No /proc, or one of another kind."""
    assert memory.usage(tmp_path) is None
    write(tmp_path, {"proc/meminfo": MACHINE["proc/meminfo"], "proc/self/status": "Name:\tpython\n"})
    assert memory.usage(tmp_path) is None


def test_this_machine_tells():
    """And what is freed can be given back: nothing else is known of that here."""
    found = memory.usage()
    assert found is not None and 0 < found.resident <= found.peak and 0 < found.free <= found.total
    memory.give_back()


class Machine:
    """Memory of a total size, a training, and an allocator that keeps what copies have taken until it is asked to give it back.

    Args:
        training: bytes that it has between two steps; `step`: that it needs besides in one.
    """

    def __init__(self, total: int, training: int, step: int = 0) -> None:
        self.total, self.training, self.step = total, training, step
        self.kept = self.given_back = 0
        self.peak = training
        self.told: list[str] = []
        self.room = Room(self.look, self.give_back)

    def look(self) -> Usage:
        resident = self.training + self.kept
        self.peak = max(self.peak, resident)
        return Usage(self.total, self.total - resident, resident, self.peak)

    def give_back(self) -> None:
        self.kept = 0
        self.given_back += 1

    def save(self, nbytes: int) -> Copies | None:
        return self.room.claim(nbytes, self.told.append)

    def train(self, copied: int = 0) -> None:
        """A step, which copies so many bytes and returns those that it needs itself."""
        self.kept = max(self.kept, copied)
        self.peak = max(self.peak, self.training + self.kept + self.step)
        assert self.peak <= self.total

    def save_and_train(self, nbytes: int) -> bool:
        """Whether the save found room; if so, all of it is copied in the next step, and is on disk after that."""
        copies = self.save(nbytes)
        self.train(0 if copies is None else nbytes)
        return copies is not None


def test_where_memory_is_plenty_every_save_finds_room():
    """And nobody is told anything."""
    machine = Machine(20 * GB, training=2 * GB, step=GB)
    assert [machine.save_and_train(GB) for _ in range(5)] == [True] * 5
    assert machine.told == [] and machine.given_back == 0


def test_before_a_step_is_known_there_is_room_only_if_half_of_the_memory_stays_free():
    """Then what a step takes at its fullest is left to it. The first save is no reason to tell anybody."""
    machine = Machine(8 * GB, training=3 * GB, step=GB)
    assert [machine.save_and_train(GB) for _ in range(3)] == [False, True, True]
    assert machine.told == []


def test_where_there_is_no_room_no_save_finds_any_and_that_is_told():
    """What a step takes beside what is resident between two of them counts."""
    machine = Machine(8 * GB, training=4 * GB, step=3 * GB)
    assert [machine.save_and_train(GB) for _ in range(3)] == [False] * 3
    assert machine.told == [
        "Host memory has no room for a second copy of the 1.00 GB that training changes: where that is so, training waits for the save. "
        "Give it more memory, or save less often, if that is too slow."
    ]
    assert machine.given_back == 0  # nothing of ours was there
    assert machine.save(10 * MB)  # what is small always has room


def test_what_earlier_copies_have_left_behind_is_given_back_where_it_is_missed():
    """A second copy fits, a third would not: neither what is kept nor the peak with it is what training needs."""
    machine = Machine(5 * GB, training=2 * GB)
    assert [machine.save_and_train(GB) for _ in range(4)] == [False, True, True, True]
    assert machine.given_back == 0
    machine.kept += GB
    assert machine.save_and_train(GB) and machine.given_back == 1 and machine.told == []
    machine.training += 2 * GB  # the program has grown
    assert not machine.save_and_train(GB) and machine.given_back == 2 and len(machine.told) == 1
    assert not machine.save_and_train(GB) and machine.given_back == 2


def test_what_restoring_has_left_behind_is_given_back_where_memory_is_short():
    """Less than half of it free."""
    ample, tight = Machine(6 * GB, training=3 * GB), Machine(5 * GB, training=3 * GB)
    ample.room.after_restoring()
    tight.room.after_restoring()
    assert (ample.given_back, tight.given_back) == (0, 1)
    Room(lambda: None, pytest.fail).after_restoring()


def test_copies_of_what_is_not_written_yet_take_their_room():
    """Also where they have not been made: they may be at any moment. What was written takes none."""
    machine = Machine(5500 * MB, training=2 * GB, step=GB)
    machine.save_and_train(GB)
    first = machine.save(GB)
    machine.train(GB)
    assert first and machine.kept == GB
    assert machine.save(GB) is None
    del first
    assert machine.save(GB)


def test_a_peak_is_not_taken_for_copies_that_were_never_made():
    """The first save found room, was on disk before the first step, and that step takes nearly everything."""
    machine = Machine(8 * GB, training=1700 * MB, step=5900 * MB)
    assert machine.save(GB)
    machine.train()
    assert machine.save(GB) is None
    machine.train()
    assert machine.save(GB) is None


def test_what_an_attempt_had_that_died_of_it_is_no_room():
    """However much is free now. With more memory than it had there is room again."""
    tight, ample = Machine(9 * GB, training=GB), Machine(11 * GB, training=GB)
    for machine in (tight, ample):
        machine.room.remember(8 * GB)
    assert [tight.save_and_train(GB) for _ in range(3)] == [False] * 3
    assert [ample.save_and_train(GB) for _ in range(3)] == [False, True, True]


def test_what_is_not_known_is_no_reason_to_wait():
    """A system that does not tell what is free."""
    room = Room(lambda: None)
    assert all(room.claim(GB, pytest.fail) for _ in range(3))


@given(
    total=st.integers(1, 100),
    training=st.integers(1, 100),
    step=st.integers(0, 50),
    nbytes=st.integers(1, 50),
    copied=st.lists(st.booleans(), min_size=1, max_size=6),
)
def test_whatever_training_takes_copies_are_made_only_where_they_fit(total, training, step, nbytes, copied):
    """`train` checks it; some saves are on disk before a step writes. Of a step that takes more than half the first can know nothing."""
    assume(training + min(step, total // 2) <= total)  # or it would not train
    machine = Machine(total * GB, training * GB, min(step, total // 2) * GB)
    for some in copied:
        copies = machine.save(nbytes * GB)
        machine.train(nbytes * GB if some and copies else 0)


def test_a_real_out_of_memory_kill_is_told_from_other_kills(tmp_path, group):
    """The kernel kills the program at a limit of 64 MB; the journal says so, with the peak, and that it was no plain SIGKILL."""
    group.limit(64 << 20)
    body = """
    step = begin()
    train(step)
    if attempt == 1:
        hoard = bytearray(100 << 20)
        for at in range(0, len(hoard), 4096):
            hoard[at] = 1
    end()
    """
    done = run(tmp_path, body, preexec_fn=lambda: group.take(os.getpid()))
    assert done.returncode == 0
    first = events(tmp_path, "exited")[0]
    assert first["out_of_memory"] and first["signal"] == "SIGKILL" and 20 << 20 < first["peak_rss"] < 70 << 20
    assert "attempt 1 was ended by SIGKILL for lack of memory (peak 0.0" in done.stderr


TRAINING = """
import os, signal, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np
import resilient
from resilient.store import Store

commit = Store.commit
def slowly(*arguments, **options):  # as long as it takes, each step copies what it writes into
    time.sleep(0.7)
    return commit(*arguments, **options)
Store.commit = slowly

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((2048,)), *[keras.layers.Dense(2048) for _ in range(4)]])
model.compile("adam", "mse", jit_compile=False)
data = dict(x=np.ones((96, 2048), "float32"), y=np.zeros((96, 2048), "float32"), batch_size=8, shuffle=False, verbose=0)
how = sys.argv[1]
class Killed(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if how == "killed" and batch == 6:
            os.kill(os.getpid(), signal.SIGKILL)

if how == "plain":
    history = model.fit(**data)
else:
    history = resilient.fit(model, **data, callbacks=[Killed()], directory="run", monitor="loss", save_every=4)
anonymous = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
print("RESULT", anonymous.split()[1], history.history["loss"])
"""


def train(directory: Path, group: Group, how: str) -> subprocess.CompletedProcess[str]:
    """`TRAINING` in that group."""
    return subprocess.run(
        [sys.executable, "-c", TRAINING, how], cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": ""},
        capture_output=True, text=True, check=False, preexec_fn=lambda: group.take(os.getpid()),
    )  # fmt: skip


def result(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Of a training that ended: bytes in its memory then, and the losses."""
    assert done.returncode == 0, done.stderr
    _, kilobytes, losses = next(line for line in done.stdout.splitlines() if line.startswith("RESULT")).split(maxsplit=2)
    return 1024 * int(kilobytes), losses


def test_a_training_lives_and_is_resumed_in_memory_that_has_no_room_for_a_second_copy_of_its_state(tmp_path: Path, group: Group) -> None:
    """Half of a copy more than it needs without saving: it waits for its saves, and what restoring takes is given back before the first."""
    plain, losses = result(train(tmp_path, group, "plain"))
    group.limit(plain + 100 * MB)
    killed = train(tmp_path, group, "killed")
    assert killed.returncode == -signal.SIGKILL and not group.kills()  # by itself, not by the kernel
    resumed = train(tmp_path, group, "resumed")
    assert result(resumed)[1] == losses
    assert [event["step"] for event in events(tmp_path, "restored")] == [4]
    assert "no room for a second copy of the 201 MB that training changes" in resumed.stderr
    assert [event["waited"] for event in events(tmp_path, "saved")] == [True] * 5
