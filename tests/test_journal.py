"""The journal: whole events or none, whatever tears it."""

from __future__ import annotations

import datetime as dt
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient import journal
from resilient.errors import ConfigurationError
from resilient.journal import EVENTS, JOURNAL_NAME, MAX_LINE_BYTES, Journal, Tail

_FIELDS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name not in ("event", "time", "durable", "self")),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def _append_all(directory: Path, steps: range) -> None:
    diary = Journal(directory)
    for step in steps:
        assert diary.append("saved", step=step)
    diary.close()


@given(st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), _FIELDS), max_size=5))
@settings(max_examples=60, deadline=None)
def test_what_was_appended_is_read_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, dict[str, object]]]
) -> None:
    """Event names, fields and order survive the way through the file, and every time is an aware one."""
    directory = tmp_path_factory.mktemp("run")
    diary = Journal(directory)
    for event, fields in events:
        assert diary.append(event, **fields)
    diary.close()
    got = journal.read(directory)
    assert [(e.pop("event"), dt.datetime.fromisoformat(e.pop("time")).tzinfo is not None, e) for e in got] == [
        (event, True, fields) for event, fields in events
    ]


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_a_line_torn_anywhere_costs_only_itself(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever byte a death tore the last line at, the events before it and those appended after it are all there."""
    directory = tmp_path_factory.mktemp("run")
    _append_all(directory, range(3))
    path = directory / JOURNAL_NAME
    content = path.read_bytes()
    last = content[:-1].rindex(b"\n") + 1
    cut = data.draw(st.integers(last, len(content) - 2))
    path.write_bytes(content[:cut])
    assert [event["step"] for event in journal.read(directory)] == [0, 1]
    _append_all(directory, range(7, 9))
    assert [event["step"] for event in journal.read(directory)] == [0, 1, 7, 8]


@given(st.binary(max_size=200))
@settings(max_examples=80, deadline=None)
def test_garbage_at_the_end_is_passed_over(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    """Bytes that are no events (zeros after a power cut, another program's text) hide none of the events around them."""
    directory = tmp_path_factory.mktemp("run")
    _append_all(directory, range(1))
    with open(directory / JOURNAL_NAME, "ab") as file:
        file.write(garbage)
    _append_all(directory, range(1, 2))
    assert [event["step"] for event in journal.read(directory) if "step" in event] == [0, 1]


@pytest.mark.parametrize(
    "line",
    [
        b"null",
        b"[]",
        b'"saved"',
        b'{"event":"saved"}',
        b'{"event":"saved","time":"2026-01-01T00:00:00"}',
        b'{"event":1,"time":"2026-01-01T00:00:00+00:00"}',
        b'{"event":"saved","time":7}',
        b"[" * 100_000,
        b'{"event":"\xff","time":"2026-01-01T00:00:00+00:00"}',
        b'{"event":"saved","time":"2026-01-01T00:00:00+00:00","n":' + b"9" * 5000 + b"}",
    ],
    ids=range(10),
)
def test_lines_that_are_json_but_no_events_are_passed_over(tmp_path: Path, line: bytes) -> None:
    """An event is an object with a name and an aware time, in UTF-8; anything else is left out."""
    (tmp_path / JOURNAL_NAME).write_bytes(line + b"\n")
    _append_all(tmp_path, range(1))
    assert [event["step"] for event in journal.read(tmp_path)] == [0]


def test_an_endless_line_is_passed_over_without_being_held_in_memory(tmp_path: Path) -> None:
    """A line of a gigabyte costs the reader a few pieces of it, and the events around it are read."""
    _append_all(tmp_path, range(1))
    with open(tmp_path / JOURNAL_NAME, "ab") as file:
        file.truncate(file.tell() + 2**30)  # a hole: a gigabyte of zeros without a line end
    _append_all(tmp_path, range(1, 2))
    code = (
        "import resource, sys; from resilient import journal; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; events = journal.read(sys.argv[1]); "
        "print([e['step'] for e in events], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 50_000)"
    )
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[0, 1] True"


def test_an_event_too_large_for_a_line_is_kept_without_its_fields(tmp_path: Path) -> None:
    """That something failed is recorded even where its details are larger than a line may be."""
    assert Journal(tmp_path).append("failed", error="x" * MAX_LINE_BYTES)
    (event,) = journal.read(tmp_path)
    assert event["event"] == "failed" and "left_out" in event and "error" not in event


def test_lines_of_several_processes_never_mix(tmp_path: Path) -> None:
    """Three processes that append at once leave every event whole, each process' own in order."""
    code = (
        "import sys; from resilient.journal import Journal; diary = Journal(sys.argv[1]); sys.stdin.read(1); "
        "[diary.append('saved', who=sys.argv[2], step=i, pad='x' * 3000) or sys.exit(1) for i in range(200)]"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, tmp_path, str(who)], stdin=subprocess.PIPE) for who in range(3)]
    for child in children:  # all are let go together, after their imports
        child.communicate(b"g", timeout=60)
    assert [child.returncode for child in children] == [0, 0, 0]
    events = journal.read(tmp_path)
    assert len((tmp_path / JOURNAL_NAME).read_bytes().splitlines()) == len(events) == 600
    for who in "012":
        assert [event["step"] for event in events if event["who"] == who] == list(range(200))


