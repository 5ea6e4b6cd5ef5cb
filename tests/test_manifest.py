from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from store_samples import manifest

from resilient.errors import CheckpointCorruptError, CheckpointMismatchError
from resilient.manifest import FileEntry, Manifest, Progress, decode, parse_step_name, step_name

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
manifests = st.builds(
    Manifest,
    progress=st.builds(Progress, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**12 - 1)),
    sequence=st.integers(0, 10**9),
    run_id=st.text(max_size=10),
    created=st.datetimes(min_value=dt.datetime(1970, 1, 2), timezones=st.just(dt.UTC)),
    metrics=st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=3),
    score=st.none() | st.floats(allow_nan=False),
    mode=st.sampled_from(["min", "max", None]),
    best=st.booleans(),
    state=st.dictionaries(st.text(max_size=5), plain, max_size=3),
    files=st.dictionaries(
        st.sampled_from(["model.safetensors", "state.safetensors", "iterator.bin"]),
        st.builds(FileEntry, st.integers(0, 2**50), st.integers(0, 2**128 - 1).map("{:032x}".format)),
    ),
)
SAMPLE = manifest(7, score=0.25, mode="min", files={"model.safetensors": FileEntry(3, "0" * 32)})
DOCUMENT = {key: value for key, value in json.loads(SAMPLE.encode()).items() if key != "checksum"}


def canonical(document) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def signed(document) -> bytes:
    """What an attacker who knows the format would write: any document, with the right checksum."""
    return canonical({**document, "checksum": xxhash.xxh3_128_hexdigest(canonical(document))})


@given(manifests)
def test_every_manifest_comes_back_as_it_was(made):
    """Encoding and decoding are inverse."""
    assert decode(made.encode(), "here") == made


def test_nan_and_infinity_come_back():
    """Metrics do become NaN; a checkpoint of such a run must still be one."""
    made = dataclasses.replace(SAMPLE, score=math.inf, metrics={"loss": math.nan, "low": -math.inf})
    back = decode(made.encode(), "here")
    assert math.isnan(back.metrics["loss"]) and back.metrics["low"] == -math.inf and back.score == math.inf


@given(manifests, st.data())
def test_no_byte_can_change_unnoticed(made, data):
    """Any change of any byte, any truncation and any appended byte is found."""
    encoded = made.encode()
    where = data.draw(st.integers(0, len(encoded) - 1))
    flipped = bytearray(encoded)
    flipped[where] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(flipped), encoded[:where], encoded + b" ", encoded * 2):
        with pytest.raises(CheckpointCorruptError):
            decode(damaged, "here")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_damage_and_nothing_else(data):
    """No other exception escapes, whatever lies in the file."""
    with pytest.raises(CheckpointCorruptError):
        decode(data, "here")


HOSTILE = {
    "not an object": [1],
    "parent directory": {"files": {"../../etc/passwd": {"size": 1, "xxh3_128": "0" * 32}}},
    "absolute path": {"files": {"/etc/passwd": {"size": 1, "xxh3_128": "0" * 32}}},
    "hidden file": {"files": {".bashrc": {"size": 1, "xxh3_128": "0" * 32}}},
    "two dots": {"files": {"a..safetensors": {"size": 1, "xxh3_128": "0" * 32}}},
    "line break": {"files": {"model.safetensors\n": {"size": 1, "xxh3_128": "0" * 32}}},
    "itself": {"files": {"manifest.json": {"size": 1, "xxh3_128": "0" * 32}}},
    "negative size": {"files": {"model.safetensors": {"size": -1, "xxh3_128": "0" * 32}}},
    "boolean size": {"files": {"model.safetensors": {"size": True, "xxh3_128": "0" * 32}}},
    "short checksum": {"files": {"model.safetensors": {"size": 1, "xxh3_128": "0"}}},
    "file entry is null": {"files": {"model.safetensors": None}},
    "files is a list": {"files": []},
    "negative step": {"step": -1},
    "boolean step": {"step": True},
    "fractional step": {"step": 1.0},
    "step beyond a name": {"step": 10**12},
    "astronomic step": {"step": 10**4000},
    "unknown field": {"extra": 1},
    "format zero": {"format": 0},
    "format true": {"format": True},
    "format text": {"format": "1"},
    "format null": {"format": None},
    "time without zone": {"created": "2026-01-01T00:00:00"},
    "time nonsense": {"created": "yesterday"},
    "mode nonsense": {"mode": "up"},
    "mode is a list": {"mode": []},
    "score text": {"score": "1"},
    "score boolean": {"score": True},
    "metric text": {"metrics": {"loss": "1"}},
    "best number": {"best": 1},
    "state list": {"state": []},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_signed_document_of_wrong_content_is_damage(change):
    """The checksum is no security boundary: every field is checked as well."""
    document = {**DOCUMENT, **change} if isinstance(change, dict) else change
    with pytest.raises(CheckpointCorruptError, match="here"):
        decode(signed(document) if isinstance(document, dict) else canonical(document), "here")


@pytest.mark.parametrize("name", DOCUMENT)
def test_a_missing_field_is_damage(name):
    """No field has a default."""
    with pytest.raises(CheckpointCorruptError):
        decode(signed({key: value for key, value in DOCUMENT.items() if key != name}), "here")


@pytest.mark.parametrize("depth", [*range(900, 1100), 10_000, 1_000_000])
@pytest.mark.parametrize("level", ["[]", '{"a":1}'], ids=["lists", "objects"])
def test_nesting_beyond_what_can_be_read_is_damage(depth, level):
    """A document nested too deep is damage, not a crash, at whichever stage of decoding that shows."""
    nested = level[:-1].rstrip("1") * depth + "1" + level[-1] * depth
    text = canonical({**DOCUMENT, "checksum": "0" * 32, "state": {"deep": "HERE"}}).replace(b'"HERE"', nested.encode())
    with pytest.raises(CheckpointCorruptError):
        decode(text, "here")


def test_a_duplicate_name_is_damage():
    """Two values for one name would let two readers see two documents."""
    twice = SAMPLE.encode().replace(b'"step":7', b'"step":7,"step":7')
    with pytest.raises(CheckpointCorruptError):
        decode(twice, "here")


def test_a_newer_format_asks_for_an_upgrade():
    """A version from the future is no damage: nothing may be moved or overwritten because of it."""
    with pytest.raises(CheckpointMismatchError, match=r"here has format version 2.*Upgrade resilient"):
        decode(signed({**DOCUMENT, "format": 2, "new": "field"}), "here")


def test_a_damaged_version_number_is_damage_and_not_a_newer_format():
    """A flipped bit in the version must not tell people to upgrade."""
    with pytest.raises(CheckpointCorruptError):
        decode(SAMPLE.encode().replace(b'"format":1', b'"format":3'), "here")


@given(st.integers(0, 10**12 - 1))
def test_names_and_steps_correspond(step):
    """A directory's name says its step, and names sort like steps."""
    assert parse_step_name(step_name(step)) == step
    assert len(step_name(step)) == len(step_name(0))


@pytest.mark.parametrize(
    "name", ["step-1", "step-0000000000010", "step-00000000000a", ".step-000000000001", "step-000000000001\n", "", "final"]
)
def test_other_names_have_no_step(name):
    """Only what `step_name` makes is a checkpoint's name."""
    assert parse_step_name(name) is None


def test_digits_of_other_scripts_are_no_step():
    r"""Python's \d matches them; a directory of that name is not ours."""
    assert parse_step_name("step-" + "٣" * 12) is None
