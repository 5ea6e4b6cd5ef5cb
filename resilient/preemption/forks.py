"""Children that a program forks while it trains, its data workers, must die of a signal as any program does, and report none as ours.

The signals wait while a process forks: one that came before the child has forgotten us would be taken for the training's own.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterable

_live: list[tuple[tuple[signal.Signals, ...], Callable[[], None]]] = []
_masks = threading.local()


def protect(signals: Iterable[signal.Signals], forget: Callable[[], None]) -> None:
    """From now on a forked child calls `forget` before anything else; these signals are blocked until it has."""
    _register()
    _live.append((tuple(signals), forget))


def release(forget: Callable[[], None]) -> None:
    """Undo `protect`."""
    _live[:] = [entry for entry in _live if entry[1] != forget]


@functools.cache
def _register() -> None:
    # What is registered for fork stays so for the life of the process, so this happens once.
    os.register_at_fork(before=_before, after_in_parent=_unblock, after_in_child=_in_child)


def _before() -> None:
    blocked = {number for signals, _ in _live for number in signals}
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked) if blocked else None


def _unblock() -> None:
    if _masks.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _in_child() -> None:
    while _live:  # the innermost first: each puts back what it found
        _live.pop()[1]()
    _unblock()
