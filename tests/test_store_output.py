"""How a file's bytes reach the disk: in place, over the bounce buffer, through the page cache; always the same bytes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import threading
import time

import numpy as np
import pytest
import xxhash
from store_samples import manifest, placed, prepared, same, writes_directly

from resilient.store import kernel, output
from resilient.store.files import write_file

MEGABYTE = 2**20
# Sizes around blocks, bounce buffer and chunk, and places in a block where allocators put memory.
SIZES = (0, 1, 511, 512, 5000, 2**18, 2 * MEGABYTE, 2 * MEGABYTE + 512, 5 * MEGABYTE + 17)
PLACES = (0, 1, 64, 320, 512)
CHEAPLY = output.WriteOptions()


def pieces(chance: np.random.Generator) -> list[memoryview]:
    """Some chunks of memory at chosen places."""
    found = []
    for _ in range(int(chance.integers(1, 6))):
        size, place = int(chance.choice(SIZES)), int(chance.choice(PLACES))
        memory = chance.integers(0, 256, size + 8192, np.uint8)
        start = -memory.ctypes.data % 4096 + place
        found.append(memory[start : start + size].data)
    return found


def check(path, chunks, options=CHEAPLY) -> None:
    content = b"".join(map(bytes, chunks))
    entry = write_file(path, len(content), chunks, options)
    assert path.read_bytes() == content
    assert (entry.size, entry.xxh3_128) == (len(content), xxhash.xxh3_128_hexdigest(content))
    path.unlink()


@pytest.mark.parametrize("seed", range(60))
def test_what_is_written_is_what_was_given(tmp_path, seed):
    """Whatever the sizes of the chunks and where they lie in memory."""
    check(tmp_path / "file", pieces(np.random.default_rng(seed)))


def test_memory_to_gather_in_is_used_again(tmp_path, monkeypatch):
    """Also after a file that failed when something was in it."""
    options = output.WriteOptions(reused=output.Reused())
    for seed in range(20):
        check(tmp_path / "file", pieces(np.random.default_rng(seed)), options)
        with pytest.raises(OSError, match="were announced"):
            write_file(tmp_path / "failed", 2**30, pieces(np.random.default_rng(seed)), options)
        (tmp_path / "failed").unlink()


def test_what_somebody_waits_for_is_hashed_while_the_disk_works(tmp_path, monkeypatch):
    """From the piece on at which the waiting begins; it stays a direct write, because an emergency finds the page cache cold."""
    genuine, written = os.write, []
    monkeypatch.setattr(os, "write", lambda fd, data: (written.append((direct(fd), threading.current_thread())), genuine(fd, data))[1])
    for begins, own in ((0, 0), (2, 2), (10**9, 5)):
        asked = iter(range(10**9))
        written.clear()
        options = output.WriteOptions(awaited=lambda: next(asked) >= begins)  # noqa: B023
        check(tmp_path / "file", [np.zeros(3 * MEGABYTE, np.int32).data.cast("B")] * 5, options)
        assert all(past_cache for past_cache, _ in written[:-1])
        here = [thread is threading.current_thread() for _, thread in written]
        assert here == sorted(here, reverse=True) and any(here) is (own > 0) and all(here) is (own == 5)


def test_a_slow_disk_finds_in_its_buffers_what_was_put_there(tmp_path, monkeypatch):
    """The next pieces are gathered and hashed while it still works: not in the memory that it reads."""
    genuine, together = os.write, os.writev
    monkeypatch.setattr(kernel, "direct_alignment", lambda fd: kernel.Alignment(4096, 4096))
    monkeypatch.setattr(os, "write", lambda fd, data: (time.sleep(0.01), genuine(fd, data))[1])
    monkeypatch.setattr(os, "writev", lambda fd, pieces: (time.sleep(0.01), together(fd, pieces))[1])
    memory = np.random.default_rng(0).integers(0, 256, 7 * MEGABYTE, np.uint8)
    askew = memory[-memory.ctypes.data % 4096 + 64 :].data  # all of it goes through the buffers
    options = output.WriteOptions(awaited=lambda: True, reused=output.Reused())
    check(tmp_path / "file", [askew], options)
    straight = placed(memory[: 3 * MEGABYTE], 0).data  # and of this nothing, only what lies before
    check(tmp_path / "file", [piece for number in range(8) for piece in (bytes([number]) * 4096, straight)], options)


def test_without_direct_writes_the_disk_begins_before_all_is_copied(tmp_path, monkeypatch):
    """A large tensor is told to the disk piece by piece, in order and without a hole."""
    genuine, begun = kernel.start_writeback, []
    monkeypatch.setattr(output, "_set_direct", lambda fd, *, on: False)
    monkeypatch.setattr(output, "_BEGUN", MEGABYTE)
    monkeypatch.setattr(kernel, "start_writeback", lambda fd, *range_: (begun.append(range_), genuine(fd, *range_))[1])
    check(tmp_path / "file", [bytes(5 * MEGABYTE + 3)])
    assert begun == [(number * MEGABYTE, MEGABYTE) for number in range(5)] + [(5 * MEGABYTE, 3)]


def test_pages_are_let_go_on_the_way(tmp_path, monkeypatch):
    """A large file, where it cannot be written directly, takes up no more of the page cache than a small one."""
    monkeypatch.setattr(output, "_set_direct", lambda fd, *, on: False)
    monkeypatch.setattr(output, "_CACHED", 4 * MEGABYTE)
    monkeypatch.setattr(output, "_DROPPED", MEGABYTE)
    genuine, let_go = os.posix_fadvise, []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *range_: (let_go.append(range_[:2]), genuine(fd, *range_))[1])
    for seed in range(5):
        let_go.clear()
        check(tmp_path / "file", pieces(np.random.default_rng(seed)) * 4, output.WriteOptions(awaited=lambda: True))
        assert all(end == start for (first, size), (start, _) in itertools.pairwise(let_go) for end in [first + size])
    assert let_go and let_go[0][0] == 0


def test_a_file_system_without_direct_writes_gets_the_same_bytes(tmp_path, monkeypatch):
    """tmpfs, for one, says so when the flag is set."""
    monkeypatch.setattr(output, "_set_direct", lambda fd, *, on: False)
    for seed in range(10):
        check(tmp_path / "file", pieces(np.random.default_rng(seed)))


def test_a_disk_that_refuses_direct_writes_after_all_gets_them_through_the_page_cache(tmp_path, monkeypatch):
    """EINVAL at the write itself is what a disk says whose blocks are larger than announced."""
    genuine, refused = os.write, []

    def write(fd, data):
        if direct(fd):
            refused.append(len(data))
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return genuine(fd, data)

    monkeypatch.setattr(os, "write", write)
    check(tmp_path / "file", [np.arange(MEGABYTE, dtype=np.int32).data.cast("B")])
    assert len(refused) == 1


def test_short_writes_are_continued(tmp_path, monkeypatch):
    """A write may take any part of what it is given, also one that ends within a block."""
    genuine = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: genuine(fd, data[: max(1, len(data) // 3)] if not direct(fd) else data[:512]))
    check(tmp_path / "file", [np.arange(MEGABYTE // 2, dtype=np.int32).data.cast("B"), b"end"])


@pytest.mark.parametrize("refused", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("awaited", [False, True])
def test_an_error_of_the_disk_reaches_the_caller(tmp_path, monkeypatch, awaited, refused):
    """Whichever piece it meets, also one under way or queued while the next was hashed; only what was queued is written after it."""
    genuine, calls = os.write, []

    def write(fd, data):
        calls.append(len(data))
        time.sleep(0.005)
        if len(calls) == refused:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return genuine(fd, data)

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(kernel, "direct_alignment", lambda fd: kernel.Alignment(4096, 4096))
    memory = np.zeros(6 * MEGABYTE, np.uint8)
    start = -memory.ctypes.data % 4096
    chunks = [memory[start : start + 2 * MEGABYTE].data] * 5
    with pytest.raises(OSError, match="No space left"):
        check(tmp_path / "file", chunks, output.WriteOptions(awaited=lambda: awaited))
    assert len(calls) <= refused + (1 if awaited else 0)


def test_big_tensors_are_not_copied_on_their_way(tmp_path, monkeypatch):
    """The disk is handed the caller's own memory, where both begin at the same place of a block."""
    memory = np.zeros(8 * MEGABYTE, np.uint8)
    start = -memory.ctypes.data % 4096
    given = memory[start : start + 4 * MEGABYTE]
    handed = []
    genuine = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: handed.append(np.frombuffer(data, np.uint8).ctypes.data) or genuine(fd, data))
    check(tmp_path / "file", [given.data])
    assert given.ctypes.data in handed


