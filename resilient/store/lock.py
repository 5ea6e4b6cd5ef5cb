"""The lock of a run directory: one process at a time, freed by the kernel when that process dies.

Which lock, and why:
- `flock`, not `fcntl.lockf`: a POSIX lock is lost as soon as *any* descriptor of the file is closed in the process, so that a
  library or a callback that merely reads `run.lock` would silently let a second writer in. A lock that errs must err by refusing.
- `flock` belongs to the open file and is inherited by forked children: a data worker that outlives its SIGKILLed parent would
  keep the run locked. So every fork closes the child's copy (which does not unlock the parent's). Programs started by exec do
  not get it (O_CLOEXEC). A fork made in C, past Python's hooks, keeps it: then the next start is refused, never let in wrongly.
- Not the package filelock: it is the same `flock`, without the closing in forked children.
The file is never unlinked: a process that waits on the unlinked one and one that creates it anew would both hold a lock.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import json
import os
import socket
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resilient.errors import RunLockedError, StorageError
from resilient.store.files import make_directories
from resilient.store.oserrors import storage_errors

if TYPE_CHECKING:
    import types

LOCK_NAME = "run.lock"
_MAX_OWNER_BYTES = 4096
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2", "pvfs2")
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class RunLock:
    """The run directory's lock, as a context manager. Creates the directory where it does not exist."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory) / LOCK_NAME
        self._fd: int | None = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(self) -> None:
        """Takes the lock or fails at once; does nothing if it is held already.

        Raises:
            RunLockedError: another process, or another `RunLock` of this one, holds it; names its pid and host.
            StorageError: the directory or the lock file cannot be made, or the file system has no locks.
        """
        if self.held:
            return
        with storage_errors("create the run directory", self.path.parent):
            make_directories(self.path.parent)
        with storage_errors("open the lock file", self.path):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        self._fd = fd  # before it is locked: a fork in another thread from here on must close its copy
        _held.add(self)
        try:
            self._lock(fd)
            with storage_errors("write the lock file", self.path):
                _write_owner(fd)
        except BaseException:
            self.release()
            raise

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunLockedError(
                f"The run directory {self.path.parent} is in use by {_describe_owner(fd)}. "
                "Wait for that process to end or stop it, or name another directory."
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise StorageError(f"Could not lock {self.path}: {error.strerror}. Name a directory on a local disk.") from error
            raise StorageError(
                f"Could not lock {self.path}: its file system offers no locks, so that two processes could overwrite each other. "
                "Name a directory on a local disk."
            ) from error

    def release(self) -> None:
        """Gives the lock back; does nothing if it is not held. The file stays, and says who held it last."""
        if self._fd is not None:
            # Closing alone would leave it locked while a child that is just being started has not reached its exec.
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._forget()

    def _forget(self) -> None:
        """Closes the descriptor. In a forked child that is all: LOCK_UN would take the lock from the parent."""
        fd, self._fd = self._fd, None
        _held.discard(self)
        if fd is not None:
            with contextlib.suppress(OSError):  # it is closed all the same, and what it may not have written is who held it
                os.close(fd)


# The only module state of the room: a fork hook cannot be unregistered, so one hook serves all locks and holds none alive.
_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock._forget()


os.register_at_fork(after_in_child=_forget_all)


def _write_owner(fd: int) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": dt.datetime.now(dt.UTC).isoformat()}
    data = json.dumps(owner).encode("ascii") + b"\n"
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)


def _describe_owner(fd: int) -> str:
    try:
        owner: Any = json.loads(os.pread(fd, _MAX_OWNER_BYTES, 0))
        pid, host, started = owner["pid"], owner["host"], owner["started"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # taken a moment ago and not yet signed
        return "another process"
    return f"the process with pid {pid} on host {host} (since {started})"


def lock_warning(directory: str | os.PathLike[str]) -> str | None:
    """A sentence if the lock may not hold because the directory is on a network file system, which it names; None on a local one.

    The directory need not exist yet.
    """
    kind = filesystem_type(Path(os.path.realpath(directory)))
    if kind is None or not (kind in _NETWORK or kind.startswith("fuse.")):
        return None
    return (
        f"The run directory {os.fspath(directory)} is on a network or user-space file system ({kind}). Its locks need not exclude "
        "processes on other machines: make sure that only one machine at a time trains in this directory."
    )


def filesystem_type(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Type of the file system that `path` is on, by the longest mount point above it; None where the system does not tell."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    found: tuple[int, str] | None = None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        point = _unescape(fields[4]) if len(fields) > 4 else ""
        # A later mount on the same point hides the earlier one, hence >=.
        if point and path.is_relative_to(point) and (found is None or len(point) >= found[0]):
            found = (len(point), kind)
    return found[1] if found else None


def _unescape(text: str) -> str:
    """Mount points come with space, tab, newline and backslash as octal escapes."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
