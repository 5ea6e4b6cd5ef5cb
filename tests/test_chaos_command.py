"""`resilient chaos` around small programs that keep real checkpoints: what is equal, what is not, and whether it says where."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import store_samples
from supervised import ROOT, is_alive

from resilient import reading
from resilient.chaos.damage import damage_newest
from resilient.chaos.endings import compare, history_difference
from resilient.chaos.line import Stretch, first_difference
from resilient.chaos.strikes import Situation, Strike
from resilient.chaos.striking import Striker
from resilient.chaos.witness import Sighting, Witness
from resilient.cli.chaos_telling import _Lines, _Screen
from resilient.heartbeat import ENVIRONMENT, Beat, Orders, Page, Section, home_of
from resilient.manifest import Progress
from resilient.store import Store

TRAINS = "from stored_training import *\n"


def chaos(directory, body, *options, **arguments):
    """Put a program to the test; everything is kept in `test`."""
    (directory / "program.py").write_text(textwrap.dedent(body))
    command = [sys.executable, "-m", "resilient", "--debug", "chaos", "--root", "test", *options, "--", sys.executable, "program.py"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.run(
        [*command, *arguments.pop("given", ())], cwd=directory, env=environment, text=True, capture_output=True, check=False, **arguments
    )


def document(directory):
    """What the test has written down."""
    return json.loads((directory / "test" / "chaos.json").read_text())


def flat(text):
    """Lines that were folded, as one."""
    return " ".join(text.split())


# -- the whole command -----------------------------------------------------------------------------------------------------------------


def test_every_kind_of_fault_leaves_a_sound_program_equal(tmp_path):
    """Each is delivered at a moment of its kind, what was lost is counted, and both ends are the same bits."""
    done = chaos(tmp_path, TRAINS + "fit('run', length=30)", "--kills", "16", "-o", "told.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = document(tmp_path)
    assert json.loads((tmp_path / "told.json").read_text()) == told
    assert told["verdict"] == "equal" and told["control"] is None
    disturbed = told["disturbed"]
    kinds = [blow["kind"] for blow in disturbed["blows"]]
    assert disturbed["delivered"] == len(kinds) >= 14  # the training may be over before the last moment has come
    assert set(kinds) >= {"sigkill", "sigterm", "commit", "both", "damage", "startup"}
    for blow in disturbed["blows"]:
        if blow["kind"] in ("sigkill", "sigterm", "both", "damage", "sigstop"):
            assert blow["section"] == "training", blow
        if blow["kind"] == "validation":
            assert blow["section"] == "validating"
        if blow["kind"] == "sigterm":
            assert blow["lost_steps"] == 0, blow
    assert sum(blow["lost_steps"] for blow in disturbed["blows"]) == disturbed["lost_steps"] > 0
    ending = sum(blow["kind"] != "sigstop" for blow in disturbed["blows"])
    assert len(disturbed["attempts"]) in (ending, ending + 1)  # the last fault may have come when the training was done
    assert 0 < disturbed["time"]["goodput"] < 1
    assert "EQUAL: All 3 tensors" in flat(done.stdout) and "fault 1: " in done.stderr
    assert max(len(line) for line in done.stdout.splitlines() if str(tmp_path) not in line) <= 80  # a path is one word


def test_the_programs_own_run_is_not_touched(tmp_path):
    """Neither the run that lies in its directory nor anything in it; what it reads back after fit is the test's own."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("mine")
    body = """
    from stored_training import *
    from resilient import checkpoints
    fit("run", epochs=2)
    Path(sys.argv[1], "steps").write_text(str(checkpoints("run")[-1].step))
    """
    done = chaos(tmp_path, body, "--kills", "1", given=["{training}"])
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]
    for training in ("undisturbed", "disturbed"):
        assert (tmp_path / "test" / training / "steps").read_text() == "40"


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("momentum", r"in run: model:w, optimizer:m; equal at step \d+, different by step \d+ \(epoch \d\), trained by attempt"),
        ("history", r"in run: loss of epoch 0 is [\d.]+ instead of [\d.]+; equal at step 0, different by step 20 \(epoch 0\)"),
    ],
)
def test_a_resume_that_is_wrong_is_found_and_placed(tmp_path, mistake, told):
    """The first tensor or value that differs, by which step, in which attempt; and that it is the resume, not the program."""
    done = chaos(tmp_path, TRAINS + f"fit('run', mistake={mistake!r})", "--kills", "2", "--mix", "sigterm=1", "--seed", "5")
    assert done.returncode == 1
    verdict = flat(done.stdout)
    assert re.search(told, verdict), verdict
    assert "NOT EQUAL" in verdict and "Two undisturbed trainings are equal, so it is resuming that changes it." in verdict
    first = document(tmp_path)["runs"][0]["first_difference"]
    stopped = [blow["resumed"] for blow in document(tmp_path)["disturbed"]["blows"]]
    if mistake == "momentum":  # the first attempt that went on from somewhere is the one
        assert first["by"] > stopped[0] and 2 in first["attempts"]


