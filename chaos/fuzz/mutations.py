"""What is tried: the hostile by hand, and mutations of valid samples, of their bytes and of their JSON."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

_DEEP = 20_000
# In the place of any value of a JSON document.
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.0,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "\ud800",
    "\x1b]0;title\x07\x1b[31m",
    "..",
    "../outside.safetensors",
    "../../outside.safetensors",
    "/etc/passwd",
    "link.safetensors",
    "absolute.safetensors",
    "folder.safetensors",
    "pipe.safetensors",
    "Model.safetensors",
    "model.safetensors/",
    "a" * 5000,
    "9" * 5000,
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2026-01-01T00:00:00+01:00",
    "Mon, 19 Sep 2016 18:29:47 +99999999999999",
    [],
    {},
    [[]],
    {"a": {"b": []}},
    [2**62] * 40,
)


def hostile() -> list[bytes]:
    """Small inputs that want much: depth, sizes beyond any memory, numbers of many digits."""
    sizes = (0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 100_000_001)
    absurd = b'{"a":{"dtype":"F32","shape":[0,4611686018427387904,4611686018427387904],"data_offsets":[0,0]}}'
    digits = b"9" * 5000
    return [
        b"",
        b"\0" * 200_000,
        b"[" * _DEEP,
        b"{" * _DEEP,
        b'{"a":' * _DEEP,
        b"[" * _DEEP + b"]" * _DEEP,
        b'"' + b"\\u0000" * _DEEP,
        b'{"a":' + digits + b"}",
        b'{"a":-1e' + digits + b"}",
        digits,
        digits + b"s",
        b"1m" * _DEEP,
        b"1" * 200_000,
        "٣s".encode(),
        "²".encode(),
        b"\xff\xfe" + b"[" * _DEEP,
        *(struct.pack("<Q", size) + b"{}" for size in sizes),
        struct.pack("<Q", len(absurd)) + absurd,
        struct.pack("<Q", 2 * _DEEP) + b"[" * 2 * _DEEP,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + b"x" * 10_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: " + digits + b"\r\n\r\nFALSE",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nFALSE",
        b"HTTP/1.1 " + digits + b" OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"Date: Mon, 19 Sep 2016 18:29:47 +99999999999999\0" + b'{"action":"stop","time":"2033-09-18T08:22:00Z"}',
        b"X-aws-ec2-metadata-token-ttl-seconds: " + digits + b"\0" + b'{"action":"stop","time":"2033-09-18T08:22:00Z"}',
        *nested(),
    ]


def nested() -> Iterator[bytes]:
    """Depths on both sides of the interpreter's own limit: a reader and a writer of JSON do not give up at the same one."""
    for depth in range(940, 1000, 7):
        yield b'{"a":' + b"[" * depth + b"]" * depth + b"}"


def replaced(sample: bytes) -> Iterator[bytes]:
    """A sample that is JSON with each of its values replaced by each of `VALUES`; nothing of any other."""
    if not _is_json(sample):
        return
    for number in range(len(list(_places(json.loads(sample))))):
        for value in VALUES:
            document = json.loads(sample)
            container, key = list(_places(document))[number]
            container[key] = value
            yield written(document)


def written(document: Any) -> bytes:
    """As Python writes JSON."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


@st.composite
def mutated_json(draw: st.DrawFn, sample: bytes) -> bytes:
    """A sample that is JSON, with some of its values replaced, removed or renamed; as it is written by Python."""
    document = copy.deepcopy(json.loads(sample))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        _change(draw, container, key)
    return written(document)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key or index in it."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _change(draw: st.DrawFn, container: Any, key: Any) -> None:
    how = draw(st.sampled_from(("replace", "replace", "remove", "rename")))
    if how == "replace":
        container[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    elif how == "remove":
        del container[key]
    elif isinstance(container, dict):
        name = draw(st.sampled_from([value for value in VALUES if isinstance(value, str)]))
        container[name] = container.pop(key)


@st.composite
def mutated_bytes(draw: st.DrawFn, sample: bytes) -> bytes:
    """A sample with some of its bytes flipped, cut out, doubled or replaced."""
    data = bytearray(sample)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.integers(0, 12))
        data[at:end] = draw(
            st.sampled_from([b"", b"\0", b"\xff" * 8, b"-", b"1e9", b'"', b"[[", b"\r\n", bytes(data[at:end]) * 2]) | st.binary(max_size=9)
        )
    return bytes(data)


def cases(samples: list[bytes]) -> st.SearchStrategy[bytes]:
    """Mutated samples, of their JSON where they are JSON, and raw bytes."""
    strategies = [mutated_bytes(sample) for sample in samples]
    strategies += [mutated_json(sample) for sample in samples if _is_json(sample)] * 2
    return st.one_of(*strategies, st.binary(max_size=300))


def _is_json(sample: bytes) -> bool:
    try:
        return isinstance(json.loads(sample), dict)
    except ValueError:
        return False
