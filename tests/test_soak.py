"""The soak's verdict on growth, as a decision about numbers; and a few seconds of the real thing."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.soak.leaks import FEWEST, Sample, Tolerance, Trend, trend
from chaos.soak.scenes import Killed, Seen
from chaos.soak.watching import TOLERANCES, Watcher, of_directory, of_process

TIGHT = Tolerance(absolute=5.0)
lengths = st.integers(60, 400)
seeds = st.integers(0, 10**6)


def series(seed: int, length: int, level: float, noise: float, growth: float = 0.0) -> list[Sample]:
    """So many samples, one a second, that rise by `growth` from the end of the warm-up to the last."""
    chance = random.Random(seed)
    return [(float(at), level + growth * at / (length * 2 / 3) + chance.uniform(-noise, noise)) for at in range(length)]


def judged(samples: list[Sample], tolerance: Tolerance = TIGHT) -> Trend:
    found = trend(samples, tolerance)
    assert found is not None
    return found


@given(seeds, lengths, st.floats(0, 500), st.floats(0, 20))
@settings(max_examples=60, deadline=None)
def test_noise_is_no_leak(seed: int, length: int, level: float, noise: float) -> None:
    """Whatever goes up and down around one level holds."""
    assert not judged(series(seed, length, level, noise)).leaks


@given(seeds, lengths, st.floats(0, 500), st.floats(0, 2), st.floats(8, 500))
@settings(max_examples=60, deadline=None)
def test_steady_growth_is_a_leak(seed: int, length: int, level: float, noise: float, growth: float) -> None:
    """More than is tolerated, through noise: found, and about as much as it is."""
    found = judged(series(seed, length, level, noise, growth))
    assert found.leaks
    assert abs(found.growth - growth) < 2 * noise + 0.2 * growth + 1


@given(seeds, lengths, st.floats(10, 1000))
@settings(max_examples=30, deadline=None)
def test_a_warm_up_is_no_leak(seed: int, length: int, height: float) -> None:
    """What is taken in the first third and then held."""
    samples = [(at, value + min(height, height * at / (length / 4))) for at, value in series(seed, length, 50, 1)]
    assert not judged(samples).leaks


@given(seeds, lengths, st.integers(5, 12), st.floats(10, 1000))
@settings(max_examples=30, deadline=None)
def test_a_sawtooth_is_no_leak(seed: int, length: int, period: int, height: float) -> None:
    """What is collected and given back again and again."""
    samples = [(at, value + height * (at % period) / period) for at, value in series(seed, length, 50, 0.5)]
    assert not judged(samples).leaks


@given(seeds, lengths, st.data())
@settings(max_examples=30, deadline=None)
def test_outliers_turn_no_line(seed: int, length: int, data: st.DataObject) -> None:
    """A tenth of the samples may be anything: what holds holds, and what leaks leaks."""
    wild = data.draw(st.sets(st.integers(0, length - 1), max_size=length // 10))
    for growth in (0.0, 50.0):
        samples = [(at, 1e6 if at in wild else value) for at, value in series(seed, length, 50, 1, growth)]
        assert judged(samples).leaks == (growth > 0)


@given(seeds, st.floats(0.01, 1000))
@settings(max_examples=30, deadline=None)
def test_the_unit_of_time_does_not_matter(seed: int, scale: float) -> None:
    """The same growth within a minute and within a day is the same verdict."""
    samples = series(seed, 100, 50, 1, 30)
    assert judged([(at * scale, value) for at, value in samples]).leaks == judged(samples).leaks


def test_a_descriptor_now_and_then_is_a_leak() -> None:
    """One in fifty samples: a staircase of whole numbers, none of whose steps is big."""
    samples = [(float(at), 20.0 + at // 50) for at in range(400)]
    assert judged(samples, TOLERANCES["descriptors"]).leaks


def test_growth_that_is_tolerated_is_none() -> None:
    """By the larger of both bounds."""
    samples = series(1, 200, 1000, 0.1, 30)
    assert judged(samples, Tolerance(absolute=5)).leaks
    assert not judged(samples, Tolerance(absolute=5, relative=0.05)).leaks


@pytest.mark.parametrize("samples", [[], [(0.0, 1.0)], [(float(at), 1.0) for at in range(FEWEST)], [(1.0, float(at)) for at in range(100)]])
def test_too_little_is_not_judged(samples: list[Sample]) -> None:
    """No verdict is better than a wrong one; a soak that is long enough then says that it could not watch."""
    assert trend(samples, TIGHT) is None


def test_a_leak_of_a_process_is_a_problem() -> None:
    """The verdict reaches the scene's problems by name, and a measure that could not be watched does too."""
    watcher = Watcher(dict, 1.0, {"descriptors": [(float(at), 10.0 + at) for at in range(100)], "threads": [(0.0, 1.0)]})
    seen = Seen("a scene")
    seen.judge("supervisor", watcher, whole=True)
    assert seen.problems[0].startswith("a scene: the descriptors of the supervisor grows, from 43")
    assert seen.problems[1:] == ["a scene: the threads of the supervisor could not be watched"]


def test_what_is_measured_is_there(tmp_path: Path) -> None:
    """Descriptors, threads and memory of this process, and a directory without its journal."""
    before = of_process(os.getpid())
    with open(os.devnull) as _:
        assert of_process(os.getpid())["descriptors"] == before["descriptors"] + 1
    assert before["memory"] > 10 and before["threads"] >= 1
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/one").write_bytes(b"x" * 2**20)
    (tmp_path / "journal.jsonl").write_bytes(b"x" * 2**20)
    assert of_directory(tmp_path) == {"disk": 1.0, "files": 1}


@pytest.mark.storm
def test_a_supervisor_outlives_its_program_again_and_again(tmp_path: Path) -> None:
    """Some seconds of the scene: kills are delivered, each is followed by a resume that found what was saved, and a stop is a stop."""
    seen = Killed(tmp_path, 6.0, seed=1).play()
    assert seen.problems == [], (tmp_path / "killed-and-started-again/output.txt").read_text()[-3000:]
    assert sum(seen.kills.values()) >= 1
    assert seen.events["restored"] >= sum(seen.kills.values()) - 1
    # Each kill met an attempt of its own; the last may have come together with the stop, which then starts no other.
    assert seen.events["attempt"] - sum(seen.kills.values()) in (0, 1)
    assert set(seen.trends) >= {"supervisor: memory", "supervisor: descriptors", "run directory: disk"}
