"""One training of the user's program, from nothing to its end, started again each time something has ended it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import os
import select
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from resilient.chaos.damage import damage_newest
from resilient.chaos.strikes import KINDS, Situation, Strike
from resilient.chaos.striking import Striker, Target, generator
from resilient.chaos.trained import PLACE, Attempt, Observer, Place, Rules, Trained
from resilient.chaos.witness import Witness
from resilient.errors import EXIT_DONE
from resilient.heartbeat import Orders
from resilient.manifest import Progress
from resilient.restarts import Ending, Record, Restart, RestartPolicy, Stop, Verdict
from resilient.signs import TRAINS
from resilient.supervisor.child import Child
from resilient.supervisor.chronicle import Chronicle, beginning_of, end_of
from resilient.supervisor.guardian import Exit
from resilient.supervisor.patience import LOOK, Silence
from resilient.supervisor.systemd import Notifier
from resilient.supervisor.vigil import GRACE, Vigil

_OWN_FAILURES = 3  # in a row without progress, that nothing of ours explains


class Training:
    """Runs `command` until its training is done.

    Args:
        command: of the program; `PLACE` in it is replaced.
        place: an empty folder that exists.
        rules: when to give up.
        observer: told what goes on.
        strikes: what is to happen to it.
        offsets: steps that were trained before each run directory's, by the directory's name.
    """

    def __init__(
        self,
        command: Sequence[str],
        place: Place,
        rules: Rules,
        observer: Observer,
        strikes: Iterable[Strike] = (),
        offsets: Mapping[str, int] | None = None,
    ) -> None:
        self._command = [part.replace(PLACE, str(place.root)) for part in command]
        self._place, self._rules, self._observer = place, rules, observer
        self._striker = Striker(iter(strikes))
        self._offsets = offsets or {}
        self._policy = RestartPolicy(give_up=_OWN_FAILURES, first=0.0)
        self._record = Record()
        self._back: int | None = None
        self._reached: dict[Path, int] = {}
        self._directories: list[Path] = []
        self._attempts: list[Attempt] = []
        self._in_vain = 0
        self._witness = Witness()
        self._silence = Silence(time.monotonic())

    def run(self) -> Trained:
        """Train to the end, or until there is no sense in it."""
        self._began = time.monotonic()
        with self._place.output.open("ab") as output, contextlib.closing(Chronicle(self._say)) as self._chronicle:
            problem = next(filter(None, (self._attempt(number, output.fileno()) for number in itertools.count(1))))
        return Trained(
            self._place, self._attempts, self._striker.blows, self._directories, time.monotonic() - self._began, problem.text, self._witness
        )

    # -- one attempt -----------------------------------------------------------------------------------------------------------

    def _attempt(self, number: int, output: int) -> _Over | None:
        """One process from its start to its end; None if there has to be another."""
        began, wall = time.monotonic(), dt.datetime.now(dt.UTC)
        child = Child(self._command, os.environ, (output, output), Orders(number, self._back, keep_runs_in=str(self._place.runs)))
        try:
            self._chronicle.append("attempt", **beginning_of(child, self._command, wall))
            self._striker.begin()
            vigil = Vigil(child, self._silence, self._rules.patience, GRACE, self._chronicle, Notifier({}), self._say)
            try:
                ended, startup = self._watch(child, vigil, number, began)
            except BaseException:
                _stop(child)
                raise
            self._silence = vigil.silence
            ending = vigil.ending(ended, self._reached)
            attempt = self._attempt_of(child, vigil, ended, ending, startup, (number, wall, time.monotonic() - began))
            self._attempts.append(attempt)
            over = self._judge(ending, attempt, vigil)
            told = end_of(child, ended, ending, attempt.reason, attempt.seconds)
            self._chronicle.append("exited", **told, failures=0, restart_in=0.0)
        finally:
            _take_leave(child)
        self._damage(attempt)
        return over

    def _watch(self, child: Child, vigil: Vigil, number: int, began: float) -> tuple[Exit, float | None]:
        """How it ended, and seconds until it had trained a batch."""
        target, due, startup, wait = Target(child, vigil), 0.0, None, 0.0
        while (ended := child.guardian.result()) is None:
            if child.page.calls in select.select([child.guardian.reports, child.page.calls], [], [], wait)[0]:
                child.page.answer()
            now = time.monotonic()
            vigil.listen()
            self._follow(child, vigil)
            beat = child.page.beat()
            if startup is None and beat.section in TRAINS:
                startup, due = now - began, now  # where it goes on from is told before anything happens to it
            if now >= due:
                vigil.look(held=self._striker.holds)
                due = now + LOOK
            if self._out_of_time(now):
                target.kill()
            wait = self._strike(target, self._situation(now, began, beat.progress, target.directory), number)
            self._observer.position(number, beat.progress, len(self._striker.blows), now - self._began)
        vigil.listen()
        self._follow(child, vigil)
        return ended, startup

    def _strike(self, target: Target, now: Situation, number: int) -> float:
        """Do to it what is due; seconds until the next look."""
        before = len(self._striker.blows)
        wait = self._striker.look(target, now, number)
        for blow in self._striker.blows[before:]:
            at = (
                "" if blow.progress is None else f" at epoch {blow.progress.epoch}, batch {blow.progress.batch} (step {blow.progress.step})"
            )
            self._say(f"fault {before + 1}: {KINDS[blow.kind].does}, attempt {number}{at}{f': {blow.note}' if blow.note else ''}")
        return wait

    def _say(self, text: str) -> None:
        """Run directories go by the names that the program gave them."""
        self._observer.event(text.replace(f"{self._place.runs}{os.getcwd()}/", "").replace(str(self._place.runs), ""))

    def _follow(self, child: Child, vigil: Vigil) -> None:
        if vigil.announced is None:
            return
        directory = vigil.announced.directory
        if directory not in self._directories:
            self._directories.append(directory)
        self._witness.look(directory, child.page.saves().committed)

    def _situation(self, now: float, began: float, progress: Progress | None, directory: Path | None) -> Situation:
        step = None
        if progress is not None and directory is not None:
            step = progress.step + self._offsets.get(str(directory.relative_to(self._place.runs)), 0)
        return Situation(now - began, now - self._began, step)

    def _out_of_time(self, now: float) -> bool:
        return self._rules.timeout is not None and now - self._began > self._rules.timeout

    # -- after it --------------------------------------------------------------------------------------------------------------

    def _attempt_of(
        self, child: Child, vigil: Vigil, ended: Exit, ending: Ending, startup: float | None, told: tuple[int, dt.datetime, float]
    ) -> Attempt:
        return Attempt(
            *told,
            startup,
            child.page.saves().resumed,
            child.page.beat().progress,
            vigil.announced.directory if vigil.announced else None,
            vigil.reason(ended, ending),
            ending.verdict,
            ending.progressed,
        )

    def _judge(self, ending: Ending, attempt: Attempt, vigil: Vigil) -> _Over | None:
        """What follows from the end of an attempt."""
        self._in_vain = 0 if attempt.progressed else self._in_vain + 1
        self._back = None
        if vigil.refused is not None:
            raise vigil.refused
        if self._out_of_time(time.monotonic()) and ending.verdict is not Verdict.DONE:
            return _Over(f"it was not done after {self._rules.timeout:g} s (--timeout)")
        if ending.verdict is Verdict.DONE:
            return _Over(None)
        if self._rules.once or ending.verdict in (Verdict.NEEDS_HUMAN, Verdict.GAVE_UP):
            return _Over(f"attempt {attempt.number} {attempt.reason}: {self._place.last_words()}")
        if self._rules.in_vain is not None and self._in_vain >= self._rules.in_vain:
            return _Over(self._why_in_vain())
        if self._striker.struck:
            return None
        self._say(f"attempt {attempt.number} {attempt.reason}, and nothing was done to it")
        self._record, outcome = self._policy.decide(self._record, ending, 0.0)
        if isinstance(outcome, Stop) and outcome.code != EXIT_DONE:
            return _Over(f"attempt {attempt.number} {attempt.reason}, though nothing was done to it: {self._place.last_words()}")
        self._back = outcome.resume_at_most if isinstance(outcome, Restart) else None
        return None

    def _why_in_vain(self) -> str:
        """No progress: what each of the last attempts would have needed."""
        last = self._attempts[-self._in_vain :]
        lives = sum(attempt.seconds for attempt in last) / len(last)
        starts = [attempt.startup for attempt in self._attempts if attempt.startup is not None]
        start = f"it takes {sum(starts) / len(starts):.1f} s to start" if starts else "none of them came as far as its first batch"
        return (
            f"the last {len(last)} attempts ended before they had saved anything new: they lived {lives:.1f} s on average, and {start}. "
            "Let them live longer (--mtbf), or let the program save more often (save_every=)"
        )

    def _damage(self, attempt: Attempt) -> None:
        blow = self._striker.blows[-1] if self._striker.blows else None
        if blow is None or blow.attempt != attempt.number or blow.kind != "damage" or blow.directory is None:
            return
        done = damage_newest(blow.directory, generator(self._rules.seed, "damage", len(self._striker.blows)))
        note = done or "not damaged: there was no older checkpoint to fall back to"
        self._striker.blows[-1] = dataclasses.replace(blow, note=note)


@dataclasses.dataclass(frozen=True)
class _Over:
    """The training is over: `text` says why it did not come to its end, None if it did."""

    text: str | None


def _stop(child: Child) -> None:
    """Nothing of it is left, although we have to go."""
    child.guardian.kill()
    while child.guardian.result() is None:
        select.select([child.guardian.reports], [], [], 1.0)


def _take_leave(child: Child) -> None:
    """It has ended, and so does its guardian."""
    guardian = child.guardian.guardian
    child.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(guardian, 0)
