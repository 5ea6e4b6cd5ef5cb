"""A small kill storm over the whole of `resilient.fit`, and proof that its judge sees what it has to see."""

from __future__ import annotations

import dataclasses
import itertools
import random
import shlex
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from chaos import kill, oracle, rounds, storm
from chaos.faults import damage

STEPS = 5


def outcome() -> dict:
    """What a program under test writes at its end, in small."""
    kernel = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)
    return {
        "variables": {"0 dense/kernel": oracle.digest(kernel)},
        "optimizer": {"0 adam/iteration": oracle.digest(np.int64(10))},
        "history": {"loss": [0.5, 0.25], "epochs": [0, 1]},
    }


def log(epochs: int = 2) -> list[oracle.Trained]:
    """An undisturbed log: two epochs of five batches with two samples each."""
    order = iter(range(1000))
    return [oracle.Trained(1, epoch, batch, (next(order), next(order))) for epoch, batch in itertools.product(range(epochs), range(STEPS))]


def again(batches: list[oracle.Trained], attempt: int) -> list[oracle.Trained]:
    return [dataclasses.replace(batch, attempt=attempt) for batch in batches]


def test_the_oracle_finds_nothing_between_equal_runs() -> None:
    """Equal outcomes are equal, also after a kill that cost three batches and made them be trained again."""
    disturbed = [*log()[:7], *again(log()[4:], 2)]
    assert oracle.differences(outcome(), outcome()) == []
    assert oracle.log_differences(log(), disturbed) == []
    assert oracle.rolled_back(disturbed) == 3


def test_the_oracle_notices_one_flipped_bit() -> None:
    """The lowest bit of one weight is enough, and the difference names the variable."""
    kernel = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)
    kernel.view("uint32")[1, 1] ^= 1
    flipped = outcome() | {"variables": {"0 dense/kernel": oracle.digest(kernel)}}
    found = oracle.differences(outcome(), flipped)
    assert len(found) == 1 and found[0].startswith("variables: 0 dense/kernel")


@pytest.mark.parametrize("value", [np.float32(-0.0), np.float64(0.0), np.zeros(1, "float32")])
def test_the_oracle_tells_apart_what_numpy_calls_equal(value: np.ndarray) -> None:
    """Minus zero, another dtype and another shape are other values."""
    assert oracle.digest(value) != oracle.digest(np.float32(0.0))


def test_the_oracle_notices_a_lost_history_row() -> None:
    """An epoch that is missing from History is a difference, and so is one that is there twice."""
    for rows in ([0.5], [0.5, 0.25, 0.25]):
        found = oracle.differences(outcome(), outcome() | {"history": {"loss": rows, "epochs": [0, 1]}})
        assert found == [f"history: loss has {len(rows)} rows and should have 2"]


def test_the_oracle_notices_a_changed_history_value() -> None:
    """The first row that differs is named with both values."""
    found = oracle.differences(outcome(), outcome() | {"history": {"loss": [0.5, 0.2500000000000001], "epochs": [0, 1]}})
    assert found == ["history: loss row 1 is 0.2500000000000001 and should be 0.25"]


def test_the_oracle_notices_a_missing_and_a_new_value() -> None:
    """A section or a name that only one of the two runs has is a difference."""
    less = {key: value for key, value in outcome().items() if key != "optimizer"}
    assert oracle.differences(outcome(), less) == ["optimizer is missing"]
    assert oracle.differences(less, outcome()) == ["optimizer was not there before"]
    assert oracle.differences(outcome(), outcome() | {"optimizer": {}}) == ["optimizer: 0 adam/iteration is missing"]


@pytest.mark.parametrize("at", [0, 4, 7])
def test_the_oracle_notices_a_skipped_batch(at: int) -> None:
    """A batch left out, in the middle of an attempt or at a resume, is found."""
    assert oracle.log_differences(log(), log()[:at] + log()[at + 1 :]) != []
    assert oracle.log_differences(log(), log()[:at] + again(log()[at + 1 :], 2)) != []


@pytest.mark.parametrize("at", [0, 4, 7])
def test_the_oracle_notices_a_repeated_batch(at: int) -> None:
    """A batch trained twice by one attempt is found: only a kill may strike batches out."""
    assert oracle.log_differences(log(), [*log()[: at + 1], *log()[at:]]) != []


def test_the_oracle_notices_another_order_of_the_samples() -> None:
    """The same samples in another order within a batch, or in another batch, are found."""
    swapped = log()
    swapped[3] = dataclasses.replace(swapped[3], ids=swapped[3].ids[::-1])
    assert oracle.log_differences(log(), swapped) == ["batch (0, 3) was trained with other samples, or in another order"]


def test_the_oracle_notices_a_run_that_ended_early() -> None:
    """An end without the last batch is no end."""
    assert oracle.log_differences(log(), log()[:-1]) == ["9 batches were trained and should have been 10"]


