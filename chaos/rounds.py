"""One round of the storm: a training from an empty directory to its end, killed on the way and started again each time."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chaos import kill, oracle
from chaos.faults import damage

PATIENCE = 180.0  # seconds until a program that neither dies nor ends counts as hung
LONGEST_START = 6.0  # seconds: kills at start-up fall anywhere into imports, building and the first compile
LONGEST_WAIT = 2.0  # seconds of training before a kill
EXIT_PREEMPTED = 75


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one training keeps its things: its run directory and, beside it, what it tells about itself."""

    root: Path

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.root / "run"

    @property
    def log(self) -> Path:
        """One line a trained batch."""
        return self.root / "program.log"

    @property
    def outcome(self) -> Path:
        """Digests of what the training ended with."""
        return self.root / "outcome.json"

    @property
    def output(self) -> Path:
        """Standard output and error of all attempts."""
        return self.root / "output.txt"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A way to die: which signal, at which moment, how often among the others, and whether the newest checkpoint is damaged afterwards."""

    signal: signal.Signals
    moment: Callable[[Place, int, random.Random], kill.Moment]
    weight: int
    damages: bool = False


def _in_training(place: Place, attempt: int, chance: random.Random) -> kill.Moment:
    return kill.after(kill.training(place.log, attempt), chance.uniform(0, LONGEST_WAIT))


def _in_commit(place: Place, attempt: int, chance: random.Random) -> kill.Moment:
    return kill.both(_in_training(place, attempt, chance), kill.inside_commit(place.run))


def _in_validation(place: Place, attempt: int, chance: random.Random) -> kill.Moment:
    return kill.both(_in_training(place, attempt, chance), kill.inside_validation(place.log))


def _at_start(_place: Place, _attempt: int, chance: random.Random) -> kill.Moment:
    return kill.after(kill.at_once, chance.uniform(0, LONGEST_START))


FAULTS = {
    "SIGKILL": Fault(signal.SIGKILL, _in_training, 6),
    "SIGTERM": Fault(signal.SIGTERM, _in_training, 6),
    "SIGKILL inside a commit": Fault(signal.SIGKILL, _in_commit, 4),
    "SIGTERM inside a commit": Fault(signal.SIGTERM, _in_commit, 1),
    "SIGKILL in validation": Fault(signal.SIGKILL, _in_validation, 2),
    "SIGTERM in validation": Fault(signal.SIGTERM, _in_validation, 2),
    "SIGKILL at start-up": Fault(signal.SIGKILL, _at_start, 1),
    "SIGTERM at start-up": Fault(signal.SIGTERM, _at_start, 1),
    "SIGKILL, newest damaged": Fault(signal.SIGKILL, _in_training, 1, damages=True),
}


class Deck:
    """The kills that are still to be delivered, shuffled, shared between the rounds that are played at the same time.

    Every kind is in it once before the weights decide about the rest, so that the rare ones are forced and not left to luck.
    """

    def __init__(self, kills: int, chance: random.Random) -> None:
        weights = [fault.weight for fault in FAULTS.values()]
        self._cards = [*FAULTS, *chance.choices(list(FAULTS), weights, k=max(0, kills - len(FAULTS)))][:kills]
        chance.shuffle(self._cards)
        self._lock = threading.Lock()

    def draw(self) -> str | None:
        """Name of the next fault, None when there is none left."""
        with self._lock:
            return self._cards.pop() if self._cards else None

    def put_back(self, name: str) -> None:
        """The kill came too late: the program was done before its moment."""
        with self._lock:
            self._cards.append(name)

    def __bool__(self) -> bool:
        return bool(self._cards)


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill that was delivered: how, what the process made of it, and how many batches have to be trained again."""

    fault: str
    code: int
    lost: int | None  # None where the attempt had not trained yet


@dataclasses.dataclass
class Result:
    """What a round came to."""

    kills: list[Kill] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    batches: int = 0  # on the committed line
    repeated: int = 0
    seconds: float = 0.0


class Reference:
    """The undisturbed training that every round has to equal."""

    def __init__(self, place: Place) -> None:
        self.outcome: dict[str, Any] = json.loads(place.outcome.read_text())
        self.log = oracle.trained_batches(place.log)
        self.steps_per_epoch = sum(batch.epoch == 0 for batch in self.log)

    def step_after(self, batch: oracle.Trained) -> int:
        """Batches done since the beginning of the run once `batch` is."""
        return batch.epoch * self.steps_per_epoch + batch.batch + 1


def command(program: Sequence[str], place: Place) -> list[str]:
    """The program's command line for a training at `place`."""
    return [*program, "--directory", str(place.run), "--log", str(place.log), "--out", str(place.outcome)]


def undisturbed(program: Sequence[str], place: Place) -> Reference:
    """Train once without a kill.

    Raises:
        RuntimeError: the program does not end with 0 by itself.
    """
    place.root.mkdir(parents=True)
    code = kill.start(command(program, place), place.output).wait(10 * PATIENCE)
    if code != 0:
        raise RuntimeError(f"The undisturbed program ended with {code}: {tail(place)}. See {place.output}.")
    return Reference(place)


def tail(place: Place) -> str:
    """The last line that the program printed."""
    lines = place.output.read_text(errors="replace").splitlines() if place.output.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


