"""The one background thread that writes: takes the newest snapshot, has it committed, tries again when the disk refuses.

At most one snapshot is being written and one waits; a newer one replaces the one that waits. One that is consumed by the writing cannot be
tried again; then a new one is due.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from resilient.errors import ResilientError, StorageError
from resilient.policy import Backoff

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class _Order(Generic[T]):
    """A snapshot to write, whether no newer one may take its place, and whether the first attempt is the only one."""

    snapshot: T
    must: bool
    once: bool


class Writer(Generic[T]):
    """Writes what is submitted, on a thread of its own.

    Args:
        commit: writes one snapshot durably; called on the thread.
        on_failure: called on the thread with the error and the number of failures in a row.
        backoff: waiting times between attempts.

    Attributes:
        awaited: whether somebody waits until everything is durable.
        owing: whether a snapshot could not be written, will not be tried again, and no other was submitted since.
    """

    def __init__(self, commit: Callable[[T], None], on_failure: Callable[[BaseException, int], None], backoff: Backoff) -> None:
        self._commit = commit
        self._on_failure = on_failure
        self._backoff = backoff
        self._changed = threading.Condition()
        self._waiting: _Order[T] | None = None
        self._busy: _Order[T] | None = None
        self._hurry = False
        self.awaited = False
        self.owing = False
        self._closing = False
        self._failures = 0
        self._pausing = False  # before the next attempt
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="resilient-writer", daemon=True)
        self._thread.start()

    def submit(self, snapshot: T, *, must: bool = False, once: bool = False) -> None:
        """Have `snapshot` written; returns at once, unless one that must be written still waits for its turn and the disk works.

        Args:
            snapshot: what to write.
            must: no newer one may take its place.
            once: writing consumes it. If that fails, and nothing newer waits, the writer is `owing` after a pause.

        Raises StorageError if the disk has refused too often.
        """
        self.raise_if_broken()
        with self._changed:
            if self._busy is not None and snapshot is self._busy.snapshot:
                return  # it is being written; what consumes it is never handed over twice
            self._changed.wait_for(
                lambda: self._waiting is None or not self._waiting.must or self._failures > 0 or self._broken is not None
            )
            self._waiting, self.owing = _Order(snapshot, must, once), False
            self._changed.notify_all()

    def raise_if_broken(self) -> None:
        """Raise what ended the writing, if anything has."""
        if self._broken is None:
            return
        if isinstance(self._broken, ResilientError):
            raise StorageError(f"{self._failures} saves in a row failed, the last one so: {self._broken}") from self._broken
        raise self._broken

    @property
    def idle(self) -> bool:
        """Whether nothing is being written, and nothing waits for it."""
        with self._changed:
            return not self._has_work

    @property
    def _has_work(self) -> bool:
        return self._waiting is not None or self._busy is not None

    @property
    def superseded(self) -> T | None:
        """What is being written although a newer one waits and it need not be; None where nothing is."""
        with self._changed:
            busy = self._busy
            return busy.snapshot if busy is not None and not busy.must and self._waiting is not None else None

    def wait(self, deadline: float | None = None) -> bool:
        """Wait until everything submitted is durable.

        Returns:
            False if `deadline` (monotonic seconds) came first, or writing has given up, or is `owing`.
        """
        with self._changed:
            self._hurry = deadline is not None
            try:
                self._await(lambda: not self._has_work or self._broken is not None, deadline)
            finally:
                self._hurry = False
            return not self._has_work and self._broken is None and not self.owing

    def wait_for_attempt(self) -> None:
        """Wait until everything submitted is durable, or the disk has refused it and nothing newer waits."""
        with self._changed:
            self._await(lambda: not self._has_work or self._broken is not None or (self._pausing and self._waiting is None), None)

    def _await(self, over: Callable[[], bool], deadline: float | None) -> None:
        self.awaited = True
        self._changed.notify_all()
        try:
            self._changed.wait_for(over, None if deadline is None else deadline - time.monotonic())
        finally:
            self.awaited = False

    def close(self) -> None:
        """End the thread after the commit under way; what still waits is not written."""
        with self._changed:
            self._closing = True
            self._waiting = None
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._closing:
                    self._changed.wait()
                if self._closing or self._waiting is None:
                    return
                order = self._busy = self._waiting
                self._waiting = None
            written = self._attempt(order)
            del order  # or it would pin a copy of the whole state until the next one
            with self._changed:
                self._busy = None
                self.owing = not written and self._waiting is None  # a newer one makes it good
                self._changed.notify_all()
                if self._broken is not None:
                    return

    def _attempt(self, order: _Order[T]) -> bool:
        """Whether it was written, or given up, in the end."""
        while True:
            try:
                self._commit(order.snapshot)
            except Exception as error:  # noqa: BLE001  the thread's boundary: whatever it is, training has to hear of it and go on
                if not self._try_again(error) or order.once:
                    return False
            else:
                self._failures = 0
                return True

    def _try_again(self, error: Exception) -> bool:
        """Wait before the next attempt; False where a newer snapshot takes this one's place or it is time to give up."""
        self._failures += 1
        self._on_failure(error, self._failures)
        with self._changed:
            hurried = self._hurry
            pause = self._backoff.wait(self._failures, hurry=hurried)
            if pause is None:
                self._broken = error
                self._waiting = None
                return False
            self._pausing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closing or self._waiting is not None or self._hurry != hurried, pause)
            self._pausing = False
            return not self._closing and self._waiting is None
