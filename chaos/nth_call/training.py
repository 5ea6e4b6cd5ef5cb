"""A real training whose n-th call fails: it goes on or ends with one clear error, and afterwards the same call ends bit for bit equal."""

from __future__ import annotations

import dataclasses
import random
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from chaos.calls import Call, met
from chaos.faults.disk import refuse
from chaos.nth_call.counting import MODES, Case, Outcome, held, leak
from chaos.nth_call.errnos import ERRNOS
from chaos.nth_call.operations import Operation
from chaos.samples import FAST
from resilient.policy import Backoff


@dataclasses.dataclass(frozen=True)
class End:
    """What a training came to: the bytes of all variables, and History."""

    variables: tuple[bytes, ...]
    history: dict[str, list[float]]


def fit(place: Path) -> End:
    """Two epochs of a small model, saved every second batch, with a published file."""
    import keras
    import numpy as np

    import resilient

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
    keep = resilient.ModelCheckpoint(place / "models" / "best.weights.h5", save_best_only=True, save_weights_only=True, monitor="loss")
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 4, "seed": 1, "verbose": 0, "save_every": 2, "signals": (), "notices": ()}
    history = resilient.fit(model, x, x.sum(axis=1, keepdims=True), directory=place / "run", callbacks=[keep], **settings)
    variables = [*model.variables, *model.optimizer.variables]
    return End(tuple(np.asarray(variable).tobytes() for variable in variables), history.history)


OPERATION = Operation("fit", fit, lambda place: place.mkdir())


def outcomes(count: int, seed: int) -> Iterator[Outcome]:
    """So many cases, drawn over all calls, errors, modes and n."""
    chance = random.Random(seed)
    with mock.patch("resilient.saver.Backoff", return_value=Backoff(first=0.001, longest=0.001)):
        with _place() as place:
            undisturbed = fit(place)
        calls = _calls()
        for _ in range(count):
            name = chance.choice(sorted(set(calls) & set(ERRNOS)))
            mode = chance.choice(list(MODES))
            yield _attempt(Case(OPERATION, name, chance.choice(ERRNOS[name]), mode, chance.randint(1, calls[name])), undisturbed)


def _place() -> Any:
    return _Directory()


class _Directory:
    """A new directory to train in."""

    def __enter__(self) -> Path:
        self._temporary = tempfile.TemporaryDirectory(dir=FAST, ignore_cleanup_errors=True)
        place = Path(self._temporary.name) / "training"
        OPERATION.before(place)
        return place

    def __exit__(self, *error: object) -> None:
        self._temporary.cleanup()


def _calls() -> dict[str, int]:
    counted: dict[str, int] = {}

    def count(call: Call, go: Any) -> Any:
        counted[call.name] = counted.get(call.name, 0) + 1
        return go()

    with _place() as place, met(count, place):
        fit(place)
    return counted


def _attempt(case: Case, undisturbed: End) -> Outcome:
    from resilient.errors import ResilientError

    with _place() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of saves that failed: that they are told of is tested elsewhere
        before = held()
        went_on, wrong = True, None
        fault = MODES[case.mode](case.nth)
        try:
            with met(refuse(case.number, fault, (case.call,)), place):
                end = fit(place)
            wrong = None if end == undisturbed else "it went on to another end"
        except ResilientError as error:
            went_on, wrong = False, None if str(error).endswith(".") else f"unclear: {error}"
        except BaseException as error:  # noqa: BLE001  whatever else it is, it is not what a caller was promised
            went_on, wrong = False, f"raised {error!r}"
        wrong = wrong or leak(before) or _afterwards(place, undisturbed)
    return Outcome(case, went_on, wrong)


def _afterwards(place: Path, undisturbed: End) -> str | None:
    """The same call without faults."""
    try:
        return None if fit(place) == undisturbed else "the same call ends otherwise afterwards"
    except Exception as error:  # noqa: BLE001  the run cannot go on, whatever it is
        return f"afterwards: {error!r}"
