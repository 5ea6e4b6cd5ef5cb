"""One round of the storm over the inputs: a program from an empty directory to its end, killed on the way and started again each time."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from chaos import kill, oracle, zygote
from chaos.faults import damage
from chaos.programs.recorder import EPOCH_END
from chaos.programs.registry import Program
from chaos.rounds import EXIT_PREEMPTED, Place, tail

PATIENCE = 90.0  # seconds until a program that neither dies nor ends counts as hung
LONGEST_START = 2.5  # seconds: building, restoring and the first compile
COMMIT_WINDOW = 16  # batches: where no commit comes within them, the kill comes without one
CADENCES = ("auto", "3", "7", "epoch")
RESTORED = ("variables", "optimizers", "metrics", "history", "generators")  # what a finished run gives back

FIRST_OF_TWO = "in mid-epoch"
SECOND_OF_TWO = "soon after a resume"
# Where a kill falls, and how often among the others. The two above come in pairs: two resumes within one epoch.
PLACES = {"between batches": 5, "inside a commit": 3, "in validation": 2, "at an epoch's end": 1, "any time": 2}


class Starter(Protocol):
    """Starts one attempt at a program."""

    def start(self, arguments: Sequence[str], output: Path, attempt: int) -> kill.Child:
        """A process that runs `chaos.programs` with these arguments."""


@dataclasses.dataclass(frozen=True)
class Fresh:
    """Starts a new interpreter for each attempt."""

    backend: str

    def start(self, arguments: Sequence[str], output: Path, attempt: int) -> kill.Child:
        """As the fork server does, without it."""
        command = [sys.executable, "-m", "chaos.programs", *arguments]
        return kill.start(command, output, {**zygote.environment(self.backend), "CHAOS_ATTEMPT": str(attempt)})


class Alone(kill.Child):
    """A child whose signals to stop meet the program alone, and not the workers that it started."""

    def send(self, number: signal.Signals) -> None:
        """Signal; nothing if it is gone."""
        if number != signal.SIGTERM:
            return super().send(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        return None


@dataclasses.dataclass(frozen=True)
class Fault:
    """A kill to come: where, by which signal, and whether the program's own children get it too."""

    place: str
    signal: signal.Signals
    alone: bool

    def __str__(self) -> str:
        return f"{self.signal.name} {self.place}"


@dataclasses.dataclass
class Result:
    """What one or several rounds came to."""

    kills: Counter[str] = dataclasses.field(default_factory=Counter)  # delivered, by the name of the signal
    resumes: int = 0  # inside an epoch in which there was another one
    repeated: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Result) -> None:
        """Take another round in."""
        self.kills += other.kills
        self.resumes += other.resumes
        self.repeated += other.repeated
        self.problems += other.problems


