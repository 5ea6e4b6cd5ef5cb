"""Negative controls of the judge: whatever one thing is wrong, it is noticed; and what kills leave behind of a sound run is not."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chaos import oracle
from chaos.oracle import Trained

values = (
    st.integers(0, 2**128 - 1).map("{:032x}".format)  # a digest
    | st.lists(st.floats() | st.none(), max_size=4)
    | st.floats()
    | st.none()
    | st.booleans()
)
outcomes = st.dictionaries(
    st.sampled_from(["variables", "optimizer", "metrics", "history", "callbacks", "generators"]),
    st.dictionaries(st.text(st.characters(codec="ascii"), min_size=1, max_size=6), values, min_size=1, max_size=4),
    min_size=1,
)
arrays = hnp.arrays(
    st.sampled_from(["float16", "float32", "float64", "int8", "int32", "int64", "uint32", "bool"]), hnp.array_shapes(min_side=1, max_side=4)
)


@st.composite
def logs(draw: st.DrawFn) -> list[Trained]:
    """An undisturbed training of some epochs, each batch with ids of its own."""
    epochs, steps, size = draw(st.integers(1, 3)), draw(st.integers(2, 6)), draw(st.integers(1, 3))
    ids = itertools.count()
    return [
        Trained(1, epoch, batch, tuple(next(ids) for _ in range(size))) for epoch, batch in itertools.product(range(epochs), range(steps))
    ]


@st.composite
def killed(draw: st.DrawFn, log: list[Trained]) -> list[Trained]:
    """The same under kills: each attempt begins at or before the end of the one before it."""
    line: list[Trained] = []
    done, attempt = 0, 1
    while done < len(log):
        end = draw(st.integers(done + 1, len(log)))
        line += [dataclasses.replace(batch, attempt=attempt) for batch in log[done:end]]
        done = end if end == len(log) else draw(st.integers(max(0, end - 4), end))
        attempt += 1
        if attempt > 6:
            line += [dataclasses.replace(batch, attempt=attempt) for batch in log[done:]]
            break
    return line


@given(outcomes)
def test_an_outcome_equals_itself(outcome: dict) -> None:
    """Also with NaN in it, which does not equal itself."""
    assert oracle.differences(outcome, copy.deepcopy(outcome)) == []


@given(outcomes, st.data())
def test_any_one_changed_value_is_noticed_and_named(outcome: dict, data: st.DataObject) -> None:
    """A digest of a tensor, a row of History, an attribute of a callback, the state of a generator: section and name are told."""
    section = data.draw(st.sampled_from(sorted(outcome)))
    name = data.draw(st.sampled_from(sorted(outcome[section])))
    other = copy.deepcopy(outcome)
    other[section][name] = data.draw(values.filter(lambda value: repr(value) != repr(outcome[section][name])))
    (found,) = oracle.differences(outcome, other)
    assert found.startswith(f"{section}: {name} ")


@given(outcomes, st.data())
def test_any_one_lost_or_added_name_is_noticed(outcome: dict, data: st.DataObject) -> None:
    """A callback that comes back without an attribute, and one that has gained one."""
    section = data.draw(st.sampled_from(sorted(outcome)))
    name = data.draw(st.sampled_from(sorted(outcome[section])))
    other = copy.deepcopy(outcome)
    del other[section][name]
    assert oracle.differences(outcome, other) == [f"{section}: {name} is missing"]
    assert oracle.differences(other, outcome) == [f"{section}: {name} was not there before"]


@given(arrays, st.data())
def test_any_one_flipped_bit_is_another_digest(array: np.ndarray, data: st.DataObject) -> None:
    """Of a weight, a slot of the optimizer, a seed: the sign of a zero and the payload of a NaN too."""
    content = bytearray(array.tobytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    flipped = np.frombuffer(bytes(content), np.uint8).view(array.dtype).reshape(array.shape)
    assert oracle.digest(flipped) != oracle.digest(array)
    assert oracle.digest(np.asfortranarray(array)) == oracle.digest(array)


@given(logs().flatmap(lambda log: st.tuples(st.just(log), killed(log))))
def test_kills_alone_are_no_difference(pair: tuple[list[Trained], list[Trained]]) -> None:
    """Batches that a kill struck out and the next attempt trained again are part of a sound run, and are counted."""
    log, disturbed = pair
    assert oracle.log_differences(log, disturbed) == []
    assert oracle.rolled_back(disturbed) == len(disturbed) - len(log)


@pytest.mark.parametrize("wrong", ["skipped", "repeated", "another sample", "another order", "swapped"])
@given(logs().flatmap(lambda log: st.tuples(st.just(log), killed(log))), st.data())
def test_any_one_wrong_batch_is_noticed(wrong: str, pair: tuple[list[Trained], list[Trained]], data: st.DataObject) -> None:
    """Skipped, repeated, with another sample or in another order, at any place of any attempt, whatever was killed around it."""
    log, disturbed = pair
    line = oracle.committed_line(disturbed)
    # Within an attempt: at its edges a batch more or less is what another moment of the kill would have left.
    inner = [i for i in range(1, len(disturbed) - 1) if disturbed[i - 1].attempt == disturbed[i].attempt == disturbed[i + 1].attempt]
    last_words = [i for i in inner if disturbed[i] in line]
    if not last_words:
        return
    at = data.draw(st.sampled_from(last_words))
    batch, after = disturbed[at], disturbed[at + 1]
    changed = {
        "skipped": [],
        "repeated": [batch, batch],
        "another sample": [dataclasses.replace(batch, ids=(*batch.ids[:-1], 10**6))],
        "another order": [dataclasses.replace(batch, ids=batch.ids[::-1] if len(batch.ids) > 1 else (10**6,))],
        "swapped": [dataclasses.replace(batch, ids=after.ids)],
    }[wrong]
    assert oracle.log_differences(log, [*disturbed[:at], *changed, *disturbed[at + 1 :]]) != []


@given(logs())
def test_an_end_that_comes_early_or_late_is_noticed(log: list[Trained]) -> None:
    """One batch less than the undisturbed run, and one epoch more."""
    assert oracle.log_differences(log, log[:-1]) != []
    more = dataclasses.replace(log[-1], epoch=log[-1].epoch + 1, batch=0)
    assert oracle.log_differences(log, [*log, more]) != []


def test_an_attempt_that_begins_beyond_the_end_is_noticed() -> None:
    """A resume that leaves one batch out, which no attempt has trained."""
    log = [Trained(1, 0, batch, (batch,)) for batch in range(6)]
    resumed = [*log[:3], *(dataclasses.replace(batch, attempt=2) for batch in log[4:])]
    assert "skipped or repeated" in oracle.log_differences(log, resumed)[0]


def test_an_attempt_that_was_sent_back_and_committed_nothing_leaves_the_line_as_it_was() -> None:
    """The next one goes on from the newest checkpoint; only where the attempt was ordered back, and never beyond what was trained."""
    log = [Trained(0, 0, batch, (batch,)) for batch in range(10)]
    back = [dataclasses.replace(batch, attempt=1) for batch in log[3:5]]
    rest = [dataclasses.replace(batch, attempt=2) for batch in log[7:]]
    disturbed = [*log[:8], *back, *rest]
    assert oracle.log_differences(log, disturbed, {1}) == []
    assert "skipped or repeated" in oracle.log_differences(log, disturbed)[0]
    assert "skipped or repeated" in oracle.log_differences(log, [*log[:6], *back, *rest], {1})[0]
