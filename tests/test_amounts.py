"""How durations are written for people; sizes and ages are tested where `ls` shows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.amounts import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (1e-9, "0 s"),
        (0.0045, "4.5 ms"),
        (0.45, "450 ms"),
        (0.9999, "1.0 s"),
        (3.21, "3.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3599.7, "1 h"),
        (7500, "2 h 5 min"),
        (86399, "1 d"),
        (279000.0, "3 d 6 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, text):
    """And never sixty of the smaller one."""
    assert duration(seconds) == text


@given(st.floats(0, 1e12))
def test_every_duration_can_be_written(seconds):
    """In a few characters, without exponents below a million days."""
    assert len(duration(seconds)) < 22 and not duration(seconds).startswith("-")