class Round:
    """One training under kills, which it draws from `deck`; `seed` decides about their moments."""

    def __init__(self, program: Sequence[str], place: Place, seed: str, reference: Reference, deck: Deck) -> None:
        self._program = program
        self._place = place
        self._chance = random.Random(seed)
        self._reference = reference
        self._deck = deck
        self._result = Result()
        self._must_resume_at = 0  # the step the next attempt has to begin with
        self._damaged: set[int] = set()  # inodes of the checkpoints we damaged; an attempt killed early leaves them in place

    def play(self) -> Result:
        """Start, kill and start again until the training is done or something is wrong that a restart cannot mend."""
        began = time.monotonic()
        self._place.root.mkdir(parents=True)
        attempt = 1
        while not self._attempt(attempt):
            attempt += 1
        log = oracle.trained_batches(self._place.log)
        self._result.batches = len(self._reference.log)
        self._result.repeated = len(log) - len(self._reference.log)
        self._result.seconds = time.monotonic() - began
        return self._result

    def _attempt(self, attempt: int) -> bool:
        """One process from start to death. True when the round is over."""
        name = self._deck.draw()
        try:
            struck, code = self._live(attempt, name)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            return self._problem(attempt, f"hung ({name}): {error}")
        if name and not struck:
            self._deck.put_back(name)
        self._judge_resume(attempt)
        if name and struck and code != 0:
            return self._judge_kill(attempt, name, code)
        if code != 0:
            return self._problem(attempt, f"ended with {code} by itself: {tail(self._place)}")
        return self._judge_end(attempt)

    def _live(self, attempt: int, name: str | None) -> tuple[bool, int]:
        fault = FAULTS[name] if name else None
        # Before the start: a moment remembers what was lying around already.
        moment = fault.moment(self._place, attempt, self._chance) if fault else kill.never
        child = kill.start(command(self._program, self._place), self._place.output, {"CHAOS_ATTEMPT": str(attempt)})
        try:
            struck = fault is not None and kill.kill_at(child, moment, fault.signal, PATIENCE)
            return struck, child.wait(PATIENCE)
        finally:
            if child.alive():  # the storm itself was interrupted
                child.send(signal.SIGKILL)

    def _trained_by(self, attempt: int) -> list[oracle.Trained]:
        return [batch for batch in oracle.trained_batches(self._place.log) if batch.attempt == attempt]

    def _judge_resume(self, attempt: int) -> None:
        """The first batch an attempt trained has to be the one after the newest checkpoint that lay there when it began."""
        for batch in self._trained_by(attempt)[:1]:
            resumed_at = self._reference.step_after(batch) - 1
            if resumed_at != self._must_resume_at:
                self._problem(attempt, f"resumed at step {resumed_at}, and the newest checkpoint was at {self._must_resume_at}")

    def _judge_kill(self, attempt: int, name: str, code: int) -> bool:
        fault = FAULTS[name]
        trained = self._trained_by(attempt)
        if code not in self._codes(fault, bool(trained)):
            return self._problem(attempt, f"ended with {code} after {name}: {tail(self._place)}")
        if fault.damages:
            self._damage()
        else:
            self._must_resume_at = self._newest_sound_step()
        lost = self._reference.step_after(trained[-1]) - self._must_resume_at if trained else None
        if lost is not None and (lost < 0 or (lost and code == EXIT_PREEMPTED)):
            self._problem(attempt, f"{name} cost {lost} batches: trained {trained[-1].position}, saved step {self._must_resume_at}")
        self._result.kills.append(Kill(name, code, lost))
        return False

    def _codes(self, fault: Fault, trained: bool) -> set[int]:
        if fault.signal == signal.SIGKILL:
            return {-signal.SIGKILL}
        # Before the first batch and after `fit` has returned the program may have no handler of ours: it dies of the signal.
        unguarded = not trained or kill.journaled(self._place.run, "finished")()
        return {EXIT_PREEMPTED, -signal.SIGTERM} if unguarded else {EXIT_PREEMPTED}

    def _damage(self) -> None:
        """Damage the newest checkpoint if there is an older one to fall back to."""
        checkpoints = self._sound()
        if len(checkpoints) > 1:
            self._damaged.add(checkpoints[-1].stat().st_ino)
            damage.damage(checkpoints[-1], self._chance.choice(sorted(damage.KINDS)), self._chance)
        self._must_resume_at = self._newest_sound_step()

    def _sound(self) -> list[Path]:
        return [path for path in damage.committed(self._place.run) if path.stat().st_ino not in self._damaged]

    def _newest_sound_step(self) -> int:
        sound = self._sound()
        return int(sound[-1].name.removeprefix("step-")) if sound else 0

    def _judge_end(self, attempt: int) -> bool:
        found = self._differences()
        for difference in found:
            self._problem(attempt, f"the end differs: {difference}")
        if not found:
            self._judge_finished(attempt + 1)
        return True

    def _differences(self) -> list[str]:
        found = oracle.differences(self._reference.outcome, json.loads(self._place.outcome.read_text()))
        return found + oracle.log_differences(self._reference.log, oracle.trained_batches(self._place.log))

    def _judge_finished(self, attempt: int) -> None:
        """A finished run is finished: started once more it trains nothing and comes to the same end."""
        self._place.outcome.unlink()
        _, code = self._live(attempt, None)
        if code != 0:
            self._problem(attempt, f"started again though finished, it ended with {code}: {tail(self._place)}")
        elif self._trained_by(attempt) or self._differences():
            self._problem(attempt, "started again though finished, it trained, or came to another end")

    def _problem(self, attempt: int, what: str) -> bool:
        self._result.problems.append(f"{self._place.root.name}, attempt {attempt}: {what}")
        return True
