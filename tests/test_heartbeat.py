"""The page between a training process and its supervisor, with real processes on both sides."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from resilient import heartbeat as module
from resilient.errors import StorageError
from resilient.heartbeat import ENVIRONMENT, Beat, Eviction, Heartbeat, Orders, Page, Saves, Section, look, sight_of
from resilient.heartbeat.page import BEAT, Record
from resilient.manifest import Progress

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def page():
    """A page as a supervisor has it."""
    with contextlib.closing(Page()) as page:
        yield page


def claim(page):
    return Heartbeat.claim({ENVIRONMENT: page.path})


def program(page, body, **arguments):
    """A process that has the page in its environment, and `heartbeat`."""
    begin = "import os, signal\nfrom resilient.heartbeat import *\nfrom resilient.manifest import Progress\nheartbeat = Heartbeat.claim()\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), ENVIRONMENT: page.path}
    return subprocess.Popen([sys.executable, "-c", begin + body], env=environment, text=True, **arguments)


def test_what_one_side_writes_the_other_reads(page):
    """Position, section, saves, announcement and orders, from the first to the last."""
    orders = Orders(attempt=3, resume_at_most=7, skip=((0, 3), (2, 1)), grace=12.5)
    page.give(orders)
    assert (page.beat(), page.saves(), page.announcement()) == (Beat(), Saves(), None)
    heartbeat = claim(page)
    assert heartbeat.orders == page.orders == orders
    heartbeat.announce(Path("/some/where"))
    assert page.announcement().directory == Path("/some/where") and page.announcement().pid == os.getpid()
    assert page.beat() == Beat(1, Section.STARTING)
    heartbeat.resumed(100)
    heartbeat.beat(Section.TRAINING, Progress(1, 2, 102))
    assert page.beat() == Beat(2, Section.TRAINING, Progress(1, 2, 102))
    heartbeat.saving()
    assert page.saves() == Saves(saving=True, resumed=100, committed=100)
    heartbeat.saved(None)
    assert page.saves() == Saves(resumed=100, committed=100)
    heartbeat.saved(102)
    assert page.saves() == Saves(resumed=100, committed=102)
    heartbeat.close()
    assert page.beat() == Beat(3, Section.ENDED, Progress(1, 2, 102))


def test_what_the_platform_announces_is_told_with_the_latest_end(page):
    """Of several notices the one that stands longest: until then no attempt is worth beginning."""
    heartbeat = claim(page)
    assert page.eviction() is None
    for platform, deadline in (("aws", 10.0), ("slurm", 30.0), ("gce", 20.0)):
        heartbeat.evicted(platform, "its word", deadline)
    assert page.eviction() == Eviction("slurm", "its word", 30.0)


def test_an_announcement_waits_to_be_heard(page):
    """The supervisor is woken, and until it has answered the training does not go on."""
    body = "heartbeat.announce('/some/where')\nheartbeat.wait_until_heard()\nprint('heard')"
    with program(page, body, stdout=subprocess.PIPE) as training:
        select.select([page.calls], [], [])
        assert select.select([training.stdout], [], [], 0.2)[0] == []
        page.answer()
        assert select.select([page.calls], [], [], 0)[0] == [] and page.announcement().directory == Path("/some/where")
        page.hear()
        assert training.stdout.read() == "heard\n"


def test_a_supervisor_that_does_not_answer_is_not_waited_for_for_ever(page, monkeypatch):
    """It is suspended, or has died since."""
    monkeypatch.setattr(module, "_TO_BE_HEARD", 0.01)
    heartbeat = claim(page)
    heartbeat.announce(Path("/some/where"))
    heartbeat.wait_until_heard()
    Heartbeat.claim({}).wait_until_heard()


def test_a_fit_that_was_stopped_has_not_ended(page):
    """Leaving fit because of a stop leaves the section as it is: the process has yet to go."""
    heartbeat = claim(page)
    heartbeat.beat(Section.STOPPING, Progress(0, 1, 1))
    heartbeat.close()
    assert page.beat().section is Section.STOPPING


@pytest.mark.parametrize(
    ("section", "error", "left"),
    [
        (Section.STARTING, ValueError, Section.FAILED),
        (Section.TRAINING, ValueError, Section.FAILED),
        (Section.TRAINING, SystemExit, Section.FAILED),
        (Section.TRAINING, KeyboardInterrupt, Section.RAISED),
        (Section.TRAINING, StorageError, Section.RAISED),
        (Section.BETWEEN, ValueError, Section.RAISED),
        (Section.VALIDATING, ValueError, Section.RAISED),
        (Section.STOPPING, ValueError, Section.STOPPING),
    ],
)
def test_a_fit_that_an_error_leaves_says_whether_the_batch_may_be_to_blame(page, section, error, left):
    """A program that dies of the error dies at that batch, whatever it does before it does so."""
    with contextlib.suppress(error), claim(page) as heartbeat:
        heartbeat.beat(section, Progress(1, 2, 102))
        raise error("of a batch")
    assert (page.beat().section, page.beat().progress) == (left, Progress(1, 2, 102))


def test_one_process_at_a_time_beats(page):
    """A second fit of the process tree finds the page taken; after the first one's end, or death, it is free."""
    with program(page, "heartbeat.beat(Section.TRAINING, Progress(0, 1, 1)); print(); input()", stdin=-1, stdout=-1) as first:
        first.stdout.readline()
        assert not claim(page).supervised
        first.kill()
    heartbeat = claim(page)
    heartbeat.beat(Section.TRAINING, Progress(0, 2, 2))
    assert page.beat() == Beat(2, Section.TRAINING, Progress(0, 2, 2))
    worker = os.fork()  # a data worker, which has everything open that we have
    if worker == 0:
        signal.pause()
    heartbeat.close()
    assert claim(page).supervised
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)