def test_a_program_without_a_seed_is_told_so(tmp_path):
    """Its undisturbed trainings differ already: that is no fault of the resume, and it is not called one."""
    done = chaos(tmp_path, TRAINS + "fit('run', epochs=2, seed=int.from_bytes(os.urandom(4)))", "--kills", "1", "--mix", "sigkill=1")
    assert done.returncode == 1
    assert "NOT REPRODUCIBLE: Two undisturbed trainings already differ, in run:" in flat(done.stdout)
    assert document(tmp_path)["verdict"] == "not reproducible"


def test_several_fits_of_one_program_are_compared_each(tmp_path):
    """And faults are spread over the steps of all of them."""
    body = TRAINS + "fit('a', epochs=2)\nfit('b', epochs=2, mistake='history')"
    done = chaos(tmp_path, body, "--kills", "4", "--mix", "sigkill=1")
    assert done.returncode == 1
    told = document(tmp_path)
    assert [(run["directory"], run["equal"]) for run in told["runs"]] == [("a", True), ("b", False)]
    assert [blow["step"] >= 5 for blow in told["disturbed"]["blows"]][:1] == [True]
    assert told["undisturbed"]["steps"] == 80


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("print('hello')", "ended without having called resilient.fit, so there is nothing to compare (hello)"),
        ("import sys; sys.exit('no data')", "did not come to its end: attempt 1 exited with code 1"),
        (TRAINS + "import tempfile\nfit(tempfile.mkdtemp(), epochs=1)", "has to name the same directory each time it is started"),
    ],
)
def test_a_program_that_cannot_be_tested_is_told_why(tmp_path, body, told):
    """In one sentence, with exit code 1."""
    done = chaos(tmp_path, body, "--kills", "1", "--mix", "sigkill=1")
    assert done.returncode == 1
    assert told in flat(done.stdout + done.stderr)


def test_an_attempt_that_needs_a_human_ends_the_test(tmp_path):
    """A program whose data change with each start, say: fit refuses to go on, and that is the finding."""
    body = TRAINS + "Path('started').open('a').write('x')\nif Path('started').stat().st_size == 3: sys.exit(78)\nfit('run', epochs=2)"
    done = chaos(tmp_path, body, "--kills", "2", "--mix", "sigkill=1")
    assert done.returncode == 1
    assert "NOT FINISHED: The disturbed training did not come to its end: attempt 2 exited with code 78" in flat(done.stdout)


def test_lives_that_are_too_short_are_given_up_with_the_reason(tmp_path):
    """Nothing new is ever saved: after ten such attempts it says what they lived and what they would have needed."""
    done = chaos(tmp_path, TRAINS + "fit('run')", "--mtbf", "1ms", "--mix", "sigkill=1")
    assert done.returncode == 1
    assert "the last 10 attempts ended before they had saved anything new" in flat(done.stdout)


