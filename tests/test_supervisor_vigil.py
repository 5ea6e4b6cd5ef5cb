"""What the watch over an attempt says and refuses, with the program played by the test."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import types
from pathlib import Path

import pytest

from resilient.errors import ConfigurationError
from resilient.heartbeat import ENVIRONMENT, Announcement, Beat, Heartbeat, Orders, Page, Saves, Section
from resilient.journal import Journal
from resilient.manifest import Progress
from resilient.restarts import Ending
from resilient.supervisor import processes
from resilient.supervisor.guardian import Exit
from resilient.supervisor.patience import Patience, Silence
from resilient.supervisor.systemd import Notifier
from resilient.supervisor.vigil import Vigil, where


class Scene:
    """A program that trains in `directory`, and what was done: it is child, page, guardian and chronicle in one."""

    def __init__(self, directory, kept_in=None, patience=Patience()):  # noqa: B008  frozen
        self.page = self.guardian = self
        self.pid, self.orders = os.getpid(), Orders(3, keep_runs_in=kept_in)
        self.count, self.section, self.done, self.said = 0, Section.STARTING, [], []
        self.announcement = lambda: Announcement(self.pid, directory, {})
        chronicle = types.SimpleNamespace(
            move_to=lambda path, **_: self.done.append(path), append=lambda event, **_: self.done.append(event)
        )
        self.vigil = Vigil(self, Silence(0.0), patience, 30.0, chronicle, Notifier({}), self.said.append)

    def beat(self):
        return Beat(self.count, self.section)

    def look(self, section=None, **arguments):
        """One look at it; with `section` after a beat."""
        self.count, self.section = (self.count, self.section) if section is None else (self.count + 1, section)
        self.vigil.look(**arguments)

    def saves(self):
        return Saves(resumed=16)

    def hear(self):
        self.done.append("heard")

    def position(self):
        return {}

    def eviction(self):
        return None

    def kill(self):
        self.done.append("killed")


@pytest.mark.parametrize("section", [Section.TRAINING, Section.BETWEEN, Section.VALIDATING])
def test_where_it_trains_is_told_once_it_trains(tmp_path, section):
    """Once, with the step that it goes on from."""
    scene = Scene(tmp_path)
    for seen in (Section.STARTING, section, section):
        scene.look(seen)
    assert scene.said == [f"attempt 3 trains in {tmp_path}, from step 16."]


@pytest.mark.parametrize("section", [Section.STOPPING, Section.ENDED, Section.FAILED])
def test_where_nothing_trains_nothing_of_the_kind_is_told(tmp_path, section):
    """A run that is finished already, or that may not go on."""
    scene = Scene(tmp_path)
    for seen in (Section.STARTING, section):
        scene.look(seen)
    assert scene.said == []


def test_a_suspended_program_is_told_of_unless_we_hold_it(tmp_path, monkeypatch):
    """Once each time; whoever stopped it needs not be told."""
    monkeypatch.setattr(processes, "is_stopped", lambda pid: True)
    scene = Scene(tmp_path)
    for held in (True, False, False):
        scene.look(held=held)
    assert len(scene.said) == 1 and f"kill -CONT {scene.pid}" in scene.said[0]


def test_a_program_that_does_not_keep_its_runs_where_it_was_ordered_is_killed(tmp_path):
    """Before its run directory is touched, and before it is told to go on."""
    kept_in, own = tmp_path / "test", tmp_path / "run"
    own.mkdir()
    scene = Scene(own, kept_in=str(kept_in))
    scene.vigil.listen()
    scene.vigil.listen()
    assert scene.done == ["killed"] and list(own.iterdir()) == [] and scene.vigil.announced is None
    assert str(scene.vigil.refused).startswith(f"The program trains in {own} although")


def test_a_program_that_keeps_its_runs_there_goes_on(tmp_path):
    """Below the folder, at any depth."""
    run = Path(tmp_path, "test", "home", "run")
    run.mkdir(parents=True)
    scene = Scene(run, kept_in=str(tmp_path / "test"))
    scene.vigil.listen()
    assert scene.done == [run, "heard"] and scene.vigil.refused is None


@pytest.mark.parametrize(("explicit", "until"), [(2.0, 1800.0), (3600.0, 3600.0), (None, None)])
def test_a_program_without_a_sign_of_life_hangs_only_where_one_is_expected(tmp_path, explicit, until):
    """It may never call fit. With --hang-timeout it is expected to, and has the time that any start has: it may still import."""
    scene = Scene(tmp_path, patience=Patience(explicit))
    scene.announcement, scene.section = lambda: None, Section.SILENT
    for silent in (5.0, (until or 1e9) - 10.0):
        scene.vigil.silence = dataclasses.replace(scene.vigil.silence, seconds=silent)
        scene.look()
        assert scene.done == scene.said == []
    scene.vigil.silence = dataclasses.replace(scene.vigil.silence, seconds=(until or 1e9) + 1.0)
    scene.look()
    assert scene.done == (["hung"] if until else [])
    assert all(line.endswith(" s, before its first sign of life.") for line in scene.said)  # and no stacks, which nobody would write


@pytest.mark.parametrize(
    ("error", "section", "told"),
    [
        (ConfigurationError(""), None, "after an error in fit, before its first batch"),
        (ValueError(), None, "after an error in fit, before its first batch"),
        (ConfigurationError(""), Section.TRAINING, "after an error in fit at epoch 1, batch 2 (step 12)"),
        (ValueError(), Section.BETWEEN, "after an error in fit at epoch 1, batch 2 (step 12)"),
        (ValueError(), Section.TRAINING, "after an error in training at epoch 1, batch 2 (step 12)"),
        (None, Section.BETWEEN, "after the end of fit at epoch 1, batch 2 (step 12)"),
        (ValueError(), Section.STOPPING, "stopping at epoch 1, batch 2 (step 12)"),
    ],
)
def test_it_is_told_how_fit_was_left(tmp_path, error, section, told):
    """By its end, by an error that blames the batch, or by another one; with the position where there was one."""
    with contextlib.closing(Page()) as page:
        with contextlib.suppress(ConfigurationError, ValueError), Heartbeat.claim({ENVIRONMENT: page.path}) as heartbeat:
            heartbeat.announce(tmp_path)
            if section is not None:
                heartbeat.beat(section, Progress(1, 2, 12))
            if error is not None:
                raise error
        assert where(page.beat()) == told


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ([("started", {}), ("saved", {}), ("failed", {"error": "ValueError: bad batch\nand more"})], ": ValueError: bad batch"),
        ([("started", {}), ("failed", {"error": "ValueError: " + "x" * 1000})], "x..."),
        ([("failed", {"error": "of another attempt"}), ("started", {})], "before its first batch"),
        ([], "before its first batch"),
    ],
)
def test_the_error_itself_is_told(tmp_path, told, shown):
    """In one line: the program may have been ended before Python printed it."""
    scene = Scene(tmp_path)
    for event, fields in told:
        Journal(tmp_path).append(event, **fields)
    scene.look(Section.FAILED)
    scene.vigil.announced = scene.announcement()
    reason = scene.vigil.reason(Exit(scene.pid, code=1), Ending(code=1))
    assert reason.endswith(shown) and len(reason) < 300, reason


@pytest.mark.parametrize(("section", "blamed"), [(Section.FAILED, True), (Section.TRAINING, False)])
def test_a_kill_on_the_way_out_of_a_failure_does_not_hide_it(tmp_path, section, blamed):
    """The program had said that it fails, and then somebody killed it together with its guard."""
    scene = Scene(tmp_path)
    scene.look(section)
    assert scene.vigil.ending(Exit(scene.pid), {}).blames_program is blamed
