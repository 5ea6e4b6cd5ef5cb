"""The whole test of a program: undisturbed, disturbed, compared; where they differ, undisturbed once more to know whose fault that is."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from pathlib import Path

from resilient import journal
from resilient.accounts import Attempt as Account
from resilient.accounts import Time, accounts
from resilient.chaos.endings import Comparison, compare
from resilient.chaos.line import FirstDifference, first_difference, stretches
from resilient.chaos.schedules import Facts, Schedule
from resilient.chaos.striking import generator
from resilient.chaos.trained import Observer, Place, Rules, Trained
from resilient.chaos.training import Training
from resilient.errors import ResilientError
from resilient.store import Store

_IN_VAIN = 10  # attempts in a row without progress, where strikes have no end: no bad luck is waited out for ever


class Verdict(enum.Enum):
    """What came out."""

    EQUAL = "equal"
    DIFFERENT = "different"
    NOT_REPRODUCIBLE = "not reproducible"
    UNFINISHED = "not finished"


@dataclasses.dataclass(frozen=True)
class RunOutcome:
    """One run of the program, that is, one call of `fit`.

    Attributes:
        name: its directory, as the program named it.
        comparison: of its two ends.
        first: where they part, None if they do not.
        attempts: of the disturbed training, as its journal tells.
    """

    name: str
    comparison: Comparison
    first: FirstDifference | None
    attempts: Sequence[Account]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything that came out.

    Attributes:
        verdict, sentence: what it means, as a word and for people.
        command, schedule, seed: what was done; the schedule in words.
        undisturbed, disturbed: the two trainings.
        planned: how many strikes there were to be, None where that was open.
        runs: in the order of the program.
        control: comparisons of a second undisturbed training with the first, by run; None where there was none.
    """

    verdict: Verdict
    sentence: str
    command: Sequence[str]
    schedule: str
    seed: int
    facts: Facts
    undisturbed: Trained
    disturbed: Trained
    planned: int | None
    runs: Sequence[RunOutcome]
    control: Mapping[str, Comparison] | None

    @property
    def time(self) -> Time:
        """Where the time of the disturbed training went. What no run tells of itself was spent on starting, or by nobody."""
        told = sum((attempt.time for run in self.runs for attempt in run.attempts), Time())
        known = told.training + told.saving + told.lost
        return Time(told.training, told.saving, told.lost, starting=max(0.0, self.disturbed.seconds - known))

    @property
    def lost_steps(self) -> int:
        """Steps of the disturbed training that were trained again."""
        return sum(attempt.lost_steps for run in self.runs for attempt in run.attempts)


@dataclasses.dataclass(frozen=True)
class Proof:
    """What is to be done.

    Attributes:
        command: of the program.
        schedule: of the faults.
        root: an empty folder for everything.
        rules: when a training is given up; the undisturbed ones have no time limit.
        always_control: run the second undisturbed training in any case.
    """

    command: Sequence[str]
    schedule: Schedule
    root: Path
    rules: Rules
    always_control: bool = False

    def run(self, observer: Observer) -> Outcome:
        """Do it; takes as long as the trainings do.

        Raises:
            ResilientError: the undisturbed training did not come to its end, or the program does not call `resilient.fit`.
        """
        undisturbed = self._undisturbed("undisturbed", observer)
        facts, offsets = facts_of(undisturbed)
        observer.event(f"undisturbed training done: {facts.steps} steps in {facts.seconds:.1f} s")
        observer.event(f"now with {self.schedule.described}, seed {self.rules.seed}")
        strikes = self.schedule.strikes(facts, generator(self.rules.seed, "strikes"))
        rules = dataclasses.replace(self.rules, in_vain=_IN_VAIN if self.schedule.planned is None else None)
        disturbed = Training(self.command, self._place("disturbed"), rules, observer, strikes, offsets).run()
        runs = _compare_all(undisturbed, disturbed)
        equal = disturbed.problem is None and all(run.comparison.equal for run in runs)
        control = None
        if self.always_control or (disturbed.problem is None and not equal):
            observer.event(
                "once more undisturbed, to see whether the program comes to the same end by itself" if not equal else "the control"
            )
            control = _comparisons(undisturbed, self._undisturbed("control", observer))
        verdict, sentence = _judged(disturbed, runs, control)
        return Outcome(
            verdict, sentence, self.command, self.schedule.described, self.rules.seed, facts, undisturbed, disturbed,
            self.schedule.planned, runs, control,
        )  # fmt: skip

    def _undisturbed(self, name: str, observer: Observer) -> Trained:
        trained = Training(self.command, self._place(name), Rules(self.rules.patience, once=True), observer).run()
        if trained.problem is not None:
            raise ResilientError(
                f"The {name} training did not come to its end: {trained.problem}. Make the program run by itself first; "
                f"what it wrote is in {trained.place.output}."
            )
        if not trained.directories:
            raise ResilientError(
                f"The program ended without having called resilient.fit, so there is nothing to compare ({trained.place.last_words()}). "
                "Train with resilient.fit(model, ..., directory=...)."
            )
        return trained

    def _place(self, name: str) -> Place:
        place = Place(self.root / name)
        place.root.mkdir(parents=True)
        return place


