"""`resilient run`: attempt after attempt by policy, until the program is done, or stopped, or given up."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import os
import random
import select
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from resilient.amounts import one_line
from resilient.errors import EXIT_GAVE_UP, EXIT_NEEDS_HUMAN, EXIT_PREEMPTED, ConfigurationError
from resilient.heartbeat import Orders, Section
from resilient.restarts import Ending, Record, Restart, RestartPolicy, Stop, Verdict
from resilient.supervisor import processes
from resilient.supervisor.child import Child, Spare
from resilient.supervisor.chronicle import Chronicle, beginning_of, end_of
from resilient.supervisor.guardian import FORWARDED, Exit
from resilient.supervisor.patience import LOOK, Patience, Silence
from resilient.supervisor.relay import Relay
from resilient.supervisor.systemd import Notifier
from resilient.supervisor.vigil import GRACE, STOP, Vigil

_LAST_WORDS = 1.0  # seconds that a slow reader of our output gets in the end
_RETRY = 0.2  # seconds until a slow reader is tried again
_LAST_LINES = {
    EXIT_PREEMPTED: "stopped before the training was done (exit code 75). Start it again to go on.",
    EXIT_NEEDS_HUMAN: "not starting it again: it needs a human, see what it wrote above (exit code 78).",
    EXIT_GAVE_UP: "not starting it again: what it ran has given up, see what it wrote above (exit code 93).",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """How to supervise.

    Attributes:
        policy: when to start again.
        patience: what is a hang.
        grace: seconds between a request to stop and SIGKILL; None: `GRACE`, and `fit` keeps to its own.
        warm_standby: whether a spare interpreter waits for the next attempt.
    """

    policy: RestartPolicy = RestartPolicy()  # noqa: RUF009  frozen
    patience: Patience = Patience()  # noqa: RUF009  frozen
    grace: float | None = None
    warm_standby: bool = False


class Supervisor:
    """Runs `command` until it is done.

    It may be made once in a process, whose signals, output and orphans it takes over.
    """

    def __init__(self, command: Sequence[str], options: Options) -> None:
        self._command, self._options = command, options
        self._environment = dict(os.environ)
        self._notifier = Notifier(self._environment)
        self._relay = Relay()
        self._say = self._relay.errors.say
        self._chronicle = Chronicle(self._say)
        self._wakes, self._wake = os.pipe()
        self._silence = Silence(time.monotonic())
        self._reached: dict[Path, int] = {}
        self._failures: list[str] = []
        self._asked = False
        self._vigil: Vigil | None = None
        self._spare: Spare | None = None
        self._wants_spare = options.warm_standby

    def run(self) -> int:
        """Supervise, and return the exit code.

        Raises:
            ConfigurationError: another supervisor has the program's run directory. The program was stopped.
        """
        processes.adopt_orphans()
        with self._signals():
            try:
                return self._supervise()
            finally:
                self._close()

    def _supervise(self) -> int:
        self._notifier.send("READY=1")
        record, decision = Record(), Restart(0.0)
        for number in itertools.count(1):
            if not self._pause(decision.delay, number):
                self._say(_LAST_LINES[EXIT_PREEMPTED])
                break
            orders = Orders(number, decision.resume_at_most, record.skip, self._options.grace)
            record, outcome = self._attempt(orders, record)
            if isinstance(outcome, Stop):
                return outcome.code
            decision = outcome
        return EXIT_PREEMPTED

    # -- one attempt -----------------------------------------------------------------------------------------------------------

    def _attempt(self, orders: Orders, record: Record) -> tuple[Record, Restart | Stop]:
        """One attempt from its start to its end, and what follows from it."""
        child = self._begin(orders)
        self._vigil = vigil = Vigil(
            child, self._silence, self._options.patience, self._options.grace or GRACE, self._chronicle, self._notifier, self._say
        )
        began = time.monotonic()
        ended = self._watch(child, vigil)
        self._vigil, self._silence = None, vigil.silence
        if vigil.refused is not None:
            child.close()
            raise ConfigurationError(f"The program was stopped: {vigil.refused}")
        ending = vigil.ending(ended, self._reached)
        facts = end_of(child, ended, ending, vigil.reason(ended, ending), time.monotonic() - began)
        record, outcome = self._options.policy.decide(record, ending, random.random())
        self._tell(ending, facts, record, outcome)
        child.close()
        return record, outcome

    def _begin(self, orders: Orders) -> Child:
        spare, self._spare = self._spare, None
        child = spare.begin(orders) if spare else Child(self._command, self._environment, self._relay.writers, orders)
        self._chronicle.append("attempt", **beginning_of(child, self._command, dt.datetime.now(dt.UTC), warm=spare is not None))
        warm = ", in the spare interpreter" if spare else ""
        self._say(f"attempt {orders.attempt} begins (pid {child.guardian.pid}, {_clock()}{warm}): {one_line(self._command)}")
        return child

    def _watch(self, child: Child, vigil: Vigil) -> Exit:
        due = 0.0
        while (ended := child.guardian.result()) is None:
            if child.page.calls in self._turn(due - time.monotonic(), child.guardian.reports, child.page.calls):
                child.page.answer()
                vigil.listen()
            if time.monotonic() >= due:
                vigil.look()
                self._keep_spare(vigil)
                due = time.monotonic() + LOOK
        vigil.listen()
        if ended.unknown:
            self._end_strays()
        self._relay.drain()
        return ended

    def _end_strays(self) -> None:
        """The guardian was killed, and what it guarded is ours now."""
        spared: set[int] = set()
        if self._spare:
            guardian = self._spare.child.guardian.guardian
            spared = processes.descendants(guardian) | {guardian}
        while strays := processes.descendants(os.getpid()) - spared:
            processes.kill_all(strays)
            processes.reap()
            time.sleep(0.005)

    def _keep_spare(self, vigil: Vigil) -> None:
        """Have a spare interpreter ready once the attempt trains: before that the two would compete for the machine."""
        if self._wants_spare and self._spare is None and vigil.announced and vigil.silence.beat.section is Section.TRAINING:
            self._spare = Spare(self._command, {**self._environment, **vigil.announced.variables}, self._relay.writers)

    # -- between attempts ------------------------------------------------------------------------------------------------------

    def _tell(self, ending: Ending, facts: dict[str, Any], record: Record, outcome: Restart | Stop) -> None:
        restart_in = round(outcome.delay, 3) if isinstance(outcome, Restart) else None
        self._chronicle.append("exited", **facts, failures=record.failures, restart_in=restart_in)
        summary = f"attempt {facts['attempt']} {facts['reason']}"
        self._say(f"{summary}{_loss(facts) if ending.verdict is not Verdict.DONE else ''}.")
        if ending.progressed:
            self._failures.clear()
        elif ending.verdict is Verdict.FAILED:
            self._failures.append(summary)
        if isinstance(outcome, Restart):
            self._say(self._plan(ending, record, outcome))
        elif outcome.code == EXIT_GAVE_UP and ending.verdict is Verdict.FAILED:
            self._give_up()
        elif outcome.code in _LAST_LINES:
            self._say(_LAST_LINES[outcome.code])

    def _plan(self, ending: Ending, record: Record, restart: Restart) -> str:
        when = f"in {restart.delay:.1f} s" if restart.delay else "at once"
        if ending.evicted_in is not None:
            when += f", if this machine still runs then: its end is announced for {_clock(ending.evicted_in)}"
        count = f" (failure {record.failures} of {self._options.policy.give_up} in a row without progress)" if record.failures else ""
        return f"starting again {when}{count}{_way(ending, record, restart)}."

    def _give_up(self) -> None:
        self._chronicle.append("gave_up", failures=self._failures)
        count = f"{len(self._failures)} failure{'' if len(self._failures) == 1 else 's'}"
        self._say(f"giving up: {count} without progress (exit code 93). Start it again once the cause is gone.")
        for failure in self._failures:
            self._say(f"  {failure}")

    def _pause(self, seconds: float, attempt: int) -> bool:
        """Wait for attempt number `attempt`; False if a stop was asked for before, or meanwhile."""
        end = time.monotonic() + seconds
        self._notifier.alive(seconds)
        if seconds:
            self._notifier.status(f"attempt {attempt} begins in {seconds:.0f} s")
        while not self._asked:
            left = end - time.monotonic()
            self._turn(min(left, LOOK))  # also where there is nothing to wait for: a signal may have come
            if left <= 0:
                break
        return not self._asked

    # -- what happens meanwhile ------------------------------------------------------------------------------------------------

    def _turn(self, timeout: float, *reports: int) -> list[int]:
        """Wait until something happens; pass on output and signals. What of `reports`, and of our own, can be read."""
        relay, spare = self._relay, self._spare
        sources = [self._wakes, *(inlet.reader for inlet in relay.inlets), *reports]
        sources += [spare.child.guardian.reports] if spare else []
        longest = _RETRY if any(outlet.waiting for outlet in relay.outlets) else LOOK
        ready, _, _ = select.select(sources, [], [], min(max(timeout, 0.0), longest))
        relay.drain()
        relay.flush()
        if self._wakes in ready:
            for number in os.read(self._wakes, 64):
                self._meet(signal.Signals(number))
        if spare and spare.child.guardian.reports in ready and spare.child.guardian.result() is not None:
            spare.child.close()
            self._spare, self._wants_spare = None, False
            self._say("the spare interpreter has died; there will be no other.")
        processes.reap()
        return ready

    def _meet(self, number: signal.Signals) -> None:
        self._asked = self._asked or number in STOP
        if number in STOP:
            self._notifier.send("STOPPING=1")
        follows = "no program is running that it could be passed on to" if self._vigil is None else self._vigil.forward(number)
        self._say(f"{number.name}: {follows}.")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals wake the loop. Those that we were told to ignore (SIGHUP under nohup) stay ignored."""
        for descriptor in (self._wakes, self._wake):
            os.set_blocking(descriptor, False)
        previous = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        taken = {number: signal.getsignal(number) for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN}
        for number in taken:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)  # the command line holds them back while it is imported
        try:
            yield
        finally:
            for number, handler in taken.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(previous)

    def _close(self) -> None:
        """Leave nothing running, and say the last words."""
        if self._spare is not None:
            self._spare.child.guardian.kill()
            select.select([self._spare.child.guardian.reports], [], [])
        self._chronicle.close()
        end = time.monotonic() + _LAST_WORDS
        while any(outlet.waiting for outlet in self._relay.outlets) and time.monotonic() < end:
            time.sleep(_RETRY / 10)
            self._relay.flush()


def _clock(seconds: float = 0.0) -> str:
    """The time of the day so many seconds from now."""
    return f"{dt.datetime.now().astimezone() + dt.timedelta(seconds=seconds):%H:%M:%S}"


def _way(ending: Ending, record: Record, restart: Restart) -> str:
    """From which checkpoint it is started again, where the batch at which it failed decides that."""
    if restart.resume_at_most is not None and ending.place is not None:
        skip = ", which is left out from now on" if ending.place in record.skip else ""
        return (
            f", from a checkpoint before step {restart.resume_at_most + 1} if there is one: "
            f"it failed twice at epoch {ending.place[0]}, batch {ending.place[1]}{skip}"
        )
    if record.none_before is not None:
        return f"; it goes on from the latest checkpoint, as there was none before step {record.none_before} to go on from"
    return ""


def _loss(facts: dict[str, Any]) -> str:
    lost, committed = facts.get("lost_steps", 0), facts.get("committed")
    since = "the beginning" if committed is None else f"the last checkpoint (step {committed})"
    return f"; lost since {since}: {lost} {'step' if lost == 1 else 'steps'}" if lost else ""
