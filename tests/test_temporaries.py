"""Temporaries: hidden names never used twice, and swept exactly when whoever wrote them is dead."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resilient.store import temporaries


def parts(path: Path) -> tuple[str, str]:
    host, _, token, _ = path.name.partition(".tmp-")[2].split("-")
    return host, token


def test_temporaries_of_dead_processes_are_swept_and_others_left(tmp_path: Path) -> None:
    """A dead process' temporaries and those of an earlier life under this number go; those of the living and the caller's files stay."""
    own = temporaries.name_beside(tmp_path / "m.bin")
    host, _ = parts(own)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stay = [own, tmp_path / f".m.bin.tmp-{host}-{os.getppid()}-00000000-0", tmp_path / f"m.bin.tmp-{host}-{dead.pid}-00000000-0"]
    go = [tmp_path / f".m.bin.tmp-{host}-{dead.pid}-00000000-0.h5", tmp_path / f".m.bin.tmp-{host}-{os.getpid()}-00000000-0"]
    for path in [*stay, *go]:
        path.write_bytes(b"half")
    temporaries.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(stay)


def test_a_number_given_to_another_process_since_does_not_protect_a_temporary(tmp_path: Path) -> None:
    """A temporary older than the process that has its writer's number now was written by a dead one."""
    host, _ = parts(temporaries.name_beside(tmp_path / "m.bin"))
    path = tmp_path / f".m.bin.tmp-{host}-{os.getppid()}-00000000-0"
    path.write_bytes(b"half")
    os.utime(path, (0, 0))
    temporaries.sweep(tmp_path)
    assert not path.exists()


@pytest.mark.parametrize(("age", "stays"), [(0.0, True), (23 * 3600.0, True), (25 * 3600.0, False)])
def test_a_temporary_of_another_machine_is_swept_after_a_day(tmp_path: Path, age: float, stays: bool) -> None:
    """Nobody can ask whether a process of another machine lives."""
    path = tmp_path / ".m.bin.tmp-00000000-1-00000000-0"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age, time.time() - age))
    temporaries.sweep(tmp_path)
    assert path.exists() is stays


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127])
def test_a_name_of_the_longest_length_has_a_temporary(tmp_path: Path, name: str) -> None:
    """What is added to a name does not exceed what a file system takes, and different names stay different."""
    path = temporaries.name_beside(tmp_path / name, ".weights.h5")
    path.write_bytes(b"")
    assert path.parent == tmp_path and path.name.startswith(".") and path.name.endswith(".weights.h5")
    assert temporaries.short(name) != temporaries.short(name[:-1] + "b")
