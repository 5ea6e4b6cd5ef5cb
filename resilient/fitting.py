"""`resilient.fit`: opens the run, restores, picks the phases, runs Model.fit, returns one merged History."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import gc
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from resilient import settings as settings_module
from resilient.errors import ConfigurationError, Preempted, PreemptedError, ResilientError, RunInUseError
from resilient.heartbeat import Heartbeat, home_of
from resilient.inputs import Data, check_model, inputs_of
from resilient.journal import Journal
from resilient.keep import Keep
from resilient.program import Arguments
from resilient.run import Preemption, Run
from resilient.settings import DEFAULT_SIGNALS, Settings
from resilient.store import RunLock, Store

_P = ParamSpec("_P")
_R = TypeVar("_R")

_in_use: set[Path] = set()
_in_use_lock = threading.Lock()


def bound(function: Callable[..., Any], given: Sequence[Any], named: Mapping[str, Any]) -> inspect.BoundArguments:
    """The arguments of a call by their names.

    Raises:
        ConfigurationError: they do not fit its signature.
    """
    signature, name = inspect.signature(function), f"resilient.{function.__name__}"
    for unknown in [key for key in named if key not in signature.parameters]:
        close = difflib.get_close_matches(unknown, signature.parameters, 1)
        remedy = f"Did you mean {close[0]}?" if close else "Leave it out."
        raise ConfigurationError(f"{name} has no argument {unknown}. {remedy}")
    try:
        return signature.bind(*given, **named)
    except TypeError as error:
        raise ConfigurationError(f"{name} cannot be called like this: {error}. Correct the call.") from None


def _names_checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A wrong argument by its name is an error of configuration like one by its value: no restart would help."""

    @functools.wraps(function)
    def checked(*given: _P.args, **named: _P.kwargs) -> _R:
        with _exit_code_for_uncaught():
            bound(function, given, named)
        return function(*given, **named)

    return checked


@_names_checked
def fit(  # noqa: D417, PLR0917  the arguments of Model.fit, in its order, described in one entry
    model: Any,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: Any = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: Any = True,
    class_weight: Any = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: Any = 1,
    *,
    directory: Any,
    resume: str | int | bool = "latest",
    save_every: Any = "auto",
    keep: Keep = Keep(),  # noqa: B008  frozen
    monitor: str = "val_loss",
    mode: str = "auto",
    seed: int | None = None,
    on_preempt: str = "exit",
    signals: Any = DEFAULT_SIGNALS,
    grace: Any = None,
    notices: Any = "auto",
    exact: str = "warn",
) -> Any:
    """Train `model` like `model.fit`, so that nothing that happens to the process is lost.

    Called again after the process died, it goes on at the batch after the last one on disk, and the end is bit for bit that of a run which
    was never stopped. A finished run trains nothing: its final weights are restored and its whole History is returned.

    Args:
        model: a compiled Keras model, built or not.
        x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, shuffle, class_weight, sample_weight,
            initial_epoch, steps_per_epoch, validation_steps, validation_batch_size, validation_freq: as in `keras.Model.fit`.
        directory: the run directory. One fit owns one directory.
        resume: "latest", "best", the step of a checkpoint, or False to start afresh (what is there stays until the new run has saved).
        save_every: "auto" (as often as 1 % of the time allows), "epoch", a number of batches, or a duration ("30s", `timedelta`).
        keep: which recovery checkpoints survive.
        monitor, mode: what "best" means, as in `keras.callbacks.ModelCheckpoint`.
        seed: of the data's order and, at the start of a fresh run, of all generators (`keras.utils.set_random_seed`). None: the
            order's seed follows from Python's generator without drawing from it, and is stored with the run.
        on_preempt: "exit" raises `Preempted` (SystemExit 75), "raise" `PreemptedError`, "return" returns the History so far.
        signals: which signals ask for save-and-stop.
        grace: how long after a signal or notice the process may still live, a duration; None: 15 s, and what the platform's notice says.
        notices: which preemption notices to watch: names out of "aws", "gce", "azure", "slurm"; "auto": those of the platform it runs on.
        exact: "warn" or "require": what happens where the result cannot be exact (see `resilient.audit`).

    Returns:
        `keras.callbacks.History` of the whole run, with `preempted` (bool).

    Raises:
        ConfigurationError: an argument is wrong. Nothing was changed.
        CheckpointMismatchError: model, optimizer or data are not the run's. Nothing was changed.
        CheckpointCorruptError: there are checkpoints and none is valid.
        RunLockedError, RunInUseError: somebody else, or this process, trains there.
        StorageError: the disk refuses.
        Preempted, PreemptedError, KeyboardInterrupt: see `on_preempt`; the state is on disk.
    """
    with _exit_code_for_uncaught():
        chosen = _at_home(settings_module.check(
            directory=directory, resume=resume, save_every=save_every, keep=keep, monitor=monitor, mode=mode, seed=seed,
            on_preempt=on_preempt, signals=signals, grace=grace, notices=notices, exact=exact,
        ))  # fmt: skip
        check_model(model)
        given = Data(
            x, y, sample_weight, class_weight, shuffle, batch_size, steps_per_epoch,
            validation_split, validation_data, validation_batch_size, validation_steps,
        )  # fmt: skip
        inputs = inputs_of(model, given)
        arguments = Arguments(
            epochs=_count("epochs", epochs),
            initial_epoch=_count("initial_epoch", initial_epoch),
            batch_size=batch_size,
            verbose=verbose,
            callbacks=callbacks,
            steps_per_epoch=steps_per_epoch,
            validation_data=inputs.validation_data,
            validation=inputs.validation,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size or batch_size,
            validation_freq=_validation_freq(validation_freq),
        )
        with _heard(chosen) as (chosen, heartbeat), _owned(chosen) as (store, journal):
            heartbeat.wait_until_heard()
            return _train(Run(model, inputs.training, arguments, chosen, store, journal, heartbeat), chosen)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigurationError(f"{name}={value!r} is not accepted. Pass an integer of at least 0.")
    return value


