"""The disk: what kind it is, what it can, how fast it is, how much room there is."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import mmap
import os
import resource
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from resilient.amounts import duration, size
from resilient.doctoring.finding import Item, ok, problem, warning
from resilient.errors import StorageError
from resilient.store import kernel
from resilient.store.files import sync_directory, write_file
from resilient.store.lock import filesystem_type, lock_warning
from resilient.store.oserrors import storage_error

_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_PIECE, _PIECES, _LARGEST = 8 * 2**20, 4, 2**30  # bytes written at a time, pieces of a file, bytes in all
_LEAST = 4096  # bytes, however little is free
_SECONDS = 1.0  # of writing; what is under way then is finished
_SHARE = 0.1  # of the free space at most
_FLUSHES = 5  # of a small file
_COPIES = 6  # three last, the best one, the final state, and the one that is being written
_FEW_FILES = 1000


@dataclasses.dataclass(frozen=True)
class Speed:
    """Of durable writing: bytes a second, and the seconds of one small file until it is durable."""

    rate: float
    flush: float

    def seconds(self, nbytes: int) -> float:
        """That a checkpoint of this size takes: its data, and the small files and directories around it."""
        return nbytes / self.rate + 4 * self.flush


def kind(directory: Path) -> Item:
    """The type of the file system, and what follows from it."""
    found = filesystem_type(Path(os.path.realpath(directory)))
    network = lock_warning(directory)
    if network is not None:
        return warning("file system", network, "Start it under one scheduler that runs it once, or name a local directory.")
    if found in _IN_MEMORY:
        text = f"{found} lives in memory: everything is gone after a reboot, and it counts as memory that the training lacks."
        return problem("file system", text, "Name a directory on a disk.")
    if found == "overlay":
        text = "overlay: the file system of a container, which is gone with the container."
        return warning("file system", text, "Mount a volume, and name a directory on it.")
    return ok("file system", f"{found or 'unknown'}, local.")


@contextlib.contextmanager
def corner(directory: Path) -> Iterator[Path]:
    """A folder of our own on the same disk, gone afterwards; where we are killed, the next start of the run sweeps it away.

    Raises:
        StorageError: nothing can be written there.
    """
    place = directory / f".tmp-{uuid.uuid4().hex}"
    try:
        place.mkdir()
    except OSError as error:
        raise storage_error(error, "write", directory) from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def abilities(place: Path) -> Iterator[Item]:
    """What the file system can, by trying it in `place`."""
    what = "It works without; name a directory on ext4, xfs or btrfs for more."
    lacks = [
        ("direct writes", _direct, "Saves go through the page cache and cost more processor time"),
        (
            "exchange of names",
            _exchange,
            "A checkpoint is replaced in two steps, and the next start repairs what a crash leaves between them",
        ),
        ("hard links", _links, "Weights that do not change are written again with every checkpoint"),
        ("locks", _locks, "Two trainings in this directory would overwrite each other, so that fit refuses to start"),
    ]
    missing = []
    for name, attempt, consequence in lacks:
        try:
            able = attempt(place)
        except OSError:
            able = False
        if not able:
            missing.append((name, consequence))
    for name, consequence in missing:
        make = problem if name == "locks" else warning
        yield make(name, f"The file system has no {name}. {consequence}.", what if name != "locks" else "Name a directory on a local disk.")
    if not missing:
        yield ok("abilities", "direct writes, exchange of names, hard links and locks work.")


def _direct(place: Path) -> bool:
    descriptor = os.open(place / "direct", os.O_WRONLY | os.O_CREAT | os.O_DIRECT | os.O_CLOEXEC, 0o600)
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            return os.write(descriptor, page) == mmap.PAGESIZE
    finally:
        os.close(descriptor)


def _exchange(place: Path) -> bool:
    for name in ("one", "other"):
        (place / name).mkdir()
    return kernel.exchange(place / "one", place / "other")


def _links(place: Path) -> bool:
    (place / "first").touch()
    os.link(place / "first", place / "second")
    return True


def _locks(place: Path) -> bool:
    with open(place / "lock", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def measure(place: Path, clock: Callable[[], float] = time.perf_counter) -> Speed:
    """Write files as a save does, until a second or a tenth of the free space is over, and clean up.

    Raises:
        StorageError: the disk refuses.
    """
    written, seconds = 0, 0.0
    try:
        most = min(_LARGEST, _SHARE * shutil.disk_usage(place).free)
        data = os.urandom(max(_LEAST, min(_PIECE, int(most))))  # nothing that the disk could compress
        while not written or (seconds < _SECONDS and written + _PIECES * len(data) <= most):
            count = _PIECES if written else 1  # the first one is small: who knows what disk this is
            seconds += _written(place / "file", data, count, clock)
            written += count * len(data)
        flushes = sorted(_flushed(place / f"small-{number}", clock) for number in range(_FLUSHES))
    except OSError as error:
        raise storage_error(error, "measure the disk", place.parent) from error
    return Speed(written / seconds, flushes[len(flushes) // 2])


def _written(path: Path, data: bytes, count: int, clock: Callable[[], float]) -> float:
    started = clock()
    write_file(path, count * len(data), (data for _ in range(count)))
    seconds = clock() - started
    path.unlink()
    return max(seconds, 1e-6)


def _flushed(path: Path, clock: Callable[[], float]) -> float:
    started = clock()
    write_file(path, 1024, [bytes(1024)])
    sync_directory(path.parent)
    seconds = clock() - started
    path.unlink()
    return seconds


def room(directory: Path, state: int | None, held: int) -> Iterator[Item]:
    """Free space against what the run is going to need; `state`: bytes of a checkpoint, `held`: of all that are there."""
    usage, statistics = shutil.disk_usage(directory), os.statvfs(directory)
    free = size(usage.free)
    remedy = "Free space there, keep fewer checkpoints (`keep=`), or name a directory on another disk."
    if not usage.total:
        yield problem("free space", "none: the file system holds no files of yours.", "Name a directory on a disk.")
        return
    if statistics.f_files and statistics.f_favail < _FEW_FILES:
        yield problem("free files", f"The file system has room for {statistics.f_favail} more files only.", "Remove files there.")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if state is not None and limit != resource.RLIM_INFINITY and limit < state:
        yield problem("file size limit", f"No file may be larger than {size(limit)} here (ulimit -f).", "Raise the limit.")
    if state is None:
        yield ok("free space", f"{free} of {size(usage.total)}; how much a checkpoint needs is known after the first one.")
        return
    wanted = max(0, _COPIES * state - held)
    if usage.free < state:
        yield problem("free space", f"{free} are free, and one checkpoint has {size(state)}: the next save fails.", remedy)
    elif usage.free < wanted:
        text = f"{free} are free. With the usual `keep` the run grows by another {size(wanted)} ({_COPIES} checkpoints of {size(state)})."
        yield warning("free space", text, remedy)
    else:
        yield ok("free space", f"{free}; a checkpoint has {size(state)}.")


def emergency(speed: Speed | None, state: int | None, seen: float | None, grace: float, source: str) -> Item:
    """Whether a save fits into the grace period; `seen`: seconds that the last saves took."""
    limit = f"the grace period of {grace:g} s ({source})"
    if state is None or speed is None:
        return ok("emergency save", f"Known after the first checkpoint; it has to fit into {limit}.")
    needed = max(speed.seconds(state), seen or 0.0)
    took = f" (the last saves took {duration(seen)})" if seen is not None else ""
    text = f"{size(state)} take about {duration(needed)} here{took}, of {limit}. The batch under way ends before that."
    remedy = "Use a faster disk, a smaller state (optimizer), or a longer grace period where the platform grants one."
    if needed > grace - min(1.0, 0.1 * grace):
        return problem("emergency save", f"{text} It does not fit: what was trained since the last save would be lost.", remedy)
    return warning("emergency save", f"{text} That is tight.", remedy) if needed > grace / 2 else ok("emergency save", text)


def disk(speed: Speed) -> Item:
    """What was measured."""
    text = f"{size(speed.rate)}/s of durable writing, {duration(speed.flush)} to make a small file durable."
    slow = speed.rate < 50e6 or speed.flush > 0.1
    return warning("disk", text, "Saves take long here: a local disk would be faster.") if slow else ok("disk", text)


def refused(error: StorageError) -> Item:
    """Nothing can be written."""
    return problem("disk", str(error).partition(". ")[0] + ".", str(error).partition(". ")[2])