def test_a_killed_writer_loses_no_event_that_it_was_told_is_written(tmp_path: Path) -> None:
    """Every event that `append` confirmed before a SIGKILL is in the journal, and the next process goes on."""
    code = (
        "import sys; from resilient.journal import Journal; diary = Journal(sys.argv[1])\n"
        "for i in range(10**9):\n    diary.append('saved', step=i); print(i, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while int(child.stdout.readline()) < 50:
            pass
        child.send_signal(signal.SIGKILL)
        confirmed = [int(line) for line in child.stdout.read().split("\n")[:-1]]
    _append_all(tmp_path, range(-1, 0))
    steps = [event["step"] for event in journal.read(tmp_path)]
    assert steps[-1] == -1 and steps[:-1] == list(range(len(steps) - 1))
    assert len(steps) - 1 > max(confirmed, default=50)


def test_threads_share_one_journal(tmp_path: Path) -> None:
    """Events of several threads are all whole."""
    diary = Journal(tmp_path)
    threads = [threading.Thread(target=lambda: [diary.append("saved", step=i) for i in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event["step"] for event in journal.read(tmp_path)) == sorted([*range(100)] * 4)


def test_numbers_that_json_lacks_become_text(tmp_path: Path) -> None:
    """NaN and the infinities are strings, so that every strict JSON reader takes the file."""
    fields = {"a": float("nan"), "b": float("inf"), "c": [-float("inf"), {"d": float("nan")}], "e": 0.1, "f": Path("x"), "g": {1: True}}
    assert Journal(tmp_path).append("saved", **fields)
    line = (tmp_path / JOURNAL_NAME).read_text()
    event = json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert {name: event[name] for name in fields} == {
        "a": "nan", "b": "inf", "c": ["-inf", {"d": "nan"}], "e": 0.1, "f": "x", "g": {"1": True},
    }  # fmt: skip


def test_numpy_scalars_are_numbers(tmp_path: Path) -> None:
    """Logs as Keras callbacks make them need no conversion by the caller."""
    np = pytest.importorskip("numpy")
    assert Journal(tmp_path).append("saved", loss=np.float32(0.5), step=np.int64(3), nan=np.float32("nan"))
    (event,) = journal.read(tmp_path)
    assert (event["loss"], event["step"], event["nan"]) == (0.5, 3, "nan")


@pytest.mark.parametrize("place", ["missing/run", "file/run"])
def test_a_refusing_disk_is_an_answer_and_not_an_exception(tmp_path: Path, place: str) -> None:
    """Where the journal cannot be written, `append` says False and training goes on."""
    (tmp_path / "file").write_text("in the way")
    diary = Journal(tmp_path / place)
    assert diary.append("saved", step=1, durable=True) is False
    diary.close()


def test_a_journal_that_is_a_directory_refuses_quietly(tmp_path: Path) -> None:
    """The same where something else has the journal's name."""
    (tmp_path / JOURNAL_NAME).mkdir()
    assert Journal(tmp_path).append("saved") is False


def test_a_full_disk_tears_one_line_and_the_next_event_is_whole(tmp_path: Path) -> None:
    """A write cut short by a size limit is reported as False; once there is room again the next event starts on a line of its own."""
    code = (
        "import resource, signal, sys; from resilient.journal import Journal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "diary = Journal(sys.argv[1]); limits = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "print(diary.append('saved', step=1))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150, limits[1])); print(diary.append('saved', step=2, pad='x' * 200))\n"
        "print(diary.append('saved', step=3))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, limits); print(diary.append('saved', step=4))\n"
    )
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == ["True", "False", "False", "True"]
    assert [event["step"] for event in journal.read(tmp_path)] == [1, 4]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 150  # the limit was the child's own


def test_a_name_outside_the_contract_is_refused(tmp_path: Path) -> None:
    """A misspelt event would never be found again: it is a defect of the caller, and nothing is written."""
    with pytest.raises(ConfigurationError, match="savd"):
        Journal(tmp_path).append("savd")
    with pytest.raises(ConfigurationError, match="time"):
        Journal(tmp_path).append("saved", time=3)
    assert journal.read(tmp_path) == []


def test_a_durable_event_is_flushed_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`durable` flushes the file, and the directory the first time: without it a power cut could lose the whole file."""
    flushed: list[str] = []
    real = os.fsync

    def spy(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    diary = Journal(tmp_path)
    diary.append("saved")
    assert flushed == []
    diary.append("preempted", durable=True)
    diary.append("finished", durable=True)
    assert flushed == [str(tmp_path / JOURNAL_NAME), str(tmp_path), str(tmp_path / JOURNAL_NAME)]


def test_a_failing_flush_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that could not be made durable is not confirmed as durable."""

    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    assert Journal(tmp_path).append("preempted", durable=True) is False


def test_a_child_process_does_not_inherit_the_file(tmp_path: Path) -> None:
    """The descriptor is closed on exec: a program that training starts cannot write into the journal."""
    diary = Journal(tmp_path)
    diary.append("started")
    code = (
        "import os, pathlib; root = pathlib.Path('/proc/self/fd'); "
        "print([os.readlink(entry) for entry in root.iterdir() if entry.exists()])"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, close_fds=False, timeout=60).stdout
    assert JOURNAL_NAME not in listed
    diary.close()


def test_the_newest_part_of_a_journal_is_read_without_the_line_that_is_cut(tmp_path: Path) -> None:
    """Any number of bytes gives whole events, those at the end."""
    _append_all(tmp_path, range(5))
    size = (tmp_path / JOURNAL_NAME).stat().st_size
    got = [[event["step"] for event in journal.read(tmp_path, newest)] for newest in range(size + 2)]
    assert all(steps == list(range(5))[5 - len(steps) :] for steps in got)
    assert {len(steps) for steps in got} == set(range(6)) and len(got[-1]) == 5


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    """A run that has not begun has no events, and asking is no error."""
    assert journal.read(tmp_path) == []


def test_a_reader_that_follows_reads_each_event_once(tmp_path):
    """Before there is a journal, while a line is being written, and after another journal has taken its place."""
    tail = Tail(tmp_path, 2**20)
    assert tail.read() == ([], False)
    diary = Journal(tmp_path)
    diary.append("saved", step=1)
    events, again = tail.read()
    assert ([event["step"] for event in events], again) == ([1], True)
    assert tail.read() == ([], False)
    with open(diary.path, "ab") as file:
        file.write(b'{"event":"saved","time":"2026-01-0')
    diary.append("saved", step=2)
    assert [event["step"] for event in tail.read()[0]] == [2]
    with open(diary.path, "ab") as file:
        file.write(b'{"event":"saved",')
    assert tail.read() == ([], False)
    with open(diary.path, "ab") as file:
        file.write(b'"time":"2026-01-01T00:00:00+00:00","step":3}\n')
    assert [event["step"] for event in tail.read()[0]] == [3]
    diary.close()
    diary.path.unlink()
    assert tail.read() == ([], True)
    Journal(tmp_path).append("saved", step=4)
    assert [event["step"] for event in tail.read()[0]] == [4]


def test_a_reader_that_follows_begins_near_the_end_of_a_long_journal(tmp_path):
    """A line that is cut is no event."""
    diary = Journal(tmp_path)
    for step in range(100):
        diary.append("saved", step=step)
    tail = Tail(tmp_path, 200)
    events, _ = tail.read()
    assert [event["step"] for event in events] == [98, 99] and tail.skipped == diary.path.stat().st_size - 200


def test_a_journal_in_the_place_of_another_is_read_from_its_beginning(tmp_path):
    """Moved there in one step, and longer than the one before; or cut in place."""
    (tmp_path / "other").mkdir()
    for directory, steps in ((tmp_path, [1]), (tmp_path / "other", [2, 3, 4])):
        diary = Journal(directory)
        for step in steps:
            diary.append("saved", step=step)
        diary.close()
    tail = Tail(tmp_path, 2**20)
    tail.read()
    (tmp_path / "other" / JOURNAL_NAME).replace(tmp_path / JOURNAL_NAME)
    events, again = tail.read()
    assert ([event["step"] for event in events], again) == ([2, 3, 4], True)
    lines = (tmp_path / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    with open(tmp_path / JOURNAL_NAME, "r+b") as file:
        file.truncate(len(lines[0]))
    events, again = tail.read()
    assert ([event["step"] for event in events], again) == ([2], True)
