from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest
import xxhash

from resilient.store import checksum as room
from resilient.store.checksum import checksum

PAGE = mmap.PAGESIZE


def populates():
    """Whether the kernel fetches pages on request."""
    return room._madvise(None, 0, room._MADV_POPULATE_READ) == 0


def written(path, size):
    content = os.urandom(size)
    path.write_bytes(content)
    return os.open(path, os.O_RDONLY), xxhash.xxh3_128_hexdigest(content)


@pytest.mark.parametrize("size", [0, 1, 2 * PAGE - 1, 2 * PAGE, 2 * PAGE + 1, 5 * PAGE])
@pytest.mark.parametrize("kernel", ["fetches pages", "does not know how"])
def test_it_is_that_of_the_whole_content(tmp_path, monkeypatch, size, kernel):
    """Whatever the size is to the windows, with a kernel that fetches pages on request and with one that does not."""
    monkeypatch.setattr(room, "_WINDOW", 2 * PAGE)
    monkeypatch.setattr(room, "_BLOCK", 1000)
    if kernel == "does not know how":
        monkeypatch.setattr(room, "_madvise", lambda *_: -1)
    fd, expected = written(tmp_path / "file", size)
    assert checksum(fd) == expected
    assert os.lseek(fd, 0, os.SEEK_CUR) == 0
    os.close(fd)


@pytest.mark.skipif(not populates(), reason="needs Linux 5.14")
def test_the_content_is_hashed_where_it_is_cached(tmp_path, monkeypatch):
    """Nothing is read out of the page cache first, which takes twice as long."""
    fd, expected = written(tmp_path / "file", 3 * PAGE)
    monkeypatch.setattr(os, "preadv", lambda *_: pytest.fail("it was read"))
    assert checksum(fd) == expected
    os.close(fd)


CUT_SHORT = """
import os, sys
from resilient.store import checksum as room

fd, genuine = os.open(sys.argv[1], os.O_RDWR), room._madvise

def cut_short(*arguments):
    os.truncate(fd, 10)
    return genuine(*arguments)

room._madvise = cut_short
print(room.checksum(fd))
"""


def test_what_cannot_be_fetched_is_no_signal(tmp_path):
    """Pages that are gone, as those of a bad sector are: a mapping of them kills the process that touches it."""
    (tmp_path / "file").write_bytes(b"x" * 100 * PAGE)
    child = subprocess.run([sys.executable, "-c", CUT_SHORT, tmp_path / "file"], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout) == (0, xxhash.xxh3_128_hexdigest(b"x" * 10) + "\n")
