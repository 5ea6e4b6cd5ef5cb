"""The report: what the page says of runs of every kind, and that nothing in a run can break it."""

from __future__ import annotations

import html.parser
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_samples import MODEL, a_run, cli, flip, manifest, place, snapshot, tensors, the_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_samples import BEGAN, Diary, long_run, position

from resilient import journal
from resilient.accounts import accounts
from resilient.journal import EVENTS
from resilient.packed import pack
from resilient.report import Kill, Storm, curves, render, scales, words, write_report
from resilient.report.elapsed import stretches
from resilient.store import RunLock, Store

HOSTILE = "<script>alert(1)</script>\"' onerror=x><img src=http://127.0.0.1/x>\u202e&amp;\ud800\x00"
VOID = {"meta", "link"}
KNOWN = {
    "html", "head", "meta", "link", "title", "style", "body", "header", "footer", "main", "section", "h1", "h2", "p", "b", "small", "em",
    "i",
    "dl", "dt", "dd", "div", "span", "figure", "svg", "path", "table", "caption", "thead", "tbody", "tr", "th", "td", "code", "details",
    "summary", "ol", "li",
}  # fmt: skip


class Reader(html.parser.HTMLParser):
    """Reads a page strictly: every element is known and closed in its order; keeps what it loads, and its text by section."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.loads: list[str] = []
        self.attributes: set[str] = set()
        self.sections: dict[str, str] = {"": ""}
        self.rows: list[list[str]] = []
        self._title: str | None = None
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in KNOWN, tag
        self.attributes |= {name for name, _ in attrs}
        self.loads += [value for name, value in attrs if name in ("src", "href", "action", "data", "poster", "srcset")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "h2":
            self._title = ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "h2":
            self.sections[self._title] = ""

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            return
        if self.open[-1:] == ["h2"]:
            self._title += data
            return
        self.sections[list(self.sections)[-1]] += f"{data} "
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.sections.values())


def read(directory: Path, chaos: Storm | None = None) -> tuple[str, Reader]:
    """Verdict and page of a run directory; every page that a test makes is held to the same rules."""
    said, page = render(directory, chaos)
    page.encode()
    reader = Reader(page)
    assert reader.loads == ["data:,"]
    assert not [name for name in reader.attributes if name.startswith("on")]
    assert "NaN%" not in page and not re.search(r'd="[^"]*(nan|inf)', page)
    return said, reader


# -- what it says ----------------------------------------------------------------------------------------------------------------------


def test_the_verdict_has_the_numbers_of_the_account(tmp_path):
    """One sentence on top: how it ended, how many attempts, what interruptions cost, how much of the time was training."""
    long_run(tmp_path, attempts=14, saves=30)
    (run,) = accounts(journal.read(tmp_path))
    said, page = read(tmp_path)
    trained = sum(attempt.reached - attempt.start for attempt in run.attempts)
    share = words.percent(run.lost_steps / trained)
    assert run.lost_steps > 0 and not run.lost_exactly  # one has vanished
    cost = f"14 attempts; 13 interruptions cost at least {run.lost_steps} steps ({share})"
    assert said == f"Finished: {cost}; goodput {words.percent(run.goodput)}."
    assert said in page.sections[""]


def test_every_attempt_has_a_row_with_what_ended_it(tmp_path):
    """The table of attempts says how each ended, from where to where it trained, and what was lost."""
    long_run(tmp_path, attempts=9, saves=5, seed=4)
    (run,) = accounts(journal.read(tmp_path))
    _, page = read(tmp_path)
    rows = [row for row in page.rows if len(row) == 11][1:]
    assert [row[0] for row in rows] == [str(number) for number in range(1, 10)]
    assert [row[3] for row in rows] == [attempt.end.value for attempt in run.attempts]
    assert [row[4] for row in rows] == [words.integer(attempt.start) for attempt in run.attempts]
    least = ["" if attempt.lost_exactly else "≥ " for attempt in run.attempts]
    lost = [f"{sign}{words.integer(attempt.lost_steps)}" for sign, attempt in zip(least, run.attempts, strict=True)]
    assert [row[6] for row in rows] == ["" if text == "0" else text for text in lost] and "≥ 0" in lost
    assert {attempt.end.value for attempt in run.attempts} >= {"killed", "preempted", "finished"}


def test_the_shares_of_the_time_add_up(tmp_path):
    """Where the time went: the shares in percent are those of the account and sum up to the whole."""
    long_run(tmp_path, attempts=6, saves=8)
    (run,) = accounts(journal.read(tmp_path))
    _, page = read(tmp_path)
    shares = {row[0].split()[0]: row[2] for row in page.rows if len(row) == 3 and row[2].endswith("%")}
    assert shares["training"] == words.percent(run.time.training / run.time.total)
    assert sum(float(share.strip("%<> ")) for share in shares.values()) == pytest.approx(100, abs=0.4)


def test_the_state_of_the_store_is_told(tmp_path):
    """Checkpoints with the monitored metric, the best one, what is damaged, and what lies in quarantine and why."""
    run = a_run(tmp_path, final=True)
    Store(run).quarantine(place(run, 20).name, "model.safetensors does not match its checksum")
    (place(run, 25) / MODEL).write_bytes(b"short")
    before = snapshot(run)
    said, page = read(run)
    assert snapshot(run) == before
    text = page.sections["On disk"]
    cells = _row(page, "0010")
    assert [*cells[:5], cells[7]] == ["step-000000000010", "10", "1", "0", "0.5", "best"]
    assert "final" in text and "step-000000000020" in text and "does not match its checksum" in text
    assert "1 problem found" in text and "model.safetensors has 5 bytes" in text and "1 in quarantine" in text
    assert said == "Nothing trained yet."


def _row(page: Reader, name: str) -> list[str]:
    return next(row for row in page.rows if row and row[0].endswith(name))


def test_a_storm_stands_on_top_with_its_verdict_and_every_kill(tmp_path):
    """What `resilient chaos` hands over is shown before the account: verdict, first difference, faults."""
    long_run(tmp_path, attempts=3, saves=3)
    kills = [Kill("SIGKILL inside a commit", BEGAN, 1), Kill("SIGSTOP", BEGAN, None)]
    storm = Storm(False, "The ends differ.", kills, "dense/kernel differs from step 7 of attempt 2 on", [("seed", "3")])
    _, page = read(tmp_path, storm)
    assert list(page.sections)[1] == "Under fire"
    text = page.sections["Under fire"]
    assert "The ends differ." in text and "dense/kernel differs from step 7" in text and "2 faults delivered" in text
    assert "faults" in page.sections["Timeline"]
    assert ["1", "2026-03-01 08:00:00", "SIGKILL inside a commit", "1"] in page.rows and ["seed", "3"] in page.rows


def test_a_live_run_is_told_as_running(tmp_path):
    """While a process holds the run's lock its last attempt has not ended, and nothing of it counts as an interruption."""
    diary = Diary(tmp_path)
    diary.tell("started", pid=1, run_id="one", fresh=True)
    diary.tell("saved", **position(0, 10), final=False, nbytes=1, seconds=0.1)
    diary.close()
    with RunLock(tmp_path):
        said, page = read(tmp_path)
    assert said.startswith("Running") and "no interruption" in said
    assert "went silent" not in page.text
    said, page = read(tmp_path)
    assert said.startswith("Crashed") and "1 interruption cost at least 0 steps" in said and "went silent" in page.text
    assert ["went silent", "1", "≥ 0"] in [row[:3] for row in page.rows]  # nobody told the last batch