@pytest.mark.parametrize("path", ["", "/proc/1/fd/999999", "{file}", "{directory}"])
def test_without_a_supervisor_there_is_no_heartbeat(tmp_path, path):
    """No variable, one whose supervisor is gone, or one that names something else: fit goes on as if nothing was said."""
    file = tmp_path / "file"
    file.write_text("something else")
    environment = {ENVIRONMENT: path.format(file=file, directory=tmp_path)} if path else {}
    heartbeat = Heartbeat.claim(environment)
    heartbeat.announce(tmp_path)
    heartbeat.beat(Section.TRAINING, Progress(0, 1, 1))
    assert (heartbeat.supervised, heartbeat.orders) == (False, Orders())
    heartbeat.close()
    assert file.read_text() == "something else"


def test_a_death_at_any_moment_leaves_a_whole_record(page):
    """Killed while it does nothing but beat, a process leaves numbers that belong together, and they are the last ones read before."""
    for _ in range(5):
        with program(page, "step = 0\nwhile True: step += 1; heartbeat.beat(Section.TRAINING, Progress(step, step, step))") as beating:
            count = page.beat().count
            seen = 0
            while seen < 2000:
                beat = page.beat()
                seen += beat.count != count
                assert beat.progress is None or beat.progress.epoch == beat.progress.batch == beat.progress.step
            os.kill(beating.pid, signal.SIGKILL)
        last = page.beat().progress
        assert last.epoch == last.batch == last.step >= beat.progress.step


def test_a_reader_that_is_overtaken_reads_again():
    """Two beats while it copies would leave it with half of one and half of the other."""
    to_come = []

    class Overtaken(bytearray):
        def __getitem__(self, key):
            first = super().__getitem__(slice(key.start, key.start + 16))
            while to_come:
                record.write(BEAT, *[to_come.pop()] * 4)
            return first + super().__getitem__(slice(key.start + 16, key.stop))

    page = Overtaken(64)
    record = Record(page, memoryview(bytearray(8)).cast("q"), 0, 0, BEAT.size)
    record.write(BEAT, 1, 1, 1, 1)
    to_come += [3, 2]
    assert BEAT.unpack(record.read()[1]) == (3, 3, 3, 3)