def test_the_time_limit_ends_the_disturbed_training(tmp_path):
    """The undisturbed one takes as long as it takes."""
    body = TRAINS + "Path('again').touch() if Path('once').exists() else Path('once').touch()\n"
    body += "fit('run', epochs=1, batch_seconds=3600 if Path('again').exists() else 0.001)"
    done = chaos(tmp_path, body, "--kills", "0", "--timeout", "1s")
    assert done.returncode == 1
    assert "NOT FINISHED" in done.stdout and "it was not done after 1 s (--timeout)" in flat(done.stdout)


def test_a_trace_is_replayed(tmp_path):
    """Its seconds scaled, its kinds as recorded."""
    (tmp_path / "trace.csv").write_text("seconds,kind\n300,sigterm\n100,SIGKILL\n")
    done = chaos(tmp_path, TRAINS + "fit('run', epochs=3)", "--replay", str(tmp_path / "trace.csv"), "--scale", "0.001")
    assert done.returncode == 0, done.stdout + done.stderr
    blows = document(tmp_path)["disturbed"]["blows"]
    assert [blow["kind"] for blow in blows] == ["sigkill", "sigterm"]
    assert [blow["elapsed"] >= due for blow, due in zip(blows, (0.1, 0.3), strict=True)] == [True, True]


def test_a_training_that_no_fault_met_proves_nothing(tmp_path):
    """That two undisturbed trainings are equal was not the question."""
    done = chaos(tmp_path, TRAINS + "fit('run', epochs=1)", "--mtbf", "1000h")
    assert done.returncode == 1
    assert "NOT FINISHED: No fault met the disturbed training: it took " in flat(done.stdout) and "--mtbf" in flat(done.stdout)
    assert document(tmp_path)["verdict"] == "not finished"


def test_a_program_that_does_not_keep_its_run_where_it_is_ordered_is_stopped(tmp_path):
    """Its environment has a version that knows no such order; its real run is not trained on."""
    body = TRAINS + "import stored_training\nstored_training.home_of = lambda path: path\nfit(Path('run').absolute())"
    done = chaos(tmp_path, body)
    assert done.returncode == 78
    assert f"The program trains in {tmp_path}/run although its runs were ordered to be kept below" in flat(done.stderr)
    assert not {"checkpoints", "journal.jsonl", "supervisor.lock"} & set(os.listdir(tmp_path / "run"))


def test_nothing_is_left_when_the_test_is_killed(tmp_path):
    """The program dies with it."""
    body = TRAINS + "Path('pid').write_text(str(os.getpid()))\nfit('run', epochs=1, batch_seconds=3600)"
    (tmp_path / "program.py").write_text(body)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "resilient", "chaos", "--root", "test", "--", sys.executable, "program.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert process.poll() is None
        process.kill()
    pid = int((tmp_path / "pid").read_text())
    while is_alive(pid):
        pass


def played(directory, code):
    """What the code says that runs a `Training` in a process of its own."""
    (directory / "program.py").write_text(TRAINS + "fit('run', epochs=1)")
    imports = """
    import sys
    from pathlib import Path
    from resilient.chaos import training
    from resilient.chaos.strikes import Strike
    from resilient.chaos.trained import Observer, Place, Rules
    command, place = [sys.executable, "program.py"], Place(Path("test").absolute())
    place.root.mkdir()
    """
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    words = [sys.executable, "-c", textwrap.dedent(imports) + textwrap.dedent(code)]
    return subprocess.run(words, cwd=directory, env=environment, text=True, stdout=subprocess.PIPE, check=True).stdout


