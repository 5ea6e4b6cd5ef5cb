"""The benchmarks run from end to end, at sizes where their figures mean nothing; no value of a time is looked at."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import resilient
from benchmarks import (
    accelerator,
    cadence,
    durable,
    goodput,
    memory,
    page,
    peers,
    plots,
    preempt,
    program,
    results,
    spinning,
    stall,
    startup,
)
from benchmarks.floors import WRITERS, RawRead, aligned, writers
from benchmarks.methods import Method
from benchmarks.ours import SETTLING, Resilient
from benchmarks.rotation import Window, costs, turns
from benchmarks.running import benchmark
from benchmarks.spinning import Spinners
from benchmarks.spread import spread
from benchmarks.tables import Table, digits
from benchmarks.workload import dense, host_view
from resilient.journal import Journal

ROOT = Path(__file__).resolve().parent.parent
HAS_ORBAX = importlib.util.find_spec("orbax") is not None
IN_PROCESS = ("stall", "cadence", "durable", "processors", "restore")
METHODS = (Resilient, peers.BackupAndRestore, peers.WholeModel, peers.WeightsOnly, peers.TensorFlowManager)


def measured(name: str, directory: Path) -> dict[str, Any]:
    """Toy figures of a benchmark, as they come back from a file."""
    module = benchmark(name)
    figures = module.measure(module.SCALES["toy"], directory)
    return dict(json.loads(json.dumps(figures)))


Toy = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def without_orbax() -> Iterator[None]:
    """Where it is installed Keras imports it, and with it JAX, after which no test of this process should fork."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("orbax", "orbax.checkpoint"):
            patch.setitem(sys.modules, name, None)
        yield


@pytest.fixture(scope="module", autouse=True)
def without_sync() -> Iterator[None]:
    """No time is looked at here, and `sync` waits for what all other processes of the machine have written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sync", lambda: None)
        yield


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Figures of a benchmark that needs no other process, measured once."""

    @functools.cache
    def figures(name: str) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(peers, "absent", lambda: ["orbax-checkpoint"])
            return measured(name, tmp_path_factory.mktemp(name))

    return figures


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_benchmark_measures_every_method_and_shows_it(name: str, toy: Toy) -> None:
    """Ours and the peers are in the tables, and what has to be reached is judged."""
    module = benchmark(name)
    shown = "".join(table.markdown() for table in module.tables(toy(name)))
    assert "resilient" in shown and "BackupAndRestore" in shown
    assert all(isinstance(bar.met, bool) for bar in module.bars(toy(name)))
    if name != "cadence":
        assert toy(name)["skipped"] == ["OrbaxCheckpoint was not measured: orbax-checkpoint not installed."]


def test_every_restore_of_the_benchmark_gave_back_what_was_saved(toy: Toy) -> None:
    """The benchmark itself found no method whose restored state differs."""
    assert toy("restore")["sizes"][0]["wrong"] == []