def test_a_torn_line_of_a_log_is_no_line(tmp_path: Path) -> None:
    """What a kill cut off in the middle is skipped, and what follows it is read."""
    path = tmp_path / "program.log"
    path.write_text('{"attempt":1,"event":"batch","epoch":0,"batch":0,"ids":[1]}\n{"attempt":1,"ev\n{"attempt":2,"event":"validation"}\n')
    assert [batch.position for batch in oracle.trained_batches(path)] == [(0, 0)]
    assert kill.last_event(path) == {"attempt": 2, "event": "validation"}


@pytest.mark.parametrize("kind", damage.KINDS)
def test_damage_changes_one_file_and_no_linked_one(kind: str, tmp_path: Path) -> None:
    """Damage reaches one checkpoint alone, though its file is hard-linked into another."""
    first, second = tmp_path / "checkpoints/step-000000000001", tmp_path / "checkpoints/step-000000000002"
    for path in (first, second):
        path.mkdir(parents=True)
    (first / "model.safetensors").write_bytes(b"weights")
    (second / "model.safetensors").hardlink_to(first / "model.safetensors")
    assert damage.newest(tmp_path) == second
    damage.damage(second, kind, random.Random(1))
    assert (first / "model.safetensors").read_bytes() == b"weights"
    assert not (second / "model.safetensors").exists() or (second / "model.safetensors").read_bytes() != b"weights"


def test_a_process_is_killed_while_the_moment_holds(tmp_path: Path) -> None:
    """The moment is asked again while the process is frozen, so the file is there when the process dies, and stays."""
    blinking = f"import os, pathlib\nfile = pathlib.Path({str(tmp_path / 'here')!r})\nwhile True: file.touch(); file.unlink()"
    child = kill.start([sys.executable, "-c", blinking], tmp_path / "output")
    assert kill.kill_at(child, (tmp_path / "here").exists, signal.SIGKILL, timeout=60)
    assert child.wait(60) == -signal.SIGKILL
    assert (tmp_path / "here").exists()


def test_a_program_that_ends_before_the_moment_is_not_killed(tmp_path: Path) -> None:
    """The caller learns that no kill was delivered, and the exit code is the program's own."""
    child = kill.start([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "output")
    assert not kill.kill_at(child, kill.never, signal.SIGKILL, timeout=60)
    assert child.wait(60) == 3


def test_a_program_that_hangs_is_reported_and_gone(tmp_path: Path) -> None:
    """A moment that never comes ends in TimeoutError, and leaves no process behind."""
    child = kill.start([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "output")
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="did not come"):
        kill.kill_at(child, kill.never, signal.SIGTERM, timeout=0.2)
    assert not child.alive() and time.monotonic() - began < 60


def test_a_deck_holds_every_kind_of_kill() -> None:
    """Rare kills are forced: with as many kills as kinds, each is delivered once."""
    deck = rounds.Deck(len(rounds.FAULTS), random.Random(5))
    assert sorted(iter(deck.draw, None)) == sorted(rounds.FAULTS)
    assert not deck


FORGETFUL = """
import argparse, json, os, pathlib, time
parser = argparse.ArgumentParser()
for name in ("--directory", "--log", "--out", "--save-every"):
    parser.add_argument(name, type=pathlib.Path)
args = parser.parse_args()
attempt = int(os.environ.get("CHAOS_ATTEMPT", "0"))
with open(args.log, "a") as log:
    for step in range(300):
        print(json.dumps(dict(attempt=attempt, event="batch", epoch=step // 100, batch=step % 100, ids=[step])), file=log, flush=True)
        time.sleep(0.01)
args.out.write_text(json.dumps({"variables": {"attempts": attempt}}))
"""


def test_the_storm_fails_a_program_that_saves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Negative control of the whole storm: a program that starts over after every kill ends in NOT EQUAL and exit code 1."""
    program = tmp_path / "forgetful.py"
    program.write_text(FORGETFUL)
    code = storm.main(
        ["--kills", "1", "--seed", "1", "--program", shlex.join([sys.executable, str(program)]), "--root", str(tmp_path / "s")]
    )
    printed = capsys.readouterr().out
    assert code == 1
    assert "NOT EQUAL" in printed and "the end differs: variables: attempts" in printed


@pytest.mark.storm
@pytest.mark.timeout(600)
def test_a_storm_of_every_kind_of_kill_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed once in every way the storm knows, trainings end bit for bit as the undisturbed one, and SIGTERM costs no batch."""
    program = shlex.join([sys.executable, "-m", "chaos.program", "--epochs", "12"])
    root = tmp_path / "storm"
    code = storm.main(["--kills", str(len(rounds.FAULTS)), "--seed", "3", "--program", program, "--root", str(root)])
    printed = capsys.readouterr().out
    assert code == 0, printed + "\n".join(path.read_text()[-2000:] for path in root.rglob("output.txt"))
    assert "EQUAL: " in printed
    assert all(name in printed for name in rounds.FAULTS)
