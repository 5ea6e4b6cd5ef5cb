"""Files given to readers: whole at every moment, and taken back exactly where a crash undid the steps that wrote them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.errors import StorageError
from resilient.store import files, temporaries
from resilient.store.publication import BackgroundPublisher, Job, PublishedFiles, Record, digest_of

ROOT = Path(__file__).resolve().parent.parent

# Publishes A, holds it as a saved state would, publishes B, and dies of SIGKILL before the call of number argv[2] that changes the disk.
CHILD = """
import os, signal, sys
from pathlib import Path
import xxhash
from resilient.store.publication import Job, PublishedFiles
count = 0
def deadly(function):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
for name in ("open", "write", "fsync", "replace", "link", "unlink", "mkdir", "close"):
    setattr(os, name, deadly(getattr(os, name)))
path = Path(sys.argv[1]) / "new" / "best.bin"
published = PublishedFiles(str(path))
for content in (b"A" * 1000, b"B" * 3000):
    record = published.announce(path, len(content), xxhash.xxh3_128_hexdigest(content), None)
    published.publish(Job(path, record, memoryview(content)))
    published.hold([record.digest])
    print(len(content), flush=True)
"""


def publish(published: PublishedFiles, path: Path, content: bytes, best: float | None = None) -> Record:
    record = published.announce(path, len(content), xxhash.xxh3_128_hexdigest(content), best)
    assert record is not None
    published.publish(Job(path, record, memoryview(content)))
    return record


def hidden(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.name.startswith(".") and not path.name.endswith(".resilient.json")}


def test_killed_at_any_system_call_the_file_is_whole_and_can_be_taken_back(tmp_path: Path) -> None:
    """A real process dies before each call that changes the disk: readers see A, B or nothing, and going back gives A or nothing."""
    seen = set()
    for point in range(1, 200):
        directory = tmp_path / str(point)
        directory.mkdir()
        child = subprocess.run(  # its death is the point
            [sys.executable, "-c", CHILD, str(directory), str(point)], check=False, capture_output=True, text=True, cwd=ROOT
        )
        assert child.returncode in (0, -signal.SIGKILL), child.stderr
        path = directory / "new" / "best.bin"
        content = path.read_bytes() if path.exists() else None
        assert content in (None, b"A" * 1000, b"B" * 3000)
        done = [int(line) for line in child.stdout.split()]
        assert content is not None or 1000 not in done
        assert 3000 not in done or content == b"B" * 3000
        PublishedFiles(str(path)).withdraw_after(1)
        assert (path.read_bytes() if path.exists() else None) == (content and b"A" * 1000)
        publish(PublishedFiles(str(path)), path, b"C")
        assert path.read_bytes() == b"C"
        assert not any(".tmp-" in name for name in hidden(path.parent))
        seen.add((content or b"-")[:1])
        if child.returncode == 0:
            break
    else:
        pytest.fail("the child never got to its end")
    assert seen == {b"-", b"A", b"B"}
    assert point > 20


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["publish", "state", "back", "restart"]), min_size=3, max_size=25), st.data())
def test_going_back_gives_what_was_there_or_nothing_and_never_a_later_file(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], data: st.DataObject
) -> None:
    """Over any order of writing, saving states, going back and restarting: the content of the state comes back if it is a recent one."""
    path = tmp_path_factory.mktemp("published") / "best.bin"
    published, number, held = PublishedFiles(str(path)), 0, []
    for step in ["state", *steps]:  # a run's first state is that of step 0
        if step == "publish":
            number += 1
            publish(published, path, f"content {number}".encode())
        elif step == "state":
            content = path.read_bytes() if path.exists() else None
            published.hold(record.digest for record in published.newest())
            held.append((published.last_serial(), published.newest(), content))
        elif step == "restart":
            published = PublishedFiles(str(path))
        elif held:
            age = data.draw(st.integers(1, len(held)))
            serial, records, content = held[-age]
            del held[len(held) - age + 1 :]
            published.withdraw_after(serial, records)
            now = path.read_bytes() if path.exists() else None
            assert now == content or (now is None and age > 3)
            held[-1] = (serial, records, now)
    assert len([name for name in hidden(path.parent) if name.endswith(".superseded")]) <= 3
    assert not any(".tmp-" in name for name in hidden(path.parent))


def test_a_file_that_someone_else_put_there_is_never_touched(tmp_path: Path) -> None:
    """Only a content that the record names as written later may be removed."""
    path = tmp_path / "best.bin"
    publish(PublishedFiles(str(path)), path, b"ours")
    path.write_bytes(b"theirs")
    PublishedFiles(str(path)).withdraw_after(0)
    assert path.read_bytes() == b"theirs"


def test_a_file_of_its_own_name_for_each_epoch_is_removed_if_it_is_later(tmp_path: Path) -> None:
    """A template's files are known one by one, in directories that the template names too."""
    published = PublishedFiles(str(tmp_path / "epoch-{epoch}" / "m.bin"))
    for epoch in (1, 2, 3):
        publish(published, tmp_path / f"epoch-{epoch}" / "m.bin", str(epoch).encode())
    PublishedFiles(str(tmp_path / "epoch-{epoch}" / "m.bin")).withdraw_after(1)
    assert [(tmp_path / f"epoch-{epoch}" / "m.bin").exists() for epoch in (1, 2, 3)] == [True, False, False]


