"""What the watch over an attempt says and refuses, with the program played by the test."""

from __future__ import annotations

import os
import types
from pathlib import Path

import pytest

from resilient.heartbeat import Announcement, Beat, Orders, Saves, Section
from resilient.supervisor import processes
from resilient.supervisor.patience import Patience, Silence
from resilient.supervisor.systemd import Notifier
from resilient.supervisor.vigil import Vigil


class Scene:
    """A program that trains in `directory`, and what was done: it is child, page, guardian and chronicle in one."""

    def __init__(self, directory, kept_in=None):
        self.page = self.guardian = self
        self.pid, self.orders = os.getpid(), Orders(3, keep_runs_in=kept_in)
        self.count, self.section, self.done, self.said = 0, Section.STARTING, [], []
        self.announcement = lambda: Announcement(self.pid, directory, {})
        chronicle = types.SimpleNamespace(move_to=lambda path, **_: self.done.append(path))
        self.vigil = Vigil(self, Silence(0.0), Patience(), 30.0, chronicle, Notifier({}), self.said.append)

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