def facts_of(trained: Trained) -> tuple[Facts, dict[str, int]]:
    """What an undisturbed training tells, and for each of its runs the steps that were trained before it.

    Raises:
        ResilientError: a fit left no final state.
    """
    offsets: dict[str, int] = {}
    steps, epoch_steps, validates = 0, 1, False
    for directory in trained.directories:
        final = Store(directory).load_final()
        if final is None:
            raise ResilientError(
                f"The fit that trains in {trained.name(directory)} left no final state, although the program ended well. "
                "Let it come to its end first."
            )
        progress, settings = final.manifest.progress, final.manifest.state.get("settings", {})
        final.release()
        offsets[str(directory.relative_to(trained.place.runs))] = steps
        steps += progress.step
        epoch_steps = max(epoch_steps, -(-progress.step // max(1, progress.epoch)))
        validates = validates or bool(settings.get("validation"))
    first = trained.attempts[0].startup
    return Facts(trained.seconds, first if first is not None else trained.seconds, steps, epoch_steps, validates), offsets


def _comparisons(ours: Trained, theirs: Trained) -> dict[str, Comparison]:
    """By the name that the program gives the run."""
    their_runs = {theirs.name(directory): directory for directory in theirs.directories}
    return {
        name: compare(directory, their_runs[name]) if name in their_runs else _absent(theirs)
        for directory in ours.directories
        for name in [ours.name(directory)]
    }


def _absent(theirs: Trained) -> Comparison:
    names = ", ".join(theirs.name(directory) for directory in theirs.directories) or "nowhere"
    return Comparison(missing=f"it trained in {names} instead: a program has to name the same directory each time it is started")


def _compare_all(undisturbed: Trained, disturbed: Trained) -> list[RunOutcome]:
    their_runs = {disturbed.name(directory): directory for directory in disturbed.directories}
    runs = []
    for ours in undisturbed.directories:
        name = undisturbed.name(ours)
        theirs = their_runs.get(name)
        attempts = _attempts(theirs) if theirs is not None else []
        comparison = compare(ours, theirs) if theirs is not None else _absent(disturbed)
        told = [(a.number, a.start, max(a.start, a.reached or 0)) for a in attempts if a.number is not None and a.start is not None]
        first = first_difference(
            comparison,
            undisturbed.seen.seen.get(ours, {}),
            disturbed.seen.seen.get(theirs, {}) if theirs is not None else {},
            stretches(told),
            _epoch_ends(ours),
        )
        runs.append(RunOutcome(name, comparison, first, attempts))
    return runs


def _attempts(directory: Path) -> list[Account]:
    return [attempt for run in accounts(journal.read(directory)) for attempt in run.attempts]


def _epoch_ends(directory: Path) -> list[int]:
    """Step of the end of each epoch: those are saved in any case."""
    saves = [save for attempt in _attempts(directory) for save in attempt.saves]
    ends = {save.epoch: save.step for save in saves if save.batch == 0 and save.epoch > 0}
    return [ends[epoch] for epoch in sorted(ends)]


def _judged(disturbed: Trained, runs: Sequence[RunOutcome], control: Mapping[str, Comparison] | None) -> tuple[Verdict, str]:
    """What it all means."""
    if disturbed.problem is not None:
        return Verdict.UNFINISHED, f"The disturbed training did not come to its end: {disturbed.problem}."
    wrong = [run for run in runs if not run.comparison.equal]
    unstable = {name: comparison for name, comparison in (control or {}).items() if not comparison.equal}
    if unstable:
        name, comparison = next(iter(unstable.items()))
        return Verdict.NOT_REPRODUCIBLE, f"Two undisturbed trainings already differ, in {name}: {_shown(comparison)}. {_remedy(comparison)}"
    if not wrong and not disturbed.blows:
        return Verdict.UNFINISHED, (
            f"No fault met the disturbed training: it took {disturbed.seconds:.1f} s. "
            "Lower --mtbf or --scale, raise --kills, or let the program train longer."
        )
    if not wrong:
        tensors, epochs = sum(run.comparison.compared for run in runs), max(run.comparison.epochs for run in runs)
        return Verdict.EQUAL, (
            f"All {tensors} tensors of model, optimizer and metrics and the History of {epochs} epochs "
            "are bit for bit those of the undisturbed training."
        )
    run = wrong[0]
    twice = " Two undisturbed trainings are equal, so it is resuming that changes it." if control is not None else ""
    what = str(run.first) if run.first is not None else _shown(run.comparison)
    return Verdict.DIFFERENT, f"The disturbed training came to another end, in {run.name}: {what}.{twice}"


def _shown(comparison: Comparison) -> str:
    if comparison.missing is not None:
        return comparison.missing
    return str(comparison.history if comparison.history is not None else comparison.tensors[0])


def _remedy(comparison: Comparison) -> str:
    if comparison.missing is not None:
        return "What it does must not depend on when it is started."
    if "order_seed" in comparison.settings:
        return "Not even the order of the data is the same: pass seed= to resilient.fit, or call keras.utils.set_random_seed before it."
    return "Call keras.utils.set_random_seed before the model is built, and draw from no generator without a seed."
