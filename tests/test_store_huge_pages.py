"""The state's memory moves into huge pages while it is written, once, and stays what it was."""

from __future__ import annotations

import contextlib
import datetime as dt
import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from resilient.manifest import Manifest, Progress
from resilient.store import CommitCancelled, kernel
from resilient.store.commit import write_checkpoint
from resilient.store.huge_pages import HugePages
from resilient.store.output import Memory, WriteOptions
from resilient.store.parts import NewFile

SIZE = kernel.huge_page_size()
MEGABYTE = 2**20


def ordinary_memory(size: int) -> np.ndarray:
    """Touched memory in small pages."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    array[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    memory.madvise(mmap.MADV_HUGEPAGE)  # what is there stays as it is; without it the mapping would refuse for ever
    return array


def in_huge_pages(array: np.ndarray) -> int:
    """Bytes, as the kernel counts them for the mappings that lie within."""
    first, end = array.ctypes.data, array.ctypes.data + array.nbytes
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = first < int(bounds[2], 16) and int(bounds[1], 16) < end
        elif inside and line.startswith("AnonHugePages:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.fixture
def asked(monkeypatch):
    """The calls to the kernel, which are carried out."""
    genuine, calls = kernel.use_huge_pages, []
    monkeypatch.setattr(kernel, "use_huge_pages", lambda *place: (calls.append(place), genuine(*place))[1])
    return calls


needs_them = pytest.mark.skipif(SIZE is None or SIZE > 8 * MEGABYTE, reason="this kernel has no huge pages, or very large ones")


def commit(directory: Path, array: np.ndarray, **options: Any) -> None:
    manifest = Manifest(
        Progress(0, 1, 1),
        sequence=1,
        run_id="run",
        created=dt.datetime.now(dt.UTC),
        metrics={},
        score=None,
        mode=None,
        best=False,
        state={},
        files={},
    )
    directory.mkdir()
    tensors = dict(enumerate(np.split(array.view(np.float32), 3)))
    file = NewFile({str(number): tensor for number, tensor in tensors.items()})
    write_checkpoint(directory / "checkpoint", manifest, {"weights.safetensors": file}, WriteOptions(memory=Memory(), **options))
    read = load_file(directory / "checkpoint" / "weights.safetensors")
    assert all(read[str(number)].tobytes() == tensor.tobytes() for number, tensor in tensors.items())


@needs_them
def test_what_was_saved_lies_in_huge_pages_from_then_on_with_the_same_content(tmp_path):
    """All of it."""
    array = ordinary_memory(24 * MEGABYTE)
    content, before = array.copy(), in_huge_pages(array)
    commit(tmp_path / "first", array)
    assert in_huge_pages(array) - before >= array.nbytes - 2 * SIZE
    commit(tmp_path / "second", array)
    assert (array == content).all()


@pytest.mark.parametrize("option", ["awaited", "cancelled"])
def test_nothing_is_moved_where_somebody_waits(tmp_path, asked, option):
    """An emergency has a deadline, and no later save that would gain."""
    with pytest.raises(CommitCancelled) if option == "cancelled" else contextlib.nullcontext():
        commit(tmp_path / "run", ordinary_memory(24 * MEGABYTE), **{option: lambda: True})
    assert asked == []


@needs_them
def test_each_place_is_moved_once(asked):
    """Where an allocator gives memory back and gets it anew, moving it each time would cost what it gains."""
    array, pages = ordinary_memory(16 * MEGABYTE), HugePages()
    for _ in range(3):
        pages.use(array[: 12 * MEGABYTE])
    assert len(asked) == 1
    address, size = asked[0]
    assert address % SIZE == size % SIZE == 0
    assert address <= array.ctypes.data and array.ctypes.data + 12 * MEGABYTE <= address + size
    pages.use(array)  # some of that is new
    assert len(asked) == 2
    pages.use(array[: SIZE - 1])
    pages.use(array[::2])
    pages.use(np.zeros(40 * MEGABYTE, np.uint8))
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("enabled", "size", "expected"),
    [
        ("always [madvise] never", "2097152", 2 * MEGABYTE),
        ("[always] madvise never", "2097152", 2 * MEGABYTE),
        ("always madvise [never]", "2097152", None),
        ("always [madvise] never", "what", None),
        (None, None, None),
    ],
)
def test_an_administrator_who_has_switched_them_off_is_heard(tmp_path, monkeypatch, asked, enabled, size, expected):
    """The kernel's own call does not ask what is set for the whole machine."""
    monkeypatch.setattr(kernel, "_HUGE_PAGES", tmp_path)
    if enabled is not None:
        (tmp_path / "enabled").write_text(f"{enabled}\n")
        (tmp_path / "hpage_pmd_size").write_text(f"{size}\n")
    assert kernel.huge_page_size() == expected
    if expected is None:
        HugePages().use(np.zeros(16 * MEGABYTE, np.uint8))
        assert asked == []


def test_pages_in_which_hardly_a_tensor_lies_are_left_alone(monkeypatch, asked):
    """512 MB with kernels whose ordinary pages have 64 KB."""
    monkeypatch.setattr(kernel, "huge_page_size", lambda: 512 * MEGABYTE)
    HugePages().use(np.zeros(16 * MEGABYTE, np.uint8))
    assert asked == []