def after_a_little() -> list[memoryview]:
    """Twice a chunk of nearly two blocks, and a large one that lies as it will in the file."""
    return [bytes(range(250)) * 4, placed(np.random.default_rng(0).integers(0, 256, 3 * MEGABYTE, np.uint8), 1000).data] * 2


@pytest.mark.parametrize("short", [0, 512, 1024, 1536, 2 * MEGABYTE, 3 * MEGABYTE + 512])
def test_what_lies_before_a_big_tensor_goes_to_the_disk_with_it(tmp_path, monkeypatch, short):
    """In one call, which may take a part of the first, all of it, or a part of both."""
    genuine, calls = os.writev, []

    def writev(fd, pieces):
        calls.append([len(piece) for piece in pieces])
        if not short:
            return genuine(fd, pieces)
        first = pieces[0][:short]
        return genuine(fd, [first, pieces[1][: short - len(first)]] if len(first) < short else [first])

    monkeypatch.setattr(os, "writev", writev)
    monkeypatch.setattr(kernel, "direct_alignment", lambda fd: kernel.Alignment(512, 512))
    check(tmp_path / "file", after_a_little())
    assert calls[0] == [1024, 3 * MEGABYTE - 512]


def test_a_disk_that_refuses_two_pieces_gets_them_through_the_page_cache(tmp_path, monkeypatch):
    """One after the other."""
    refused = []

    def writev(fd, pieces):
        refused.append(len(pieces))
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "writev", writev)
    monkeypatch.setattr(kernel, "direct_alignment", lambda fd: kernel.Alignment(512, 512))
    check(tmp_path / "file", after_a_little())
    assert refused == [2]


