"""A small kill storm through `resilient run`, and proof that its judge sees what it has to see."""

from __future__ import annotations

import random

import pytest

from chaos.oracle import Trained
from chaos.supervised import __main__ as storm
from chaos.supervised.life import Attempt
from chaos.supervised.round import _overlaps, deal
from chaos.supervised.story import Past, Story
from chaos.supervised.strikes import STRIKES

KILLS = 10


@pytest.mark.storm
def test_a_small_storm_ends_as_the_undisturbed_training_and_its_journals_are_true(tmp_path, capsys):
    """Program, supervisor and guard die in turns; no orphan, no two trainings at once, each exit code as promised, the same end."""
    code = storm.main(["--lean", "--kills", str(KILLS), "--seed", "7", "--jobs", "1", "--root", str(tmp_path / "storm")])
    said = capsys.readouterr().out
    assert code == 0, said
    assert f"under {KILLS} strikes" in said


def test_every_kind_of_strike_is_forced_and_not_left_to_luck():
    """As many as there are kinds are each one; more are all of them, and more."""
    for count in (len(STRIKES), 300):
        decks = deal(count, 2, random.Random(1))
        drawn = [card for deck in decks for card in iter(deck.draw, None)]
        assert set(drawn) == set(STRIKES) and len(drawn) == count


# -- the judge -----------------------------------------------------------------------------------------------------------------

TRAINED = [Trained(101, 0, 0, (1,)), Trained(101, 0, 1, (2,)), Trained(102, 0, 2, (3,))]
EXITED = {
    "event": "exited", "signal": None, "code": None, "out_of_memory": False, "progressed": True, "failures": 0, "lost_steps": 0,
    "committed": None, "reason": "", "skipping": False,
}  # fmt: skip


def attempt(number, pid):
    return {"event": "attempt", "attempt": number, "pid": pid, "supervisor": 9, "resume_at_most": None}


def true_story():
    """A program is killed, the next one goes on and is done."""
    return [
        attempt(1, 101),
        {"event": "started", "pid": 101},
        {**EXITED, "pid": 101, "signal": "SIGKILL", "verdict": "failed", "epoch": 0, "batch": 2, "committed": 2},
        attempt(2, 102),
        {"event": "started", "pid": 102},
        {"event": "restored", "step": 2},
        {**EXITED, "pid": 102, "code": 0, "verdict": "done", "epoch": 0, "batch": 3, "committed": 3},
    ]


def judged(journal, *, code=0, struck=(), done=None, places=None, attempts=((1, 101), (2, 102))):
    life = Past(9, code, struck, [Attempt(*pair) for pair in attempts])
    return Story(journal, [life], {101: ["SIGKILL"]} if done is None else done, places or {}, TRAINED, 5).problems()


def test_a_true_story_is_believed():
    """Nothing is found where nothing is wrong."""
    assert judged(true_story()) == []


def without(index):
    return true_story()[:index] + true_story()[index + 1 :]


def with_(index, **changes):
    story = true_story()
    story[index].update(changes)
    return story


@pytest.mark.parametrize(
    ("journal", "arguments", "problem"),
    [
        (without(2), {}, "is told to have ended 0 times"),
        ([*true_story(), true_story()[-1]], {}, "is told to have ended 2 times"),
        (without(0), {}, "its terminal told of"),
        (with_(2, signal="SIGSEGV"), {}, "met ['SIGKILL'], and the journal says"),
        (with_(2, out_of_memory=True), {}, "met ['SIGKILL'], and the journal says"),
        (with_(2, batch=7), {}, "trained (0, 1) last"),
        (with_(2, failures=3), {}, "0 failures in a row, and the journal says 3"),
        (with_(6, code=75, verdict="preempted"), {}, "met nothing, and the journal says"),
        (true_story(), {"done": {}}, "met nothing, and the journal says"),
        (true_story(), {"done": {101: ["SIGKILL"], 102: ["hang"]}}, "hung 1 times, and the journal says 0"),
        ([*true_story(), {"event": "hung", "pid": 102}], {}, "hung 0 times, and the journal says 1"),
        (with_(2, code=78, signal=None, verdict="needs a human"), {"done": {101: ["exit"]}}, "it went on after"),
        (with_(2, code=78, signal=None), {"done": {101: ["exit"]}}, "it went on after"),
        (with_(6, verdict="failed"), {"done": {101: ["SIGKILL"], 102: ["raise"]}}, "is no 'done'"),
        (true_story(), {"code": 75}, "it ended with 75 and should have ended with [0]"),
        (with_(5, step=1), {}, "step 2 was committed, and the next attempt went on from 1"),
        ([*true_story()[:2], *true_story()[3:6], true_story()[2], true_story()[6]], {}, "began before 101 had ended"),
        ([*true_story()[:3], *true_story()[4:5], true_story()[3], *true_story()[5:]], {}, "started outside of its attempt"),
    ],
)
def test_a_false_story_is_seen_through(journal, arguments, problem):
    """Left out, told twice, told wrongly, in the wrong order, or gone on where it should have ended."""
    found = judged(journal, **arguments)
    assert any(problem in text for text in found), found


def test_going_on_from_the_same_checkpoint_after_two_failures_at_one_batch_is_seen():
    """The supervisor has to have understood where it failed."""
    crashed = {**EXITED, "code": 1, "verdict": "failed", "progressed": False, "epoch": 0, "batch": 5}
    journal = [
        attempt(1, 1),
        {**crashed, "pid": 1, "failures": 1},
        attempt(2, 2),
        {"event": "restored", "step": 4},
        {**crashed, "pid": 2, "failures": 2},
        attempt(3, 3),
        {**EXITED, "pid": 3, "code": 0, "verdict": "done"},
    ]
    arguments = {"done": {1: ["raise"], 2: ["raise"]}, "attempts": ((1, 1), (2, 2), (3, 3)), "places": {1: (0, 5), 2: (0, 5)}}
    (problem,) = judged([{"event": "started", "pid": 1}, *journal], **arguments)[:1]
    assert "went on from the same checkpoint" in problem
    journal[5]["resume_at_most"] = 3
    assert not any("checkpoint" in text for text in judged(journal, **arguments))


def test_two_trainings_at_once_are_seen_in_what_they_log():
    """One that trains again after another one has begun was never over."""
    assert _overlaps(TRAINED) == []
    assert _overlaps([*TRAINED, Trained(101, 0, 3, (4,))]) == ["programs 101 and 102 trained at the same time"]