class Progress:
    """What the attempt that begins now has logged so far."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offset = log.stat().st_size if log.exists() else 0
        self.batches = 0
        self.last: dict[str, Any] = {}

    def look(self) -> Progress:
        """Read what is new."""
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as stream:
            stream.seek(self._offset)
            *lines, unfinished = stream.read().split(b"\n")
            self._offset = stream.tell() - len(unfinished)
            for line in lines:
                self.last = json.loads(line)
                self.batches += self.last["event"] == oracle.BATCH
        return self


def deal(count: int, validates: bool, chance: random.Random) -> list[Fault]:
    """Kills for one round in their order, one pair among them where there is room for it."""
    weights = {place: weight for place, weight in PLACES.items() if validates or place != "in validation"}
    places = chance.choices(list(weights), list(weights.values()), k=max(0, count - 2))
    if count >= 2:
        at = chance.randint(0, len(places))
        places[at:at] = [FIRST_OF_TWO, SECOND_OF_TWO]
    faults = [Fault(place, chance.choice((signal.SIGKILL, signal.SIGTERM)), chance.random() < 0.5) for place in places]
    # A stop that is asked for loses nothing, so that the next attempt resumes in mid-epoch whatever the cadence.
    return [dataclasses.replace(fault, signal=signal.SIGTERM) if fault.place == FIRST_OF_TWO else fault for fault in faults]


def moment(fault: Fault, program: Program, place: Place, chance: random.Random, step: int, epoch_length: int) -> kill.Moment:
    """The moment of a fault in the attempt that begins now, `step` batches after its beginning or soon after that."""
    progress = Progress(place.log)
    commits = [kill.inside_commit(place.run / part) for part in program.parts]

    def trained() -> bool:
        return progress.look().batches >= step

    def mid_epoch() -> bool:
        return trained() and is_last(oracle.BATCH) and 1 <= progress.last["batch"] < epoch_length - 5

    def is_last(event: str) -> bool:
        return bool(progress.last.get("event") == event)

    soon = chance.randint(1, 3)
    late = step + COMMIT_WINDOW
    places: dict[str, Callable[[], bool]] = {
        "between batches": trained,
        FIRST_OF_TWO: mid_epoch,
        SECOND_OF_TWO: lambda: progress.look().batches >= soon,
        "inside a commit": lambda: trained() and (any(commit() for commit in commits) or progress.batches >= late),
        "in validation": lambda: trained() and is_last(oracle.VALIDATION_BEGIN),
        "at an epoch's end": lambda: trained() and is_last(EPOCH_END),
        "any time": kill.after(kill.at_once, chance.uniform(0, LONGEST_START)),
    }
    return places[fault.place]


class Reference:
    """The undisturbed training that every round has to equal."""

    def __init__(self, program: Program, place: Place) -> None:
        self.outcome = program.kept(json.loads(place.outcome.read_text()))
        self.log = oracle.trained_batches(place.log)
        self.epoch_length = sum(batch.epoch == 0 for batch in self.log)
        self._steps = {batch.position: step for step, batch in enumerate(self.log)}

    def step(self, batch: oracle.Trained) -> int | None:
        """Batches done since the beginning of the run before `batch` is, None if the undisturbed run knows no such batch."""
        return self._steps.get(batch.position)

    def differences(self, program: Program, place: Place, *, finished: bool = False) -> list[str]:
        """What another training ended with that this one did not.

        Args:
            program: what was trained.
            place: where the other one was.
            finished: the other one was only restored: what the program itself keeps, beside fit, is as it begins.
        """
        found = oracle.log_differences(self.log, oracle.trained_batches(place.log))  # first: it says where the two parted
        pair = [self.outcome, program.kept(json.loads(place.outcome.read_text()))]
        if finished:
            pair = [{name: values for name, values in one.items() if name.split()[-1] in RESTORED} for one in pair]
        return found + oracle.differences(*pair)


def run_undisturbed(program: Program, starter: Starter, place: Place, how: str = "resilient") -> str | None:
    """Train once without a kill. None if it ended well, else what went wrong."""
    place.root.mkdir(parents=True)
    try:
        code = starter.start(arguments(program, place, "auto", how), place.output, 1).wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return "it hangs"
    return None if code == 0 else f"it ended with {code}: {tail(place)}"


def arguments(program: Program, place: Place, save_every: str, how: str = "resilient") -> list[str]:
    """Of `python -m chaos.programs`."""
    where = ["--directory", str(place.run), "--log", str(place.log), "--out", str(place.outcome)]
    return [program.name, *where, "--save-every", save_every, "--how", how]


class Round:
    """One training under kills from `hand`; those that came too late stay in it. `seed` decides about their moments."""

    def __init__(
        self, program: Program, starter: Starter, place: Place, seed: str, save_every: str, reference: Reference, hand: list[Fault]
    ) -> None:
        self._program = program
        self._starter = starter
        self._place = place
        self._seed = seed
        self._save_every = save_every
        self._reference = reference
        self._hand = hand
        self._chance = random.Random(seed)
        self._pace = max(2, 2 * len(reference.log) // (len(hand) + 1))
        self._result = Result()
        self._was_finished = False

    def play(self) -> Result:
        """Start, kill and start again until the training is done or something is wrong."""
        self._place.root.mkdir(parents=True)
        attempt = 1
        while not self._attempt(attempt):
            attempt += 1
        log = oracle.trained_batches(self._place.log)
        self._result.repeated = max(0, len(log) - len(self._reference.log))
        self._result.resumes = resumes_within_an_epoch(log)
        return self._result

    def _attempt(self, attempt: int) -> bool:
        """One process from start to death. True when the round is over."""
        fault = self._hand[0] if self._hand else None
        must_begin_at = self._newest_step()
        # Killed between its end and the outcome's: what this attempt finds is a finished run, in which callbacks and data have no part.
        self._was_finished = all(kill.journaled(self._place.run / part, "finished")() for part in self._program.parts)
        try:
            struck, code = self._live(attempt, fault)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            return self._problem(attempt, f"hung (to be killed: {fault}): {error}")
        self._judge_resume(attempt, must_begin_at)
        if fault is None or not struck:
            return self._judge_end(attempt, code)
        del self._hand[0]
        self._result.kills[fault.signal.name] += 1
        return self._judge_kill(attempt, fault, code)

    def _live(self, attempt: int, fault: Fault | None) -> tuple[bool, int]:
        step = self._chance.randint(1, self._pace)
        length = self._reference.epoch_length
        when = moment(fault, self._program, self._place, self._chance, step, length) if fault else kill.never
        child = self._starter.start(arguments(self._program, self._place, self._save_every), self._place.output, attempt)
        if fault and fault.alone:
            child = Alone(child.process)
        try:
            struck = fault is not None and kill.kill_at(child, when, fault.signal, PATIENCE)
            return struck, child.wait(PATIENCE)
        finally:
            child.send(signal.SIGKILL)  # its data workers, where it left any; nothing if the session is empty

    def _trained_by(self, attempt: int) -> list[oracle.Trained]:
        return [batch for batch in oracle.trained_batches(self._place.log) if batch.attempt == attempt]

    def _newest_step(self) -> int:
        """Batches trained before the newest checkpoint, in all fits of the program."""
        newest = [damage.newest(self._place.run / part) for part in self._program.parts]
        return sum(int(path.name.removeprefix("step-")) for path in newest if path is not None)

    def _judge_resume(self, attempt: int, must_begin_at: int) -> None:
        for batch in self._trained_by(attempt)[:1]:
            began_at = self._reference.step(batch)
            if began_at != must_begin_at:
                self._problem(attempt, f"resumed at step {began_at}, and the newest checkpoint was at {must_begin_at}")

    def _judge_kill(self, attempt: int, fault: Fault, code: int) -> bool:
        trained = self._trained_by(attempt)
        ended = any(kill.journaled(self._place.run / part, "finished")() for part in self._program.parts)
        expected = {-fault.signal, 0} if ended else {-fault.signal}  # 0: it had ended by the time it was struck
        if fault.signal == signal.SIGTERM:
            # Before the first batch and after fit has returned a program may have no handler of ours: it dies of the signal, or it ends.
            expected = {EXIT_PREEMPTED, 0, -signal.SIGTERM} if ended or not trained else {EXIT_PREEMPTED}
        if code not in expected:
            return self._problem(attempt, f"ended with {code} after {fault}: {tail(self._place)}")
        if code == EXIT_PREEMPTED and trained:
            self._judge_loss(attempt, fault, trained[-1])
        return self._judge_end(attempt, code) if code == 0 else False

    def _judge_loss(self, attempt: int, fault: Fault, last: oracle.Trained) -> None:
        done, saved = self._reference.step(last), self._newest_step()
        if done is None or done + 1 != saved:
            self._problem(attempt, f"{fault}: trained {last.position}, which is step {None if done is None else done + 1}, saved {saved}")

    def _judge_end(self, attempt: int, code: int) -> bool:
        if code != 0:
            return self._problem(attempt, f"ended with {code} by itself: {tail(self._place)}")
        found = self._reference.differences(self._program, self._place, finished=self._was_finished)
        for difference in found:
            self._problem(attempt, f"the end differs: {difference}")
        if not found:
            self._judge_finished(attempt + 1)
        return True

    def _judge_finished(self, attempt: int) -> None:
        """A finished run is finished: started once more it trains nothing and comes to the same end."""
        self._place.outcome.unlink()
        _, code = self._live(attempt, None)
        if code != 0:
            self._problem(attempt, f"started again though finished, it ended with {code}: {tail(self._place)}")
            return
        for difference in self._reference.differences(self._program, self._place, finished=True):
            self._problem(attempt, f"started again though finished: {difference}")

    def _problem(self, attempt: int, what: str) -> bool:
        self._result.problems.append(f"seed {self._seed}, save_every={self._save_every}, attempt {attempt}: {what}")
        return True


def resumes_within_an_epoch(log: Sequence[oracle.Trained]) -> int:
    """How many attempts began inside an epoch in which another attempt began too."""
    began = Counter(batch.epoch for before, batch in itertools.pairwise(log) if batch.attempt != before.attempt and batch.batch > 0)
    return sum(count for count in began.values() if count > 1)
