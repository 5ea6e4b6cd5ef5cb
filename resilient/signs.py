"""What a training process and its supervisor tell each other, as values; how they do it is `heartbeat`'s."""

from __future__ import annotations

import dataclasses
import enum

from resilient.manifest import Progress


class Section(enum.IntEnum):
    """What is under way until the next beat."""

    SILENT = 0  # there was no beat yet
    STARTING = 1  # until the first batch of the attempt, or of an epoch, has ended: restoring, compiling, filling buffers
    TRAINING = 2  # one batch
    BETWEEN = 3  # what happens once an epoch: the start of validation, callbacks, waiting for the disk
    VALIDATING = 4  # one batch of validation
    STOPPING = 5  # a stop was asked for: the emergency save, and the way out
    ENDED = 6  # fit has returned or raised; what the program does now is its own affair
    FAILED = 7  # so it is here, but what was raised came out of a batch, or the way to one: if the program ends with it, that is where
    RAISED = 8  # and here it was raised elsewhere in fit, or says nothing against the batch: a checkpoint of another model, a full disk


TRAINS = frozenset({Section.TRAINING, Section.BETWEEN, Section.VALIDATING})  # a batch of the attempt has ended, and nothing asks it to stop


@dataclasses.dataclass(frozen=True)
class Beat:
    """The newest sign of life: how many there were, what is under way, the position (None before it is known), and when (monotonic)."""

    count: int = 0
    section: Section = Section.SILENT
    progress: Progress | None = None
    at: float = dataclasses.field(default=0.0, compare=False)


@dataclasses.dataclass(frozen=True)
class Saves:
    """Whether a save is under way, the step that was restored and the newest that is committed; None where there is none."""

    saving: bool = False
    resumed: int | None = None
    committed: int | None = None


@dataclasses.dataclass(frozen=True)
class Eviction:
    """That the platform is about to take back what the program runs on.

    Attributes:
        platform, kind: who says so, and its word for it.
        deadline: when (monotonic seconds).
    """

    platform: str
    kind: str
    deadline: float


@dataclasses.dataclass(frozen=True)
class Orders:
    """What the supervisor asks of the attempt; arguments of `fit` that say otherwise win.

    Attributes:
        attempt: its number.
        resume_at_most: go on from the newest checkpoint of at most this step, where there is one.
        skip: batches to leave out, as (epoch, batch).
        grace: seconds that the program has after a signal.
        keep_runs_in: a folder under which every run is kept, whatever directory `fit` was given. The one order that beats an argument: a
            test of a program must not touch its real runs. `fit` says so.
    """

    attempt: int = 1
    resume_at_most: int | None = None
    skip: tuple[tuple[int, int], ...] = ()
    grace: float | None = None
    keep_runs_in: str | None = None