def test_a_second_line_of_history_does_not_mix_with_the_first(tmp_path):
    """`resume=False` begins a run of its own: the report is about that one, and lists the earlier."""
    for run_id in ("one", "two"):
        diary = Diary(tmp_path)
        diary.tell("started", pid=1, run_id=run_id, fresh=True)
        diary.tell("saved", **position(0, 10), final=False, nbytes=1, seconds=0.1)
        diary.tell("finished", **position(30, 10))
        diary.close()
    said, page = read(tmp_path)
    assert said.startswith("Finished: 1 attempt; no interruption")
    assert ["2026-03-01 08:00:00", "1", "30", "finished"] in page.rows


# -- whatever lies there ---------------------------------------------------------------------------------------------------------------


def test_no_name_from_a_run_can_become_markup(tmp_path):
    """Names of metrics, reasons, commands, errors and quarantine notes are text: no element, attribute or address comes of them."""
    diary = Diary(tmp_path)
    diary.tell("attempt", attempt=1, pid=1, supervisor=2, command=[HOSTILE, "x"], began=HOSTILE, skip=HOSTILE)
    diary.tell("started", pid=1, run_id=HOSTILE, fresh=True, data=HOSTILE)
    for step in range(5):
        diary.wait(1)
        metrics = {HOSTILE: 1.0, f"val_{HOSTILE}": 2.0, "loss": 1.0, **{f"{HOSTILE}{n}": 1.0 for n in range(9)}}
        diary.tell("saved", step=step, epoch=step, batch=0, nbytes=1, seconds=0.1, metrics=metrics)
    diary.tell("save_failed", error=HOSTILE, failures=1)
    diary.tell("exited", attempt=1, code=1, reason=HOSTILE, verdict=HOSTILE)
    diary.tell("gave_up", failures=[HOSTILE])
    diary.close()
    quarantine = tmp_path / "quarantine"
    quarantine.mkdir()
    (quarantine / "<img src=x>").mkdir()
    (quarantine / "<img src=x>.reason.txt").write_text(HOSTILE.encode("utf-8", "replace").decode())
    storm = Storm(None, HOSTILE, [Kill(HOSTILE, BEGAN, 1)], HOSTILE, [(HOSTILE, HOSTILE)])
    _, page = read(tmp_path, storm)
    assert page.text.count("<script>alert(1)</script>") > 15
    assert not set(page.text) & set("\u202e\ud800\x00")


