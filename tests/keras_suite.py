"""Keras' own tests, with `fit` and `ModelCheckpoint` replaced by ours: `python tests/keras_suite.py`.

Prints `N of M passed` for each of Keras' test files, and each failure with its reason from `REASONS`; ends with 1 for one
without. The files come with the installed Keras; where a build leaves them out, the source distribution of the same version is downloaded.
"""
# ruff: noqa: T201 - it is a program

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"


@dataclasses.dataclass(frozen=True)
class Suite:
    """One of Keras' test files, below keras/src, and which of its tests are about `subject` ("" for all)."""

    subject: str
    file: str
    keyword: str = ""


SUITES = (
    Suite("ModelCheckpoint", "callbacks/model_checkpoint_test.py"),
    Suite("Trainer", "trainers/trainer_test.py"),
    # Keras has no file for History; these tests look at what `fit` returns.
    Suite("History", "models/model_test.py", "fit or history or train"),
    *(
        Suite("Callbacks", f"callbacks/{name}_test.py")
        for name in (
            "backup_and_restore",
            "callback",
            "callback_list",
            "csv_logger",
            "early_stopping",
            "lambda_callback",
            "learning_rate_scheduler",
            "monitor_callback",
            "orbax_checkpoint",
            "reduce_lr_on_plateau",
            "remote_monitor",
            "swap_ema_weights",
            "tensorboard",
            "terminate_on_nan",
        )
    ),
)

OPTIONAL = ("jax", "torch", "grain", "sklearn")  # Keras' tests take them for granted

# What cannot pass, by the end of the test's name, and why.
REASONS: dict[str, str] = {}


