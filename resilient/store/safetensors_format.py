"""The safetensors format: named tensors <-> bytes, without copying big tensors.

Layout: the header's length (8 bytes, little endian), the header (JSON, padded with spaces so that the data starts at a multiple
of 64), then the tensors without a hole: first those whose bytes are a multiple of 64, the big ones before the small ones (or so that a
disk can read the big ones from where they lie, see `placing`), then the rest in the order of their item size, largest first. That aligns
each of them, and nearly all of the bytes as frameworks like them. The header keeps the order of the caller. Reading is strict: everything
that a writer of ours would not have written is an error.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resilient.errors import ConfigurationError
from resilient.store import placing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Array = npt.NDArray[Any]
_Kind = tuple[str, np.dtype[Any], tuple[int, ...]]  # a tensor's name, type and shape

SUFFIX = ".safetensors"
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_RANK = 32  # what every supported NumPy can hold
_MAX_DIMENSION = 2**62
_METADATA = "__metadata__"
_ALIGNMENT = 64
_PAGE = 4096
_CHUNK = 32 * 2**20  # each write that ends wakes a thread, which takes the processor from a training: few large ones cost less
_SMALL = 2**16  # bytes
_TOGETHER = 2**18  # bytes of small tensors, so few that they are still in the processor's cache when they are hashed and written

_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_DTYPES = {code: name for name, code in _NAMES.items()}


class FormatError(ValueError):
    """The bytes are not a safetensors file as this module writes it; the message says what is wrong."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A file about to be written: its `size` in bytes, its header, and its tensors in the order of the data."""

    size: int
    header: bytes
    arrays: list[Array]

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The file's content in order."""
        return self._content(self.arrays)

    def last_chunks(self) -> Iterator[bytes | memoryview]:
        """The same for the last time: a tensor is let go once the piece after its last one is asked for."""
        return self._content(_emptied(self.arrays))

    def _content(self, arrays: Iterable[Array]) -> Iterator[bytes | memoryview]:
        yield self.header
        for small, run in itertools.groupby(arrays, key=lambda array: array.nbytes < _SMALL):
            pieces = _together if small else _in_pieces
            yield from pieces(run)


def _emptied(arrays: list[Array]) -> Iterator[Array]:
    arrays.reverse()
    while arrays:
        yield arrays.pop()


def _together(arrays: Iterable[Array]) -> Iterator[bytes | memoryview]:
    """Copies, many small tensors in each: to handle every one by itself would take longer than its bytes."""
    run: list[Any] = []
    size = 0
    for array in arrays:
        run.append(array if array.dtype.isbuiltin == 1 and array.flags.c_contiguous else _bytes_of(array))
        size += array.nbytes
        if size >= _TOGETHER:
            yield b"".join(run)
            run, size = [], 0
    yield b"".join(run)


def _in_pieces(arrays: Iterable[Array]) -> Iterator[bytes | memoryview]:
    for array in arrays:
        data = _bytes_of(array)
        yield from (data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK))


def _bytes_of(array: Array) -> memoryview:
    # Through uint8, because memoryview does not know bfloat16 and float8. Copies only where the array is not contiguous.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def layout(tensors: Mapping[str, Any], *, in_place: bool = False) -> Layout:
    """Plans the file of `tensors`: name -> anything that `np.asarray` takes, of any shape.

    Args:
        tensors: see there.
        in_place: arrange them so that a disk can read the big ones from where they are. Without it the same tensors are the same bytes.

    Raises:
        ConfigurationError: a name or a dtype that the format does not have.
    """
    arrays = [_little_endian(np.asarray(value)) for value in tensors.values()]
    kinds = tuple((name, array.dtype, array.shape) for name, array in zip(tensors, arrays, strict=True))
    places = tuple(map(_place, arrays)) if in_place else (None,) * len(arrays)
    plan = _plan(kinds, tuple(place if place is None else place % placing.BLOCK for place in places))
    header = _padded(plan.header, places[plan.order[0]] if arrays else None)
    return Layout(len(header) + plan.size, header, [arrays[number] for number in plan.order])


