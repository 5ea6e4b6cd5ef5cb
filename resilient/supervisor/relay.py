"""The program's output, passed on without ever making it wait: what our own reader does not take in time is dropped.

The program writes into pipes that are always emptied. Were our own output its own, a reader that stalls (a pager, a full pipe) would
stall the training, and a terminal that is gone would end it with an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

_HELD = 1 << 20  # bytes that wait for a slow reader
_CHUNK = 1 << 16


class Outlet:
    """One of our own output descriptors, written to without waiting."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = _without_waiting(descriptor)
        self._held = bytearray()
        self._dropped = 0
        self._in_line = False

    @property
    def waiting(self) -> bool:
        """Whether something is held back for the reader."""
        return bool(self._held or self._dropped)

    def write(self, data: bytes) -> None:
        """Pass on `data`, or hold it back as long as there is room."""
        if self._dropped or len(self._held) + len(data) > _HELD:
            self._dropped += len(data)
        else:
            self._hold(data)
        self.flush()

    def _hold(self, data: bytes) -> None:
        self._held += data
        self._in_line = not data.endswith(b"\n")

    def say(self, text: str) -> None:
        """A line of our own, not in the midst of one of the program's."""
        self.write(f"{chr(10) if self._in_line else ''}resilient: {text}\n".encode())

    def flush(self) -> None:
        """Write what the reader takes."""
        try:
            while self._held:
                del self._held[: os.write(self._descriptor, self._held[:_CHUNK])]
        except BlockingIOError:
            return
        except OSError:  # the reader is gone, the terminal is dead, the disk is full: the training is not
            self._held.clear()
        if self._dropped:  # at once, and not with what comes next: nothing may come
            self._hold(b"\nresilient: %d bytes of output were dropped here: nobody read them.\n" % self._dropped)
            self._dropped = 0


class Inlet:
    """A pipe for the program to write into, and the outlet that it leads to."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        with contextlib.suppress(OSError):  # more than an unprivileged user may have
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, _HELD)

    def drain(self) -> None:
        """Pass on all that is there."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.reader, _CHUNK):
                self._outlet.write(data)


class Relay:
    """Standard output and error of the program. Where our own two are one, so are its: the order of what it says is kept."""

    def __init__(self) -> None:
        out = Outlet(1)
        same = os.path.sameopenfile(1, 2)
        self.errors = out if same else Outlet(2)
        self.outlets = [out] if same else [out, self.errors]
        self.inlets = [Inlet(outlet) for outlet in self.outlets]

    @property
    def writers(self) -> tuple[int, int]:
        """Descriptors that become the program's 1 and 2."""
        return self.inlets[0].writer, self.inlets[-1].writer

    def drain(self) -> None:
        """Pass on what the program has written so far."""
        for inlet in self.inlets:
            inlet.drain()

    def flush(self) -> None:
        """Try again where a reader was slow."""
        for outlet in self.outlets:
            outlet.flush()


def _without_waiting(descriptor: int) -> int:
    """A descriptor of the same file that does not wait. Setting this one so would set it for the shell that we share it with."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor  # a disk does not make us wait, and a second description would begin at the file's start
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # a socket, or somebody else's terminal
        os.set_blocking(descriptor, False)
        return descriptor
