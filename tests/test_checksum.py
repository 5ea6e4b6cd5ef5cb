from __future__ import annotations

import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
import xxhash

from resilient.store import checksum as room
from resilient.store.checksum import checksum

PAGE = mmap.PAGESIZE


def populates():
    """Whether the kernel fetches pages on request."""
    return room._madvise(None, 0, room._MADV_POPULATE_READ) == 0


def written(path, size):
    """A file's descriptor, its mapped content and its checksum."""
    data = os.urandom(size)
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    content = np.frombuffer(mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ), np.uint8) if size else np.empty(0, np.uint8)
    return fd, content, xxhash.xxh3_128_hexdigest(data)


@pytest.mark.parametrize("size", [0, 1, 2 * PAGE - 1, 2 * PAGE, 2 * PAGE + 1, 5 * PAGE])
@pytest.mark.parametrize("kernel", ["fetches pages", "does not know how"])
def test_it_is_that_of_the_whole_content(tmp_path, monkeypatch, size, kernel):
    """Whatever the size is to the pieces, with a kernel that fetches pages on request and with one that does not."""
    monkeypatch.setattr(room, "_PIECE", 2 * PAGE)
    monkeypatch.setattr(room, "_BLOCK", 1000)
    if kernel == "does not know how":
        monkeypatch.setattr(room, "_madvise", lambda *_: -1)
    fd, content, expected = written(tmp_path / "file", size)
    assert checksum(fd, content) == expected
    os.close(fd)


@pytest.mark.skipif(not populates(), reason="needs Linux 5.14")
def test_the_content_is_hashed_where_it_is_cached(tmp_path, monkeypatch):
    """Nothing is read out of the page cache first, which takes twice as long."""
    fd, content, expected = written(tmp_path / "file", 3 * PAGE)
    monkeypatch.setattr(os, "preadv", lambda *_: pytest.fail("it was read"))
    assert checksum(fd, content) == expected
    os.close(fd)


CUT_SHORT = """
import mmap, os, sys
import numpy as np
from resilient.store.checksum import checksum

fd = os.open(sys.argv[1], os.O_RDWR)
content = np.frombuffer(mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ), np.uint8)
os.truncate(fd, 10)
print(checksum(fd, content))
"""


def test_what_cannot_be_fetched_is_no_signal(tmp_path):
    """Pages that are gone, as those of a bad sector are: a mapping of them kills the process that touches it."""
    (tmp_path / "file").write_bytes(b"x" * 100 * PAGE)
    child = subprocess.run([sys.executable, "-c", CUT_SHORT, tmp_path / "file"], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout) == (0, xxhash.xxh3_128_hexdigest(b"x" * 10) + "\n")
