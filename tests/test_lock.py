from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from resilient.errors import RunLockedError, StorageError
from resilient.store import RunLock, lock_warning
from resilient.store.lock import LOCK_NAME, filesystem_type

ROOT = Path(__file__).parents[1]
HOLDER = """
import os, subprocess, sys
from resilient.store.lock import RunLock
lock = RunLock(sys.argv[1])
lock.acquire()
if sys.argv[2] == "fork" and os.fork() == 0:
    os.write(1, b"%d\\n" % os.getpid())  # after the fork hook has run
    sys.stdin.read()
    os._exit(0)
if sys.argv[2] == "program":
    code = "import os, sys; os.write(1, b'%d\\\\n' % os.getpid()); sys.stdin.read()"
    subprocess.Popen([sys.executable, "-c", code], close_fds=False)
if sys.argv[2] == "alone":
    os.write(1, b"%d\\n" % os.getpid())
sys.stdin.read()
"""


def start_holder(directory: Path, mode: str) -> tuple[subprocess.Popen, int]:
    """A process that holds the lock; its pid, or otherwise that of the child it has forked or started."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, directory, mode], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def is_free(directory: Path) -> bool:
    try:
        with RunLock(directory):
            return True
    except RunLockedError:
        return False


def test_a_second_process_is_refused_with_pid_and_host(tmp_path):
    """The message says whom to ask; the lock is free again when that process is gone."""
    process, pid = start_holder(tmp_path, "alone")
    try:
        with pytest.raises(RunLockedError, match=rf"in use by the process with pid {pid} on host {socket.gethostname()} "):
            RunLock(tmp_path).acquire()
    finally:
        end(process)
    assert is_free(tmp_path)


@pytest.mark.parametrize("mode", ["fork", "program"])
def test_a_killed_holder_frees_the_lock_though_its_child_lives(tmp_path, mode):
    """An orphaned data worker, or a program that was started, must not keep the run from going on."""
    process, child = start_holder(tmp_path, mode)
    try:
        assert not is_free(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        os.kill(child, 0)  # it lives
        assert is_free(tmp_path)
    finally:
        end(process)


def test_a_forked_child_that_ends_leaves_the_parents_lock_alone(tmp_path):
    """Closing the inherited descriptor, and a release in the child, must not unlock the parent's."""
    with RunLock(tmp_path) as lock:
        child = os.fork()
        if child == 0:
            lock.release()
            os._exit(1 if lock.held else 0)
        assert os.waitpid(child, 0)[1] == 0
        assert not is_free(tmp_path)
    assert is_free(tmp_path)


def test_a_forked_child_cannot_take_the_parents_lock(tmp_path):
    """Being a child of the holder gives no right to write."""
    with RunLock(tmp_path) as lock:
        child = os.fork()
        if child == 0:
            try:
                lock.acquire()
            except RunLockedError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def test_release_frees_the_lock_though_a_copy_of_its_descriptor_is_open(tmp_path):
    """A child between fork and exec, or one forked past Python's hooks, holds such a copy."""
    lock = RunLock(tmp_path)
    lock.acquire()
    copy = os.dup(lock._fd)
    lock.release()
    try:
        assert is_free(tmp_path)
    finally:
        os.close(copy)


def test_two_locks_of_one_process_exclude_each_other(tmp_path):
    """Another `RunLock` of the same process is another owner; the same one may be taken again."""
    with RunLock(tmp_path) as lock:
        lock.acquire()
        with pytest.raises(RunLockedError, match=f"pid {os.getpid()} "):
            RunLock(tmp_path).acquire()
    lock.release()
    assert is_free(tmp_path)


def test_reading_the_lock_file_does_not_free_it(tmp_path):
    """With a POSIX lock, closing any descriptor of the file in this process would."""
    with RunLock(tmp_path):
        owner = json.loads((tmp_path / LOCK_NAME).read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
        assert probe(tmp_path) == "locked"


def probe(directory: Path) -> str:
    """Whether another process finds the lock taken."""
    code = """
import sys
from resilient.errors import RunLockedError
from resilient.store.lock import RunLock
try:
    RunLock(sys.argv[1]).acquire()
    print("free")
except RunLockedError:
    print("locked")
"""
    done = subprocess.run([sys.executable, "-c", code, directory], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"pid": 1}', b"[" * 4000, b"x" * 100_000])
def test_whatever_the_lock_file_holds_is_no_obstacle(tmp_path, content):
    """A stale or garbled file of a dead process; and where the holder's note cannot be read, the refusal still is a sentence."""
    (tmp_path / LOCK_NAME).write_bytes(content)
    with RunLock(tmp_path):
        (tmp_path / LOCK_NAME).write_bytes(content)
        with pytest.raises(RunLockedError, match="in use by another process"):
            RunLock(tmp_path).acquire()
    assert is_free(tmp_path)


def test_the_directory_is_created(tmp_path):
    """The lock comes before anything else in a run directory."""
    with RunLock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK_NAME).is_file()


def test_what_stands_in_the_way_is_one_sentence(tmp_path):
    """A file in the directory's place, a directory in the file's, a link that could lead a write elsewhere."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "run" / LOCK_NAME).mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / LOCK_NAME).symlink_to(tmp_path / "file")
    for directory in ("file", "run", "linked"):
        with pytest.raises(StorageError, match=r"^Could not .*\.$"):
            RunLock(tmp_path / directory).acquire()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_an_error_and_not_a_free_pass(tmp_path, monkeypatch, number):
    """Two writers would be worse than none."""

    def refuse(fd, operation):
        raise OSError(number, os.strerror(number))

    lock = RunLock(tmp_path)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="local disk"):
        lock.acquire()
    assert not lock.held


MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /data rw - nfs4 server:/data rw
31 30 0:41 / /data/local rw shared:3 master:1 - xfs /dev/sdb1 rw
32 22 0:42 / /with\040space rw - fuse.s3fs s3fs rw
33 22 0:43 / /twice rw - ext4 /dev/sdc1 rw
34 22 0:44 / /twice rw - cifs //server/share rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/run", "ext4"),
        ("/data/run", "nfs4"),
        ("/data", "nfs4"),
        ("/database/run", "ext4"),
        ("/data/local/run", "xfs"),
        ("/with space/run", "fuse.s3fs"),
        ("/twice/run", "cifs"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(tmp_path, path, kind):
    """Nested, escaped and stacked mount points."""
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert filesystem_type(Path(path), tmp_path / "mountinfo") == kind
    assert filesystem_type(Path(path), tmp_path / "none") is None


def test_a_network_file_system_is_named_and_a_local_one_is_not(tmp_path, monkeypatch):
    """One honest sentence where the lock may not hold."""
    assert lock_warning(tmp_path / "not" / "there") is None
    for kind, warned in (
        ("nfs4", True),
        ("fuse.gcsfuse", True),
        ("lustre", True),
        ("ext4", False),
        ("tmpfs", False),
        ("overlay", False),
        (None, False),
    ):
        monkeypatch.setattr("resilient.store.lock.filesystem_type", lambda path, kind=kind: kind)
        warning = lock_warning(tmp_path)
        assert (warning is not None) == warned
        assert warning is None or (kind in warning and str(tmp_path) in warning and warning.endswith("."))
