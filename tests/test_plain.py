"""Plain data survives as it is: same types, same bits; what is not plain is refused."""

from __future__ import annotations

import collections
import datetime as dt
import json
import pathlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.state import plain

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(max_size=20),
    st.timedeltas(),
    st.floats(width=32).map(np.float32),
    st.integers(-(2**31), 2**31 - 1).map(np.int32),
)
keys = st.one_of(st.integers(), st.text(), st.booleans())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.lists(inner, max_size=4).map(lambda items: collections.deque(items, 5)),
        st.sets(st.integers(), max_size=4),
        st.frozensets(st.text(), max_size=4),
    ),
    max_leaves=20,
)


def there_and_back(value):
    arrays = {}
    text = json.dumps(plain.encode(value, arrays, "k"))
    return plain.decode(json.loads(text), arrays)


@given(values)
def test_whatever_is_plain_comes_back_the_same(value):
    """Types included; repr tells -0.0, NaN and True apart."""
    back = there_and_back(value)
    assert type(back) is type(value)
    assert repr(back) == repr(value) or back == value


LONG = list(range(100))


@pytest.mark.parametrize(
    "value",
    [
        {"loss": [0.1 * number for number in LONG], "epoch": LONG},
        tuple(LONG),
        set(LONG),
        frozenset(LONG),
        collections.deque(LONG, 100),
        [LONG, [float("nan")] * 100, [True] * 100, [2**70] * 100, [0.5, 1] * 100],
    ],
)
def test_long_lists_of_numbers_come_back_the_same_and_are_no_text(value):
    """In whatever holds them."""
    back = there_and_back(value)
    assert type(back) is type(value) and repr(back) == repr(value)
    if not isinstance(value, list):
        assert "98, 99" not in json.dumps(plain.encode(value, {}, "k"))


def test_arrays_come_back_as_copies_with_dtype_and_shape():
    """In any nesting, each under its own name."""
    value = {"a": [np.arange(6, dtype="int16").reshape(2, 3)], "b": np.float64(0.1), "c": (np.zeros((0, 2)),)}
    arrays = {}
    back = plain.decode(plain.encode(value, arrays, "k"), arrays)
    assert len(arrays) == 2
    assert back["a"][0].dtype == np.int16 and np.array_equal(back["a"][0], value["a"][0]) and back["c"][0].shape == (0, 2)
    value["a"][0][...] = 0
    assert back["a"][0][0, 1] == 1


@pytest.mark.parametrize("make", [lambda: random.Random(3), lambda: np.random.default_rng(3), lambda: np.random.RandomState(3)])
def test_generators_go_on_where_they_were(make):
    """Python's and NumPy's, old and new."""
    generator = make()
    generator.random()
    back = there_and_back(generator)
    assert [back.random() for _ in range(5)] == [generator.random() for _ in range(5)]


def test_dates_and_paths_come_back():
    """As callbacks keep them."""
    value = [dt.datetime(2030, 1, 2, 3, tzinfo=dt.UTC), pathlib.Path("a/b")]
    assert there_and_back(value) == value


@pytest.mark.parametrize("value", [object(), lambda: 1, [open], {"a": {1: print}}, np.array([object()]), 1j, collections.UserDict()])
def test_what_is_not_plain_is_refused(value):
    """Never saved in part."""
    with pytest.raises(plain.OpaqueError):
        plain.encode(value, {}, "k")


def test_a_structure_that_contains_itself_is_refused():
    """Instead of a recursion without end."""
    loop = []
    loop.append(loop)
    with pytest.raises(plain.OpaqueError, match="contains itself"):
        plain.encode(loop, {}, "k")


@given(st.recursive(st.one_of(st.none(), st.text(), st.integers()), lambda i: st.dictionaries(st.text(), i, max_size=3), max_leaves=6))
def test_decoding_what_is_not_ours_is_an_error_and_runs_nothing(value):
    """A manifest from a stranger is data."""
    try:
        plain.decode({"!": value}, {})
    except (ValueError, KeyError, TypeError):
        return
    raise AssertionError("a strange tag was accepted")
