"""The store under SIGKILL: a real process dies before each of its system calls in turn, and at half of each write."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from store_samples import commit, is_sample, leftovers, prepared, reports, same

from chaos.crash_states.lives import LIVES

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


def test_a_process_killed_in_the_middle_of_a_big_write_leaves_the_older_checkpoint(tmp_path):
    """SIGKILL from outside, while the data of a large checkpoint goes to the disk."""
    store = prepared(tmp_path)
    commit(store, 1)
    code = (
        "import sys, numpy as np; from chaos.samples import manifest; from resilient.store import Store\n"
        "files = {'model.safetensors': {'x': np.ones(2**25, np.uint8)}}\n"
        "print('go', flush=True)\n"
        "while True: Store(sys.argv[1]).commit(manifest(2), files)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout.readline() == "go\n"
        while not leftovers(tmp_path):
            assert child.poll() is None
        child.kill()
    store = prepared(tmp_path)
    seen, report = reports()
    latest = store.latest(report)
    assert seen == [] and leftovers(tmp_path) == [] and store.verify() == []
    assert is_sample(latest) or same(latest.tensors, {"model.safetensors": {"x": np.ones(2**25, np.uint8)}})


def test_the_oracle_notices_a_commit_that_is_not_atomic():
    """Negative control: with a store that puts one file after the other in place, the same deaths must cost something."""
    _, bad, said = die("--only", "replace", "--mutant", "files in place")
    assert bad > 0, said


def test_the_lives_are_known_by_name():
    """The names above are of lives that there are."""
    assert {"grow", "finish", "quarantine", "publish", "journal", "replace"} <= {life.name for life in LIVES}