def _place(array: Array) -> int | None:
    """Where in a page of memory a tensor begins; None for one that is not arranged by it."""
    if array.nbytes < placing.LARGE:
        return None
    place = int(array.__array_interface__["data"][0]) % _PAGE
    return place if place % _ALIGNMENT == 0 and array.flags.c_contiguous else None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What follows from the tensors' names, types, shapes and places: the `order` of their bytes, how many bytes, and the header's text."""

    order: Sequence[int]
    size: int
    header: bytes


@functools.lru_cache(maxsize=8)  # where no tensor is large, the same few files are saved again and again
def _plan(kinds: tuple[_Kind, ...], places: tuple[int | None, ...]) -> _Plan:
    known = _described(kinds)
    sizes, order = known.sizes, list(known.order)
    aligned = [number for number in order if sizes[number] % _ALIGNMENT == 0]
    placed = placing.in_place([sizes[number] for number in aligned], [places[number] for number in aligned])
    order[: len(aligned)] = [aligned[number] for number in placed]
    ends = dict(zip(order, itertools.accumulate(sizes[number] for number in order), strict=True))
    entries = (f"{entry}[{ends[number] - sizes[number]},{ends[number]}]}}" for number, entry in enumerate(known.entries))
    return _Plan(order, sum(sizes), f"{{{','.join(entries)}}}".encode())


@dataclasses.dataclass(frozen=True)
class _Described:
    """What follows from names, types and shapes alone: `sizes` in bytes, `order` by rank, `entries` of the header up to their offsets."""

    sizes: Sequence[int]
    order: Sequence[int]
    entries: Sequence[str]


@functools.lru_cache(maxsize=8)  # places change from save to save, and to describe thousands of tensors takes tens of milliseconds
def _described(kinds: tuple[_Kind, ...]) -> _Described:
    sizes = [_checked_size(*kind) for kind in kinds]
    order = sorted(range(len(kinds)), key=lambda number: _rank(sizes[number], kinds[number][1].itemsize))
    return _Described(sizes, order, [_header_entry(*kind) for kind in kinds])


def _header_entry(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    sizes = ",".join(map(str, shape))
    return f'{json.dumps(name, ensure_ascii=False)}:{{"dtype":"{_code(dtype)}","shape":[{sizes}],"data_offsets":'


def _checked_size(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    if not isinstance(name, str) or name == _METADATA or not _encodable(name):
        raise ConfigurationError(f"A tensor cannot be saved under the name {name!r}. Use a plain Unicode string other than {_METADATA!r}.")
    if _code(dtype) is None:
        raise ConfigurationError(
            f"Tensor {name!r} has dtype {dtype}, which safetensors cannot hold. "
            f"Save it as one of {', '.join(_NAMES)} (a complex128 one as its real and imaginary parts)."
        )
    if len(shape) > _MAX_RANK:
        raise ConfigurationError(f"Tensor {name!r} has {len(shape)} dimensions. Reshape it to at most {_MAX_RANK} before saving.")
    return math.prod(shape) * dtype.itemsize


def _rank(size: int, itemsize: int) -> tuple[bool, bool, int]:
    """What lies first: as long as the sizes are multiples of 64, whatever comes next is aligned, and frameworks need no copy of it."""
    odd = size % _ALIGNMENT != 0
    return odd, not odd and size < placing.LARGE, -itemsize


@functools.cache
def _code(dtype: np.dtype[Any]) -> str | None:
    """The format's name of a type; None where it has none. NumPy puts `dtype.name` together anew each time."""
    return _NAMES.get(dtype.name)


def _encodable(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _little_endian(array: Array) -> Array:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _padded(text: bytes, place: int | None) -> bytes:
    """The header as it is written, so long that the data begins at that place of a page (None: at any multiple of the alignment)."""
    text += b" " * (-(len(text) + 8) % _ALIGNMENT if place is None else (place - len(text) - 8) % _PAGE)
    if len(text) > MAX_HEADER_BYTES:
        raise ConfigurationError(f"The tensors need a header of {len(text)} bytes. Use fewer tensors or shorter names.")
    return struct.pack("<Q", len(text)) + text


def parse(data: Any) -> dict[str, Array]:
    """Tensors of a file's content, in the header's order, as views on `data` (any buffer; read-only if that is).

    Raises:
        FormatError: anything out of the ordinary. Memory taken is bounded by the size of `data`.
    """
    content = np.frombuffer(data, np.uint8)
    header, start = _read_header(content)
    body = content[start:]
    entries = {name: _entry(name, value) for name, value in header.items() if name != _METADATA}
    _check_cover(entries, len(body))
    return {name: entry.view(name, body) for name, entry in entries.items()}


def _read_header(content: Array) -> tuple[dict[str, Any], int]:
    if len(content) < 8:
        raise FormatError(f"it has {len(content)} bytes, too few for a header")
    length = struct.unpack("<Q", content[:8].tobytes())[0]
    if length > min(MAX_HEADER_BYTES, len(content) - 8):
        raise FormatError(f"its header claims {length} bytes")
    try:
        header = json.loads(content[8 : 8 + length].tobytes().decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise FormatError("its header is not a JSON object")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


@dataclasses.dataclass(frozen=True)
class _Entry:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int

    def view(self, name: str, body: Array) -> Array:
        try:
            return body[self.begin : self.end].view(self.dtype).reshape(self.shape)
        except ValueError as error:  # an empty tensor of an absurd shape
            raise FormatError(f"tensor {name!r} cannot have shape {self.shape}") from error


def _entry(name: str, value: Any) -> _Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"the entry of tensor {name!r} is malformed")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise FormatError(f"tensor {name!r} has the unknown dtype {code!r}")
    if not _sizes(shape, _MAX_RANK) or not _sizes(offsets, 2) or len(offsets) != 2:
        raise FormatError(f"the shape or the offsets of tensor {name!r} are not sizes")
    dtype = _dtype(_DTYPES[code])
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise FormatError(f"tensor {name!r} of shape {shape} does not fill its {end - begin} bytes")
    return _Entry(dtype, tuple(shape), begin, end)


def _sizes(value: Any, longest: int) -> bool:
    if not isinstance(value, list) or len(value) > longest:
        return False
    return all(type(size) is int and 0 <= size <= _MAX_DIMENSION for size in value)


def _dtype(name: str) -> np.dtype[Any]:
    if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        import ml_dtypes  # only where such a tensor occurs: the command line starts faster without

        extension: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extension
    return np.dtype(name)


def _check_cover(entries: Mapping[str, _Entry], size: int) -> None:
    end = 0
    for begin, next_end in sorted((entry.begin, entry.end) for entry in entries.values()):
        if begin != end:
            raise FormatError(f"its tensors leave a hole or overlap at byte {end}")
        end = next_end
    if end != size:
        raise FormatError(f"its tensors end at byte {end} of {size}")
