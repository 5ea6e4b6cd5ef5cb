"""Watches over one attempt: what it says of itself, whether it hangs, and that it ends when it is asked to."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from resilient import journal
from resilient.errors import EXIT_DONE, EXIT_PREEMPTED, ConfigurationError, ResilientError
from resilient.heartbeat import TRACE_SIGNAL, Announcement, Beat, Section
from resilient.memory import oom_kills
from resilient.restarts import Ending
from resilient.signs import TRAINS
from resilient.supervisor import processes
from resilient.supervisor.child import Child
from resilient.supervisor.chronicle import Chronicle
from resilient.supervisor.guardian import Exit
from resilient.supervisor.patience import Patience, Silence
from resilient.supervisor.systemd import Notifier

GRACE = 30.0  # seconds, where the operator gives none: more than `fit` takes by itself
STOP = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})  # end the supervision; SIGUSR1 does where the program obeys it
_FOR_TRACES = 1.0  # seconds from asking for the stacks to ending the program
_NEVER = float("inf")
_JOBS = frozenset({"slurm"})  # take back the job, and with it us: whoever queues it again waits for our exit code
_TAIL = 2**16  # bytes of the journal in which the last words of an attempt are
_LINE = 160
_DOING = {
    Section.SILENT: "before its first sign of life",
    Section.STARTING: "starting",
    Section.TRAINING: "training",
    Section.BETWEEN: "between training and validation",
    Section.VALIDATING: "validating",
    Section.STOPPING: "stopping",
    Section.ENDED: "after the end of fit",
    Section.FAILED: "after an error in training",
    Section.RAISED: "after an error in fit",
}


class Vigil:
    """One attempt under watch.

    Args:
        child: the program.
        silence: what is known of its pace from the attempts before.
        patience: how long it may be silent.
        grace: seconds from a request to stop to the end of the program.
        chronicle, notifier, say: where it tells what it sees.

    Attributes:
        announced: where it trains, None as long as it does not.
        hung: what was found, None as long as it does not hang.
        refused: why it may not train there, None if it may.
    """

    def __init__(
        self,
        child: Child,
        silence: Silence,
        patience: Patience,
        grace: float,
        chronicle: Chronicle,
        notifier: Notifier,
        say: Callable[[str], None],
    ) -> None:
        self._child, self._patience, self._grace = child, patience, grace
        self._chronicle, self._notifier, self._say = chronicle, notifier, say
        self._expects_beats = patience.explicit is not None or bool(silence.longest)
        self._oom_kills = oom_kills()
        self._forwarded: list[signal.Signals] = []
        self._terminate_at = self._kill_at = _NEVER
        self._told_place = self._told_suspended = False
        self._began = time.monotonic()
        self.silence = silence.begin(self._began)
        self.announced: Announcement | None = None
        self.hung: str | None = None
        self.refused: ResilientError | None = None
        self._notifier.alive(self._limit(self.silence.beat))  # until its first sign of life, which imports may keep waiting

    # -- looking ---------------------------------------------------------------------------------------------------------------

    def look(self, *, held: bool = False) -> None:
        """See what has changed, and act on it. To be called every `LOOK` seconds; `held`: the caller has suspended the program himself."""
        now, beat = time.monotonic(), self._child.page.beat()
        self.listen()
        moved = beat.count != self.silence.beat.count
        suspended = not moved and processes.is_stopped(self.trainer)
        self.silence = self.silence.after(now, beat, suspended=suspended)
        limit = self._limit(beat)
        if moved or suspended:
            self._notifier.alive(limit)
        self._notifier.status(f"{self._name}: {where(beat)}")
        self._tell(beat, suspended=suspended and not held)
        if self.silence.seconds > limit and not suspended and self._kill_at == _NEVER:
            self._end_hung(now, beat)
        self._keep_deadlines(now)

    def _tell(self, beat: Beat, *, suspended: bool) -> None:
        """What an operator may wonder about: where it goes on from, and why nothing moves."""
        if not self._told_place and self.announced is not None and beat.section in TRAINS:
            self._told_place = True
            resumed = self._child.page.saves().resumed
            since = "from the beginning" if resumed is None else f"from step {resumed}"
            self._say(f"{self._name} trains in {self.announced.directory}, {since}.")
        if suspended and not self._told_suspended:
            self._say(f"{self._name} is suspended, which is no hang: it goes on when somebody continues it (kill -CONT {self.trainer}).")
        self._told_suspended = suspended

    def listen(self) -> None:
        """Follow the program to the directory that it has announced, and tell it so."""
        announced = self._child.page.announcement()
        if announced is None or self.refused is not None or not announced.directory.is_dir():  # `fit` has yet to make it
            return
        if announced != self.announced:
            self._follow(announced)
        if self.refused is None:
            self._child.page.hear()

    def _follow(self, announced: Announcement) -> None:
        orders = self._child.page.orders
        try:
            _check_place(announced.directory, orders.keep_runs_in)
            self._chronicle.move_to(announced.directory, attempt=orders.attempt, pid=self._child.guardian.pid)
            self.announced = announced
        except ResilientError as error:
            self.refused = error
            self._child.guardian.kill()

    def _limit(self, beat: Beat) -> float:
        if beat.section is Section.SILENT and not self._expects_beats:
            return _NEVER  # it may be a program that never calls fit
        return self._patience.limit(beat.section, self.silence.longest)

    @property
    def _name(self) -> str:
        return f"attempt {self._child.page.orders.attempt}"

    @property
    def trainer(self) -> int:
        """The process that trains: the program, or one that it has started."""
        announced, program = self.announced, self._child.guardian.pid
        if announced is None or announced.pid == program:
            return program
        return announced.pid if announced.pid in processes.descendants(self._child.guardian.guardian) else program

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def forward(self, number: signal.Signals) -> str:
        """Pass a signal of the operator's on. One that asks to stop sets the time; the first Ctrl-C does not: a person waits.

        Returns:
            What comes of it, for people.
        """
        self.listen()
        repeated = number in self._forwarded
        self._forwarded.append(number)
        self._send(signal.SIGTERM if number == signal.SIGHUP else number)  # `fit` takes no SIGHUP, which would just kill it
        if number == signal.SIGINT and not repeated:
            return "passed on to the program. It stops when its state is saved; once more, and it is given a time limit"
        if number not in STOP:
            return "passed on to the program"
        self._kill_at = min(self._kill_at, time.monotonic() + self._grace)
        return f"passed on to the program, which has {self._grace:g} s to save its state and end"

    def _send(self, number: signal.Signals) -> None:
        self._child.guardian.send(number)
        trainer = self.trainer
        if trainer != self._child.guardian.pid:  # a shell script passes no signal on
            with contextlib.suppress(ProcessLookupError):
                os.kill(trainer, number)

    def _end_hung(self, now: float, beat: Beat) -> None:
        """The stacks of all threads into the log, SIGTERM, and SIGKILL when the grace period is over."""
        self.hung = f"no sign of life for {self.silence.seconds:.0f} s, {where(beat)}"
        follows = " The stacks of its threads follow." if self.announced else ""  # where fit has not been called, nobody would write them
        self._say(f"{self._name} hangs: {self.hung}.{follows}")
        self._chronicle.append(
            "hung",
            **self._child.position(),
            pid=self._child.guardian.pid,
            section=beat.section.name.lower(),
            silent=round(self.silence.seconds, 3),
        )
        if self.announced is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.trainer, TRACE_SIGNAL)
        self._terminate_at = now + _FOR_TRACES
        self._kill_at = self._terminate_at + self._grace

    def _keep_deadlines(self, now: float) -> None:
        if now >= self._terminate_at:
            self._terminate_at = _NEVER
            self._send(signal.SIGTERM)
        if STOP.intersection(self._forwarded) and self._child.page.saves().saving:
            self._kill_at = max(self._kill_at, now + self._notifier.extend(now))
        if now >= self._kill_at:
            self._say(f"{self._name} has not ended within {self._grace:g} s and is killed.")
            self._kill_at = _NEVER
            self._child.guardian.kill()

    def ending(self, ended: Exit, reached: dict[Path, int]) -> Ending:
        """What the policy has to know; `reached`: the highest step committed so far, by directory, brought up to date."""
        beat, saves = self._child.page.beat(), self._child.page.saves()
        directory = self.announced.directory if self.announced else Path()
        before = reached.get(directory, saves.resumed or 0)
        reached[directory] = max(before, saves.committed or 0)
        hit = beat.section in (Section.STARTING, Section.TRAINING, Section.FAILED) and beat.progress is not None
        obeyed = signal.SIGUSR1 in self._forwarded and ended.code == EXIT_PREEMPTED
        eviction = self._child.page.eviction()
        job_ends = eviction is not None and eviction.platform in _JOBS
        return Ending(
            code=ended.code,
            signal="SIGKILL" if ended.unknown else ended.signal,
            hung=self.hung is not None,
            out_of_memory=ended.code != EXIT_DONE and oom_kills() > self._oom_kills,
            asked=obeyed or job_ends or not STOP.isdisjoint(self._forwarded),
            raised=beat.section is Section.FAILED,
            unfinished=beat.section is Section.STOPPING,
            place=(beat.progress.epoch, beat.progress.batch) if hit and beat.progress else None,
            resumed=saves.resumed,
            progressed=reached[directory] > before,
            evicted_in=None if eviction is None or job_ends else eviction.deadline - time.monotonic(),
        )

    def reason(self, ended: Exit, ending: Ending) -> str:
        """How it ended, for people; "attempt 3" goes before it."""
        if self.hung is not None:
            return f"was stopped because it hung: {self.hung}"
        if ended.code == EXIT_DONE:
            return "is done"
        memory = f" for lack of memory (peak {(ended.peak_rss or 0) / 1e9:.2f} GB)" if ending.out_of_memory else ""
        eviction = self._child.page.eviction()
        notice = f" by {eviction.platform} ({eviction.kind})" if eviction and ended.code == EXIT_PREEMPTED else ""
        lived = _duration(time.monotonic() - self._began)
        beat = self._child.page.beat()
        error = self._error() if beat.section in (Section.FAILED, Section.RAISED) else ""
        return f"{_how(ended)}{notice}{memory} after {lived}, {where(beat)}{error}"

    def _error(self) -> str:
        """What `fit` has raised, in one line: the program may have been ended before Python told it, or have told it far above."""
        if self.announced is None:
            return ""
        events = journal.read(self.announced.directory, newest=_TAIL)
        told = [event for event in events if event["event"] in ("started", "failed")]
        if not told or told[-1]["event"] == "started":  # this attempt's own: a full disk has refused the other
            return ""
        first, *_ = str(told[-1].get("error")).splitlines() or [""]
        return f": {first if len(first) <= _LINE else first[: _LINE - 3] + '...'}"


def _check_place(directory: Path, kept_in: str | None) -> None:
    """Versions that know no order to keep runs elsewhere would train in the real run directory."""
    if kept_in is not None and not directory.is_relative_to(kept_in):
        raise ConfigurationError(
            f"The program trains in {directory} although its runs were ordered to be kept below {kept_in}, so it was stopped: "
            "it imports an older version of resilient than this one. Upgrade resilient in the program's environment."
        )


def _duration(seconds: float) -> str:
    """In the unit that leaves a number one can read."""
    units = [("s", 1.0), ("min", 60.0), ("h", 3600.0), ("days", 86400.0)]
    name, size = next((unit for unit in reversed(units) if seconds >= 2 * unit[1]), units[0])
    return f"{seconds / size:.{0 if 10 <= seconds < 120 else 1}f} {name}"


def _how(ended: Exit) -> str:
    if ended.unknown:
        return "was killed together with its guardian"
    if ended.signal is not None:
        return f"was ended by {ended.signal}"
    return "was preempted" if ended.code == EXIT_PREEMPTED else f"exited with code {ended.code}"


def where(beat: Beat) -> str:
    """What is under way and at which position, for people."""
    progress = beat.progress
    if progress is None and beat.section in (Section.FAILED, Section.RAISED):
        return "after an error in fit, before its first batch"
    return _DOING[beat.section] + (f" at epoch {progress.epoch}, batch {progress.batch} (step {progress.step})" if progress else "")