def test_the_page_holds_nothing_that_loads_or_runs(tmp_path):
    """No script, no style sheet, font or picture from elsewhere; a policy in the page forbids what a browser might try."""
    long_run(tmp_path, attempts=2, saves=2)
    _, page = render(tmp_path)
    assert "Content-Security-Policy" in page and "default-src 'none'" in page
    assert not re.search(r"<script|url\(|@import|https?:", page)


def test_thousands_of_attempts_and_saves_stay_a_small_page(tmp_path):
    """The page shows what an eye can tell apart: it is bounded, and still has the whole account."""
    long_run(tmp_path, attempts=1500, saves=15, names=("loss", "accuracy", "f1", "auc"), pace=0.01)
    said, page = read(tmp_path)
    target = tmp_path.parent / f"{tmp_path.name}.html"
    write_report(tmp_path, target)
    assert target.stat().st_size < 300_000
    assert "1500 attempts; 1499 interruptions" in said
    assert "The newest 40 of 1500" in page.sections["Attempts"]
    assert int(_row(page, "killed")[1].replace("\u202f", "")) > 300


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"event":"sav', b"\xff\xfe\x00garbage\n[1]\n{}\n", b"x" * 3_000_000])
def test_a_journal_without_events_gives_a_page(tmp_path, content):
    """An empty, torn or foreign journal is no error: there is a store to tell of."""
    run = a_run(tmp_path)
    (run / "journal.jsonl").write_bytes(content)
    _, page = read(run)
    assert "4 checkpoints" in page.sections["On disk"] and "Timeline" not in page.sections


def test_a_directory_that_has_only_just_begun_gives_a_page(tmp_path):
    """Neither journal nor checkpoint yet."""
    Store(tmp_path).prepare()
    said, page = read(tmp_path)
    assert said == "Nothing trained yet." and "No checkpoint yet." in page.sections["On disk"]


def test_clocks_that_are_set_back_do_not_turn_the_time_around(tmp_path):
    """The axis of time never goes back, and no duration is negative, whatever was done to the machine's clock."""
    diary = Diary(tmp_path)
    for jump in (0, -86400 * 400, 3600, -50):
        diary.wait(jump)
        diary.tell("started", pid=1, run_id="one", fresh=jump == 0)
        for step in (0, 10, 20):
            diary.wait(30 if step != 20 else -7000)
            diary.tell("saved", step=step, epoch=0, batch=step, nbytes=1, seconds=0.1, metrics={"loss": 1.0})
    diary.close()
    read(tmp_path)
    runs_on = stretches(accounts(journal.read(tmp_path))[-1].attempts)
    edges = [edge for stretch in runs_on for edge in (stretch.began, stretch.ended)]
    assert edges == sorted(edges) and edges[-1] > 0
    times = [stretch.at(save.time) for stretch in runs_on for save in stretch.attempt.saves]
    assert all(math.isfinite(time) and 0 <= time <= edges[-1] for time in times)


