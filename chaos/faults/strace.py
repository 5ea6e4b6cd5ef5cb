"""System calls of an unmodified program of any language fail or kill it, by strace's `inject`, where strace is installed."""

from __future__ import annotations

import dataclasses
import errno
import shutil
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Injection:
    """What happens to calls of one name.

    Attributes:
        call: name of the system call as the kernel has it, such as "fsync", "write", "renameat2".
        what: in strace's words: `error=EIO`, `signal=KILL`, `delay_enter=2000000` (microseconds).
        when: in strace's words, counted for each thread: "3" the third, "3+" from the third on, "2+2" every second.
    """

    call: str
    what: str
    when: str = "1+"

    def option(self) -> str:
        """As strace's command line has it."""
        return f"inject={self.call}:{self.what}:when={self.when}"


def failing(call: str, number: int, when: str = "1+") -> Injection:
    """Calls fail with this error."""
    return Injection(call, f"error={errno.errorcode[number]}", when)


def installed() -> bool:
    """Whether it can be used here."""
    return shutil.which("strace") is not None


def under(command: Sequence[str], injections: Sequence[Injection], below: str | None = None) -> list[str]:
    """The command under strace; with `below`, only calls that name this path are met.

    Raises:
        FileNotFoundError: strace is not installed.
    """
    program = shutil.which("strace")
    if program is None:
        raise FileNotFoundError("strace is not installed. Install it, or use the faults that work in process.")
    names = ",".join(sorted({injection.call for injection in injections}))
    options = [part for injection in injections for part in ("-e", injection.option())]
    paths = [] if below is None else ["-P", below]
    return [program, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={names}", *options, *paths, "--", *command]
