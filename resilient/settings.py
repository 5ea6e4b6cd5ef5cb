"""The arguments that `fit` adds to Keras' own, checked once, in sentences that name the argument."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import signal
from pathlib import Path
from typing import Any

from resilient.durations import parse_duration
from resilient.errors import ConfigurationError
from resilient.keep import Keep
from resilient.policy import Auto, Cadence, EveryBatches, EveryEpoch, EverySeconds

DEFAULT_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
DEFAULT_GRACE = "15s"  # the shortest that a platform gives: a GKE spot pod
NOTICES = ("aws", "gce", "azure", "azure:acknowledge", "slurm")
_UNCATCHABLE = {"SIGKILL", "SIGSTOP"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """`fit`'s own arguments in their checked form; durations in seconds.

    Attributes:
        grace: from a signal to the end of the process.
        given_grace: the same where the caller chose it, None where each platform's own counts.
        notices: names of platforms; None for those this machine is on.
    """

    directory: Path
    resume: str | int | bool
    cadence: Cadence
    keep: Keep
    monitor: str
    mode: str
    seed: int | None
    on_preempt: str
    signals: tuple[signal.Signals, ...]
    grace: float
    given_grace: float | None
    notices: tuple[str, ...] | None
    exact: str


def check(
    *,
    directory: Any,
    resume: Any,
    save_every: Any,
    keep: Any,
    monitor: Any,
    mode: Any,
    seed: Any,
    on_preempt: Any,
    signals: Any,
    grace: Any,
    notices: Any,
    exact: Any,
) -> Settings:
    """Settings from the arguments as the caller gave them.

    Raises:
        ConfigurationError: the first wrong one, with what is accepted.
    """
    if not isinstance(keep, Keep):
        raise ConfigurationError(f"keep={keep!r} is not accepted. Pass resilient.Keep(last=3, best=1, every=None) with your numbers.")
    if not isinstance(monitor, str) or not monitor:
        raise ConfigurationError(f'monitor={monitor!r} is not accepted. Pass the name of a logged metric, such as "val_loss".')
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32):
        raise ConfigurationError(f"seed={seed!r} is not accepted. Pass an integer from 0 to 4294967295, or None.")
    return Settings(
        directory=_directory(directory),
        resume=_resume(resume),
        cadence=_cadence(save_every),
        keep=keep,
        monitor=monitor,
        mode=_one_of("mode", mode, ("auto", "min", "max")),
        seed=seed,
        on_preempt=_one_of("on_preempt", on_preempt, ("exit", "raise", "return")),
        signals=_signals(signals),
        grace=parse_duration(DEFAULT_GRACE if grace is None else grace, "grace"),
        given_grace=None if grace is None else parse_duration(grace, "grace"),
        notices=_notices(notices),
        exact=_one_of("exact", exact, ("warn", "require")),
    )


def _one_of(name: str, value: Any, accepted: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in accepted:
        raise ConfigurationError(f"{name}={value!r} is not accepted. Pass one of {', '.join(map(repr, accepted))}.")
    return value


def _directory(value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or isinstance(value, bytes) or not os.fspath(value):
        raise ConfigurationError(f'directory={value!r} is not accepted. Pass the path of the run directory, such as "runs/digits".')
    text = os.fspath(value)
    if not isinstance(text, str) or "\0" in text:
        raise ConfigurationError(f"directory={value!r} is not a path. Pass a string or a pathlib.Path.")
    return Path(os.path.abspath(os.path.expanduser(text)))


def _resume(value: Any) -> str | int | bool:
    if value is False or (value in ("latest", "best") and isinstance(value, str)):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ConfigurationError(f'resume={value!r} is not accepted. Pass "latest", "best", False, or the step of a checkpoint.')


def _cadence(value: Any) -> Cadence:
    if value == "auto" and isinstance(value, str):
        return Auto()
    if value == "epoch" and isinstance(value, str):
        return EveryEpoch()
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= 1:
            return EveryBatches(value)
    elif isinstance(value, (str, dt.timedelta)):
        return EverySeconds(parse_duration(value, "save_every"))
    raise ConfigurationError(
        f'save_every={value!r} is not accepted. Pass "auto", "epoch", a number of batches of at least 1, or a duration such as "30s".'
    )


def _signals(value: Any) -> tuple[signal.Signals, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (tuple, list, set, frozenset)):
        raise ConfigurationError(f"signals={value!r} is not accepted. Pass names, such as {DEFAULT_SIGNALS}, or () for none.")
    return tuple(_signal(name) for name in names)


def _signal(name: Any) -> signal.Signals:
    known = name.name if isinstance(name, signal.Signals) else name
    if not isinstance(known, str) or known not in signal.Signals.__members__ or known in _UNCATCHABLE:
        raise ConfigurationError(
            f"signals contains {name!r}, which is no signal a program can catch. Pass names such as {DEFAULT_SIGNALS}."
        )
    return signal.Signals[known]


def _notices(value: Any) -> tuple[str, ...] | None:
    if value == "auto" and isinstance(value, str):
        return None
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (tuple, list, set, frozenset)) or not all(isinstance(name, str) and name in NOTICES for name in names):
        raise ConfigurationError(f'notices={value!r} is not accepted. Pass "auto", names out of {", ".join(NOTICES)}, or () for none.')
    return tuple(dict.fromkeys(names))
