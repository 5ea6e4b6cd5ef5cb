"""Long lists of numbers in a manifest: the same bits in a fraction of the text, and every reader of a manifest still finds them."""

from __future__ import annotations

import base64
import json
import math
import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.chaos import endings
from resilient.packed import pack, unpack

LONG = 64
NOT_A_NUMBER = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_BEEF))[0]


def bits(values):
    return [struct.pack("<d", value) if isinstance(value, float) else value for value in values]


@given(
    st.lists(st.floats(), min_size=LONG, max_size=2 * LONG) | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=LONG, max_size=2 * LONG)
)
def test_long_lists_of_numbers_come_back_with_the_same_bits(values):
    """Through JSON, and no integer becomes a float."""
    packed = json.loads(json.dumps(pack(values)))
    back = unpack(packed)
    assert back is not None and bits(back) == bits(values) and set(map(type, back)) == set(map(type, values))


def test_what_is_in_a_nan_comes_back():
    """Decimal text has one NaN, hardware has many."""
    back = unpack(pack([NOT_A_NUMBER] * LONG))
    assert back is not None and math.isnan(back[0]) and bits(back) == bits([NOT_A_NUMBER] * LONG)


@pytest.mark.parametrize(
    "values",
    [[1.0] * (LONG - 1), [1.0, 1] * LONG, [True] * LONG, [2**63] * LONG, ["1"] * LONG, [None] * LONG, [[1.0]] * LONG],
    ids=["short", "mixed", "bool", "more than 64 bits", "text", "null", "nested"],
)
def test_everything_else_stays_as_it_is(values):
    """And a reader takes the list itself."""
    assert pack(values) is None
    assert unpack(values) is values


@pytest.mark.parametrize(
    "value",
    [None, 1.0, "AAAA", {}, {"!": "list"}, {"!": "list", "d": "float32", "v": ""}, {"!": "list", "d": [], "v": ""}, {"!": "tuple", "v": []}]
    + [{"!": "list", "d": "int64", "v": text} for text in (None, 5, "AAAA", "?", "A")],
)
def test_what_is_no_list_is_none(value):
    """A manifest from a stranger is data."""
    assert unpack(value) is None


def test_the_packed_text_is_little_endian_base64():
    """As docs/format.md says, for readers of other languages."""
    numbers, wholes = [0.1 * number for number in range(LONG)], list(range(LONG))
    assert pack(numbers) == {"!": "list", "d": "float64", "v": base64.b64encode(struct.pack(f"<{LONG}d", *numbers)).decode()}
    assert pack(wholes) == {"!": "list", "d": "int64", "v": base64.b64encode(struct.pack(f"<{LONG}q", *wholes)).decode()}


def test_a_comparison_of_two_trainings_reads_packed_columns():
    """`resilient chaos` names the first epoch that differs, however long the training was."""

    def checkpoint(last):
        columns = [["loss", pack([0.5] * LONG + [last])], ["short", [1.0]], ["no column", 3]]
        state = {"callbacks": [{"class": "keras.History", "attributes": {"history": {"!": "dict", "v": columns}}}]}
        return SimpleNamespace(manifest=SimpleNamespace(state=state))

    ours, theirs = endings.history(checkpoint(0.25)), endings.history(checkpoint(0.125))
    assert ours == {"loss": [0.5] * LONG + [0.25], "short": [1.0]}
    found = endings.history_difference(ours, theirs)
    assert found is not None and (found.epoch, found.metric) == (LONG, "loss")
