"""When a supervised program is started again, how long that waits, and when it is given up: values, with chance and time as arguments."""

from __future__ import annotations

import dataclasses
import enum

from resilient.errors import EXIT_DONE, EXIT_GAVE_UP, EXIT_NEEDS_HUMAN, EXIT_PREEMPTED

Place = tuple[int, int]  # epoch and batch

# Whoever sends one of these asks to stop. A program that dies of one was only too early or too late to say 75.
_POLITE = frozenset({"SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"})


class Verdict(enum.Enum):
    """What an ending means."""

    DONE = "done"
    PREEMPTED = "preempted"
    NEEDS_HUMAN = "needs a human"
    GAVE_UP = "gave up"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Ending:
    """How one attempt ended.

    Attributes:
        code: exit code, None where a signal ended it.
        signal: name of that signal.
        hung: the supervisor stopped it because nothing moved.
        out_of_memory: the kernel killed it, or a process of its tree, for lack of memory.
        asked: the supervisor had been asked to stop, and had passed that on.
        raised: an exception of the program's was on its way out of fit, whatever ended the process then.
        unfinished: fit stopped before the end of the training because it was asked to.
        place: the batch that was under way, None if none was.
        resumed: the step it had gone on from, None where that is not known.
        progressed: it committed a checkpoint further on than any before.
        evicted_in: seconds until the platform takes the machine back, as it has announced to the program (negative: that time has passed);
            None where nothing of the kind stands.
    """

    code: int | None = None
    signal: str | None = None
    hung: bool = False
    out_of_memory: bool = False
    asked: bool = False
    raised: bool = False
    unfinished: bool = False
    place: Place | None = None
    resumed: int | None = None
    progressed: bool = False
    evicted_in: float | None = None

    @property
    def verdict(self) -> Verdict:
        """What it means for the next attempt."""
        if self.hung:
            return Verdict.FAILED
        if self.code == EXIT_DONE:
            told_to_stop = self.asked or self.evicted_in is not None
            return Verdict.PREEMPTED if told_to_stop and self.unfinished else Verdict.DONE
        if self.code == EXIT_PREEMPTED or self.signal in _POLITE:
            return Verdict.PREEMPTED
        return {EXIT_NEEDS_HUMAN: Verdict.NEEDS_HUMAN, EXIT_GAVE_UP: Verdict.GAVE_UP}.get(self.code or 0, Verdict.FAILED)

    @property
    def blames_program(self) -> bool:
        """Whether it failed by itself. A plain SIGKILL comes from outside and says nothing about the batch it met.

        An exception does say something, also where a polite signal then ended the program, and that ending costs no restart.
        """
        if self.verdict is Verdict.PREEMPTED:
            return self.raised and self.signal is not None
        return self.verdict is Verdict.FAILED and (self.hung or self.out_of_memory or self.raised or self.signal != "SIGKILL")


@dataclasses.dataclass(frozen=True)
class Record:
    """What the policy remembers of the attempts so far.

    Attributes:
        failures: in a row without progress; preemptions between them count neither way.
        spent: failures without progress in all.
        idle: attempts in a row without progress, however they ended.
        place: where the program last failed by itself.
        skip: batches that are left out from now on.
        back: the step at most from which the attempt that follows is to go on, None where it is left to it.
        none_before: it was ordered back behind this step and did not go on from there, so that this is not ordered again at this place.
    """

    failures: int = 0
    spent: int = 0
    idle: int = 0
    place: Place | None = None
    skip: tuple[Place, ...] = ()
    back: int | None = None
    none_before: int | None = None


@dataclasses.dataclass(frozen=True)
class Restart:
    """Start it again after `delay` seconds, from a checkpoint of at most step `resume_at_most` where that is given and there is one."""

    delay: float
    resume_at_most: int | None = None


@dataclasses.dataclass(frozen=True)
class Stop:
    """End with exit code `code`."""

    code: int


@dataclasses.dataclass(frozen=True)
class RestartPolicy:
    """Exponential back-off with full jitter that progress resets, and a bound on failures without progress.

    Attributes:
        give_up: failures in a row without progress after which it ends with 93.
        max_restarts: restarts after failures without progress in all, None for any number.
        skip_poison_batch: leave out a batch at which the program failed twice.
        first, longest: bounds of the delay in seconds.
        after_eviction: seconds after the announced end of the machine that still pass before it is believed to live on. An attempt that
            is begun before meets the same announcement and stops again.
    """

    give_up: int = 5
    max_restarts: int | None = None
    skip_poison_batch: bool = False
    first: float = 1.0
    longest: float = 300.0
    after_eviction: float = 30.0

    def decide(self, record: Record, ending: Ending, chance: float) -> tuple[Record, Restart | Stop]:
        """What follows from `ending`; `chance`: uniform in [0, 1), the jitter."""
        record, twice = self._remember(record, ending)
        code = self._last_word(record, ending)
        if code is not None:
            return record, Stop(code)
        back = ending.resumed - 1 if twice and ending.resumed and record.none_before is None else None
        return dataclasses.replace(record, back=back), Restart(max(chance * self._backoff(record.idle), self._until_evicted(ending)), back)

    def _remember(self, record: Record, ending: Ending) -> tuple[Record, bool]:
        """The record with this ending in it, and whether the program failed at the same place as the last time."""
        failed = ending.verdict is Verdict.FAILED and not ending.progressed
        failures = 0 if ending.progressed else record.failures + failed
        idle = 0 if ending.progressed else record.idle + 1
        place = ending.place if ending.blames_program else record.place
        twice = ending.blames_program and place is not None and place == record.place
        skip = record.skip
        if self.skip_poison_batch and twice and place is not None and place not in skip:
            skip = (*skip, place)
        none_before = None if ending.progressed or place != record.place else record.none_before
        if not ending.progressed and record.back is not None and (ending.resumed or 0) > record.back:
            none_before = record.back + 1
        return Record(failures, record.spent + failed, idle, place, skip, None, none_before), twice

    def _last_word(self, record: Record, ending: Ending) -> int | None:
        final = {Verdict.DONE: EXIT_DONE, Verdict.NEEDS_HUMAN: EXIT_NEEDS_HUMAN, Verdict.GAVE_UP: EXIT_GAVE_UP}.get(ending.verdict)
        if final is not None:
            return final
        if ending.asked:
            return EXIT_PREEMPTED
        spent = self.max_restarts is not None and record.spent > self.max_restarts
        counts = ending.verdict is Verdict.FAILED and not ending.progressed
        return EXIT_GAVE_UP if counts and (spent or record.failures >= self.give_up) else None

    def _until_evicted(self, ending: Ending) -> float:
        if ending.evicted_in is None:
            return 0.0
        # No platform tells further ahead by the time training stops: whatever is written there, somebody waits for this.
        return min(max(ending.evicted_in, 0.0), self.longest) + self.after_eviction

    def _backoff(self, idle: int) -> float:
        # The exponent is bounded: months of preemptions must not overflow a float.
        return 0.0 if idle == 0 else min(self.longest, self.first * 2.0 ** min(idle - 1, 64))
