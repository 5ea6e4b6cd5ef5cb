"""One round: a training from an empty directory to its end, under supervisors that are started again as an operator, or systemd, would."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
import time
from collections.abc import Mapping, Sequence

from chaos import kill, oracle
from chaos.faults.memory import Group, has_groups
from chaos.rounds import Place, Reference, command, tail
from chaos.supervised.life import Life, send, trainings
from chaos.supervised.sabotage import DEEDS, VIOLATIONS, is_worker, workers
from chaos.supervised.scene import PATIENCE, Pace, Scene
from chaos.supervised.story import Past, Story
from chaos.supervised.strikes import STRIKES
from resilient.heartbeat import ENVIRONMENT, Orders, Page

Position = tuple[int, int]
_DYING = 10.0  # seconds that dying may take on a busy machine


@dataclasses.dataclass(frozen=True)
class Style:
    """How the supervisor is told to work, and whether one batch fails whatever happens (`poison`), which it then has to leave out."""

    name: str
    give_up: int
    options: tuple[str, ...] = ()
    poison: Position | None = None

    def arguments(self, pace: Pace) -> list[str]:
        """For `resilient run`."""
        return ["--hang-timeout", pace.hang, "--grace", "3s", "--give-up", str(self.give_up), *self.options]


@dataclasses.dataclass
class Result:
    """What a round came to."""

    strikes: list[str] = dataclasses.field(default_factory=list)
    codes: list[int] = dataclasses.field(default_factory=list)
    attempts: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


class Deck:
    """The strikes that are still to come; none after the time `until` (monotonic seconds)."""

    def __init__(self, cards: Sequence[str], until: float = float("inf")) -> None:
        self._cards, self._until = list(cards), until

    def draw(self) -> str | None:
        """Name of the next, None when there is none left."""
        return self._cards.pop() if self else None

    def put_back(self, name: str) -> None:
        """It came too late: the training was done."""
        self._cards.insert(0, name)

    def __bool__(self) -> bool:
        return bool(self._cards) and time.monotonic() < self._until


def deal(count: int, decks: int, chance: random.Random, until: float = float("inf")) -> list[Deck]:
    """So many strikes in so many decks, shuffled; every kind is among them once before the weights decide about the rest."""
    weights = [strike.weight for strike in STRIKES.values()]
    names = list(STRIKES)
    chance.shuffle(names)  # so that a few of them are others with another seed
    cards = [*names, *chance.choices(list(STRIKES), weights, k=max(0, count - len(names)))][:count]
    chance.shuffle(cards)
    return [Deck(cards[deck::decks], until) for deck in range(decks)]


def undisturbed(program: Sequence[str], place: Place, skip: Position | None) -> Reference:
    """Train once without a supervisor and without a strike, `skip` left out.

    Raises:
        RuntimeError: the program does not end with 0 by itself.
    """
    place.root.mkdir(parents=True)
    page = Page()
    page.give(Orders(skip=() if skip is None else (skip,)))
    code = kill.start(command(program, place), place.output, {ENVIRONMENT: page.path}).wait(10 * PATIENCE)
    page.close()
    _end_workers(place)
    if code != 0:
        raise RuntimeError(f"The undisturbed program ended with {code}: {tail(place)}. See {place.output}.")
    return Reference(place)


def _end_workers(place: Place) -> list[int]:
    found = [pid for pid in workers(place.root) if is_worker(pid, place.root)]
    for pid in found:
        send(pid, signal.SIGKILL)
    return found


class Round:
    """One training; `seed` decides about the moments of the strikes, which it draws from `deck`."""

    def __init__(
        self, program: Sequence[str], place: Place, seed: str, style: Style, pace: Pace, reference: Reference, deck: Deck, most: int
    ) -> None:
        self._program, self._place, self._style, self._pace = command(program, place), place, style, pace
        self._reference, self._deck, self._most = reference, deck, most
        place.root.mkdir(parents=True)
        self._group = Group(pace.memory) if has_groups() else None
        self._scene = Scene(place, random.Random(seed), pace, reference, limited=self._group is not None)
        self._lives: list[Past] = []
        self._result = Result()

    def play(self) -> Result:
        """Until the training is done, or something is wrong that no restart can mend."""
        began = time.monotonic()
        with self._group or contextlib.nullcontext():
            if self._style.poison is not None:
                self._scene.poison(self._style.poison)
            try:
                while self._live():
                    pass
            except TimeoutError as error:
                self._result.problems.append(f"after {self._result.strikes[-3:]}: {error}")
            finally:
                self._end()
        if not self._result.problems:
            self._judge()
        self._result.seconds = time.monotonic() - began
        return self._result

    def _live(self) -> bool:
        """One supervisor from its start to its end; False when there is nothing more to be done."""
        life = self._scene.life = Life(self._style.arguments(self._pace), self._program, self._place, self._group)
        while life.code is None:
            card = self._deck.draw() if len(self._result.strikes) < self._most else None
            if card is None:
                self._scene.ended()
            elif STRIKES[card].act(self._scene):
                self._result.strikes.append(card)
            else:
                self._deck.put_back(card)
                self._scene.ended() if life.code is None and not self._can_be_struck() else None
        self._lives.append(Past(life.pid, life.code, tuple(life.struck), tuple(life.attempts())))
        self._result.codes.append(life.code)
        self._result.attempts += len(life.attempts())
        self._scene.withdraw()
        if life.code not in (0, 75, 78, 93, -signal.SIGKILL):
            self._result.problems.append(f"the supervisor ended with {life.code}: {tail(self._place)}")
            return False
        return life.code != 0

    def _can_be_struck(self) -> bool:
        """Whether the training goes on for long enough that the next strike may come in time."""
        return not kill.journaled(self._place.run, "finished")()

    def _end(self) -> None:
        """Whatever happened, nothing of ours stays; what is found is an orphan."""
        if self._scene.life.code is None:
            self._scene.life.process.kill()
            self._scene.life.process.wait()
        end = time.monotonic() + _DYING
        while (left := self._left()) and time.monotonic() < end:
            time.sleep(0.01)
        for pid in left:
            self._result.problems.append(f"an orphan: {pid}")
            send(pid, signal.SIGKILL)

    def _left(self) -> set[int]:
        """What still runs of all that this round has started, found in three ways."""
        members = self._group.members() if self._group is not None else []
        return {*trainings(self._place), *(pid for pid in workers(self._place.root) if is_worker(pid, self._place.root)), *members}

    # -- the verdict -----------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        root = self._place.root
        trained = oracle.trained_batches(self._place.log)
        found = [str(line) for line in oracle.read_log(root / VIOLATIONS)]
        found += _overlaps(trained)
        found += oracle.differences(self._reference.outcome, json.loads(self._place.outcome.read_text()))
        events = oracle.read_log(self._place.run / "journal.jsonl")
        sent_back = {event["pid"] for event in events if event["event"] == "attempt" and event["resume_at_most"] is not None}
        found += oracle.log_differences(*self._renumbered(trained), sent_back)
        skipping = self._style.poison is not None
        events = [{**event, "skipping": skipping} if event["event"] == "exited" else event for event in _told_by_all(events)]
        found += Story(events, self._lives, self._done(), self._crashes(), trained, self._style.give_up).problems()
        self._result.problems += found

    def _done(self) -> Mapping[int, list[str]]:
        done = dict(self._scene.by_pid)
        for line in oracle.read_log(self._place.root / DEEDS):
            deed = "hoard, unlimited" if line["deed"] == "hoard" and self._group is None else line["deed"]
            done.setdefault(line["pid"], []).append(deed)
        return done

    def _crashes(self) -> Mapping[int, Position]:
        """By pid, the batch before which a program crashed. What hangs there fails there too, but tells nobody."""
        lines = oracle.read_log(self._place.root / DEEDS)
        return {line["pid"]: (line["epoch"], line["batch"]) for line in lines if line["deed"] in ("raise", "abort") and "batch" in line}

    def _renumbered(self, trained: Sequence[oracle.Trained]) -> tuple[list[oracle.Trained], list[oracle.Trained]]:
        """Positions as places in the undisturbed order, so that a batch that is left out is no gap."""
        places = {batch.position: index for index, batch in enumerate(self._reference.log)}

        def renumbered(batch: oracle.Trained) -> oracle.Trained:
            return dataclasses.replace(batch, epoch=0, batch=places.get(batch.position, -2))

        return [renumbered(batch) for batch in self._reference.log], [renumbered(batch) for batch in trained]


def _told_by_all(events: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The guard tells less than the supervisor; what it leaves out is nothing here."""
    nothing = {"verdict": None, "out_of_memory": False, "failures": 0, "progressed": False, "lost_steps": 0}
    return [{**nothing, **event} if event["event"] == "exited" else dict(event) for event in events]


def _overlaps(trained: Sequence[oracle.Trained]) -> list[str]:
    """Programs that trained again after another one had begun."""
    seen: list[int] = []
    for batch in trained:
        if not seen or seen[-1] != batch.attempt:
            if batch.attempt in seen:
                return [f"programs {batch.attempt} and {seen[-1]} trained at the same time"]
            seen.append(batch.attempt)
    return []
