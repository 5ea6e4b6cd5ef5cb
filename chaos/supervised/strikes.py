"""What the storm does: to whom, at which moment. Each is a function of the scene that returns whether it came in time."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable

from chaos.supervised.scene import Scene

KILL, TERM, STOP, CONT = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT
POISONED_FOR = 3  # failures at one batch, until the operator has found out and mended the data


@dataclasses.dataclass(frozen=True)
class Strike:
    """One kind of strike, and how often it comes among the others."""

    act: Callable[[Scene], bool]
    weight: int = 2


def _program(number: signal.Signals, moment: str) -> Callable[[Scene], bool]:
    def act(scene: Scene) -> bool:
        pid = scene.at(moment)
        if pid is None:
            return False
        scene.strike(pid, number)
        return scene.gone(pid)

    return act


def _program_in_commit(scene: Scene) -> bool:
    pid = scene.at("commit")
    if pid is None:
        return False
    scene.strike(pid, KILL)
    return scene.gone(pid)


def _suspended(who: str, *, beyond: bool) -> Callable[[Scene], bool]:
    """Stopped for less or more than counts as a hang, and continued."""

    def act(scene: Scene) -> bool:
        pid = scene.at("training")
        if pid is None:
            return False
        victim = pid if who == "program" else scene.life.pid
        scene.suspend(victim, scene.pace.longer_than_a_hang if beyond else scene.pace.shorter_than_a_hang)
        return True

    return act


def _ordered(deed: str, moment: str, **order: int) -> Callable[[Scene], bool]:
    """The program does it to itself, once; what is to happen at its start is preceded by a SIGKILL."""

    def act(scene: Scene) -> bool:
        pid = scene.at("training")
        if pid is None:
            return False
        before = scene.deeds()
        scene.order(deed, moment, **order)
        if moment == "import":
            scene.strike(pid, KILL)
        return scene.done_beyond(before)

    return act


def _poison(scene: Scene) -> bool:
    """A batch that fails however often it is tried, until somebody mends it, or the supervisor has given up."""
    pid = scene.at("training")
    place = scene.a_few_batches_on() if pid is not None else None
    if place is None or scene.is_poisoned:
        return False
    before = scene.deeds()
    scene.poison(place)
    try:
        return scene.done_beyond(before, POISONED_FOR)
    finally:
        scene.mend()


def _supervisor(number: signal.Signals, moment: str) -> Callable[[Scene], bool]:
    def act(scene: Scene) -> bool:
        pid = scene.at(moment)
        if pid is None:
            return False
        scene.strike_supervisor(number, pid)
        return scene.ended()

    return act


def _guardian(scene: Scene) -> bool:
    pid = scene.at("training")
    guardian = scene.guardian_of(pid) if pid is not None else None
    if pid is None or guardian is None:
        return False
    scene.note(pid, "guardian")
    scene.strike(guardian, KILL)
    return scene.gone(pid)


def _both(first: str, number: signal.Signals) -> Callable[[Scene], bool]:
    def act(scene: Scene) -> bool:
        pid = scene.at("training")
        if pid is None:
            return False
        if first == "program":
            scene.strike(pid, number)
        scene.strike_supervisor(number, pid)
        if first == "supervisor":
            scene.strike(pid, number)
        return scene.ended()

    return act


def _dies_unseen(scene: Scene) -> bool:
    """The program dies while the supervisor is stopped, which finds out when it goes on."""
    pid = scene.at("training")
    if pid is None:
        return False
    scene.life.send(STOP)
    scene.strike(pid, KILL)
    scene.suspend(scene.life.pid, scene.pace.shorter_than_a_hang)
    return scene.gone(pid)


STRIKES = {
    "program: SIGKILL": Strike(_program(KILL, "training"), 6),
    "program: SIGKILL in a commit": Strike(_program_in_commit, 3),
    "program: SIGKILL at start-up": Strike(_program(KILL, "start-up"), 3),
    "program: SIGTERM": Strike(_program(TERM, "training"), 4),
    "program: SIGTERM at start-up": Strike(_program(TERM, "start-up")),
    "program: SIGSTOP, short": Strike(_suspended("program", beyond=False), 1),
    "program: SIGSTOP, long": Strike(_suspended("program", beyond=True), 1),
    "program: hangs": Strike(_ordered("hang", "batch"), 1),
    "program: out of memory": Strike(_ordered("hoard", "batch")),
    "program: crash at import": Strike(_ordered("exit", "import", code=1)),
    "program: abort at import": Strike(_ordered("abort", "import"), 1),
    "program: crash at a batch": Strike(_ordered("raise", "batch")),
    "program: abort at a batch": Strike(_ordered("abort", "batch"), 1),
    "program: a batch fails again and again": Strike(_poison),
    "program: ends with 78": Strike(_ordered("exit", "import", code=78), 1),
    "program: ends with 93": Strike(_ordered("exit", "import", code=93), 1),
    "supervisor: SIGKILL": Strike(_supervisor(KILL, "training"), 6),
    "supervisor: SIGKILL at start-up": Strike(_supervisor(KILL, "start-up"), 3),
    "supervisor: SIGTERM": Strike(_supervisor(TERM, "training"), 3),
    "supervisor: SIGTERM at start-up": Strike(_supervisor(TERM, "start-up")),
    "supervisor: SIGSTOP, short": Strike(_suspended("supervisor", beyond=False), 1),
    "supervisor: SIGSTOP, long": Strike(_suspended("supervisor", beyond=True), 1),
    "supervisor: SIGSTOP, and the program dies": Strike(_dies_unseen),
    "guard: SIGKILL": Strike(_guardian),
    "both: SIGKILL, the program first": Strike(_both("program", KILL), 3),
    "both: SIGKILL, the supervisor first": Strike(_both("supervisor", KILL), 3),
    "both: SIGTERM": Strike(_both("program", TERM)),
}
