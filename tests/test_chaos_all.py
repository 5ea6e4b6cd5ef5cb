"""`make chaos` as a whole, with parts that cost nothing: one table, one verdict, and no part ends another."""

from __future__ import annotations

import importlib
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos import all as everything
from chaos import inputs, result, storm
from chaos.all import PARTS, Part, Plan
from chaos.inputs import EQUAL, NOT_EQUAL, Verdict
from chaos.inputs_round import Result as Besieged
from chaos.programs.registry import Program
from chaos.result import Report, Row
from chaos.rounds import Kill
from chaos.rounds import Result as Stormed

texts = st.text(st.characters(codec="utf-8"), max_size=8)
rows = st.builds(
    Row,
    texts,
    st.integers(0, 999),
    st.integers(0, 999),
    st.none() | st.integers(0, 999),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
GOOD = """
    from chaos import result
    import argparse, pathlib, sys
    parser = argparse.ArgumentParser(); result.add_option(parser); args, _ = parser.parse_known_args()
    pathlib.Path("told").open("a").write(" ".join(sys.argv[1:-2]) + "\\n")
    result.write(args.result, [result.Row("SIGKILL", 6, 6, 6, 1.5)])
"""


@given(st.builds(Report, st.lists(rows, max_size=3).map(tuple), st.lists(texts, max_size=2).map(tuple)))
def test_a_result_comes_back_as_it_was_written(report: Report) -> None:
    """Encoding and decoding are inverse."""
    assert result.decode(report.encode()) == report


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"rows": [{}], "problems": []}', '{"rows": [{"fault": "a", "runs": "6", "survived": 6}], "problems": []}']
)
def test_what_is_no_result_is_refused(text: str) -> None:
    """By one kind of error, which the whole turns into a problem of that part."""
    with pytest.raises(ValueError, match=r"result of a part|Expecting value"):
        result.decode(text)


def the_part(directory: Path, name: str, source: str, kills: bool = False, more: Callable[[Plan], Sequence[object]] = lambda _: ()) -> Part:
    (directory / f"{name}.py").write_text(textwrap.dedent(source))
    return Part(name, name, more, 0.01, kills)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run these parts, and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(everything.__file__).parent.parent}")
    monkeypatch.setenv("COLUMNS", "200")

    def go(*parts: Part, kills: int = 0, minutes: float = 1) -> tuple[int, str]:
        given = ["--kills", str(kills), "--minutes", str(minutes), "--root", str(tmp_path / "out")]
        return everything.main(given, parts), capsys.readouterr().out

    return go


def test_all_well_is_one_table_and_code_0(tmp_path: Path, play: Callable[..., tuple[int, str]]) -> None:
    """The rows of every part stand in it; later parts are told how many kills are left."""
    first = the_part(tmp_path, "first", GOOD, kills=True)
    code, printed = play(first, the_part(tmp_path, "second", GOOD, kills=True, more=lambda plan: ("--kills", plan.kills)), kills=10)
    assert code == 0, printed
    assert "WELL: 2 parts under 12 kills" in printed and printed.count("SIGKILL") == 2
    assert (tmp_path / "told").read_text().splitlines() == ["", "--kills 4"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise SystemExit('no such thing')", "left no result"),
        (GOOD + "    raise SystemExit(1)\n", "it ended with 1"),
        (GOOD.replace("6, 1.5)]", "5, 1.5)], ['one differs']"), "bad: one differs"),
        ("import time; time.sleep(600)", "took too long"),
        (GOOD.replace("[result.Row", "[] and [result.Row"), "0 rows"),
    ],
)
def test_a_part_that_fails_is_told_and_ends_no_other(
    source: str, said: str, tmp_path: Path, play: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it breaks, says so, hangs or does nothing: the parts after it run, and the whole ends with 1."""
    real = everything.run
    monkeypatch.setattr(everything, "run", lambda part, plan, root, _: real(part, plan, root, 3.0 if "sleep" in source else 60.0))
    code, printed = play(the_part(tmp_path, "bad", source), the_part(tmp_path, "good", GOOD))
    assert code == 1
    assert said in printed and "NOT WELL: 1 problems in 2 parts" in printed
    assert "good: well" in printed


def test_too_few_kills_are_no_success(tmp_path: Path, play: Callable[..., tuple[int, str]]) -> None:
    """Five hundred that were promised have to be delivered."""
    code, printed = play(the_part(tmp_path, "few", GOOD, kills=True), kills=7)
    assert code == 1 and "6 kills were delivered, and 7 should have been" in printed


def test_every_part_exists_and_takes_a_result() -> None:
    """Each module of the list is there, and its arguments are text in the end."""
    root = Path(everything.__file__).parent
    for part in PARTS:
        path = root / part.module.removeprefix("chaos.")
        assert (path / "__main__.py").exists() or path.with_suffix(".py").exists(), part.module
        told = [str(word) for word in (*part.arguments(Plan(1, 2, 100, 60.0)), "--result", "x.json")]
        module = importlib.import_module(f"{part.module}.__main__" if path.is_dir() else part.module)
        assert module.arguments(told).result == Path("x.json")
    assert sum(part.share for part in PARTS) <= 1.1


def test_the_storm_and_the_inputs_tell_their_kills(tmp_path: Path) -> None:
    """Kills of rounds that ended otherwise than the undisturbed one are no bit-identical ones."""
    good, bad = (
        Stormed(kills=[Kill("SIGKILL", -9, 4), Kill("SIGTERM", 75, 0)]),
        Stormed(kills=[Kill("SIGKILL", -9, 2)], problems=["differs"]),
    )
    assert storm.rows([good, bad]) == [Row("SIGKILL", 2, 2, 1, 3.0), Row("SIGTERM", 1, 1, 1, 0.0)]
    one, two = (Program(name, "", "arrays", lambda run: None, ("tensorflow",)) for name in ("one", "two"))
    verdicts = [
        Verdict(one, "tensorflow", EQUAL, Besieged(kills=_count(SIGKILL=2), repeated=3)),
        Verdict(two, "tensorflow", NOT_EQUAL, Besieged(kills=_count(SIGTERM=1), problems=["it differs"])),
    ]
    assert inputs.rows(verdicts) == [Row("SIGKILL, SIGTERM: arrays (2 programs)", 3, 3, 2, 1.0)]
    assert inputs.problems(verdicts) == ["two (tensorflow): NOT EQUAL it differs"]
    result.write(tmp_path / "r.json", inputs.rows(verdicts), inputs.problems(verdicts))
    assert json.loads((tmp_path / "r.json").read_text())["rows"][0]["runs"] == 3


def _count(**kills: int) -> Counter[str]:

    return Counter(kills)
