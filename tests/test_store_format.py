from __future__ import annotations

import contextlib
import itertools
import json
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file
from store_samples import placed, same, same_array

from resilient.errors import ConfigurationError
from resilient.store import placing, safetensors_format
from resilient.store.safetensors_format import FormatError, Layout, layout, parse

NATIVE = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64", "complex64"]
EXTENSIONS = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def arrays(draw, dtypes=(*NATIVE, *EXTENSIONS)):
    """Arrays of any bits, any layout in memory and either byte order."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(shapes)
    count = int(np.prod(shape)) * dtype.itemsize
    bits = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8)
    array = (bits & 1).view(bool) if dtype.kind == "b" else bits.view(dtype)
    array = array.reshape(shape)
    way = draw(st.sampled_from(["plain", "transposed", "strided", "swapped"]))
    if way == "transposed":
        return array.T
    if way == "strided" and array.ndim:
        return np.repeat(array, 2, axis=0)[::2]
    if way == "swapped" and dtype.name in NATIVE:
        return array.astype(dtype.newbyteorder(">"))
    return array


names = st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__" and name.isprintable())
dictionaries = st.dictionaries(names, arrays(), max_size=6)


def content(tensors) -> bytes:
    plan = layout(tensors)
    data = b"".join(bytes(chunk) for chunk in plan.chunks())
    assert len(data) == plan.size
    return data


def native(tensors):
    return {name: array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")) for name, array in tensors.items()}


@given(dictionaries)
def test_any_tensors_come_back_bit_for_bit_in_order(tensors):
    """Names, order, dtypes, shapes and bits survive, NaN payloads included."""
    assert same({"file": parse(content(tensors))}, {"file": native(tensors)})


@given(dictionaries)
def test_views_are_aligned_and_read_only(tensors):
    """Aligned, because TensorFlow copies what is not; read-only, because they are views on the checkpoint itself."""
    for array in parse(content(tensors)).values():
        assert array.flags.aligned and not array.flags.writeable
    header = struct.unpack("<Q", content(tensors)[:8])[0]
    assert (8 + header) % 64 == 0


@given(st.dictionaries(names, arrays(dtypes=NATIVE), max_size=6))
def test_the_official_reader_reads_our_files(tmp_path_factory, tensors):
    """A checkpoint's tensors are readable with the reference implementation."""
    path = tmp_path_factory.mktemp("official") / "x.safetensors"
    path.write_bytes(content(tensors))
    official = load_file(path)
    assert official.keys() == tensors.keys()
    assert all(same_array(official[name], array) for name, array in native(tensors).items())


def test_the_official_reader_accepts_bfloat16_and_float8():
    """NumPy's part of the reference cannot show these dtypes, but its parser must accept the file."""
    from safetensors import deserialize

    tensors = {np.dtype(dtype).name: np.arange(6).astype(dtype).reshape(2, 3) for dtype in EXTENSIONS}
    read = dict(deserialize(content(tensors)))
    assert {name: (entry["dtype"], bytes(entry["data"])) for name, entry in read.items()} == {
        "bfloat16": ("BF16", tensors["bfloat16"].tobytes()),
        "float8_e4m3fn": ("F8_E4M3", tensors["float8_e4m3fn"].tobytes()),
        "float8_e5m2": ("F8_E5M2", tensors["float8_e5m2"].tobytes()),
    }