def test_losses_that_are_no_numbers_break_the_line_and_are_counted(tmp_path):
    """NaN and infinities are said to be there, and the rest of the curve is drawn."""
    diary = Diary(tmp_path)
    diary.tell("started", pid=1, run_id="one", fresh=True)
    for step, loss in enumerate([3.0, 2.0, "nan", 1.0, "inf", 0.5]):
        diary.wait(10)
        diary.tell("saved", step=step, epoch=step, batch=0, nbytes=1, seconds=0.1, metrics={"loss": loss})
    diary.close()
    _, page = read(tmp_path)
    assert "2 values NaN or infinite" in page.sections["Loss and metrics"]
    _, text = render(tmp_path)
    line = re.search(r'd="([^"]*)" class="line"', text.split("Loss and metrics")[1])
    assert line is not None and line[1].count("M") == 3


_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just({"loss": "nan", "<b>": 1e308})
_NAMES = (
    "step",
    "epoch",
    "batch",
    "attempt",
    "pid",
    "seconds",
    "nbytes",
    "metrics",
    "run_id",
    "silent",
    "code",
    "reason",
    "failures",
    "skip",
)
_TIMES = ("2026-01-01T00:00:00+00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00")
_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(sorted(EVENTS)),
        st.datetimes().map(lambda time: f"{time.isoformat()}+00:00") | st.sampled_from(_TIMES),
        st.dictionaries(st.sampled_from(_NAMES), _VALUES),
    ),
    max_size=14,
)


@given(_EVENTS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_journal_gives_a_page(tmp_path, events):
    """Whatever the fields of events are, of whatever type, at whatever time."""
    lines = [json.dumps({**fields, "event": name, "time": time}) + "\n" for name, time, fields in events]
    (tmp_path / "journal.jsonl").write_text("".join(lines))
    read(tmp_path)


# -- metrics ---------------------------------------------------------------------------------------------------------------------------


def _history(columns: dict[str, list[float]], epochs: int, frequency: object = 1):
    state = {"epoch": list(range(epochs)), "history": {"!": "dict", "v": [[name, values] for name, values in columns.items()]}}
    made = manifest(10 * epochs, epoch=epochs, batch=0, sequence=99)
    more = {
        "callbacks": [{"class": "keras.src.callbacks.history.History", "attributes": state}],
        "settings": {"validation_freq": frequency},
    }
    return type(made)(**{**vars(made), "state": {**made.state, **more}})


def test_the_history_fills_what_the_journal_does_not_tell():
    """A run whose journal has no metrics (of an older version, or lost) still has its curves, from the newest manifest."""
    found = curves.curves([], _history({"loss": [3.0, 2.0, 1.0], "val_loss": [4.0]}, 3, frequency=2))
    drawn = {curve.name: [(point.step, point.value) for point in curve.kept()] for curve in found}
    assert drawn == {"loss": [(10.0, 3.0), (20.0, 2.0), (30.0, 1.0)], "val_loss": [(20.0, 4.0)]}


def test_the_history_of_a_long_training_is_read_where_it_is_packed():
    """As `fit` saves it from 64 epochs on."""
    made = _history({"loss": [float(number) for number in range(100)], "val_loss": [1.0] * 50}, 100, frequency=2)
    attributes = made.state["callbacks"][0]["attributes"]
    attributes["epoch"] = pack(attributes["epoch"])
    attributes["history"]["v"] = [[name, pack(values) or values] for name, values in attributes["history"]["v"]]
    found = {curve.name: [(point.step, point.value) for point in curve.kept()] for curve in curves.curves([], made)}
    assert found["loss"] == [(10.0 * (number + 1), float(number)) for number in range(100)]
    assert found["val_loss"] == [(20.0 * (number + 1), 1.0) for number in range(50)]


def test_work_that_was_done_again_is_told_apart_from_what_counts(tmp_path):
    """Saves beyond the step that a later attempt went on from are not part of the curve."""
    diary = Diary(tmp_path)
    for start, steps in ((0, (10, 20, 30)), (10, (20, 30))):
        diary.tell("started", pid=1, run_id="one", fresh=start == 0)
        diary.tell("restored" if start else "saved", **position(start, 10))
        for step in steps:
            diary.wait(5)
            diary.tell("saved", **position(step, 10), nbytes=1, seconds=0.1, metrics={"loss": 100.0 * start + step})
    diary.close()
    (curve,) = curves.curves(stretches(accounts(journal.read(tmp_path))[-1].attempts), None)
    assert [point.value for point in curve.kept()] == [10.0, 1020.0, 1030.0]
    assert [point.value for point in curve.lost()] == [20.0, 30.0]
    _, page = read(tmp_path)
    assert "saved, but done again later" in page.text


def test_a_metric_and_its_twin_share_a_picture_and_the_loss_comes_first():
    """Panels: the losses, the monitored metric, the others; the learning rate last."""
    names = ("learning_rate", "accuracy", "val_accuracy", "loss", "val_loss", "auc")
    found = [curves.Curve(name, [curves.Point(1, 1.0, 1.0, True, False, 0)]) for name in names]
    panels = [[curve.name for curve in panel] for panel in curves.panels(found, "val_accuracy")]
    assert panels == [["loss", "val_loss"], ["accuracy", "val_accuracy"], ["auc"], ["learning_rate"]]


# -- axes ------------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30))
def test_an_axis_holds_all_finite_values_and_its_ticks(values):
    """Whatever the values: the axis has a length, those below 1e300 lie on it, and a handful of labelled ticks too."""
    scale = scales.around(values)
    assert scale.low < scale.high
    for value in (value for value in values if abs(value) < 1e300):
        assert -1e-9 <= scale.place(value) <= 1 + 1e-9
    ticks = scale.ticks()
    assert len(ticks) <= 12 and all(-1e-6 <= scale.place(value) <= 1 + 1e-6 for value, _ in ticks)


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [(0.5, ["0", "100 ms", "200 ms", "300 ms", "400 ms", "500 ms"]), (65, ["0", "15 s", "30 s", "45 s", "1 min"]), (86400 * 23, None)],
)
def test_ticks_of_time_are_round(seconds, labels):
    """Minutes and hours are not cut into tenths."""
    found = [label for _, label in scales.time_ticks(seconds)]
    assert found == (labels or ["0", "5 d", "10 d", "15 d", "20 d"])


