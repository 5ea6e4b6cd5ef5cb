"""What a training is, as values: where it lies, when it is given up, what became of it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from resilient.chaos.striking import Blow
from resilient.chaos.witness import Witness
from resilient.manifest import Progress
from resilient.restarts import Verdict
from resilient.supervisor.patience import Patience

PLACE = "{training}"  # in the command: replaced by a folder that each training has for itself


@dataclasses.dataclass(frozen=True)
class Place:
    """The folder of one training: its run directories, its output, and whatever the program puts at `{training}`."""

    root: Path

    @property
    def runs(self) -> Path:
        """Below it lies every run directory, by its own whole path."""
        return self.root / "runs"

    @property
    def output(self) -> Path:
        """What all attempts wrote to standard output and error."""
        return self.root / "output.txt"

    def last_words(self) -> str:
        """The last line that the program wrote."""
        lines = self.output.read_text("utf-8", "replace").splitlines() if self.output.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One process, from its start to its end.

    Attributes:
        number: counted from 1.
        began: aware, UTC.
        seconds: that it lived.
        startup: seconds until it had trained a batch, None if it never did.
        resumed: the step that its last fit went on from, None if it began afresh or never came so far.
        reached: where it stood in the end, None if it never trained.
        directory: of the run that it trained last.
        reason: how it ended, for people.
        verdict: what that means.
        progressed: whether it had saved anything new.
    """

    number: int
    began: dt.datetime
    seconds: float
    startup: float | None
    resumed: int | None
    reached: Progress | None
    directory: Path | None
    reason: str
    verdict: Verdict
    progressed: bool


@dataclasses.dataclass(frozen=True)
class Trained:
    """What became of a training.

    Attributes:
        place: where it lies.
        attempts, blows: oldest first.
        directories: of its runs, in the order in which the program came to them.
        seconds: from the start of the first attempt to the end of the last.
        problem: why it did not come to its end; None if it did.
        seen: what was seen of its checkpoints.
    """

    place: Place
    attempts: Sequence[Attempt]
    blows: Sequence[Blow]
    directories: Sequence[Path]
    seconds: float
    problem: str | None
    seen: Witness

    def name(self, directory: Path) -> str:
        """The run directory as the program names it, or would from where we are."""
        given = Path("/", directory.relative_to(self.place.runs))
        return str(given.relative_to(Path.cwd()) if given.is_relative_to(Path.cwd()) else given)


class Observer:
    """Is told what goes on. Does nothing by itself."""

    def event(self, text: str) -> None:
        """Something happened."""

    def position(self, attempt: int, progress: Progress | None, blows: int, elapsed: float) -> None:
        """Where it stands; called many times a second."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """When a training is given up.

    Attributes:
        patience: what is a hang.
        timeout: seconds for all attempts together, None for no limit.
        once: there is to be one attempt only.
        in_vain: attempts in a row that may end before anything new is saved; None for any number, where strikes come to an end.
        seed: of the details of damage.
    """

    patience: Patience = Patience()  # noqa: RUF009  frozen
    timeout: float | None = None
    once: bool = False
    in_vain: int | None = None
    seed: int = 0
