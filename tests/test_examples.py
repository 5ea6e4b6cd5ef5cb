"""The examples do what they say, as a user would run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits.py"


def digits(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DIGITS), "--directory", str(root / "run"), "--out", str(root / "out"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_digits_trains_goes_on_and_is_finished_when_it_is(tmp_path: Path) -> None:
    """Two epochs, the same line again trains nothing, a larger --epochs adds one, and the result is that of three at once."""
    first = digits(tmp_path, "--epochs", "2")
    assert first.returncode == 0, first.stderr
    losses = (tmp_path / "out/losses.csv").read_text()
    history = (tmp_path / "out/history.json").read_text()
    assert losses.count("\n") == 2 * (45 + 2)  # 1437 samples in batches of 32, and two lines a validation

    again = digits(tmp_path, "--epochs", "2")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out/losses.csv").read_text() == losses
    assert (tmp_path / "out/history.json").read_text() == history

    assert digits(tmp_path, "--epochs", "3").returncode == 0
    assert digits(tmp_path / "at-once", "--epochs", "3").returncode == 0
    for name in ("losses.csv", "epochs.csv", "history.json"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "at-once/out" / name).read_text()
    assert len(json.loads((tmp_path / "out/history.json").read_text())["loss"]) == 3


def test_digits_is_one_line_away_from_keras(tmp_path: Path) -> None:
    """With `resilient.fit` undone, the rest of the example is a plain Keras script that runs."""
    source = DIGITS.read_text()
    plain = (
        source.replace("resilient.fit(", "model.fit(").replace("        model,\n", "").replace("        directory=args.directory,\n", "")
    )
    plain = plain.replace("import resilient\n", "")
    assert "resilient" not in plain
    (tmp_path / "plain.py").write_text(plain)
    command = [sys.executable, str(tmp_path / "plain.py"), "--directory", str(tmp_path / "run"), "--epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.storm
@pytest.mark.timeout(600)
def test_the_demo_ends_bit_identical(tmp_path: Path) -> None:
    """`make demo` delivers all its kills, draws its plot, and its last line says yes."""
    done = subprocess.run(
        [sys.executable, "-m", "chaos.demo", "--root", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("bit-identical after 7 kills: yes")
    assert (tmp_path / "demo/demo.png").stat().st_size > 10_000
