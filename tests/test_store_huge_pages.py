"""The state's memory moves into huge pages while it is saved, once, and stays what it was."""

from __future__ import annotations

import contextlib
import datetime as dt
import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resilient.manifest import Manifest, Progress
from resilient.store import CommitCancelled, Store, WriteOptions, huge_pages, kernel
from resilient.store.huge_pages import HugePages
from resilient.store.output import Bounce

SIZE = kernel.huge_page_size()
MEGABYTE = 2**20


def ordinary_memory(size: int) -> np.ndarray:
    """Touched memory in small pages, in a mapping of its own: the guards beside it keep the kernel from joining it with another."""
    guards = 2 * MEGABYTE
    memory = mmap.mmap(-1, size + 2 * guards, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(memory, np.uint8)[guards:-guards]
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    array[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE, guards, size)  # only now, so that it may be moved; the guards may not
    return array


def in_huge_pages(array: np.ndarray) -> int:
    """Bytes, as the kernel counts them for the mapping."""
    start = f"{array.ctypes.data:x}-"
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    assert any(line.startswith(start) for line in lines)
    return next(int(line.split()[1]) * 1024 for line in lines if re.match("AnonHugePages:", line))


def advised(array: np.ndarray) -> bool:
    """Whether the kernel was asked for huge pages in the array's mapping."""
    address, inside = array.ctypes.data, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        mapping = re.match("([0-9a-f]+)-([0-9a-f]+) ", line)
        if mapping:
            inside = int(mapping[1], 16) <= address < int(mapping[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError("no such mapping")


def moved() -> bool:
    """Whether this kernel moves anything: since Linux 6.1, where huge pages are on and one is free."""
    if SIZE is None or SIZE > 2 * MEGABYTE:
        return False
    array = ordinary_memory(4 * MEGABYTE)
    HugePages({}).move(array)
    return in_huge_pages(array) > 0


needs_them = pytest.mark.skipif(not moved(), reason="this kernel does not move memory into huge pages")


@pytest.fixture
def asked(monkeypatch):
    """The calls to the kernel, which are carried out."""
    genuine, calls = kernel.move_into_huge_pages, []
    monkeypatch.setattr(kernel, "move_into_huge_pages", lambda *place: (calls.append(place), genuine(*place))[1])
    monkeypatch.setattr(kernel, "huge_page_size", lambda: 2 * MEGABYTE)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return calls


def commit(store: Store, step: int, array: np.ndarray, **options: Any) -> None:
    """The array as three tensors."""
    manifest = Manifest(
        Progress(0, step, step), sequence=step, run_id="run", created=dt.datetime.now(dt.UTC), metrics={},
        score=None, mode=None, best=False, state={}, files={},
    )  # fmt: skip
    store.prepare()
    tensors = {str(number): part for number, part in enumerate(np.split(array.view(np.float32), 3))}
    store.commit(manifest, {"model.safetensors": tensors}, options=WriteOptions(**options))
    checkpoint = store.latest(lambda name, reason: None)
    assert all(checkpoint.tensors["model.safetensors"][name].tobytes() == tensor.tobytes() for name, tensor in tensors.items())


@needs_them
def test_what_was_saved_lies_in_huge_pages_from_then_on_with_the_same_content(tmp_path, monkeypatch):
    """All of it but what shares its first and last page with others."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    array, store = ordinary_memory(24 * MEGABYTE), Store(tmp_path)
    content = array.copy()
    assert in_huge_pages(array) == 0
    commit(store, 1, array)
    assert in_huge_pages(array) >= array.nbytes - 6 * SIZE
    commit(store, 2, array)
    assert (array == content).all()


def test_each_place_is_moved_once(tmp_path, asked):
    """Where an allocator gives memory back and gets it anew, moving it each time would cost what it gains."""
    array, store = ordinary_memory(24 * MEGABYTE), Store(tmp_path)
    for step in range(3):
        commit(store, step, array)
    assert len(asked) == 3  # one for each tensor
    assert all(address % (2 * MEGABYTE) == size % (2 * MEGABYTE) == 0 for address, size in asked)
    assert all(array.ctypes.data <= address and address + size <= array.ctypes.data + array.nbytes for address, size in asked)


@pytest.mark.parametrize("option", ["awaited", "cancelled"])
def test_nothing_is_moved_where_somebody_waits(tmp_path, asked, option):
    """An emergency has a deadline, and no later save that would gain."""
    with pytest.raises(CommitCancelled) if option == "cancelled" else contextlib.nullcontext():
        commit(Store(tmp_path), 1, ordinary_memory(24 * MEGABYTE), **{option: lambda: True})
    assert asked == []


@pytest.mark.parametrize(
    ("megabytes", "step", "calls"),
    [(8, 1, 1), (32, 1, 1), (33, 1, 0), (1, 1, 0), (16, 2, 0)],
    ids=["some", "most", "more", "few", "not in one piece"],
)
def test_only_tensors_of_a_size_that_comes_back_to_its_place_are_moved(asked, megabytes, step, calls):
    """The C library has larger ones from the kernel anew each time; smaller ones fill no huge page."""
    HugePages().move(ordinary_memory(megabytes * MEGABYTE)[::step])
    assert len(asked) == calls


def test_a_user_who_has_ruled_them_out_is_heard(tmp_path, monkeypatch, asked):
    """By the variable with which the supervisor and the C library are told the same."""
    for variable, calls in (("glibc.malloc.check=1:glibc.malloc.hugetlb=0", 0), ("glibc.malloc.hugetlb=1", 1)):
        monkeypatch.setenv("GLIBC_TUNABLES", variable)
        HugePages().move(ordinary_memory(8 * MEGABYTE))
        assert len(asked) == calls


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
def test_an_administrator_who_has_ruled_them_out_is_heard(tmp_path, monkeypatch, enabled, size, expected):
    """The kernel's own call does not ask what is set for the whole machine."""
    calls: list[object] = []
    monkeypatch.setattr(kernel, "move_into_huge_pages", lambda *place: calls.append(place))
    monkeypatch.setattr(kernel, "_HUGE_PAGES", tmp_path)
    if enabled is not None:
        (tmp_path / "enabled").write_text(f"{enabled}\n")
        (tmp_path / "hpage_pmd_size").write_text(f"{size}\n")
    assert kernel.huge_page_size() == expected
    HugePages({}).move(np.zeros(16 * MEGABYTE, np.uint8))
    assert bool(calls) is (expected is not None)


@pytest.mark.skipif(SIZE != 2 * MEGABYTE, reason="this kernel has no huge pages of 2 MB")
def test_huge_pages_are_asked_for_what_is_restored(tmp_path):
    """A file of 400 MB has 100,000 ordinary ones, each of which would have to be mapped."""
    array = np.arange(3 * MEGABYTE, dtype=np.uint8)
    commit(Store(tmp_path), 1, array)
    checkpoint = Store(tmp_path).latest(lambda name, reason: None)
    assert checkpoint is not None
    assert all(advised(np.asarray(tensor)) for tensor in checkpoint.tensors["model.safetensors"].values())


@pytest.mark.parametrize("size", [None, 512 * MEGABYTE])
@pytest.mark.skipif(SIZE is None, reason="this kernel has no huge pages")
def test_they_are_not_asked_for_where_they_are_off_or_giant(tmp_path, monkeypatch, size):
    """As the administrator wants it; and one page for many files at once is more than older kernels can cope with."""
    monkeypatch.setattr(kernel, "huge_page_size", lambda: size)
    commit(Store(tmp_path), 1, np.arange(3 * MEGABYTE, dtype=np.uint8))
    checkpoint = Store(tmp_path).latest(lambda name, reason: None)
    assert checkpoint is not None
    assert not any(advised(np.asarray(tensor)) for tensor in checkpoint.tensors["model.safetensors"].values())


def test_a_kernel_that_refuses_them_is_read_all_the_same(tmp_path, monkeypatch):
    """`commit` reads what it has written."""
    monkeypatch.setattr(kernel, "huge_page_size", lambda: 2 * MEGABYTE)
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1)
    commit(Store(tmp_path), 1, np.arange(3 * MEGABYTE, dtype=np.uint8))


@pytest.mark.skipif(SIZE is None, reason="this kernel has none")
def test_what_goes_over_a_buffer_is_written_out_of_huge_pages(monkeypatch):
    """In small pages a buffer of 2 MB has 512 addresses; some virtual disks take a millisecond for them."""
    monkeypatch.setattr(kernel, "huge_page_size", lambda: 2 * MEGABYTE)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    bounce = Bounce()
    for _ in range(6):
        bounce.add(memoryview(bytes(range(256)) * 3))
        taken = bounce.take()
        array = np.frombuffer(taken, np.uint8)
        assert array.ctypes.data % (2 * MEGABYTE) == 0 and advised(array)
        assert bytes(taken) == bytes(range(256)) * 3


@pytest.mark.parametrize("size", [1, 4096, MEGABYTE, 2 * MEGABYTE - 1, 2 * MEGABYTE, 6 * MEGABYTE, 7 * MEGABYTE + 5])
def test_memory_is_of_any_size_and_begins_with_a_page(monkeypatch, size):
    """A huge one only if it is that large."""
    monkeypatch.setattr(kernel, "huge_page_size", lambda: 2 * MEGABYTE)
    array = huge_pages.memory(size, {})
    large = size >= 2 * MEGABYTE
    assert len(array) == size and array.ctypes.data % (2 * MEGABYTE if large else 4096) == 0
    array[:] = 7
    assert array.all()


@pytest.mark.parametrize(("environment", "size"), [({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, 2 * MEGABYTE), ({}, None)])
def test_memory_is_ordinary_where_huge_pages_are_ruled_out(monkeypatch, environment, size):
    """By the user, or by the administrator."""
    monkeypatch.setattr(kernel, "huge_page_size", lambda: size)
    array = huge_pages.memory(4 * MEGABYTE, environment)
    assert len(array) == 4 * MEGABYTE and not advised(array)
