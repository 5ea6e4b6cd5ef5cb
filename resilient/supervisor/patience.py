"""How long a program may be silent before it counts as hung: learned from its own pace, with time as an argument.

Silence is counted in looks, each of a bounded length. So whatever stops the clock, or us, or the machine, is no silence of the program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from resilient.heartbeat import Beat, Section

LOOK = 1.0  # seconds from one look to the next; where more have gone by, we were not running either
_PER_BATCH = frozenset({Section.TRAINING, Section.VALIDATING})


@dataclasses.dataclass(frozen=True)
class Patience:
    """The longest silence that is still taken for work.

    Attributes:
        explicit: seconds for one batch as the operator set them, None to learn them.
        generous: seconds for what has not been seen yet, or happens once an epoch: compiling, filling buffers, validation's start.
        shortest: seconds below which no learned limit falls: a stalled disk is no hang.
        factor: how many times the longest seen.
    """

    explicit: float | None = None
    generous: float = 1800.0
    shortest: float = 120.0
    factor: float = 10.0

    def limit(self, section: Section, longest: Mapping[Section, float]) -> float:
        """Seconds of silence in `section` that mean a hang, given the longest silences seen so far."""
        if section in (Section.ENDED, Section.FAILED, Section.RAISED):
            return float("inf")
        if section in _PER_BATCH and self.explicit is not None:
            return self.explicit
        learned = self.factor * longest.get(section, 0.0)
        if section in _PER_BATCH and section in longest:
            # A batch of a new shape is compiled anew, and that takes what it took in the beginning.
            return max(self.shortest, learned, 2 * longest.get(Section.STARTING, 0.0))
        return max(self.generous, self.explicit or 0.0, learned)


@dataclasses.dataclass(frozen=True)
class Silence:
    """How long there has been no beat, and the longest silence that each section has ended.

    Attributes:
        at: when we last looked (monotonic seconds).
        beat: what was found then.
        seconds: of silence since that beat was first seen.
        longest: by section, over all attempts.
    """

    at: float
    beat: Beat = Beat()  # noqa: RUF009  frozen
    seconds: float = 0.0
    longest: Mapping[Section, float] = dataclasses.field(default_factory=dict)

    def after(self, now: float, beat: Beat, *, suspended: bool) -> Silence:
        """What is known after one more look; `suspended`: somebody has stopped the program (SIGSTOP), so that it cannot beat."""
        seconds = self.seconds + (0.0 if suspended else min(max(0.0, now - self.at), 2 * LOOK))
        if beat.count == self.beat.count:
            return dataclasses.replace(self, at=now, seconds=seconds)
        section = self.beat.section
        longest = {**self.longest, section: max(seconds, self.longest.get(section, 0.0))}
        return Silence(now, beat, 0.0, longest)

    def begin(self, now: float) -> Silence:
        """A new attempt: nothing was heard of it yet."""
        return Silence(now, longest=self.longest)