def test_an_interruption_after_the_end_of_a_program_is_one(tmp_path):
    """Ctrl-C while its last checkpoint is looked at, say: it comes through, and nothing else does."""
    code = """
    class Interrupted(training.Training):
        def _watch(self, *arguments):
            super()._watch(*arguments)
            raise KeyboardInterrupt

    try:
        Interrupted(["true"], place, Rules(), Observer()).run()
    except KeyboardInterrupt:
        print("interrupted")
    """
    assert played(tmp_path, code) == "interrupted\n"


def test_a_pause_of_ours_is_no_news(tmp_path):
    """Whoever is told that his program is suspended would continue it by hand."""
    code = """
    class Told(Observer):
        event = print

    training.LOOK = 0.0  # many looks while it is stopped
    strikes = [Strike("sigstop", step=5, chance=0.0)]
    done = training.Training(command, place, Rules(once=True), Told(), strikes).run()
    print(done.problem)
    """
    told = played(tmp_path, code)
    assert "fault 1: SIGSTOP" in told and told.endswith("\nNone\n")
    assert "suspended" not in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--replay", "trace.csv"], "there is no such file"),
        (["--replay", "trace.csv", "--kills", "3"], "Leave out --kills"),
        (["--lifetimes", "early"], "needs a mean"),
        (["--lifetimes", "long", "--mtbf", "3s"], "exponential, early, bathtub"),
        (["--scale", "2"], "--replay"),
        (["--scale", "nan", "--replay", "trace.csv"], "no positive number"),
        (["--mix", "flood=1"], "The kinds are"),
        (["--mtbf", "3"], "--mtbf='3' is not a duration"),
        (["-o", "report.txt"], ".html or .json"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_runs(tmp_path, options, told):
    """With 78, as everywhere."""
    done = chaos(tmp_path, "raise SystemExit", *options)
    assert (done.returncode, (tmp_path / "test" / "undisturbed").exists()) == (78, False)
    assert told in flat(done.stderr)


def test_a_folder_that_is_in_use_is_refused(tmp_path):
    """Two tests must not meet in one."""
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "other").touch()
    assert chaos(tmp_path, "raise SystemExit").returncode == 78


def test_what_a_program_says_is_no_command_to_the_terminal(capsys):
    """Its last words are shown, but not obeyed."""
    for observer in (_Lines(), _Screen()):
        observer.event("\x1b[2Jcleared")
    assert capsys.readouterr().err.count("\\x1b[2Jcleared\n") == 2


# -- its parts -------------------------------------------------------------------------------------------------------------------------


class Scene:
    """A program that is as the test says, and what is done to it."""

    def __init__(self, passing=()):
        self.section, self.saving, self.directory, self.done, self._passing = Section.STARTING, False, None, [], passing
        self.child = self.page = self

    def beat(self):
        return Beat(1, self.section, Progress(0, 5, 5))

    def moment(self, kind):
        return self.beat() if kind.holds(self.section, saving=self.saving) else None

    def hold(self):
        self.done.append("hold")
        for name, value in self._passing:
            setattr(self, name, value)

    def __getattr__(self, name):
        return lambda: self.done.append(name)


def look(striker, scene, step=5, **changes):
    """One look at the program after some changes."""
    for name, value in changes.items():
        setattr(scene, name, value)
    striker.look(scene, Situation(lifetime=9.0, elapsed=9.0, step=step), 1)
    return scene.done


def test_a_fault_waits_for_its_moment():
    """Where steps say when: not before the step, and in training only."""
    scene, striker = Scene(), Striker(iter([Strike("sigkill", step=5)]))
    assert look(striker, scene, step=4, section=Section.TRAINING) == []
    assert look(striker, scene, section=Section.BETWEEN) == []
    assert look(striker, scene, section=Section.TRAINING) == ["kill"]
    assert look(striker, scene) == ["kill"] and [blow.kind for blow in striker.blows] == ["sigkill"]


def test_where_the_clock_says_when_a_program_is_struck_anywhere():
    """As machines die."""
    assert look(Striker(iter([Strike("sigterm", lifetime=5)])), Scene()) == ["terminate"]