def test_big_tensors_are_written_from_where_they_are():
    """Planning and streaming a big tensor takes no second copy of it."""
    big = np.ones(2**23, np.float64)
    plan = layout({"big": big, "small": np.ones(3)})
    tracemalloc.start()
    total = sum(len(chunk) for chunk in plan.chunks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == plan.size and peak < 2**20


def test_big_tensors_of_odd_sizes_leave_the_others_aligned():
    """Each tensor lies at a multiple of its item size, whatever sizes lie before it."""
    odd = np.zeros(2**20 + 1, np.uint8)
    tensors = {"odd": odd, "small": np.ones(3, np.float32), "double": np.ones(1), "half": np.ones(3, np.float16)}
    start, offsets = 0, {}
    for array in layout(tensors).arrays:
        offsets[next(name for name, one in tensors.items() if one is array)] = start
        start += array.nbytes
    assert all(offset % tensors[name].dtype.itemsize == 0 for name, offset in offsets.items())


def test_big_tensors_begin_where_they_do_in_a_page_of_memory():
    """So a disk can read them from there; small ones, which are copied in any case, come after them."""
    memory = np.zeros(2**21 + 2 * 4096, np.uint8)
    start = -memory.ctypes.data % 4096 + 320
    big = memory[start : start + 2**21].view(np.float32)
    plan = layout({"small": np.ones(3, np.float32), "big": big}, in_place=True)
    assert len(plan.header) % 4096 == 320
    assert plan.arrays[0] is big
    assert same({"": parse(b"".join(plan.chunks()))}, {"": {"small": np.ones(3, np.float32), "big": big}})


def at(place: int, size: int) -> np.ndarray:
    """Bytes that begin at that place of a page."""
    return placed(np.random.default_rng(size).integers(0, 256, size, np.uint8), place)


def in_place(plan: Layout) -> list[bool]:
    """Of each big tensor, in the file's order: whether it is at the same place of a block there as in memory."""
    starts = itertools.accumulate((array.nbytes for array in plan.arrays), initial=len(plan.header))
    return [
        start % placing.BLOCK == array.ctypes.data % placing.BLOCK
        for start, array in zip(starts, plan.arrays, strict=False)
        if array.nbytes >= 2**21
    ]


@given(
    big=st.lists(st.tuples(st.integers(0, 63), st.sampled_from((2**21, 2**21 + 64, 2**21 + 512))), max_size=8),
    small=st.lists(st.integers(1, 24), max_size=20),
)
@settings(max_examples=50)
def test_big_tensors_lie_in_the_file_as_in_memory(big, small):
    """The first one in any case, all of them where there are enough small ones to lie between; and what is written comes back."""
    tensors = {f"big{number}": at(64 * place, size) for number, (place, size) in enumerate(big)}
    tensors |= {f"small{number}": np.full(64 * blocks, number, np.uint8) for number, blocks in enumerate(small)}
    assert same({"": parse(b"".join(map(bytes, layout(tensors, in_place=True).chunks())))}, {"": tensors})
    assert in_place(layout(tensors, in_place=True))[:1] == [True] * bool(big)
    assert all(in_place(layout({**tensors, **{f"step{number}": at(0, 64) for number in range(7 * len(big))}}, in_place=True)))


def test_the_place_of_most_bytes_comes_first_and_small_tensors_lead_to_the_next():
    """A step of 128 bytes leads from place 64 to 192, and nowhere near 256."""
    tensors = {f"{place}.{number}": at(place, 2**21) for place, count in ((256, 1), (64, 3), (192, 1)) for number in range(count)}
    plan = layout({**tensors, "step": np.ones(32, np.float32), "block": np.ones(128, np.float32)}, in_place=True)
    assert [array.nbytes for array in plan.arrays] == [2**21] * 3 + [128] + [2**21] * 2 + [512]
    assert in_place(plan) == [True] * 4 + [False]


def test_a_tensor_that_ends_at_another_place_comes_last_of_its_place():
    """The others of that place could not follow it."""
    plan = layout({"odd": at(64, 2**21 + 64), "a": at(64, 2**22), "b": at(64, 2**21)}, in_place=True)
    assert [array.nbytes for array in plan.arrays] == [2**22, 2**21, 2**21 + 64]
    assert in_place(plan) == [True] * 3


def test_the_same_tensors_are_the_same_bytes_wherever_they_lie():
    """Unless the fastest way to write them was asked for."""
    found = {b"".join(map(bytes, layout({"a": at(64 * place, 2**21), "b": np.ones(16), "c": at(0, 2**21)}).chunks())) for place in range(3)}
    assert len(found) == 1


@pytest.mark.parametrize(
    "value",
    [np.zeros(2, np.complex128), np.array("text"), np.array([None]), np.array("2026-01-01", "M8[s]"), np.zeros(2, "f4,f4"), object()],
)
def test_what_the_format_does_not_have_is_refused_by_name(value):
    """The message names the tensor and its dtype."""
    with pytest.raises(ConfigurationError, match=r"Tensor 'layer/x' has dtype .*cannot hold"):
        layout({"layer/x": value})


@pytest.mark.parametrize("name", ["__metadata__", "\ud800", 3, None])
def test_names_that_no_reader_accepts_are_refused(name):
    """Better before the save than at the restore."""
    with pytest.raises(ConfigurationError, match="cannot be saved under the name"):
        layout({name: np.zeros(1)})


def file_of(header, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "nothing": b"",
    "half a length": b"\x08\x00\x00",
    "length beyond the file": struct.pack("<Q", 2**63) + b"{}",
    "length of 100 MB in a small file": struct.pack("<Q", 100_000_000) + b"{}",
    "not JSON": file_of(b"{nope"),
    "not UTF-8": file_of(b'{"\xff":1}'),
    "a list": file_of([]),
    "nested beyond reason": file_of(b'{"a":' * 100_000),
    "duplicate name": file_of(
        b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', b"1234"
    ),
    "NaN": file_of(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}}', b"1234"),
    "entry is null": file_of({"a": None}),
    "entry lacks a field": file_of({"a": {"dtype": "U8", "shape": [0]}}),
    "entry has a field more": file_of({"a": entry() | {"x": 1}}, b"1234"),
    "unknown dtype": file_of({"a": entry("F128")}, b"1234"),
    "dtype is a list": file_of({"a": entry(["U8"])}, b"1234"),
    "negative dimension": file_of({"a": entry(shape=(-4,))}, b"1234"),
    "two negative dimensions": file_of({"a": entry(shape=(-2, -2))}, b"1234"),
    "boolean dimension": file_of({"a": entry(shape=(True, 4))}, b"1234"),
    "fractional dimension": file_of({"a": entry(shape=(4.0,))}, b"1234"),
    "absurd dimension": file_of({"a": entry(shape=(2**63,))}, b"1234"),
    "absurd product": file_of({"a": entry(shape=(2**40, 2**40))}, b"1234"),
    "absurd shape of nothing": file_of({"a": entry(shape=(0, 2**61, 2**61), offsets=(0, 0))}),
    "number of 5000 digits": file_of(b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}', b"1234"),
    "too many dimensions": file_of({"a": entry(shape=(1,) * 500 + (4,))}, b"1234"),
    "shape and range differ": file_of({"a": entry(shape=(3,))}, b"1234"),
    "range backwards": file_of({"a": entry(offsets=(4, 0))}, b"1234"),
    "range beyond the file": file_of({"a": entry()}, b"123"),
    "one offset": file_of({"a": entry(offsets=(4,))}, b"1234"),
    "hole": file_of({"a": entry(), "b": entry(offsets=(5, 9))}, b"123456789"),
    "overlap": file_of({"a": entry(), "b": entry(offsets=(2, 6))}, b"123456"),
    "shared range": file_of({"a": entry(), "b": entry()}, b"1234"),
    "trailing bytes": file_of({"a": entry()}, b"12345"),
    "no tensors but data": file_of({}, b"1"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_a_format_error_and_takes_no_memory(data):
    """Nothing but FormatError comes out, and no allocation follows a number in the file."""
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            parse(data)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(data) + 2**20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=150) | st.binary(max_size=150).map(lambda text: struct.pack("<Q", len(text)) + text))
def test_arbitrary_bytes_are_a_format_error_or_tensors(data):
    """The reader has no other way out."""
    with contextlib.suppress(FormatError):
        parse(data)


