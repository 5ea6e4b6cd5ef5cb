"""The program's parent: a small process between it and the supervisor, so that nothing of the program is ever left behind.

It adopts whatever the program starts, in any session. When the program ends, or the supervisor does, it kills what is left. Were the
supervisor itself the parent, a SIGKILL to it would leave data workers, and all below a shell script, to init. If the guardian is
killed, the program dies with it (PR_SET_PDEATHSIG), and the supervisor, its parent, adopts the rest and kills it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

from resilient.supervisor import processes

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
_KILL_TREE, _KNOWN = 0, 255  # no signals have these numbers
_CANNOT_RUN = 127  # as a shell says it
_PID_WIDTH = 16


@dataclasses.dataclass(frozen=True)
class Exit:
    """How the program `pid` ended: exit code or name of the signal, and the most memory it had, in bytes."""

    pid: int
    code: int | None = None
    signal: str | None = None
    peak_rss: int | None = None

    @property
    def unknown(self) -> bool:
        """Whether nobody could tell: the guardian was killed, and the program with it."""
        return self.code is None and self.signal is None


@dataclasses.dataclass(frozen=True)
class Program:
    """What is run: command, environment, the descriptors that become its output, and one more that it keeps."""

    command: Sequence[str]
    environment: Mapping[str, str]
    output: tuple[int, int]
    keeps: int | None = None


class Guardian:
    """A running program, seen from the supervisor.

    Args:
        program: started at once.
        bereaved: called in the guardian if the supervisor died before it called `take_leave`, once nothing of the program is left.
    """

    def __init__(self, program: Program, bereaved: Callable[[Exit], None]) -> None:
        self._exit: Exit | None = None
        self.reports, report = os.pipe()
        commands, self._commands = os.pipe()
        # No signal may meet the guardian while it still has the supervisor's handlers and the pipe they write to.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self.guardian = os.fork()
        if self.guardian == 0:
            _guard(program, mask, commands, report, bereaved)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(commands)
        os.close(report)
        self.pid = int(os.read(self.reports, _PID_WIDTH) or 0)
        os.set_blocking(self.reports, False)

    def send(self, number: int) -> None:
        """Signal to the program itself. Its children are its own affair."""
        with contextlib.suppress(OSError):  # it has just ended
            os.write(self._commands, bytes([number]))

    def kill(self) -> None:
        """SIGKILL to the program and all that descends from it."""
        self.send(_KILL_TREE)

    def result(self) -> Exit | None:
        """How it ended, with nothing of it left; None as long as it has not. To be asked when `reports` can be read, then at any time."""
        if self._exit is None:
            with contextlib.suppress(BlockingIOError):
                report = os.read(self.reports, 4096)
                self._exit = Exit(**json.loads(report)) if report else Exit(self.pid)
                os.close(self.reports)
        return self._exit

    def take_leave(self) -> None:
        """What `result` told is known to whom it concerns, so that the guardian may forget it."""
        self.send(_KNOWN)
        os.close(self._commands)


def _guard(program: Program, mask: Iterable[int], commands: int, report: int, bereaved: Callable[[Exit], None]) -> NoReturn:
    """The guardian's whole life. What fails in it must not come back into the supervisor's code; the program dies with it."""
    try:
        processes.adopt_orphans()
        processes.set_name("resilient-guard")
        os.setsid()
        tree = _Tree(_start(program, mask))
        os.write(report, f"{tree.program:{_PID_WIDTH}d}".encode())
        deaths = _prepare_to_wait({commands, report})
        tree.watch(commands, deaths)
        tree.end()
        with contextlib.suppress(BrokenPipeError):
            os.write(report, json.dumps(dataclasses.asdict(tree.exit)).encode())
        if not _is_known(commands):
            bereaved(tree.exit)
    except BaseException:  # noqa: BLE001  the boundary of a process
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _start(program: Program, mask: Iterable[int]) -> int:
    """Fork and exec the program in a session of its own, with the signals as the supervisor found them; its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        processes.die_with_parent(parent)
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        for target, descriptor in zip((1, 2), program.output, strict=True):
            os.dup2(descriptor, target)
        if program.keeps is not None:
            os.set_inheritable(program.keeps, True)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvpe(program.command[0], list(program.command), program.environment)  # noqa: S606  the point of it all
    except OSError as error:
        os.write(2, f"resilient: {program.command[0]} cannot be run: {error.strerror}.\n".encode())
    finally:
        os._exit(_CANNOT_RUN)


def _prepare_to_wait(keep: set[int]) -> int:
    """A descriptor that can be read when a child has died; from here on no signal but SIGKILL ends the guardian."""
    for number in FORWARDED:  # systemd or a terminal may signal every process there is
        signal.signal(number, signal.SIG_IGN)
    deaths, death = os.pipe()
    os.set_blocking(deaths, False)
    os.set_blocking(death, False)
    processes.close_all_but({0, 1, 2, deaths, death} | keep)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(death, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return deaths


def _is_known(commands: int) -> bool:
    """Whether the supervisor took leave, and did not die before."""
    while numbers := os.read(commands, 64):
        if _KNOWN in numbers:
            return True
    return False


class _Tree:
    """The program and all that descends from it, seen from the guardian."""

    def __init__(self, program: int) -> None:
        self.program = program
        self.exit = Exit(program)
        self._ended = False

    def watch(self, commands: int, deaths: int) -> None:
        """Carry out commands until the program has ended or there is nobody left to give any."""
        while not self._ended:
            ready, _, _ = select.select([commands, deaths], [], [])
            if commands in ready:
                numbers = os.read(commands, 64)
                if not numbers:
                    return
                self._obey(numbers)
            if deaths in ready:
                os.read(deaths, 64)
                with contextlib.suppress(ChildProcessError):
                    while self._reap(os.WNOHANG):
                        pass

    def end(self) -> None:
        """Kill everything, and return when nothing is left. What is forked while we look is met in the next round."""
        with contextlib.suppress(ChildProcessError):
            while True:
                processes.kill_all(processes.descendants(os.getpid()))
                self._reap(0)

    def _obey(self, numbers: bytes) -> None:
        for number in numbers:
            if number == _KILL_TREE:
                processes.kill_all(processes.descendants(os.getpid()))
            else:
                os.kill(self.program, number)  # not reaped yet, so that the pid is still its own

    def _reap(self, options: int) -> bool:
        pid, status, usage = os.wait4(-1, options)
        if pid == self.program:
            self._ended = True
            self.exit = Exit(pid, *_told(os.waitstatus_to_exitcode(status)), usage.ru_maxrss * 1024)
        return pid != 0


def _told(code: int) -> tuple[int | None, str | None]:
    """Exit code or name of the signal, one of the two. A shell tells of its command's signal by a code above 128."""
    names = {int(number): number.name for number in signal.Signals}
    if code < 0:
        return None, names.get(-code, f"signal {-code}")
    return (None, names[code - 128]) if code - 128 in names else (code, None)
