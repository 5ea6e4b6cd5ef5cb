"""The store under SIGKILL: a real process dies before each of its system calls in turn, and at half of each write.

Run as a program, this file is the process that is killed: it forks one child per point of death, so that thousands of points take seconds.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from store_samples import FAST, FROZEN, commit, is_sample, leftovers, manifest, prepared, reports, same, tensors

from resilient.keep import Keep
from resilient.manifest import step_name
from resilient.store import Store, kernel

CALLS = ("mkdir", "open", "write", "fsync", "close", "link", "rename", "unlink", "rmdir", "scandir", "listdir")
KERNEL_CALLS = ("allocate", "start_writeback", "exchange")


# -- what the dying process does ---------------------------------------------------------------------------------------------------


def train(directory: Path, acknowledge) -> None:
    """A run's whole life as the store sees it; `acknowledge(kind, sequence)` follows each commit that returned."""
    store = Store(directory)
    store.prepare()
    for sequence, step in enumerate([0, 10, 20, 20, 30]):  # 20 twice: the last batch of an epoch and its end
        commit(store, step, sequence)
        acknowledge("commit", sequence)
        store.prune(Keep(last=2, best=0))
    commit(store, 25, 5)  # sent back to 20
    acknowledge("commit", 5)
    store.drop_abandoned("first", 5, 20)
    for sequence in (6, 7):
        store.commit_final(manifest(25, sequence), tensors(sequence), FROZEN)
        acknowledge("final", sequence)


def restore(directory: Path, acknowledge) -> None:
    """A start that finds leftovers and a damaged newest checkpoint."""
    store = Store(directory)
    store.prepare()
    found = store.latest(lambda name, reason: None)
    acknowledge("commit", found.manifest.sequence)


def leave_a_mess(directory: Path) -> None:
    """What `restore` has to deal with."""
    store = prepared(directory)
    for step in (1, 2, 3):
        commit(store, step)
    os.truncate(directory / "checkpoints" / step_name(3) / "model.safetensors", 5)
    os.rename(directory / "checkpoints" / step_name(2), directory / "checkpoints" / f".replaced-{step_name(2)}")
    for name in (f".tmp-{'0' * 32}", f".trash-{'1' * 32}"):
        (directory / "checkpoints" / name).mkdir()
        (directory / "checkpoints" / name / "model.safetensors").write_bytes(b"torn")


