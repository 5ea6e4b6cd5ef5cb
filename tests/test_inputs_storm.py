"""A small storm over a few programs of the inputs' table, and proof that its judge sees what it has to see."""

from __future__ import annotations

import concurrent.futures
import random
import signal
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos import inputs, inputs_round, oracle
from chaos.inputs import EQUAL, FAILS, NOT_EQUAL, Siege, Verdict
from chaos.inputs_round import FIRST_OF_TWO, SECOND_OF_TWO, Fresh, Result
from chaos.programs import registry
from chaos.rounds import Place
from chaos.zygote import Zygote

# The first test that asks for a verdict waits for the whole storm, and each of pytest's workers may play one at the same time.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    server = Zygote("tensorflow", tmp_path_factory.mktemp("zygote") / "server.txt")
    yield server
    server.close()


# One for each way of finding a place again, and for state that is easily lost; `make inputs` is the storm over all of them.
SOUND = (
    "arrays-shuffle",
    "tfdata-shuffle",
    "tfdata-from-generator",
    "pydataset-reshuffles",
    "generator-infinite",
    "validation-tfdata-unknown",
    "adversaries",
    "mirrored-arrays",
    "mixed-precision",
    "large-files",
    "stateful-lstm",
)
# What the judge has to say about programs that are broken on purpose.
CONTROLS = {
    "skips-a-batch": "resumed at step",
    "repeats-a-batch": "skipped or repeated",
    "forgets-an-attribute": "Forgetful.batches",
    "flips-a-bit": "variables: 2 kernel",
    "loses-a-generator": "generators: numpy",
    "reports-another-loss": "history: loss",
}


@pytest.fixture(scope="module")
def verdicts(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """A storm of a few kills over sound programs and broken ones, two at a time, without comparing undisturbed runs."""
    root = tmp_path_factory.mktemp("storm")

    def siege(name: str) -> Verdict:
        kills = 2 if name in CONTROLS else 4
        return Siege(registry.table()[name], zygote, root / name, "tensorflow", kills, seed=3, compare=False).lay()

    names = [*SOUND, *CONTROLS]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(siege, names), strict=True))


@pytest.mark.storm
@pytest.mark.parametrize("name", SOUND)
def test_a_program_that_is_killed_twice_within_an_epoch_ends_equal(name: str, verdicts: dict[str, Verdict]) -> None:
    """Four kills, two of them and two resumes within one epoch, and nothing tells the end from an undisturbed one."""
    verdict = verdicts[name]
    assert verdict.result.problems == []
    assert verdict.verdict == EQUAL
    assert verdict.kills >= 4
    assert verdict.result.resumes >= 2


@pytest.mark.storm
@pytest.mark.parametrize("control", CONTROLS)
def test_a_program_that_resumes_wrongly_is_not_equal(control: str, verdicts: dict[str, Verdict]) -> None:
    """Negative controls: a batch left out or trained twice, a lost attribute or generator, one bit, one loss: each is named."""
    problems = verdicts[control].result.problems
    assert verdicts[control].verdict == NOT_EQUAL
    assert any(CONTROLS[control] in problem for problem in problems), problems


def test_a_program_that_does_not_run_undisturbed_is_not_blamed_on_the_resume(zygote: Zygote, tmp_path: Path) -> None:
    """Without a reference nothing is killed, and the verdict quotes what the program said."""
    broken = registry.Program("no-such-program", "Is missing", "controls", lambda run: None, ("tensorflow",))
    verdict = Siege(broken, zygote, tmp_path, "tensorflow", 4, seed=1).lay()
    assert (verdict.verdict, verdict.kills) == (FAILS, 0)
    assert "KeyError: 'no-such-program'" in verdict.result.problems[0]


def test_a_forked_child_is_killed_for_real(zygote: Zygote, tmp_path: Path) -> None:
    """Its exit code is the signal's, and the server goes on."""
    program, place = registry.table()["arrays-in-order"], Place(tmp_path / "run")
    place.root.mkdir()
    child = zygote.start(inputs_round.arguments(program, place, "auto"), place.output, 1)
    assert child.alive()
    child.send(signal.SIGKILL)
    assert child.wait(20) == -signal.SIGKILL
    again = zygote.start(["no-such-program"], place.output, 2)
    assert again.wait(20) == 2  # argparse: --directory is missing


def test_a_program_that_needs_what_is_not_installed_is_skipped(zygote: Zygote, tmp_path: Path) -> None:
    """The verdict says what is missing, and it is no failure."""
    wanting = registry.Program("wanting", "", "controls", lambda run: None, ("tensorflow",), needs=("no_such_module",))
    assert Siege(wanting, zygote, tmp_path, "tensorflow", 4, seed=1).lay().verdict == "SKIPPED: needs no_such_module"


def test_every_program_is_named_once_and_says_what_it_is() -> None:
    """Each of the table has a sentence, a known theme and known backends, and broken ones are in no storm unasked."""
    programs = registry.table()
    assert all(one.says and one.theme in registry.THEMES and set(one.backends) <= set(registry.ALL) for one in programs.values())
    assert not any(one.control for one, _ in inputs.choose(None, None))
    with pytest.raises(SystemExit, match="There is no program nonsense"):
        inputs.choose(["nonsense"], None)


