"""The store under SIGKILL: a real process dies before each of its system calls in turn, and at half of each write."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from store_samples import commit, is_sample, leftovers, manifest, prepared, reports, same

from chaos.crash_states.lives import LIVES
from chaos.samples import written_over
from resilient.store import spare

ROOT = Path(__file__).resolve().parent.parent


def die(*options: str) -> tuple[int, int, str]:
    """Deaths, how many of them were bad, and what was said."""
    # A process of its own: it forks, and that of the tests has threads.
    command = [sys.executable, "-m", "chaos.crash_states.dying", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"(\d+) deaths, (\d+) bad", done.stdout)
    assert found, done.stderr
    return int(found[1]), int(found[2]), done.stdout


@pytest.mark.parametrize("life", ["grow", "over", "finish", "quarantine", "publish", "journal"])
def test_a_process_killed_anywhere_loses_nothing_that_was_acknowledged(life):
    """Before every call and within every write: a reader finds the last acknowledged state or a newer one, and the next start goes on."""
    count, bad, said = die("--only", life)
    assert count > (15 if life == "journal" else 40)
    assert bad == 0, said


BIG = {"model.safetensors": {str(part): np.full(2**22, part, np.uint8) for part in range(8)}}  # its parts reach the disk one by one


def under_way(directory: Path, pattern: str = ".tmp-*") -> int:
    """Bytes of the largest file in a temporary directory; -1 where there is no such directory."""
    found = [-1]
    for temporary in (directory / "checkpoints").glob(pattern):
        found.append(0)
        with contextlib.suppress(FileNotFoundError):
            found += [file.stat().st_size for file in temporary.iterdir()]
    return max(found)


@pytest.mark.parametrize("reached", [0, 2**20, 2**24, 2**25], ids=lambda reached: f"{reached >> 20}MB")
def test_a_process_killed_in_the_middle_of_a_big_write_leaves_the_older_checkpoint(reached, tmp_path):
    """SIGKILL from outside, while the data of a large checkpoint goes to the disk."""
    commit(prepared(tmp_path), 1)
    code = (
        "import sys; from test_store_crash import BIG; from chaos.samples import manifest; from resilient.store import Store\n"
        "print('go', flush=True)\n"
        "while True: Store(sys.argv[1]).commit(manifest(2), BIG)\n"
    )
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}) as child:
        assert child.stdout.readline() == "go\n"
        while under_way(tmp_path) < reached:
            assert child.poll() is None
        child.kill()
    left = under_way(tmp_path, ".t*-*")  # also of a checkpoint that was on its way out
    with written_over():  # whatever the file system
        store = prepared(tmp_path)
        assert len(leftovers(tmp_path)) == (left >= spare.WORTH)  # kept for the next commit, or gone
    seen, report = reports()
    latest = store.latest(report)
    assert seen == [] and store.verify() == []
    assert is_sample(latest) or same(latest.tensors, BIG)
    store.commit(manifest(3), BIG)  # over what was kept
    assert same(store.latest(report).tensors, BIG) and seen == [] and store.verify() == []
    store.close()
    assert leftovers(tmp_path) == []


def test_the_oracle_notices_a_commit_that_is_not_atomic():
    """Negative control: with a store that puts one file after the other in place, the same deaths must cost something."""
    _, bad, said = die("--only", "replace", "--mutant", "files in place")
    assert bad > 0, said


def test_the_lives_are_known_by_name():
    """The names above are of lives that there are."""
    assert {"grow", "finish", "quarantine", "publish", "journal", "replace"} <= {life.name for life in LIVES}
