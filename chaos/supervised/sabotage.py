"""The program's own part in the storm: what it does to itself by order, and what it finds when it begins.

All of it goes through files beside the run directory, so that a program that has died in the midst of it has still told what it did:
`order.json` what to do once, `poison.json` which batch fails as long as it lies there, `deeds.jsonl` what was done, `violations` what
must never be, `workers` who must be gone before the next attempt.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

ORDER, POISON, DEEDS, VIOLATIONS, WORKERS, ALONE = "order.json", "poison.json", "deeds.jsonl", "violations", "workers", "alone"
_PLACE = "CHAOS_PLACE"  # in the environment of a worker
_HOARD = 1 << 16  # bytes taken at a time
_MUCH = 1 << 26  # and where address space is what is limited: so large that the C library has it from the kernel, untouched
_SPACE = 4 << 30  # bytes of address space, where no memory cgroup is there to set the limit


def append(path: Path, **line: Any) -> None:
    """One line in one system call, so that a kill leaves a line whole or none."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


class Sabotage:
    """Carries out the orders of one training; `root`: where it keeps its things."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = -1
        self._before: tuple[int, int] | None = None

    def at_import(self) -> None:
        """What is to happen before anything is imported."""
        order = self._order(ORDER, "import")
        if order is not None:
            self._carry_out(order)

    def before_batch(self, epoch: int, batch: int) -> None:
        """What is to happen at this batch."""
        # The first batch of an epoch, or of an attempt, may take half an hour: to hang there is no hang for as long.
        settled, self._before = self._before == (epoch, batch - 1), (epoch, batch)
        for name in (ORDER, POISON):
            order = self._order(name, "batch")
            if order is not None and order.get("place") in (None, [epoch, batch]) and (settled or order["deed"] != "hang"):
                self._carry_out(order, epoch=epoch, batch=batch)

    def begin(self) -> None:
        """With the run directory's lock in hand: nobody else trains here, and nothing of an earlier attempt is left."""
        self._lock = os.open(self._root / ALONE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            append(self._root / VIOLATIONS, what="two trainings at once", pid=os.getpid())
        for worker in workers(self._root):
            if is_worker(worker, self._root):
                append(self._root / VIOLATIONS, what="a worker of an earlier attempt is alive", pid=os.getpid(), worker=worker)
        self._start_worker()

    def _start_worker(self) -> None:
        """In a session of its own, deaf to all that can be ignored, as the worst of data loaders."""
        command = ["sh", "-c", "trap '' HUP INT TERM USR1; exec sleep 600"]
        nothing, environment = subprocess.DEVNULL, {**os.environ, _PLACE: str(self._root)}
        worker = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True, env=environment)
        append(self._root / WORKERS, pid=worker.pid)

    def _order(self, name: str, moment: str) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            order: dict[str, Any] = json.loads((self._root / name).read_text())
            return order if order["moment"] == moment else None
        return None

    def _carry_out(self, order: dict[str, Any], **where: int) -> None:
        if "place" not in order:
            (self._root / ORDER).unlink()
        append(self._root / DEEDS, pid=os.getpid(), deed=order["deed"], **where)
        _ACTS[order["deed"]](order)


def _exit(order: dict[str, Any]) -> NoReturn:
    sys.exit(order["code"])


def _raise(_order: dict[str, Any]) -> NoReturn:
    raise RuntimeError("The storm has this batch fail.")


def _abort(_order: dict[str, Any]) -> NoReturn:
    os.abort()


def _hang(_order: dict[str, Any]) -> NoReturn:
    while True:
        time.sleep(60)


def _hoard(order: dict[str, Any]) -> NoReturn:
    hoard = []
    if not order["limited"]:
        resource.setrlimit(resource.RLIMIT_AS, (_SPACE, _SPACE))
        with contextlib.suppress(MemoryError):  # to touch all of it could take as long as a hang
            while True:
                hoard.append(bytes(_MUCH))
    while True:
        hoard.append(b"\1" * _HOARD)


_ACTS = {"exit": _exit, "raise": _raise, "abort": _abort, "hang": _hang, "hoard": _hoard}


def workers(root: Path) -> list[int]:
    """Pids of all that any attempt has started."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line)["pid"] for line in (root / WORKERS).read_text().splitlines()]
    return []


def is_worker(pid: int, root: Path) -> bool:
    """Whether that process is alive, and is still the worker it was: pids come again."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" and f"{_PLACE}={root}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