def test_a_moment_that_passes_while_the_program_is_held_is_none():
    """It goes on unharmed, and the fault waits for the next one, or after a while for no moment at all."""
    scene = Scene(passing=[("saving", False)])
    striker = Striker(iter([Strike("commit", step=5, slack=10)]))
    assert look(striker, scene, section=Section.TRAINING, saving=True) == ["hold", "release"]
    assert striker.blows == [] and not striker.struck
    assert look(striker, scene, step=15) == ["hold", "release", "kill"]
    assert striker.blows[0].kind == "sigkill" and striker.blows[0].note == "commit meant: its moment did not come"


def test_a_program_that_was_only_stopped_is_struck_again_later():
    """SIGSTOP ends nothing: while it lasts nothing else comes, and then the next."""
    scene, striker = Scene(), Striker(iter([Strike("sigstop", step=5, chance=0.0), Strike("sigkill", step=5)]))
    assert look(striker, scene, section=Section.TRAINING) == ["hold"]
    assert look(striker, scene) == ["hold"]
    while look(striker, scene) == ["hold"]:
        pass
    look(striker, scene)
    assert scene.done == ["hold", "release", "kill"]


def test_a_run_is_kept_where_the_supervisor_orders(tmp_path):
    """Below the folder, by its own whole path; twice ordered is once ordered; without an order it stays."""
    page = Page()
    environment = {ENVIRONMENT: page.path}
    assert home_of(Path("run"), environment) == Path("run") == home_of(Path("run"), {})
    page.give(Orders(keep_runs_in=str(tmp_path)))
    home = home_of(Path("/data/run"), environment)
    assert home == tmp_path / "data" / "run" == home_of(home, environment)
    assert home_of(Path("run"), environment) == Path(f"{tmp_path}{Path.cwd()}/run")
    page.close()


def committed(directory, *values, final=None):
    """A store with checkpoints whose tensors hold `values`, and a final state."""
    store = Store(directory)
    store.prepare()
    for step, value in enumerate(values, 1):
        store.commit(store_samples.manifest(step), store_samples.tensors(value))
    if final is not None:
        store.commit_final(store_samples.manifest(len(values), len(values) + 1), final)
    return store


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model:dense/kernel", "[2, 3] is -0.0 instead of 0.0"),
        ("model:seed", "[] is 128 instead of 0"),
        ("optimizer:m", "[4] is -0 instead of 0"),
        ("state:metrics/loss", "[1] is -0.0 instead of 0.0"),
    ],
)
def test_one_bit_is_a_difference(tmp_path, name, told):
    """Of model, optimizer and metrics; the sign of a zero too. It is named with the place and both values."""
    ours, theirs = store_samples.tensors(0), store_samples.tensors(0)
    ours["state.safetensors"]["metrics/loss"] = np.zeros(2)
    theirs["state.safetensors"]["metrics/loss"] = np.zeros(2)
    file, _, tensor = name.partition(":")
    changed = theirs[f"{file}.safetensors"][tensor] = theirs[f"{file}.safetensors"][tensor].copy()
    changed.reshape(-1).view(np.uint8)[0 if tensor == "seed" else -1] ^= 128
    for directory, tensors in (("a", ours), ("b", theirs)):
        committed(tmp_path / directory, final=tensors)
    same = compare(tmp_path / "a", tmp_path / "a")
    assert same.equal and same.compared == 6
    found = compare(tmp_path / "a", tmp_path / "b")
    assert not found.equal and [str(item).partition(": ")[0] for item in found.tensors] == [f"{name}{told}"]