def die_at(point: int, torn: bool) -> None:
    """Has this process killed before the `point`-th call; with `torn`, only writes count and half of the fatal one is done."""
    calls = itertools.count(1)

    def counted(genuine):
        def call(*arguments, **keywords):
            if next(calls) == point:
                if torn:
                    genuine(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return genuine(*arguments, **keywords)

        return call

    for name in ("write",) if torn else CALLS:
        setattr(os, name, counted(getattr(os, name)))
    for name in () if torn else KERNEL_CALLS:
        setattr(kernel, name, counted(getattr(kernel, name)))


def note(write, log: int, kind: str, sequence: int) -> None:
    write(log, json.dumps([kind, sequence]).encode() + b"\n")


def kill_everywhere(base: Path, life, torn: bool) -> None:
    """Lives `life` in base/1, base/2, … and dies one call later each time, until it survives."""
    for point in itertools.count(1):
        directory = base / str(point)
        if life is restore:
            leave_a_mess(directory)
        directory.mkdir(parents=True, exist_ok=True)
        log = os.open(base / f"{point}.log", os.O_WRONLY | os.O_CREAT)
        child = os.fork()
        if child == 0:
            acknowledge = functools.partial(note, os.write, log)  # the genuine write
            die_at(point, torn)
            life(directory, acknowledge)
            os._exit(0)
        os.close(log)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return
        if code != -signal.SIGKILL:
            sys.exit(f"the child ended with {code} at point {point}")


# -- what the next process finds -----------------------------------------------------------------------------------------------------


def run(base: Path, *options: str) -> list[Path]:
    done = subprocess.run([sys.executable, __file__, str(base), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sorted((path for path in base.iterdir() if path.is_dir()), key=lambda path: int(path.name))


def acknowledged(directory: Path) -> dict[str, int]:
    """Kind -> sequence of its last commit that returned."""
    lines = directory.with_suffix(".log").read_text().splitlines()
    return dict(json.loads(line) for line in lines)


def check(directory: Path) -> None:
    """A reader that takes no lock finds the last acknowledged state or a newer one, and so does the next start, which cleans up."""
    acks = acknowledged(directory)
    for start in (False, True):
        store = Store(directory)
        if start:
            store.prepare()
            assert leftovers(directory) == []
        seen, report = reports()
        latest = store.latest(report)
        if start or not any(directory.rglob(".replaced-*")):
            if "commit" in acks:
                assert latest is not None and latest.manifest.sequence >= acks["commit"]
            final = store.load_final()
            if "final" in acks:
                assert final is not None and final.manifest.sequence >= acks["final"]
            assert final is None or is_sample(final)
        assert latest is None or is_sample(latest)
        assert seen == [] and store.verify() == []


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(dir=FAST) as path:
        yield Path(path)


@pytest.mark.parametrize("options", [(), ("torn",), ("no-exchange",)], ids=["any call", "half a write", "without exchange"])
def test_a_process_killed_anywhere_loses_nothing_that_was_acknowledged(place, options):
    """Killed before every system call of commits, replacements, pruning, a line of history abandoned and the final state."""
    directories = run(place, "train", *options)
    assert len(directories) > (20 if "torn" in options else 150)
    for directory in directories:
        check(directory)


def test_a_start_killed_anywhere_is_finished_by_the_next(place):
    """Faults during recovery from a fault: sweeping, bringing back and quarantine may die at every call as well."""
    directories = run(place, "restore")
    assert len(directories) > 20
    for directory in directories:
        store = Store(directory)
        store.prepare()
        _seen, report = reports()
        latest = store.latest(report)
        assert latest.manifest.sequence == 2 and is_sample(latest)
        quarantined = list((directory / "quarantine").glob("step-*3"))
        assert len(quarantined) == 1 and (quarantined[0] / "optimizer.safetensors").exists()
        assert leftovers(directory) == [] and store.verify() == []


def test_a_process_killed_in_the_middle_of_a_big_write_leaves_the_older_checkpoint(tmp_path):
    """SIGKILL from outside, while the data of a large checkpoint goes to the disk."""
    store = prepared(tmp_path)
    commit(store, 1)
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import numpy as np; from store_samples import manifest; from resilient.store import Store\n"
        "files = {'model.safetensors': {'x': np.ones(2**25, np.uint8)}}\n"
        "print('go', flush=True)\n"
        "while True: Store(sys.argv[1]).commit(manifest(2), files)\n"
    )
    here = str(Path(__file__).parent)
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), here], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "go\n"
        while not leftovers(tmp_path):
            assert child.poll() is None
        child.kill()
    store = prepared(tmp_path)
    seen, report = reports()
    latest = store.latest(report)
    assert seen == [] and leftovers(tmp_path) == [] and store.verify() == []
    assert is_sample(latest) or same(latest.tensors, {"model.safetensors": {"x": np.ones(2**25, np.uint8)}})


def test_the_oracle_notices_a_commit_that_is_not_atomic(place):
    """Negative control: with a store that writes in place, the same check must fail somewhere."""
    directories = run(place, "train", "in-place")
    with pytest.raises(Exception, match=r"\S"):  # whatever way it shows
        list(map(check, directories))


def main() -> None:
    base, life, *options = sys.argv[1:]
    if "no-exchange" in options:
        kernel.exchange = lambda first, second: False
    if "in-place" in options:
        from resilient.store import commit as protocol

        def write_in_place(temporary, target):
            with contextlib.suppress(FileExistsError):
                target.mkdir()
            for path in temporary.iterdir():
                (target / path.name).unlink(missing_ok=True)  # renaming a link onto another of the same file does nothing
                path.rename(target / path.name)
            temporary.rmdir()

        protocol._publish = write_in_place
    kill_everywhere(Path(base), {"train": train, "restore": restore}[life], torn="torn" in options)


if __name__ == "__main__":
    main()