class Replaced:
    """`fit` and `ModelCheckpoint` of Keras replaced by ours while entered; counts how often."""

    def __init__(self, directory: Path, only_model_checkpoint: bool) -> None:
        self.ours = 0
        self._directory = directory
        self._only_model_checkpoint = only_model_checkpoint
        self._inside = threading.local()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Replaced:
        import keras
        import keras.src

        import resilient

        self._replace(keras.callbacks, "ModelCheckpoint", resilient.ModelCheckpoint)
        self._replace(keras.src.callbacks, "ModelCheckpoint", resilient.ModelCheckpoint)
        self._replace(keras.src.callbacks.model_checkpoint, "ModelCheckpoint", resilient.ModelCheckpoint)
        if not self._only_model_checkpoint:
            # Keras' test classes also mix the trainer into plain layers, so it is replaced where it is defined.
            trainer = next(owner for owner in keras.Model.__mro__ if "fit" in vars(owner) and owner.__name__.endswith("FlowTrainer"))
            self._replace(trainer, "fit", self._fit(trainer.fit))
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        inherited = name not in vars(owner)
        before = getattr(owner, name)
        setattr(owner, name, value)
        self._stack.callback(lambda: delattr(owner, name) if inherited else setattr(owner, name, before))

    def _fit(self, original: Any) -> Any:
        import resilient

        def replaced(model: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(self._inside, "fit", False):  # ours calls Keras' to train
                return original(model, *args, **kwargs)
            self._inside.fit = True
            try:
                self.ours += 1
                return resilient.fit(model, *args, directory=self._directory / f"run-{self.ours}", **kwargs)
            finally:
                self._inside.fit = False

        return replaced


class Results:
    """A pytest plugin that remembers how each test ended."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.skipped: list[str] = []
        self.failed: dict[str, str] = {}
        self.broken: list[str] = []

    def pytest_configure(self, config: Any) -> None:
        """Keras' own marks, which its own configuration would declare."""
        for mark in ("requires_trainable_backend", "skipif", "multi_device", "openvino_backend"):
            config.addinivalue_line("markers", f"{mark}: of Keras")

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot even be read is a failure of its own."""
        if report.failed:
            self.broken.append(f"{report.nodeid}: {_last_line(report)}")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Set-up, call and tear-down of each test."""
        if report.failed:
            self.failed.setdefault(report.nodeid, _last_line(report))
        elif report.skipped:
            self.skipped.append(report.nodeid)
        elif report.when == "call":
            self.passed.append(report.nodeid)


def _last_line(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return " ".join(text.split())[:300]


def keras_sources() -> Path | None:
    """The directory keras/src with tests in it: installed, or downloaded into .cache/; None where neither can be had."""
    import keras

    installed = Path(keras.__file__).parent / "src"
    if (installed / SUITES[0].file).exists():
        return installed
    unpacked = CACHE / f"keras-{keras.__version__}" / "keras" / "src"
    if not (unpacked / SUITES[0].file).exists():
        _download(keras.__version__)
    return unpacked if (unpacked / SUITES[0].file).exists() else None


def _download(version: str) -> None:
    CACHE.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", f"keras=={version}", "--no-binary", "keras", "--no-deps", "--dest", str(CACHE)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    for archive in CACHE.glob(f"keras-{version}.tar.gz"):
        with tarfile.open(archive) as content:
            content.extractall(CACHE, filter="data")
    if done.returncode != 0:
        print(done.stderr.strip()[-500:], file=sys.stderr)


def _stand_in_for_jax() -> None:
    """Keras' trainer tests import JAX for the few that are about it, and those skip themselves on another backend."""
    if "jax" not in sys.modules and importlib.util.find_spec("jax") is None:
        sys.modules["jax"] = types.ModuleType("jax")


def run(suite: Suite, sources: Path, options: list[str]) -> Results:
    """Runs one of Keras' files in this process."""
    import pytest

    _stand_in_for_jax()
    _stand_in_for_conftest()
    results = Results()
    arguments = [
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        str(sources),
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
        "--no-header",
        "--import-mode=importlib",
    ]
    arguments += ["-k", suite.keyword] if suite.keyword else []
    with _quiet(), tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        pytest.main([str(sources / suite.file), *arguments, *options], plugins=[results])
    return results


def _stand_in_for_conftest() -> None:
    """Some of Keras' tests import a mark from the `conftest.py` of its repository, which is not installed."""
    import keras
    import pytest

    conftest = types.ModuleType("conftest")
    conftest.skip_if_backend = lambda name, reason: pytest.mark.skipif(keras.backend.backend() == name, reason=reason)  # type: ignore[attr-defined]
    sys.modules["conftest"] = conftest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What pytest and the tests print is of no use here: the failures are listed at the end."""
    with open(os.devnull, "w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
        yield


def _missing(message: str) -> str | None:
    name = next((name for name in OPTIONAL if f"No module named '{name}" in message), None)
    return f"needs {name}, which is not installed here" if name else None


def report(suite: Suite, results: Results, calls: str) -> int:
    """Prints the outcome of one file; returns the number of failures that have no reason."""
    total = len(results.passed) + len(results.failed)
    skipped = f", {len(results.skipped)} skipped by Keras itself" if results.skipped else ""
    missing = {name: _missing(message) for name, message in results.failed.items()}
    print(f"{suite.subject} ({suite.file}): {len(results.passed)} of {total} passed{skipped}; {calls}", flush=True)
    unexpected = 0
    for name, message in results.failed.items():
        reason = next((reason for end, reason in REASONS.items() if name.endswith(end)), missing[name])
        unexpected += reason is None
        print(f"  {'FAILED' if reason is None else 'known '} {name.split('::', 1)[-1]}: {reason or message}")
    for line in results.broken:
        print(f"  BROKEN {line}")
    for end in REASONS:
        if any(name.endswith(end) for name in results.passed):
            print(f"  passes now: {end}. Remove it from REASONS.")
    return unexpected + len(results.broken) + (total == 0)


def main() -> int:
    """Runs everything; 1 for a failure that REASONS does not know."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-model-checkpoint", action="store_true", help="leave fit as it is")
    parser.add_argument("--unchanged", action="store_true", help="replace nothing: what Keras alone does here")
    parser.add_argument("subjects", nargs="*", help="which of " + ", ".join(suite.subject for suite in SUITES))
    arguments, options = parser.parse_known_args()
    sources = keras_sources()
    if sources is None:
        print("Skipped: the installed Keras has no test files, and its source distribution could not be downloaded.")
        return 0
    sys.path.insert(0, str(ROOT))
    chosen = [suite for suite in SUITES if not arguments.subjects or suite.subject in arguments.subjects]
    unexpected = 0
    with tempfile.TemporaryDirectory() as runs:
        replaced = Replaced(Path(runs), arguments.only_model_checkpoint)
        with contextlib.nullcontext() if arguments.unchanged else replaced:
            for suite in chosen:
                ours = replaced.ours
                results = run(suite, sources, options)
                calls = f"fit called {replaced.ours - ours} times as ours"
                unexpected += report(suite, results, calls)
    return 1 if unexpected else 0


if __name__ == "__main__":
    raise SystemExit(main())