def test_huge_pages_are_measured_in_processes_with_and_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with the figures of its own."""
    monkeypatch.chdir(ROOT)
    figures = measured("huge_pages", tmp_path)
    assert [one["environment"] for one in figures["processes"]] == [None, "glibc.malloc.hugetlb=1"]
    (table,) = benchmark("huge_pages").tables(figures)
    assert [row[0] for row in table.rows] == ["0.1 MB, plain Python", "0.1 MB, under `resilient run`"]


def test_a_long_history_is_measured(tmp_path: Path) -> None:
    """One row for each length."""
    (table,) = benchmark("history").tables(measured("history", tmp_path))
    assert [row[0] for row in table.rows] == ["1", "100"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSPC])
def test_a_file_system_may_refuse_direct_writes_but_not_be_full(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first leaves out two writers, the second would leave out a floor without a word."""
    genuine = os.open

    def refusing(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(code, os.strerror(code))
        return genuine(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    if code == errno.EINVAL:
        assert writers(tmp_path) == [name for name in WRITERS if "O_DIRECT" not in name]
    else:
        with pytest.raises(OSError, match="No space"):
            writers(tmp_path)


def test_what_counts_beside_a_save_counts_only_then_and_ends_with_it() -> None:
    """Between two saves a workload trains, which has the processors for itself."""
    with Spinners() as spinners:
        seen = [spinners.counts()]
        spinners.taken(lambda: seen.append(spinners.counts()), 0.01)
        states = [Path(f"/proc/{process.pid}/stat").read_text().split()[2] for process in spinners.processes]
        assert seen[0] < seen[1] < spinners.counts() and states == ["T"] * spinners.processors
    assert not any(Path(f"/proc/{process.pid}").exists() for process in spinners.processes)


def test_what_counts_beside_a_save_ends_with_an_error_of_it() -> None:
    """And an end of its own is one: it would be charged to the save."""
    spinners = Spinners()
    with pytest.raises(RuntimeError, match="has ended"), spinners:
        spinners.taken(spinners.processes[0].kill, 0.01)
    assert spinners.processes and not any(Path(f"/proc/{process.pid}").exists() for process in spinners.processes)


def test_what_is_not_counted_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what all would have counted in two seconds by the rates before and after."""
    spinners, counts, rates, clock = Spinners(), iter([1_000, 1_400]), iter([300.0, 500.0]), iter([10.0, 12.0])
    spinners.processors = 4
    monkeypatch.setattr(spinners, "_running", contextlib.nullcontext)
    monkeypatch.setattr(spinners, "_rate", lambda seconds: next(rates))
    monkeypatch.setattr(spinners, "counts", lambda: next(counts))
    monkeypatch.setattr(spinning, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert spinners.taken(lambda: None, 1.0) == (4.0, 2.0)


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_a_method_gives_back_what_it_saved(kind: type[Method], tmp_path: Path) -> None:
    """The whole state, spoiled in between: otherwise a comparison of speeds would compare nothing."""
    saves_and_restores(kind, tmp_path)


@pytest.mark.skipif(not HAS_ORBAX, reason="orbax-checkpoint is not installed")
def test_orbax_gives_back_what_it_saved(tmp_path: Path) -> None:
    """The same for the peer that needs packages of its own, in a process of its own: it imports JAX, after which nobody should fork."""
    code = (
        "import sys; from pathlib import Path; from benchmarks import peers; from tests.test_benchmarks import saves_and_restores as check"
    )
    command = [sys.executable, "-c", f"{code}; check(peers.Orbax, Path(sys.argv[1]))", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def saves_and_restores(kind: type[Method], directory: Path) -> None:
    workload = dense(0.05, 8)
    workload.train(2)
    before = [host_view(variable).copy() for variable in workload.variables]
    method = kind(workload.model, directory / "saved")
    method.durable(1)
    assert method.finished()
    for variable in workload.variables:
        variable.assign(np.zeros(variable.shape, variable.dtype))
    model = method.restore()
    after = [host_view(variable) for variable in [*model.variables, *model.optimizer.variables]]
    method.close()
    assert all(map(np.array_equal, before, after))
    assert any(value.any() for value in before)


def test_ours_settles_as_in_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until retention has removed a checkpoint, and nobody waits for a save, which would be written otherwise."""
    workload = dense(0.05, 8)
    ours = Resilient(workload.model, tmp_path)
    ended: list[bool] = []
    monkeypatch.setattr(ours._saver, "wait", lambda: ended.append(ours.finished()))
    ours.settle(lambda: workload.train(1))
    ours.close()
    assert ended == [True] * SETTLING
    assert [info.step for info in resilient.checkpoints(tmp_path)] == list(range(2, SETTLING + 1))


def test_the_last_save_of_a_turn_is_the_one_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For it finds files that were written a moment ago; and nothing of the first turn counts."""
    seconds = itertools.count(1)
    monkeypatch.setattr(durable, "settled", lambda workload, directory: Method(workload.model, directory))
    monkeypatch.setattr(durable.peers, "peers", lambda model, directory: [])
    monkeypatch.setattr(durable, "_durable", lambda method, workload, step: next(seconds))
    found = durable._times(durable.SCALES["toy"], tmp_path / "times")
    assert found["seconds"]["nothing"] == spread([6])


def test_saves_that_come_often_are_timed_once_retention_has_removed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the clock starts the first checkpoint is gone, and the saves up to its end are counted."""
    kept: list[int] = []

    class Looking(cadence.Clock):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            super().on_train_batch_begin(batch, logs)
            if batch == self._first:
                kept.extend(info.step for info in resilient.checkpoints(tmp_path))

    monkeypatch.setattr(cadence, "Clock", Looking)
    interval = cadence.Interval(50, SETTLING, 1)
    assert cadence._step(dense(0.05, 8), interval, [], tmp_path) > 0
    assert kept and 0 not in kept and resilient.checkpoints(tmp_path)
    assert cadence._made(tmp_path, interval) == 1


def test_saves_that_ours_left_out_are_told() -> None:
    """A method that does not let the training wait saves less often where the disk is slow."""
    interval = cadence.Interval(10, 4, 3)
    assert cadence._missed({interval: [3, 3]}) == []
    (told,) = cadence._missed({interval: [3, 2]})
    assert "every 10 steps, 5 of 6 were made" in told


def test_a_save_costs_what_its_window_takes_beyond_the_control() -> None:
    """Longer steps are charged, also where a window has more of them than the control's."""
    control = [Window("nothing", seconds, 0.0, 10) for seconds in (1.0, 1.0, 9.0)]
    found = costs([*control, Window("a", 1.5, 0.1, 10), Window("b", 2.0, 0.1, 20)], "nothing")
    assert found["a"]["median"] == pytest.approx(0.5)
    assert found["b"]["median"] == pytest.approx(0.0)


def test_the_methods_take_turns_with_the_control_in_every_round(tmp_path: Path) -> None:
    """Each round begins with another method, and the first save after another's does not count."""
    control, first, second = (Method(None, tmp_path) for _ in range(3))
    plan = list(turns(control, [[first, second], [first, second]], counted=2))
    assert [turn.method for turn in plan[::3]] == [control, first, second, control, second, first]
    assert [turn.counted for turn in plan[:3]] == [False, True, True]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_raw_writer_writes_all_of_it(writer: str, tmp_path: Path) -> None:
    """The floors do the work that they are the floor of."""
    data = aligned(10_000)
    try:
        WRITERS[writer](tmp_path / "raw", data)
    except OSError:
        pytest.skip("the file system refuses it")
    assert (tmp_path / "raw").read_bytes() == data
    assert any(data)


def test_raw_reading_reads_all_of_it(tmp_path: Path) -> None:
    """Every file, whole."""
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    read = RawRead([tmp_path / "a"])
    read()
    assert bytes(read._copied[0]) == b"abc" * 1000


@pytest.mark.parametrize("method", ["nothing", "resilient", "BackupAndRestore", "ModelCheckpoint .weights.h5"])
def test_the_program_of_the_measurements_tells_every_batch(method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two epochs of three steps, whatever saves."""
    program.main(method=method, directory=os.fspath(tmp_path / "run"), megabytes=0.05, batch=4, steps=3, epochs=2, save_every=2)
    told = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(mark["epoch"], mark["batch"]) for mark in told if mark["mark"] == "batch"] == [(e, b) for e in range(2) for b in range(3)]
    assert told[-1]["mark"] == "end" and told[-1]["peak"] > 0


def test_a_signal_is_answered_by_an_exit_that_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process, and what is told of it; the scratch directory is a relative path by default."""
    monkeypatch.chdir(tmp_path)
    Path("scratch").mkdir()
    figures = measured("preempt", Path("scratch"))
    (one,) = figures["exits"]
    assert one["rest"] <= one["took"] and one["durable"] <= one["took"]
    assert preempt.tables(figures) and len(preempt.bars(figures)) == 1


Script = Callable[[dict[str, Any], float], list[dict[str, Any]]]


def played(script: Script) -> type:
    """A child that is no process: it has told, when it is born, what the script says."""

    class PlayedChild:
        def __init__(self, **arguments: Any) -> None:
            self.born = time.time()
            self._marks = script(arguments, self.born)

        def wait_for(self, name: str) -> dict[str, Any]:
            return next(mark for mark in self._marks if mark["mark"] == name)

        def wait_until(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
            assert condition(self._marks)

        def marks(self) -> list[dict[str, Any]]:
            return self._marks

        kill = marks

    return PlayedChild


def test_goodput_counts_the_steps_that_a_later_attempt_builds_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt of 12 steps, the next of which goes on after the 11th: 11 are of use."""
    begun: list[Path] = []

    def script(arguments: dict[str, Any], born: float) -> list[dict[str, Any]]:
        begun.append(arguments["directory"])
        at = 11 if begun.count(arguments["directory"]) > 1 else 0
        return [{"mark": "batch", "time": born + 0.01 * n, "epoch": (at + n) // 10, "batch": (at + n) % 10} for n in range(12)]

    monkeypatch.setattr(goodput, "Child", played(script))
    figures = measured("goodput", tmp_path)
    (one,) = figures["methods"]
    assert (one["trained"], one["useful"]) == (12, 11)
    assert figures["speed"] == pytest.approx(100)
    assert one["goodput"] == pytest.approx(11 / (100 * one["net"]))
    assert goodput.tables(figures)[0].rows[0][1:3] == ("12", "11")


def test_a_peer_whose_file_a_kill_has_torn_begins_anew_and_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a person would do it who finds that the program does not start any more; ours never gets that chance."""
    methods = ((Resilient.name, None), (peers.BackupAndRestore.name, 100))
    monkeypatch.setitem(goodput.SCALES, "toy", dataclasses.replace(goodput.SCALES["toy"], methods=methods[1:]))

    def script(arguments: dict[str, Any], born: float) -> list[dict[str, Any]]:
        torn = arguments["directory"].exists() and arguments["method"] != "nothing"
        arguments["directory"].mkdir(parents=True, exist_ok=True)
        return [] if torn else [{"mark": "batch", "time": born + 0.01 * n, "epoch": 0, "batch": n} for n in range(12)]

    class Torn(played(script)):  # type: ignore[misc]
        def wait_for(self, name: str) -> dict[str, Any]:
            if not self._marks:
                raise RuntimeError("Unable to open file")
            return dict(super().wait_for(name))

    monkeypatch.setattr(goodput, "Child", Torn)
    (one,) = measured("goodput", tmp_path / "peer")["methods"]
    assert (one["trained"], one["useful"], one["unreadable"]) == (12, 0, 1)
    monkeypatch.setitem(goodput.SCALES, "toy", dataclasses.replace(goodput.SCALES["toy"], methods=methods[:1]))
    with pytest.raises(RuntimeError):
        measured("goodput", tmp_path / "ours")


def test_the_parts_of_a_start_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program and the journal tell, from the start of the process to the first new step."""
    names = ("interpreter", "keras", "resilient", "built", "training")

    def script(arguments: dict[str, Any], born: float) -> list[dict[str, Any]]:
        journal = Journal(arguments["directory"])
        arguments["directory"].mkdir(exist_ok=True)
        journal.append("started")
        journal.append("restored")
        journal.close()
        told = [{"mark": name, "time": born + number} for number, name in enumerate(names)]
        return [*told, {"mark": "batch", "time": born + 10, "epoch": 2, "batch": 0}]

    monkeypatch.setattr(startup, "Child", played(script))
    figures = measured("startup", tmp_path)
    (one,) = figures["starts"]
    assert one["total"]["median"] == pytest.approx(10)
    assert one["parts"]["import keras"]["median"] == pytest.approx(1)
    assert {"restore", "open and verify the checkpoint"} <= one["parts"].keys()


@pytest.mark.parametrize(("snapshots", "met"), [(1, True), (2, False)])
def test_memory_is_judged_against_a_snapshot(snapshots: int, met: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One snapshot beyond the same training without saving is allowed, two are not."""
    state = 10**9

    def script(arguments: dict[str, Any], born: float) -> list[dict[str, Any]]:
        more = snapshots * state if arguments["method"] == "resilient" else 0
        return [{"mark": "built", "state": state}, {"mark": "end", "peak": 2 * state + more, "own": 2 * state + more}]

    monkeypatch.setattr(memory, "Child", played(script))
    (bar,) = memory.bars(measured("memory", tmp_path))
    assert bar.met is met


@pytest.mark.parametrize(("lives", "told", "met"), [((True, True), "64 MB and one state and 64 MB", True), ((False, False), "none", False)])
def test_who_lives_where_memory_is_limited_is_told(
    lives: tuple[bool, bool], told: str, met: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is allowed is reckoned from the end of the training without saving; a bar holds ours to live."""
    allowed: list[int] = []
    results = iter([True, True, *lives])

    def played_lives(scale: Any, method: str, directory: Path, most: int) -> bool:
        allowed.append(most)
        return next(results)

    marks = [{"mark": "built", "state": 1000}, {"mark": "end", "peak": 9000, "own": 7000}]
    monkeypatch.setattr(memory, "Child", played(lambda arguments, born: marks))
    monkeypatch.setattr(memory, "has_groups", lambda: True)
    monkeypatch.setattr(memory, "_lives", played_lives)
    figures = memory.measure(dataclasses.replace(memory.SCALES["toy"], limited=True), tmp_path)
    assert allowed == [64_007_000, 64_008_000] * 2
    assert (memory.bars(figures)[1].reached, memory.bars(figures)[1].met) == (told, met)
    shown = memory.tables(figures)[1].markdown()
    assert "| nothing | ends | ends |" in shown and ("| resilient | **is killed** | **is killed** |" in shown) is not met


def test_a_machine_without_an_accelerator_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, and no tables."""
    monkeypatch.setattr(accelerator, "_in_child", lambda backend, what, directory: None)
    figures = measured("accelerator", tmp_path)
    assert accelerator.tables(figures) == []
    assert "No accelerator was found" in figures["skipped"][0]


def test_an_accelerator_is_shown_with_its_tables(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of stall and restore, and the ways to the host."""
    staging = {"into pinned memory": spread([0.1])}
    one = {"backend": "jax", "device": "Chip", "staged": 10**9, "staging": staging}
    memory = {"training": 10**9, "saving": 10**9, "limit": 2 * 10**9}
    told = {**one, "memory": memory, "stall": toy("stall"), "restore": toy("restore")}
    monkeypatch.setattr(accelerator, "_in_child", lambda backend, what, directory: told if backend == "jax" else None)
    monkeypatch.setattr(accelerator.importlib.util, "find_spec", lambda name: name == "jax")
    shown = "".join(table.markdown() for table in accelerator.tables(measured("accelerator", tmp_path)))
    assert "into pinned memory | 10 |" in shown and "| in all | 2 GB |" in shown and "Restoring" in shown


@pytest.fixture
def stored(toy: Toy, tmp_path: Path) -> Path:
    """A directory of results."""
    figures = {
        **{name: toy(name) for name in IN_PROCESS},
        "preempt": {"bytes": 10**6, "exits": [{"took": 0.2, "allowed": 0.3, "durable": 0.1, "rest": 0.05}]},
        "goodput": {"mean": 10, "methods": [{"method": "resilient", "goodput": 0.9}]},
    }
    for name, found in figures.items():
        results.save(tmp_path, name, "toy", 1.0, found, tmp_path)
    return tmp_path


def test_all_plots_are_drawn_from_the_results(stored: Path) -> None:
    """A PNG each, and none without results."""
    drawn = plots.draw(stored, stored / "plots")
    assert [path.stem for path in drawn] == list(plots.PLOTS) == [plot for plot, _ in page.PICTURES.values()]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert plots.draw(stored / "plots", stored / "none") == []


def test_the_page_is_filled_between_its_markers(stored: Path) -> None:
    """Tables and origin go in, what stands around stays, and filling again changes nothing."""
    shown = stored / "figures.md"
    shown.write_text("before\n<!-- begin restore -->\nold\n<!-- end restore -->\nafter\n<!-- begin memory -->\n<!-- end memory -->\n")
    once = page.filled(shown, stored)
    assert once.startswith("before\n<!-- begin restore -->\n![Time to restore") and "\nafter\n" in once and "old" not in once
    assert "| resilient |" in once and "(figures/restore.png)" in once and "Measured on" in once and "Not measured yet." in once
    shown.write_text(once)
    assert page.filled(shown, stored) == once


@pytest.mark.parametrize("shown", page.PAGES, ids=lambda path: path.stem)
def test_a_page_of_the_repository_is_what_the_results_say(shown: Path) -> None:
    """Nobody typed a figure: filling the page from the committed results gives the page, and all of them are on it."""
    text, measured = shown.read_text(encoding="utf-8"), [path.stem for path in page.PAGES[shown].glob("*.json")]
    assert page.filled(shown, page.PAGES[shown]) == text
    assert "stall" in measured and all(f"<!-- begin {name} -->" in text for name in measured)


def test_every_benchmark_is_on_the_first_page() -> None:
    """And so is the table of what has to be reached, which tells of all of them."""
    text = page.PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- begin {name} -->" in text for name in ("bars", *page.MEASURED))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0412, "0.0412"), (7.316, "7.32"), (73.16, "73.2"), (731.6, "732"), (12345.0, "12,300"), (0.00001, "0.0000")],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    """As they stand in the tables."""
    assert digits(value) == text


def test_a_table_is_the_same_on_the_page_and_on_the_console() -> None:
    """Both have every row."""
    table = Table("title", ("a", "b"), [("x", "1"), ("y", "2")])
    assert table.markdown().splitlines()[2:] == ["| a | b |", "| :--- | ---: |", "| x | 1 |", "| y | 2 |"]
    assert table.console().row_count == 2


@pytest.mark.parametrize(("cost", "reached"), [(0.001, True), (-0.001, False), (10.0, False)])
def test_a_cost_that_is_lost_in_the_noise_reaches_no_bar(cost, reached):
    """A median below nothing says that the machine was not quiet."""
    ours, other, kept = (spread([seconds]) for seconds in (cost, 1.0, 0.01))
    size = {"megabytes": 400, "bytes": 4e8, "cost": {stall.OURS: ours, stall.MEMCPY: other, "a peer": other}}
    small = {"megabytes": 40, "bytes": 4e7, "cost": {stall.OURS: kept}}
    piece = {"megabytes": 40, "tensors": 2, "cost": {stall.OURS: ours}, "call": {stall.OURS: kept}}
    few = {**piece, "cost": {stall.OURS: kept}}
    found = [bar for bar in stall.bars({"sizes": [small, size], "pieces": [piece, few]}) if not bar.what.startswith("capture")]
    assert len(found) == 4 and {bar.met for bar in found} == {reached}


@pytest.mark.parametrize(("ours", "copy"), [(1, -1), (-1, 1)])
def test_no_bar_is_reached_by_or_against_what_is_lost_in_the_noise(ours: float, copy: float) -> None:
    """A cost whose lower quartile is below nothing, however little it is, and a copy that nobody could see."""
    cost = {name: {**spread([1.0]), "low": low} for name, low in ((stall.OURS, ours), (stall.MEMCPY, copy))}
    (bar,) = stall._size_bars({"megabytes": 400, "cost": cost})
    assert (bar.reached, bar.met) == ("lost in the noise", False)
