"""When faults come: what the undisturbed training was like and chance in, strikes out. One frozen value for each way."""

from __future__ import annotations

import abc
import csv
import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Sequence

from resilient.chaos.lifetimes import Lifetime
from resilient.chaos.strikes import KINDS, Strike, apportioned
from resilient.errors import ConfigurationError

_PATIENCE = 10.0  # seconds that a moment is waited for at least, where time and not steps decides
_TRACE_KINDS = {"": "sigkill", "preempted": "sigterm", **{name: name for name in KINDS}}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known from the undisturbed training.

    Attributes:
        seconds: that it took.
        startup: seconds until it had trained its first batch.
        steps: that it trained, over all its fits.
        epoch_steps: of its longest epoch.
        validates: whether any of its fits validates.
    """

    seconds: float
    startup: float
    steps: int
    epoch_steps: int
    validates: bool

    @property
    def epoch_seconds(self) -> float:
        """How long an epoch takes, about."""
        return self.seconds * self.epoch_steps / max(1, self.steps)

    def possible(self, mix: dict[str, int]) -> dict[str, int]:
        """The mix without kinds whose moment never comes; plain kills take the place of what is left out."""
        if self.validates or "validation" not in mix:
            return mix
        rest = {name: share for name, share in mix.items() if name != "validation"}
        return {**rest, "sigkill": rest.get("sigkill", 0) + mix["validation"]}


class Schedule(abc.ABC):
    """A way to choose strikes. They come one after the other, each once the one before was delivered."""

    @abc.abstractmethod
    def strikes(self, facts: Facts, chance: random.Random) -> Iterator[Strike]:
        """The strikes in their order; they may be without end."""

    @property
    @abc.abstractmethod
    def described(self) -> str:
        """For people."""

    @property
    @abc.abstractmethod
    def planned(self) -> int | None:
        """How many strikes there are, None where that is not known beforehand."""


@dataclasses.dataclass(frozen=True)
class Spread(Schedule):
    """`kills` faults of `mix`, one in each of as many equal stretches of the training, at a random step of it."""

    kills: int
    mix: dict[str, int]

    @property
    def described(self) -> str:
        """For people."""
        return f"{self.kills} faults spread evenly over the steps"

    @property
    def planned(self) -> int | None:
        """All of them."""
        return self.kills

    def strikes(self, facts: Facts, chance: random.Random) -> Iterator[Strike]:
        """One for each stretch; those at start-up hit the next attempt that starts."""
        kinds = apportioned(facts.possible(self.mix), self.kills)
        chance.shuffle(kinds)
        _let_startups_follow_ends(kinds)
        for index, kind in enumerate(kinds):
            place, detail = chance.random(), chance.random()
            if kind == "startup":
                yield Strike(kind, lifetime=place * facts.startup, chance=detail)
                continue
            step = math.floor((index + place) * facts.steps / self.kills)
            yield Strike(kind, step=max(1, step), slack=1.5 * facts.epoch_steps, chance=detail)


def _let_startups_follow_ends(kinds: list[str]) -> None:
    """An attempt that was only stopped for a while does not start again."""
    for _ in kinds:
        for index in range(1, len(kinds)):
            if kinds[index] == "startup" and not KINDS[kinds[index - 1]].ends:
                kinds[index - 1], kinds[index] = kinds[index], kinds[index - 1]


@dataclasses.dataclass(frozen=True)
class Lives(Schedule):
    """Every attempt lives as long as `lifetime` says, from the start of its process, and ends in one of the ways of `mix`.

    `most` faults at most; None for as many as it takes.
    """

    lifetime: Lifetime
    mix: dict[str, int]
    most: int | None = None

    @property
    def described(self) -> str:
        """For people."""
        limit = "" if self.most is None else f", {self.most} at most"
        return f"{type(self.lifetime).__name__.lower()} lifetimes with a mean of {self.lifetime.mean:g} s{limit}"

    @property
    def planned(self) -> int | None:
        """Not known: it depends on how long the training takes."""
        return None

    def strikes(self, facts: Facts, chance: random.Random) -> Iterator[Strike]:
        """Without end where `most` is None."""
        # A start-up is hit where a life is short enough, and a pause ends no life.
        mix = {name: share for name, share in facts.possible(self.mix).items() if name != "startup" and KINDS[name].ends} or {"sigkill": 1}
        for number in itertools.count():
            if number == self.most:
                return
            kind = chance.choices(list(mix), list(mix.values()))[0]
            seconds, detail = self.lifetime.quantile(chance.random()), chance.random()
            yield Strike(kind, lifetime=seconds, slack=max(_PATIENCE, 1.5 * facts.epoch_seconds), chance=detail)


@dataclasses.dataclass(frozen=True)
class Replay(Schedule):
    """The faults of a recorded trace: (seconds since the start of the training, kind), oldest first."""

    events: Sequence[tuple[float, str]]
    name: str = "a trace"

    @property
    def described(self) -> str:
        """For people."""
        return f"{len(self.events)} faults as recorded in {self.name}"

    @property
    def planned(self) -> int | None:
        """All of them."""
        return len(self.events)

    def strikes(self, facts: Facts, chance: random.Random) -> Iterator[Strike]:
        """One for each line."""
        for seconds, kind in self.events:
            possible = kind if kind != "validation" or facts.validates else "sigkill"
            yield Strike(possible, elapsed=seconds, slack=max(_PATIENCE, 1.5 * facts.epoch_seconds), chance=chance.random())


def parse_trace(lines: Sequence[str], name: str, scale: float = 1.0) -> Replay:
    """A trace from the lines of a CSV file with the columns `seconds` and, if it has one, `kind`.

    Args:
        lines: the first one names the columns. Other columns are ignored, and the rows may come in any order.
        name: of the file, for messages.
        scale: by which seconds are multiplied, so that days of a trace fit into minutes.

    Raises:
        ConfigurationError: a column or a value is missing or wrong; the message names the line.
    """
    reader = csv.DictReader(lines)
    if "seconds" not in (reader.fieldnames or ()):
        raise ConfigurationError(f"--replay {name} has no column seconds. Its first line has to name the columns: seconds,kind")
    try:
        events = [_trace_event(row, name, reader.line_num, scale) for row in reader]
    except csv.Error as error:
        raise ConfigurationError(f"--replay {name}, line {reader.line_num}: it is not CSV ({error}).") from error
    if not events:
        raise ConfigurationError(f"--replay {name} has no line with a fault. Write one a line: 12.5,sigkill")
    return Replay(tuple(sorted(events, key=lambda event: event[0])), name)


def _trace_event(row: dict[str, str | None], name: str, line: int, scale: float) -> tuple[float, str]:
    try:
        seconds = float(row["seconds"] or "")
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ConfigurationError(f"--replay {name}, line {line}: seconds {row['seconds']!r} is no number of at least 0.")
    kind = _TRACE_KINDS.get((row.get("kind") or "").strip().lower())
    if kind is None:
        raise ConfigurationError(f"--replay {name}, line {line}: kind {row['kind']!r} is unknown. Use one of {', '.join(KINDS)}.")
    return seconds * scale, kind