def test_a_piece_is_hashed_while_the_disk_works_on_it(tmp_path, monkeypatch):
    """Not before: the disk would have nothing to do meanwhile."""
    genuine, begun, hashed = os.write, threading.Event(), threading.Event()

    class Digest:
        def __init__(self):
            self._genuine = xxhash.xxh3_128()

        def update(self, data):
            together.append(begun.wait(5))
            self._genuine.update(data)
            hashed.set()

        def hexdigest(self):
            return self._genuine.hexdigest()

    def write(fd, data):
        begun.set()
        together.append(hashed.wait(60))
        return genuine(fd, data)

    together: list[bool] = []
    digest = Digest()
    monkeypatch.setattr(output.xxhash, "xxh3_128", lambda: digest)
    monkeypatch.setattr(os, "write", write)
    write_file(tmp_path / "file", 2 * MEGABYTE, [bytes(2 * MEGABYTE)], output.WriteOptions(awaited=lambda: True))
    assert together == [True, True]


@pytest.mark.parametrize("alignment", [kernel.Alignment(512, 512), kernel.Alignment(4096, 4096), kernel.Alignment(4, 512)])
@pytest.mark.parametrize("place", [0, 64, 4032])
def test_tensors_are_arranged_so_that_they_are_written_from_where_they_lie(tmp_path, monkeypatch, alignment, place):
    """All of each but the blocks at its ends, from 2 MB on, by every commit."""
    chance = np.random.default_rng(0)
    tensors = {f"large{number}": placed(chance.integers(0, 256, 2 * MEGABYTE, np.uint8), place) for number in range(6)}
    handed = []
    genuine, together = os.write, os.writev
    monkeypatch.setattr(os, "write", lambda fd, data: handed.append(data) or genuine(fd, data))
    monkeypatch.setattr(os, "writev", lambda fd, pieces: handed.extend(pieces) or together(fd, pieces))
    monkeypatch.setattr(kernel, "direct_alignment", lambda fd: alignment)
    store = prepared(tmp_path)
    store.commit(manifest(step=1), {"model.safetensors": dict(tensors)})
    own = sum(len(piece) for piece in handed if any(lies_in(piece, tensor) for tensor in tensors.values()))
    assert 6 * (2 * MEGABYTE - 2 * alignment.offset) <= own <= 6 * 2 * MEGABYTE or not writes_directly(tmp_path)
    assert same(store.load(1).tensors, {"model.safetensors": tensors})


def lies_in(piece, tensor: np.ndarray) -> bool:
    return 0 <= np.frombuffer(piece, np.uint8).ctypes.data - tensor.ctypes.data < tensor.nbytes


def test_many_small_tensors_become_few_writes(tmp_path, monkeypatch):
    """A thousand scalars do not cost a thousand system calls."""
    calls = []
    genuine = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: calls.append(len(data)) or genuine(fd, data))
    check(tmp_path / "file", [bytes(4)] * 1000)
    assert calls == [4000]


def test_alignment_is_a_page_where_the_kernel_does_not_tell(monkeypatch, tmp_path):
    """Kernels before 6.1, and file systems that do not say."""
    monkeypatch.setattr(kernel, "_statx", None)
    assert kernel.direct_alignment(0) == kernel.Alignment(4096, 4096)
    check(tmp_path / "file", pieces(np.random.default_rng(1)))


def direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.EOPNOTSUPP])
def test_an_error_on_the_way_to_the_disk_is_one(tmp_path, monkeypatch, number):
    """Whatever it is called: to have asked takes it away from the fsync at the end."""

    def refuse(fd, offset, size, flags):
        ctypes.set_errno(number if flags & 1 else 0)
        return -1 if flags & 1 else 0

    monkeypatch.setattr(output, "_set_direct", lambda fd, *, on: False)
    monkeypatch.setattr(output, "_CACHED", MEGABYTE)
    monkeypatch.setattr(output, "_DROPPED", MEGABYTE)
    monkeypatch.setattr(kernel, "_sync_file_range", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        check(tmp_path / "file", [bytes(MEGABYTE)] * 8, output.WriteOptions(awaited=lambda: True))