def test_the_stacks_of_all_threads_are_written_on_request(page):
    """Even of a process whose main thread sits in a call that never returns."""
    body = """
import sys, threading
from resilient.heartbeat import TRACE_SIGNAL
def in_a_thread():
    threading.Event().wait()
threading.Thread(target=in_a_thread, daemon=True).start()
heartbeat.announce(".")
os.kill(os.getpid(), TRACE_SIGNAL)
"""
    with program(page, body, stderr=subprocess.PIPE) as process:
        text = process.stderr.read()
    assert process.returncode == 0
    assert "in in_a_thread" in text and "Current thread" in text


def test_what_the_framework_was_imported_with_is_announced(page, monkeypatch):
    """A spare interpreter needs the variables that a program sets before it imports Keras; no others leave the process."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("SECRET", "x")
    heartbeat = claim(page)
    heartbeat.announce(Path("run"))
    variables = page.announcement().variables
    assert variables["KERAS_BACKEND"] == "jax" and "SECRET" not in variables
    heartbeat.close()


@pytest.mark.parametrize("supervised", [True, False])
def test_an_outsider_may_look_at_the_page_of_a_training(page, tmp_path, supervised):
    """Through /proc, also at one that no supervisor listens to; when the last beat came is told as well."""
    body = f"""
heartbeat = Heartbeat.claim({{}}) if not {supervised} else heartbeat
heartbeat.announce({str(tmp_path)!r})
heartbeat.resumed(5)
heartbeat.beat(Section.TRAINING, Progress(1, 2, 7))
print()
input()
"""
    before = time.monotonic()
    with program(page, body, stdin=-1, stdout=-1) as training:
        training.stdout.readline()
        with contextlib.closing(sight_of(training.pid, tmp_path)) as sight:
            beat = sight.beat()
            assert (beat, sight.saves()) == (Beat(2, Section.TRAINING, Progress(1, 2, 7)), Saves(False, 5, 5))
            assert before <= beat.at <= time.monotonic()
        assert sight_of(training.pid, tmp_path / "elsewhere") is None
        training.kill()
    assert sight_of(training.pid, tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"something else", b"x" * 200_000])
def test_what_is_no_page_is_not_looked_at(tmp_path, content):
    """A file of the name, a page of another version."""
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"no page|mmap"):
        look(tmp_path / "file")


@pytest.mark.parametrize("refusal", [AttributeError, PermissionError])
def test_a_python_without_memory_files_has_a_page_all_the_same(monkeypatch, refusal):
    """Some builds lack `os.memfd_create`, and a system may forbid it."""

    def refuse(name):
        raise refusal(name)

    monkeypatch.setattr(os, "memfd_create", refuse)
    with contextlib.closing(Page()) as page:
        heartbeat = Heartbeat.claim({ENVIRONMENT: page.path})
        heartbeat.beat(Section.TRAINING, Progress(1, 2, 3))
        assert page.beat().section is Section.TRAINING
        heartbeat.close()
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: refuse("no room"))
    if refusal is PermissionError:
        with Heartbeat() as alone:
            alone.beat(Section.TRAINING, Progress(1, 2, 3))


def test_only_the_announcement_that_was_taken_in_is_heard(tmp_path):
    """A program that has announced another directory meanwhile waits for that to be taken in as well."""
    with contextlib.closing(Page()) as page:
        heartbeat = Heartbeat.claim({ENVIRONMENT: page.path})
        heartbeat.announce(tmp_path / "a")
        assert page.announcement().directory.name == "a"
        heartbeat.announce(tmp_path / "b")
        page.hear()
        records = heartbeat._records
        assert records.places[module._HEARD] < records.announcement.read()[0]
        assert page.announcement().directory.name == "b"
        page.hear()
        assert records.places[module._HEARD] == records.announcement.read()[0]
        heartbeat.wait_until_heard()
        heartbeat.close()
