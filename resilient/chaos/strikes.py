"""One fault that is to come: of which kind, and when, as values; what the training does at the moment is an argument."""

from __future__ import annotations

import dataclasses

from resilient.errors import ConfigurationError
from resilient.heartbeat import Section

IN_TRAINING = frozenset({Section.TRAINING})
IN_VALIDATION = frozenset({Section.VALIDATING})
ANYWHERE = frozenset(Section)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to be disturbed.

    Attributes:
        name: as `--mix` and a trace spell it.
        does: what is done, for people.
        sections: what has to be under way.
        saving: whether a commit has to be under way too.
        share: its part among the others where the caller names none.
        ends: whether the program is meant to die of it.
    """

    name: str
    does: str
    share: int
    sections: frozenset[Section] = IN_TRAINING
    saving: bool = False
    ends: bool = True

    def holds(self, section: Section, *, saving: bool) -> bool:
        """Whether this is a moment for it."""
        return section in self.sections and (saving or not self.saving)

    @property
    def narrow(self) -> bool:
        """Whether its moment is short, so that the program has to be held still to hit it."""
        return self.saving or self.sections == IN_VALIDATION


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("sigkill", "SIGKILL", 6),
        Kind("sigterm", "SIGTERM", 3),
        Kind("both", "SIGTERM, SIGKILL at once after it", 1),
        Kind("commit", "SIGKILL inside a commit", 2, ANYWHERE, saving=True),
        Kind("validation", "SIGKILL in validation", 1, IN_VALIDATION),
        Kind("startup", "SIGKILL while it starts", 1, ANYWHERE),
        Kind("damage", "SIGKILL, newest checkpoint damaged", 1),
        Kind("sigstop", "SIGSTOP, SIGCONT later", 1, ends=False),
    )
}
DEFAULT_MIX: dict[str, int] = {name: kind.share for name, kind in KINDS.items()}


@dataclasses.dataclass(frozen=True)
class Situation:
    """Where the disturbed training stands.

    Attributes:
        lifetime: seconds since the attempt was started.
        elapsed: seconds since the first attempt was started.
        step: batches trained, over all fits of the program in their order; None as long as that is not known.
    """

    lifetime: float
    elapsed: float
    step: int | None = None


@dataclasses.dataclass(frozen=True)
class Strike:
    """One fault that is to come. Exactly one of `step`, `lifetime` and `elapsed` says when.

    Attributes:
        kind: name of its kind.
        step: not before so many batches are trained.
        lifetime: not before the attempt is so many seconds old.
        elapsed: not before the training is.
        slack: by how much more of the same it may be later, if the moment that the kind needs does not come.
        chance: uniform in [0, 1): decides about details (how long it is stopped, which byte is damaged).
    """

    kind: str
    step: int | None = None
    lifetime: float | None = None
    elapsed: float | None = None
    slack: float = 0.0
    chance: float = 0.5

    def due(self, now: Situation) -> bool:
        """Whether its time has come."""
        return self._beyond(now, 0.0)

    def late(self, now: Situation) -> bool:
        """Whether its moment is waited for no longer."""
        return self._beyond(now, self.slack)

    def _beyond(self, now: Situation, slack: float) -> bool:
        if self.step is not None:
            return now.step is not None and now.step >= self.step + slack
        if self.lifetime is not None:
            return now.lifetime >= self.lifetime + slack
        return self.elapsed is not None and now.elapsed >= self.elapsed + slack


def parse_mix(text: str) -> dict[str, int]:
    """`sigkill=6,commit=2` as shares by kind.

    Raises:
        ConfigurationError: a kind is unknown, or a share is no integer of at least 0, or all are 0.
    """
    mix: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, share = (piece.strip() for piece in part.partition("="))
        if name not in KINDS or not (share.isascii() and share.isdigit()) or not equals:
            raise ConfigurationError(f"--mix {text!r}: {part!r} is not KIND=SHARE. The kinds are {', '.join(KINDS)}; a share is 0 or more.")
        mix[name] = int(share)
    if not any(mix.values()):
        raise ConfigurationError(f"--mix {text!r} leaves no kind of fault. Write it like sigkill=6,sigterm=3.")
    return {name: share for name, share in mix.items() if share}


def apportioned(mix: dict[str, int], count: int) -> list[str]:
    """`count` kinds, each as often as its share says, up to one; of the remainders the largest first (as seats in a parliament)."""
    total = sum(mix.values())
    exact = {name: count * share / total for name, share in mix.items()}
    whole = {name: int(value) for name, value in exact.items()}
    left = count - sum(whole.values())
    for name in sorted(mix, key=lambda name: whole[name] - exact[name])[:left]:
        whole[name] += 1
    return [name for name, number in whole.items() for _ in range(number)]