def _validation_freq(value: Any) -> Any:
    if not (hasattr(value, "__index__") and value >= 1) and not isinstance(value, (list, tuple, set, range)):
        raise ConfigurationError(f"validation_freq={value!r} is not accepted. Pass an integer of at least 1, or a list of epochs.")
    return value


def _at_home(chosen: Settings) -> Settings:
    """In the directory that was given, unless a supervisor orders otherwise; then this is said."""
    home = home_of(chosen.directory)
    if home == chosen.directory:
        return chosen
    with suppress(OSError):  # the program may keep files of its own there; if it does, it will say itself what is wrong
        chosen.directory.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"resilient: by order of the supervisor this run is kept in {home}, and not in {chosen.directory}.\n")
    return dataclasses.replace(chosen, directory=home)


@contextmanager
def _heard(chosen: Settings) -> Iterator[tuple[Settings, Heartbeat]]:
    """A supervisor hears where this trains before the lock is asked for, and so where it is refused; its grace period is the default."""
    with Heartbeat.claim() as heartbeat:
        heartbeat.announce(chosen.directory)
        if chosen.directory.is_dir():  # another supervisor may have it: then this process ends here, without a word about a lock
            heartbeat.wait_until_heard()
        grace = heartbeat.orders.grace
        if grace is not None and chosen.given_grace is None:
            chosen = dataclasses.replace(chosen, grace=grace, given_grace=grace)
        yield chosen, heartbeat


@contextmanager
def _owned(chosen: Settings) -> Iterator[tuple[Store, Journal]]:
    """The run directory, for this call alone among threads and processes."""
    directory = chosen.directory
    with _in_use_lock:
        if directory in _in_use:
            raise RunInUseError(f"This process already trains in {directory}. Give each fit of a program a directory of its own.")
        _in_use.add(directory)
    try:
        with RunLock(directory):
            store, journal = Store(directory), Journal(directory)
            try:
                store.prepare()
                yield store, journal
            finally:
                journal.close()
    finally:
        with _in_use_lock:
            _in_use.discard(directory)


def _train(run: Run, chosen: Settings) -> Any:
    try:
        history = run.train()
    except Preemption as preemption:
        if preemption.interrupted and chosen.on_preempt == "exit":
            raise KeyboardInterrupt from preemption.__cause__
        if chosen.on_preempt == "exit":
            gc.freeze()  # the interpreter's last collections walk TensorFlow's million objects: a second of the grace period
            raise Preempted(str(preemption)) from preemption.__cause__
        if chosen.on_preempt == "raise":
            raise PreemptedError(str(preemption)) from preemption.__cause__
        history = preemption.history
        history.preempted = True
        return history
    history.preempted = False
    return history


@contextmanager
def _exit_code_for_uncaught() -> Iterator[None]:
    """Lets an error of ours that the program does not catch end it with the error's own exit code, after the usual traceback."""
    try:
        yield
    except ResilientError as error:
        _set_exit_code(error)
        raise


def _set_exit_code(error: ResilientError) -> None:
    previous = sys.excepthook

    def hook(kind: type[BaseException], raised: BaseException, trace: TracebackType | None) -> None:
        previous(kind, raised, trace)
        if raised is error:
            sys.exit(error.exit_code)  # the interpreter ends with it when its hook raises SystemExit

    sys.excepthook = hook