def test_what_can_lie_at_a_multiple_of_64_does():
    """Frameworks copy once more what does not: one odd tensor, such as an optimizer's count, must not cost all others that."""
    odd = {"count": np.array(3, np.int64), "bias": np.ones(3, np.float32)}
    tensors = {**odd, "kernel": np.ones((4, 16), np.float32), "half": np.ones(32, np.float16), "wide": np.ones(8, np.complex64)}
    parsed = parse(b"".join(map(bytes, layout(tensors).chunks())))
    start = min(array.__array_interface__["data"][0] for array in parsed.values())
    assert {name for name, array in parsed.items() if (array.__array_interface__["data"][0] - start) % 64} <= odd.keys()


def test_metadata_of_other_writers_is_passed_over():
    """Files of the reference implementation may carry it."""
    data = file_of({"__metadata__": {"format": "np"}, "a": entry()}, b"1234")
    assert parse(data)["a"].tobytes() == b"1234"


def test_a_header_beyond_the_limit_is_refused(monkeypatch):
    """What no reader would accept is not written."""
    tensors = {str(index): np.zeros(1) for index in range(100)}
    length = len(layout(tensors).header) - 8
    monkeypatch.setattr(safetensors_format, "MAX_HEADER_BYTES", length)
    layout(tensors)
    monkeypatch.setattr(safetensors_format, "MAX_HEADER_BYTES", length - 1)
    with pytest.raises(ConfigurationError, match="Use fewer tensors"):
        layout(tensors)
