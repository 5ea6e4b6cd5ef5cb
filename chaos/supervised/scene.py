"""What a strike can see and do: moments of one training under one supervisor, and a record of everything that was done."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from chaos import kill, oracle
from chaos.rounds import Place, Reference
from chaos.supervised.life import Life, is_alive, parent, send
from chaos.supervised.sabotage import DEEDS, ORDER, POISON

PATIENCE = 180.0  # seconds until a consequence that does not come is one that will not


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long things take with a program: seconds before a kill in training and at start-up, and around the limit for a hang."""

    training: float
    start: float
    shorter_than_a_hang: float
    longer_than_a_hang: float
    hang: str
    memory: int  # bytes that it needs, generously


class Scene:
    """One training, whoever supervises it at the moment."""

    def __init__(self, place: Place, chance: random.Random, pace: Pace, reference: Reference, *, limited: bool) -> None:
        self.place, self.pace = place, pace
        self._chance, self._reference, self._limited = chance, reference, limited
        self._used: set[int] = set()  # pids that were struck: the next moment belongs to the next program
        self.by_pid: dict[int, list[str]] = defaultdict(list)  # what was done to each program
        self.life: Life

    # -- moments ---------------------------------------------------------------------------------------------------------------

    def at(self, moment: str) -> int | None:
        """The pid of a program that was not struck yet, at that moment of its life; None if the supervisor has ended before."""
        while (pid := self._next_program()) is not None:
            if self._reached(pid, moment):
                return pid
        return None

    def _next_program(self) -> int | None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for attempt in self.life.attempts()[-1:]:
                if attempt.pid not in self._used and is_alive(attempt.pid):
                    return attempt.pid
            if self.life.code is not None:
                return None
            time.sleep(kill.POLL)
        raise TimeoutError(f"no program was running within {PATIENCE:.0f} s")

    def _reached(self, pid: int, moment: str) -> bool:
        if moment == "start-up":
            return self._until(kill.after(kill.at_once, self._chance.uniform(0, self.pace.start)), pid)
        trains = kill.after(kill.training(self.place.log, pid), self._chance.uniform(0, self.pace.training))
        if moment == "commit":
            return self._until(kill.both(trains, kill.inside_commit(self.place.run)), pid)
        return self._until(trains, pid)

    def _until(self, moment: Callable[[], bool], pid: int) -> bool:
        end = time.monotonic() + PATIENCE
        while is_alive(pid):
            if moment():
                return True
            if time.monotonic() > end:
                raise TimeoutError(f"the moment to strike did not come within {PATIENCE:.0f} s")
            time.sleep(kill.POLL)
        self._used.add(pid)
        return False

    def gone(self, pid: int) -> bool:
        """Once the program is; always true."""
        self._wait(lambda: not is_alive(pid), f"program {pid} is still there")
        return True

    def ended(self) -> bool:
        """Once the supervisor has; always true."""
        self._wait(lambda: self.life.code is not None, "the supervisor is still there")
        return True

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{otherwise} after {PATIENCE:.0f} s")
            time.sleep(kill.POLL)

    # -- strikes ---------------------------------------------------------------------------------------------------------------

    def note(self, pid: int, deed: str) -> None:
        """That it was done to this program, which is not struck again."""
        self._used.add(pid)
        self.by_pid[pid].append(deed)

    def strike(self, pid: int, number: signal.Signals) -> None:
        """Signal to a process."""
        self.note(pid, number.name)
        send(pid, number)
        send(pid, signal.SIGCONT)

    def strike_supervisor(self, number: signal.Signals, program: int) -> None:
        """Signal to the supervisor, and so to its program."""
        self.note(program, f"supervisor {number.name}")
        self.life.struck.append(number.name)
        self.life.send(number)

    def suspend(self, pid: int, seconds: float) -> None:
        """SIGSTOP, and SIGCONT so many seconds later."""
        send(pid, signal.SIGSTOP)
        time.sleep(seconds)
        send(pid, signal.SIGCONT)

    def guardian_of(self, pid: int) -> int | None:
        """The process between the program and its supervisor."""
        return parent(pid)

    # -- orders ----------------------------------------------------------------------------------------------------------------

    def order(self, deed: str, moment: str, **more: Any) -> None:
        """Have the program do something to itself, once."""
        self._give(ORDER, deed=deed, moment=moment, limited=self._limited, **more)

    def withdraw(self) -> None:
        """An order that nobody has carried out stands no more."""
        (self.place.root / ORDER).unlink(missing_ok=True)

    @property
    def is_poisoned(self) -> bool:
        """Whether a batch fails however often it is tried."""
        return (self.place.root / POISON).exists()

    def poison(self, place: Sequence[int]) -> None:
        """Have it fail at this batch until it is mended."""
        self._give(POISON, deed="raise", moment="batch", place=list(place))

    def mend(self) -> None:
        """No batch fails any more."""
        (self.place.root / POISON).unlink(missing_ok=True)

    def _give(self, name: str, **order: Any) -> None:
        unfinished = self.place.root / "order.unfinished"
        unfinished.write_text(json.dumps(order))
        unfinished.replace(self.place.root / name)

    def deeds(self) -> int:
        """How often an order was carried out."""
        return len(oracle.read_log(self.place.root / DEEDS))

    def done_beyond(self, before: int, times: int = 1) -> bool:
        """Whether it is done so often before the supervisor ends; its program is over then, too."""
        self._wait(lambda: self.deeds() >= before + times or self.life.code is not None, "nobody has done what was ordered")
        carried_out = oracle.read_log(self.place.root / DEEDS)[before:]
        for deed in carried_out:
            self._used.add(deed["pid"])
            self._wait(lambda pid=deed["pid"]: not is_alive(pid), "a program outlives what it did to itself")  # type: ignore[misc]
        if not carried_out:
            self.withdraw()
        return bool(carried_out)

    def a_few_batches_on(self) -> list[int] | None:
        """A batch that is trained soon, None at the end of the training."""
        log = self._reference.log
        last = oracle.trained_batches(self.place.log)[-1].position
        later = [batch.position for batch in log if batch.position > last]
        return list(later[5]) if len(later) > 20 else None