@given(st.lists(st.floats(-1e6, 1e6), min_size=50, max_size=400))
def test_thinning_keeps_the_first_the_last_and_the_extremes(heights):
    """A thinned line has few points, and looks the same: its lowest and highest are still there."""
    points = [(float(index), height) for index, height in enumerate(heights)]
    kept = scales.thinned(points, lambda x: x / len(points), 40)
    assert len(kept) <= 44 and kept[0] == points[0] and kept[-1] == points[-1]
    assert {min(heights), max(heights)} <= {height for _, height in kept}
    assert kept == sorted(kept)


# -- the command -----------------------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page_and_says_the_verdict(tmp_path):
    """`resilient report DIR -o FILE`: the old file is replaced, the run is not touched."""
    run, page = long_run(tmp_path / "run", attempts=3, saves=3), tmp_path / "report.html"
    page.write_text("old")
    before = snapshot(run)
    done = cli("report", run, "-o", page)
    said, wrote = done.stdout.splitlines()
    assert said.startswith("Finished: 3 attempts") and wrote.startswith(f"Wrote {page} (")
    assert Reader(page.read_text()).sections.keys() >= {"Timeline", "Attempts", "On disk"}
    assert snapshot(run) == before and sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]


@pytest.mark.parametrize(
    ("target", "words"), [("report.pdf", ".html"), ("run/report.html", "belongs to the run"), ("no/report.html", "there is no folder")]
)
def test_the_command_refuses_a_target_that_cannot_be_meant(tmp_path, target, words):
    """Another kind of file, a place in the run directory, a folder that is not there: one sentence, 78, nothing written."""
    run = a_run(tmp_path / "run")
    before = snapshot(tmp_path)
    done = cli("report", run, "-o", tmp_path / target, code=78)
    assert words in the_error(done)
    assert snapshot(tmp_path) == before


def test_the_report_needs_no_framework_and_no_drawing_library():
    """It starts fast, and works where nothing but resilient is installed."""
    code = "import sys, resilient.report; print(sorted({'keras', 'tensorflow', 'matplotlib', 'jax', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert done.stdout == "[]\n"


def test_damage_that_only_a_checksum_finds_is_not_claimed_to_be_absent(tmp_path):
    """Sizes are looked at, content is not: the page says so and names the command that does."""
    run = a_run(tmp_path)
    flip(place(run, 25) / MODEL)
    Store(run).commit(manifest(30, epoch=3, batch=0), tensors(30))
    _, page = read(run)
    assert f"resilient verify {run}" in page.sections["On disk"] and "as far as that tells" in page.sections["On disk"]