@pytest.mark.parametrize("name", ["../outside.bin", "{absolute}", "a/../../outside.bin"])
def test_a_forged_record_cannot_reach_outside_its_directory(tmp_path: Path, name: str) -> None:
    """The record is read from disk, so what it says about other directories is not believed."""
    outside = tmp_path / "outside.bin"
    outside.write_bytes(b"precious")
    root = tmp_path / "root"
    root.mkdir()
    published = PublishedFiles(str(root / "m.bin"))
    entry = {"path": name.format(absolute=outside), "size": 8, "digest": digest_of(outside), "serial": 9, "best": None, "held": False}
    published.record_path.write_text(json.dumps({"format": 1, "files": [entry]}))
    published.withdraw_after(0)
    assert outside.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2, "files": []}', '{"format": 1, "files": 3}', "[" * 100_000, '{"format": 1, "files": [7]}']
)
def test_an_unreadable_record_touches_nothing(tmp_path: Path, text: str) -> None:
    """Without a record nothing is known to be ours."""
    path = tmp_path / "m.bin"
    publish(PublishedFiles(str(path)), path, b"ours")
    published = PublishedFiles(str(path))
    published.record_path.write_text(text)
    published.withdraw_after(0)
    assert path.read_bytes() == b"ours"


def test_temporaries_of_dead_processes_are_swept_and_others_left(tmp_path: Path) -> None:
    """A dead process' and an earlier life's temporaries go; those of a live process, of this one and of other machines stay."""
    own = temporaries.name_beside(tmp_path / "m.bin")
    host, _, token = own.name.partition(".tmp-")[2].split("-")[:3]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stay = [own, tmp_path / f".m.bin.tmp-{host}-{os.getppid()}-00000000-0", tmp_path / f".m.bin.tmp-00000000-1-{token}-0"]
    go = [tmp_path / f".m.bin.tmp-{host}-{dead.pid}-00000000-0.h5", tmp_path / f".m.bin.tmp-{host}-{os.getpid()}-00000000-0"]
    for path in [*stay, *go]:
        path.write_bytes(b"half")
    temporaries.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(stay)


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    """A web server that may read the user's other files may read these."""
    old = os.umask(0o027)
    try:
        publish(PublishedFiles(str(tmp_path / "m.bin")), tmp_path / "m.bin", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "m.bin").stat().st_mode & 0o777 == 0o640


def test_a_symbolic_link_keeps_pointing(tmp_path: Path) -> None:
    """As when Keras writes: the file that the link names gets the new content."""
    (tmp_path / "real").mkdir()
    (tmp_path / "m.bin").symlink_to(tmp_path / "real" / "m.bin")
    publish(PublishedFiles(str(tmp_path / "m.bin")), tmp_path / "m.bin", b"x")
    assert (tmp_path / "m.bin").is_symlink() and (tmp_path / "real" / "m.bin").read_bytes() == b"x"


def test_a_file_system_without_hard_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FUSE and some network file systems refuse links; going back works there too."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "m.bin"
    published = PublishedFiles(str(path))
    published.hold([publish(published, path, b"A").digest])
    publish(published, path, b"B")
    published.withdraw_after(1)
    assert path.read_bytes() == b"A"


def test_a_name_of_the_longest_length_can_be_published(tmp_path: Path) -> None:
    """What is added to a name for hidden files does not exceed what a file system takes."""
    path = tmp_path / ("ä" * 120 + ".keras")
    published = PublishedFiles(str(path))
    published.hold([publish(published, path, b"A").digest])
    publish(published, path, b"B")
    published.withdraw_after(1)
    assert path.read_bytes() == b"A"


class Gate:
    """Stands in for the disk: counts what is being written, and lets nothing through until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.reached, self.write = threading.Event(), threading.Event(), files.write_file
        monkeypatch.setattr(files, "write_file", self.wait)

    def wait(self, *args: object) -> object:
        self.reached.set()
        assert self.opened.wait(60)
        return self.write(*args)


def test_a_newer_file_replaces_one_not_begun_unless_a_state_speaks_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is busy with A, B gives way to C; with B held by a state, both are written, in order."""
    for hold, expected in ((False, [b"A", b"C"]), (True, [b"A", b"B", b"C"])):
        path = tmp_path / f"{hold}.bin"
        published, written = PublishedFiles(str(path)), []
        gate = Gate(monkeypatch)
        publisher = BackgroundPublisher(published)
        plain = published.publish
        monkeypatch.setattr(
            published, "publish", lambda job, plain=plain, written=written: (written.append(bytes(job.content)), plain(job))
        )
        for content in (b"A", b"B", b"C"):
            record = published.announce(path, 1, xxhash.xxh3_128_hexdigest(content), None)
            publisher.submit(Job(path, record, memoryview(content)))
            assert gate.reached.wait(60)
            if hold:
                published.hold([record.digest])
        assert not path.exists()
        gate.opened.set()
        publisher.wait()
        assert written == expected and path.read_bytes() == b"C"
        monkeypatch.undo()


def test_a_refused_write_leaves_the_old_file_and_is_raised_once(tmp_path: Path) -> None:
    """The error names the file and the remedy, and the next file is written all the same."""
    path = tmp_path / "m.bin"
    published = PublishedFiles(str(path))
    publish(published, path, b"A")
    publisher = BackgroundPublisher(published)
    publisher.submit(Job(tmp_path / "m.bin" / "below", None, memoryview(b"B")))
    publisher.submit(Job(path, None, memoryview(b"C")))
    publisher.wait()
    with pytest.raises(StorageError, match=r"below.*file is in the way"):
        publisher.settle()
    assert publisher.settle() == [] and path.read_bytes() == b"C"