def test_what_is_not_promised_is_told_and_not_held_against_it(tmp_path):
    """Random generators and attributes of callbacks at the end; metrics are promised."""
    ours, theirs = store_samples.tensors(0), store_samples.tensors(0)
    theirs["state.safetensors"]["flag"] = np.array(False)
    for directory, tensors in (("a", ours), ("b", theirs)):
        committed(tmp_path / directory, final=tensors)
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.equal and list(found.beside) == ["state:flag"]
    assert "left no final state" in compare(tmp_path / "a", tmp_path / "c").missing


def test_histories_are_compared_in_the_order_of_time():
    """The first epoch that differs counts, not the first metric; a missing epoch is a difference, a NaN is none."""
    ours = {"loss": [1.0, float("nan"), 3.0], "val_loss": [1.0, 2.0, 3.0]}
    assert history_difference(ours, {name: list(values) for name, values in ours.items()}) is None
    found = history_difference(ours, {"loss": [1.0, float("nan"), 4.0], "val_loss": [1.0, 2.5]})
    assert (found.epoch, found.metric, found.undisturbed, found.disturbed) == (1, "val_loss", 2.0, 2.5)
    assert str(history_difference({"loss": [-0.0]}, {"loss": [0.0]})) == "loss of epoch 0 is 0.0 instead of -0.0"


def test_the_first_difference_lies_after_the_last_equal_checkpoint(tmp_path):
    """Of steps that both were seen at; and only attempts that trained in between can have made it."""
    for directory, values in (("a", (1, 2, 3, 4)), ("b", (1, 2, 9, 9))):
        committed(tmp_path / directory, *values, final=store_samples.tensors(values[-1]))
    seen = {}
    for directory in ("a", "b"):
        witness = Witness()
        for step in (1, 2, 3, 4, 5, None):
            witness.look(tmp_path / directory, step)
        seen[directory] = witness.seen[tmp_path / directory]
    assert seen["a"].keys() == {1, 2, 3, 4}
    line = [Stretch(1, 0, 2), Stretch(2, 2, 3), Stretch(4, 3, 4)]
    first = first_difference(compare(tmp_path / "a", tmp_path / "b"), seen["a"], seen["b"], line, [2, 4])
    assert (first.after, first.by, first.epoch, first.attempts) == (2, 3, 1, (2,))
    assert str(first).startswith("model:dense/kernel, model:seed, optimizer:m and 1 more; equal at step 2, different by step 3 (epoch 1)")
    unseen = {4: Sighting(Progress(1, 2, 4), {})}
    assert first_difference(compare(tmp_path / "a", tmp_path / "b"), unseen, {}, line, [2, 4]).attempts == (1, 2, 4)
    assert first_difference(compare(tmp_path / "a", tmp_path / "a"), seen["a"], seen["a"], line, [2, 4]) is None


def test_a_big_checkpoint_is_read_at_the_end_of_an_epoch_only(tmp_path, monkeypatch):
    """The loop that strikes must not wait for others, not even for their checksums."""
    read, load = [], Store.load
    monkeypatch.setattr(Store, "load", lambda store, step: read.append(step) or load(store, step))
    store = committed(tmp_path, 1)
    store.commit(store_samples.manifest(2, progress=Progress(1, 0, 2)), store_samples.tensors(2))
    for limit, looked_at in ((1, [2]), (1 << 26, [1, 2])):
        monkeypatch.setattr("resilient.chaos.witness._SMALL", limit)
        read.clear()
        witness = Witness()
        for step in (1, 2):
            witness.look(tmp_path, step)
        assert read == looked_at == list(witness.seen[tmp_path])


@pytest.mark.parametrize("seed", range(6))
def test_damage_leaves_something_to_fall_back_to(tmp_path, seed):
    """The newest valid checkpoint is damaged for sure, never the last valid one."""
    committed(tmp_path, 1, 2, 3)
    for left in (2, 1):
        assert damage_newest(tmp_path, random.Random(seed)).startswith(f"step {left + 1}: ")
        assert len(reading.verify(tmp_path)) == 3 - left
    assert damage_newest(tmp_path, random.Random(seed)) is None
