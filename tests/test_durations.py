from __future__ import annotations

import contextlib
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.durations import parse_duration
from resilient.errors import ConfigurationError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("250ms", 0.25),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        (" 30s ", 30.0),
        (dt.timedelta(minutes=1), 60.0),
    ],
)
def test_what_people_write_is_read_as_seconds(value, seconds):
    """Numbers with units, their combinations and timedelta are durations."""
    assert parse_duration(value, "grace") == seconds


@pytest.mark.parametrize(
    "value",
    [
        30,
        1.5,
        True,
        None,
        "",
        "30",
        "s",
        "-5s",
        "5 parsecs",
        "1h-30m",
        "1e3s",
        "٣s",
        "0s",
        "0ms",
        b"5s",
        "9" * 400 + "d",
        "5s\n5",
        dt.timedelta(0),
        dt.timedelta(seconds=-1),
        [],
        "nan s",
        "infs",
    ],
)
def test_what_is_no_positive_duration_is_refused_in_a_sentence_naming_the_argument(value):
    """A bare number does not say its unit; zero, negative and endless ones make no sense."""
    with pytest.raises(ConfigurationError, match=r"^save_every=.*\.$"):
        parse_duration(value, "save_every")


@pytest.mark.parametrize("value", ["-5s", "-5", "0", "0s", "0.0", "-1h30m", dt.timedelta(0)])
def test_nothing_and_less_is_told_as_what_it_is(value):
    """Not as a lack of a unit."""
    with pytest.raises(ConfigurationError, match="more than 0"):
        parse_duration(value, "--grace")


@given(st.integers(0, 99), st.integers(0, 59), st.integers(1, 59))
def test_parts_of_a_combination_add_up(hours, minutes, seconds):
    """The value of a combination is the sum of its parts."""
    assert parse_duration(f"{hours}h{minutes}m{seconds}s", "grace") == 3600 * hours + 60 * minutes + seconds


@given(st.text(max_size=12))
def test_any_text_is_a_positive_number_of_seconds_or_a_configuration_error(text):
    """Nothing else comes out, whatever is put in."""
    with contextlib.suppress(ConfigurationError):
        assert 0 < parse_duration(text, "grace") < float("inf")
