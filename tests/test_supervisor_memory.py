"""Out-of-memory kills, from the files of each kind of kernel interface, and from a real kernel where it lets us."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from supervised import events, run

from resilient.supervisor.memory import oom_kills

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


@pytest.mark.parametrize(("files", "kills"), [(V2, 2), (V1, 5), (V1_CONTAINER, 6), (NONE, 9), ({}, 0)])
def test_kills_are_counted_by_whoever_counts_them(tmp_path, files, kills):
    """Cgroup v2, v1, v1 seen from a container, the machine as a whole, and nobody."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert oom_kills(tmp_path) == kills


def memory_group(name):
    """A memory cgroup (version 1) of 64 MB below our own; skips where the machine has none to give."""
    own = next((line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), None)
    group = Path(f"/sys/fs/cgroup/memory{own}/{name}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
    except OSError as error:
        pytest.skip(f"no memory cgroup of our own: {error}")
    return group


def test_a_real_out_of_memory_kill_is_told_from_other_kills(tmp_path):
    """The kernel kills the program at a limit of 64 MB; the journal says so, with the peak, and that it was no plain SIGKILL."""
    group = memory_group(f"resilient-test-{os.getpid()}")
    body = """
    step = begin()
    train(step)
    if attempt == 1:
        hoard = bytearray(100 << 20)
        for at in range(0, len(hoard), 4096):
            hoard[at] = 1
    end()
    """
    try:
        done = run(tmp_path, body, preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
    finally:
        group.rmdir()
    assert done.returncode == 0
    first = events(tmp_path, "exited")[0]
    assert first["out_of_memory"] and first["signal"] == "SIGKILL" and 20 << 20 < first["peak_rss"] < 70 << 20
    assert "attempt 1 was ended by SIGKILL for lack of memory (peak 0.0" in done.stderr