@pytest.mark.parametrize("count", [2, 9])
def test_every_hand_deals_a_pair_for_one_epoch(count: int) -> None:
    """The second kill of the pair follows the first at once, and the first is a stop that loses nothing."""
    for seed in range(20):
        hand = inputs_round.deal(count, True, random.Random(seed))
        at = [fault.place for fault in hand].index(FIRST_OF_TWO)
        assert len(hand) == count
        assert hand[at].signal == signal.SIGTERM
        assert hand[at + 1].place == SECOND_OF_TWO


def test_no_kill_waits_for_a_validation_that_does_not_come() -> None:
    """A program without validation is dealt no kill in it."""
    places = {fault.place for seed in range(20) for fault in inputs_round.deal(9, False, random.Random(seed))}
    assert "in validation" not in places
    assert "inside a commit" in places


def test_resumes_count_where_an_epoch_has_two() -> None:
    """One resume within an epoch is none, and one at an epoch's beginning is not within it."""

    def log(*starts: tuple[int, int]) -> list[oracle.Trained]:
        return [oracle.Trained(attempt, epoch, batch, ()) for attempt, (epoch, batch) in enumerate(starts, start=1)]

    assert inputs_round.resumes_within_an_epoch(log((0, 0), (0, 5), (1, 3))) == 0
    assert inputs_round.resumes_within_an_epoch(log((0, 0), (1, 0), (1, 0))) == 0
    assert inputs_round.resumes_within_an_epoch(log((0, 0), (0, 5), (0, 7), (2, 1), (2, 2), (2, 3))) == 5


def test_what_differs_undisturbed_may_be_ignored_by_name() -> None:
    """Only the whole beginning of a name counts, up to a blank."""
    one = registry.Program("one", "", "controls", lambda run: None, ("tensorflow",), ignores=("callbacks: 0 A.b ",))
    outcome = {"callbacks": {"0 A.b": 1, "0 A.bc": 2}, "variables": {"0 A.b": 3}}
    assert one.kept(outcome) == {"callbacks": {"0 A.bc": 2}, "variables": {"0 A.b": 3}}


def test_progress_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    """A line that is still being written is read when it is whole, and earlier attempts do not count."""
    log = tmp_path / "log"
    log.write_text('{"event": "batch", "batch": 0}\n')
    progress = inputs_round.Progress(log)
    with log.open("a") as stream:
        stream.write('{"event": "batch", "batch": 1}\n{"event": "ba')
        stream.flush()
        assert progress.look().batches == 1
        stream.write('tch", "batch": 2}\n')
    assert progress.look().batches == 2
    assert progress.last["batch"] == 2


def test_a_fresh_interpreter_does_what_a_fork_does(zygote: Zygote, tmp_path: Path) -> None:
    """The same program, forked and started anew, ends with the same bits: nothing depends on the fork."""
    program = registry.table()["arrays-in-order"]
    for name, starter in (("forked", zygote), ("fresh", Fresh("tensorflow"))):
        assert inputs_round.run_undisturbed(program, starter, Place(tmp_path / name)) is None
    reference = inputs_round.Reference(program, Place(tmp_path / "forked"))
    assert len(reference.log) == 64
    assert reference.differences(program, Place(tmp_path / "fresh")) == []


def test_the_table_is_written_between_its_markers(tmp_path: Path) -> None:
    """What stands around them stays, a new verdict takes the place of an old one, other rows stay, and a new file gets both."""
    verdict = Verdict(registry.table()["arrays-shuffle"], "tensorflow", EQUAL, Result())
    verdict.result.kills.update({"SIGKILL": 3, "SIGTERM": 2})
    page, new = tmp_path / "page.md", tmp_path / "new.md"
    rows = "| `arrays-shuffle` | tensorflow | old |\n| `embedding` | jax | kept |"
    page.write_text(f"before\n<!-- inputs-table -->\n{rows}\n<!-- /inputs-table -->\nafter\n")
    for _ in range(2):
        inputs.Page(page).add(verdict)
        inputs.Page(new).add(verdict)
    text = page.read_text()
    assert text.startswith("before\n<!-- inputs-table -->\n| program |")
    assert text.endswith("<!-- /inputs-table -->\nafter\n")
    assert (
        "| `arrays-shuffle` | tensorflow | Arrays, `shuffle=True`, a partial last batch, validation | 3 SIGKILL, 2 SIGTERM | 0 | equal |"
        in text
    )
    assert "old" not in text and "| `embedding` | jax | kept |" in text
    assert new.read_text().count("arrays-shuffle") == 1


def test_a_thread_that_was_not_needed_is_no_difference_and_a_lost_value_is_one(tmp_path: Path) -> None:
    """An attempt without a new best begins no thread to write it; any other attribute that is None instead of what it was counts."""
    keras = pytest.importorskip("keras")
    recorder = pytest.importorskip("chaos.programs.recorder")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    def end(**attributes: object) -> dict[str, dict[str, object]]:
        callback = keras.callbacks.Callback()
        vars(callback).update(attributes)
        return dict(recorder.outcome(model, types.SimpleNamespace(history={}, epoch=[]), [callback], tmp_path))

    assert oracle.differences(end(_writer=threading.Thread()), end(_writer=None)) == []
    assert oracle.differences(end(best=object()), end(best=None)) == ["callbacks: 0 Callback.best was not there before"]
    assert len(oracle.differences(end(best=3), end(best=None))) == 1
