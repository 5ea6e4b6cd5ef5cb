"""What the machine allows: a copy of the state in memory, and raw writing and reading of as many bytes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import errno
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.methods import Method
from benchmarks.spread import Spread, spread

MEMCPY = "memcpy of the state"
DISK = "the disk alone"
FLOORS = (MEMCPY, DISK)
_CHUNK = 8 * 2**20
_SOURCE = 2**27  # bytes in memory that are written again and again: more than processors cache
_PAGE = 4096
_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class Memcpy(Method):
    """Copies the state, on the training thread, into buffers that were allocated and touched before."""

    name = MEMCPY

    def __init__(self, model: Any, variables: list[Any]) -> None:
        super().__init__(model, Path())
        self._views = _views(variables)
        self._copies = [np.array(view) for view in self._views()]

    def save(self, step: int) -> None:
        """One copy."""
        for copy, view in zip(self._copies, self._views(), strict=True):
            np.copyto(copy, view)


def _views(variables: list[Any]) -> Callable[[], Iterator[Any]]:
    import keras

    from benchmarks.workload import host_view, jax_host_view

    if keras.backend.backend() != "jax":
        return lambda: (host_view(variable) for variable in variables)
    # While JAX trains, the variables are empty: the arrays travel from step to step. Others of the same sizes cost the same.
    arrays = [variable.value.copy() for variable in variables]
    return lambda: (jax_host_view(array) for array in arrays)


# -- the disk ----------------------------------------------------------------------------------------------------------------------


def aligned(nbytes: int) -> memoryview:
    """Touched memory of at least that size, in whole pages as O_DIRECT wants it, huge ones, with content that no disk compresses."""
    size = -(-nbytes // _PAGE) * _PAGE
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a hint
        memory.madvise(mmap.MADV_HUGEPAGE)
    buffer = memoryview(memory)
    pattern = np.random.default_rng(0).bytes(min(size, _CHUNK))
    for start in range(0, size, len(pattern)):
        buffer[start : start + len(pattern)] = pattern[: min(len(pattern), size - start)]
    return buffer


def plain(path: Path, data: memoryview) -> None:
    """write + fsync."""
    with _opened(path) as file:
        for _, chunk in _chunks(data):
            _write(file, chunk)
        os.fsync(file)


def started(path: Path, data: memoryview) -> None:
    """write + sync_file_range + fsync: the disk begins while memory is still being copied."""
    with _opened(path) as file:
        _write_and_start(file, data)


def allocated(path: Path, data: memoryview) -> None:
    """The same, into space that was allocated first."""
    with _opened(path) as file:
        os.posix_fallocate(file, 0, len(data))
        _write_and_start(file, data)


def direct(path: Path, data: memoryview) -> None:
    """O_DIRECT from aligned memory, past the page cache."""
    _write_direct(path, (chunk for _, chunk in _chunks(data)))


OVER = "O_DIRECT + fsync over an old file"
WRITERS: dict[str, Callable[[Path, memoryview], None]] = {
    "write + fsync": plain,
    "write + sync_file_range + fsync": started,
    "fallocate + write + sync_file_range + fsync": allocated,
    "O_DIRECT + fsync": direct,
    OVER: direct,
}


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _chunks(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    for start in range(0, len(data), _CHUNK):
        yield start, data[start : start + _CHUNK]


def _write_direct(path: Path, chunks: Iterable[memoryview]) -> None:
    with _opened(path, os.O_DIRECT) as file:
        for chunk in chunks:
            _write(file, chunk)
        os.fsync(file)


def _write(file: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[os.write(file, chunk) :]


def _write_and_start(file: int, data: memoryview) -> None:
    for start, chunk in _chunks(data):
        _write(file, chunk)
        _libc.sync_file_range(file, start, len(chunk), _SYNC_FILE_RANGE_WRITE)
    os.fsync(file)


class RawWriter(Method):
    """One raw writer of as many bytes as the state has, from memory that lies ready, on the thread that calls."""

    def __init__(self, name: str, directory: Path, data: memoryview) -> None:
        super().__init__(None, directory)
        self.name = name
        self._path = directory / name
        self._data = data

    def save(self, step: int) -> None:
        """One file."""
        WRITERS[self.name](self._path, self._data)

    def clear(self) -> None:
        """Remove the file, but for the writer that wants an old one."""
        if self.name != OVER:
            self._path.unlink(missing_ok=True)


class DiskAlone(Method):
    """A thread writes as many bytes as the state has over an old file; nothing is copied, nothing hashed.

    Nobody who writes as many bytes beside the training can cost it less, where the disk's work is done by the processors that train: a
    virtual machine's often is.
    """

    name = DISK

    def __init__(self, model: Any, nbytes: int, directory: Path) -> None:
        super().__init__(model, directory)
        self._path = directory / "raw"
        self._size = nbytes
        self._data = aligned(min(nbytes, _SOURCE))
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        directory.mkdir(parents=True, exist_ok=True)
        self.save(0)
        self.wait()

    def save(self, step: int) -> None:
        """Begin."""
        self._written = self._thread.submit(_write_direct, self._path, _repeated(self._data, self._size))

    def finished(self) -> bool:
        """Whether the thread has written all."""
        return self._written.done()

    def wait(self) -> None:
        """For the thread; raises what went wrong."""
        self._written.result()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


def _repeated(data: memoryview, size: int) -> Iterator[memoryview]:
    """Chunks of `data` from its beginning again and again, in whole pages, until there are so many bytes."""
    for start in range(0, size, len(data)):
        yield from (chunk for _, chunk in _chunks(data[: -(-(size - start) // _PAGE) * _PAGE]))


def writers(directory: Path) -> list[str]:
    """Those of `WRITERS` that the file system takes."""
    try:
        direct(directory / "probe", aligned(_PAGE))
        return list(WRITERS)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return [name for name, writer in WRITERS.items() if writer is not direct]
    finally:
        (directory / "probe").unlink(missing_ok=True)


def write_seconds(writer: str, data: memoryview, directory: Path) -> float:
    """Seconds of one raw writer, whose file is removed again."""
    path = directory / "raw"
    try:
        if writer == OVER:
            direct(path, data)
        os.sync()
        began = time.perf_counter()
        WRITERS[writer](path, data)
        return time.perf_counter() - began
    finally:
        path.unlink(missing_ok=True)


def disk_speed(nbytes: int, directory: Path, rounds: int) -> Spread:
    """Bytes a second of the fastest raw writer of a new file."""
    data = aligned(nbytes)
    found = {writer: [write_seconds(writer, data, directory) for _ in range(rounds)] for writer in writers(directory) if writer != OVER}
    best = min(found.values(), key=lambda seconds: sorted(seconds)[len(seconds) // 2])
    return spread(len(data) / seconds for seconds in best)


class RawRead:
    """Reads files into memory that was touched before, and copies that once: what a restore cannot do without."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._read = [np.ones(path.stat().st_size, np.uint8) for path in paths]
        self._copied = [np.ones_like(buffer) for buffer in self._read]

    def __call__(self) -> None:
        """Once."""
        for path, read, copied in zip(self._paths, self._read, self._copied, strict=True):
            with path.open("rb", buffering=0) as file:
                view = read.data
                while view:
                    view = view[file.readinto(view) or len(view) :]
            np.copyto(copied, read)
