"""What every test gets: a quiet TensorFlow, and hypothesis without wall-clock deadlines."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from chaos.faults.memory import Group, has_groups

# Before anything imports TensorFlow: its C++ side reads these once. Child processes inherit them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# A deadline measures the machine, not the code. Derandomised, so that a failure in one run is a failure in the next.
settings.register_profile("project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

# A shell's background job ignores SIGINT, and `fit` respects that; the tests of SIGINT need it alive, here and in child processes.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is imported by now stays: else each collection of garbage walks through all of TensorFlow again, a tenth of all time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def group() -> Iterator[Group]:
    """A memory cgroup of our own, without a limit; gone when the test is over."""
    if not has_groups():
        pytest.skip("no memory cgroup can be made here")
    found = Group()
    yield found
    assert found.close()
