"""Signals become a stop request at once, and the process ends before its grace period does.

A Python signal handler runs on the main thread between two bytecodes, which is too late where that thread sits in one long call into
TensorFlow (2.8 s measured). The C handler however writes the signal's number to `signal.set_wakeup_fd` at once: a thread reads it from
there. Both set the same flag, deadlines are kept on the thread, and saving stays on the training
thread.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any

from resilient.preemption import forks
from resilient.preemption.stop import Notice, StopRequest

_MARGIN = 0.1  # of the grace period is kept for the exit itself,
_LONGEST_MARGIN = 1.0  # but no more than this many seconds
_PATIENCE = 1.0  # seconds that the main thread gets to leave by itself where there is nothing to save
_POKE = 0  # no signal has this number


class Watch:
    """Context manager: for as long as it is open, these signals ask `stop` for a stop, and deadlines are kept.

    Args:
        stop: receives the request.
        signals: which signals ask. Those that the program ignores (SIGINT under nohup) stay ignored.
        grace: seconds from a signal to the end of the process.
        nothing_to_save: asked on the watching thread; True means that the last committed checkpoint is all there is.
        leave: called on the watching thread with a notice when the time is up; ends the process.
    """

    def __init__(
        self,
        stop: StopRequest,
        signals: Iterable[signal.Signals],
        grace: float,
        *,
        nothing_to_save: Callable[[], bool],
        leave: Callable[[Notice], None],
    ) -> None:
        self._stop = stop
        self._signals = tuple(signals)
        self._grace = grace
        self._nothing_to_save = nothing_to_save
        self._leave = leave
        self._previous: dict[signal.Signals, Any] = {}
        self._received: list[signal.Signals] = []
        self._acted = False
        self._interrupts = 0
        self._hard_deadline: float | None = None
        self._closed = False
        self._reader, self._writer = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="resilient-watch", daemon=True)
        self._previous_wakeup = -1
        self._wakes = False

    @property
    def interrupted(self) -> bool:
        """Whether SIGINT was the request."""
        notice = self._stop.notice
        return notice is not None and notice.reason == "SIGINT"

    def __enter__(self) -> Watch:
        self._writer.setblocking(False)
        self._stop.listener = self._poke
        if self._signals and threading.current_thread() is not threading.main_thread():
            warnings.warn(
                "fit runs outside the main thread, where Python cannot catch signals: they will not save and stop this run. "
                "Call fit from the main thread, or pass signals=() if that is meant.",
                stacklevel=2,
            )
        elif self._signals:
            self._wakes = True
            self._previous_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            for number in self._signals:
                previous = signal.getsignal(number)
                if previous is not signal.SIG_IGN:
                    self._previous[number] = previous
                    signal.signal(number, self._handle)
        self._thread.start()
        if self._wakes:
            forks.protect(self._signals, self._forget)
        return self

    def _forget(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, previous in self._previous.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._closed = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._handle:  # unless the program installed its own meanwhile
                signal.signal(number, signal.SIG_DFL if previous is None else previous)
        if self._wakes:
            forks.release(self._forget)
            signal.set_wakeup_fd(self._previous_wakeup)
        self._closed = True
        self._poke()
        self._thread.join()
        self._reader.close()
        self._writer.close()
        if self._received and not self._acted:  # came too late for the loop: the program must not go on as if it had not come
            os.kill(os.getpid(), self._received[0])

    def call_previous_handlers(self) -> None:
        """Call the program's own handlers for the signals that came, once each; only when the state is safe on disk."""
        self._acted = True  # one more of them while we leave changes nothing
        received, self._received = self._received, []
        for number in dict.fromkeys(received):
            previous = self._previous.get(number)
            if callable(previous) and previous is not signal.default_int_handler:
                previous(number, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # On the main thread, between any two bytecodes: no lock may be taken here, and nothing done but noting it.
        self._received.append(signal.Signals(number))
        self._request(number)
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt

    def _request(self, number: int) -> None:
        # A person at the keyboard sets no deadline, and a notebook's kernel must outlive the interrupt.
        grace = math.inf if number == signal.SIGINT else self._grace
        self._stop.request(Notice(signal.Signals(number).name, time.monotonic() + grace))

    def _poke(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake up anyway; closed: nobody is left to wake
            self._writer.send(bytes([_POKE]))

    def _run(self) -> None:
        interrupts = 0
        while not self._closed:
            ready, _, _ = select.select([self._reader], [], [], self._wait())
            now = time.monotonic()
            for byte in self._reader.recv(4096) if ready else b"":
                self._forward(byte)
                if byte == signal.SIGINT and signal.SIGINT in self._previous:
                    interrupts += 1
                if byte in self._previous:
                    self._request(byte)
            if interrupts > 1 and self._hard_deadline is None:
                self._hard_deadline = now + _PATIENCE
            self._keep_deadlines(now)

    def _forward(self, byte: int) -> None:
        if self._previous_wakeup != -1 and byte != _POKE:
            with contextlib.suppress(OSError):  # the previous owner closed it
                os.write(self._previous_wakeup, bytes([byte]))

    def _wait(self) -> float | None:
        deadlines = [d for d in (self._soft_deadline(), self._hard_deadline) if d is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _soft_deadline(self) -> float | None:
        notice = self._stop.notice
        if notice is None or math.isinf(notice.deadline):
            return None
        latest = notice.deadline - min(_LONGEST_MARGIN, _MARGIN * self._grace)
        # With nothing to save, waiting out the grace period would gain nothing; but Python code gets a moment to leave in good order.
        return min(latest, notice.received + _PATIENCE) if self._nothing_to_save() else latest

    def _keep_deadlines(self, now: float) -> None:
        notice, soft = self._stop.notice, self._soft_deadline()
        if self._closed:
            return
        if self._hard_deadline is not None and now >= self._hard_deadline:
            os._exit(128 + signal.SIGINT)
        if notice is not None and soft is not None and now >= soft:
            self._leave(notice)
