"""Every state that a crash may leave of a run directory, and the real restore on each; broken protocols that this must catch."""

from __future__ import annotations

import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.crash_states import explore, page
from chaos.crash_states.lives import LIVES, named
from chaos.crash_states.mutants import MUTANTS
from chaos.crash_states.persistence import MODELS, Breadth, Cut, Kept, State, states
from chaos.crash_states.recording import Ack, Recorder, Resize, Sync, Write
from chaos.samples import BLOCK, writes_directly

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "crash-states.md"
BREADTH = Breadth(exhaustive=3, samples=5, pairs=10)
CASES = [pytest.param(life, way, id=f"{life.name} {way}".strip()) for life in LIVES for way in life.ways]


@pytest.mark.parametrize(("life", "way"), CASES)
def test_no_crash_costs_an_acknowledged_state(life, way):
    """A life cut after every call, in every way that each of the three models allows; and the restart after it cut again."""
    name, counts, distinct = explore.survey(life, way, BREADTH, restarts=1)
    assert [str(bad) for count in counts.values() for bad in count.bad] == []
    assert set(counts) == set(MODELS) and distinct > 30, name
    assert all(count.restarts > 2 for count in counts.values()) or not life.restarts


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_protocol_is_caught(mutant):
    """Negative control, for each of them; and the table in the docs says where."""
    bad = mutant.caught()
    assert bad is not None
    # Name, what it does, life and model; the very call may be another one with another Python's `shutil`.
    shown = [line.split("|")[1:4] for line in page.between(PAGE, "mutants").splitlines()]
    assert page.mutant_row(mutant, bad).split("|")[1:4] in shown


def test_the_docs_show_no_mutant_that_is_not_there():
    """Nor one twice, and no life that is not there."""
    assert len(page.between(PAGE, "mutants").splitlines()) == len(MUTANTS) + 2
    shown = [line.split("|")[1].strip() for line in page.between(PAGE, "states").splitlines()[2:] if line.startswith("|")]
    assert shown == [f"{life.name} ({way})" if way else life.name for life in LIVES for way in life.ways]
    assert all(line.endswith("| 0 |") for line in page.between(PAGE, "states").splitlines()[2:] if line.startswith("|"))


def test_direct_writes_of_another_thread_are_recorded(tmp_path):
    """Bytes that go past the page cache are no safer before their fsync, so the recorder has to see each of them."""
    recording = explore.record(named("large"))
    writes = [event for event in recording.events if isinstance(event, Write) and event.says.endswith(".tmp/model.safetensors")]
    assert len(writes) > 2 and sum(len(write.data) for write in writes) > 2 * 9 * BLOCK
    synced = {event.inode for event in recording.events if isinstance(event, Sync) and not event.lost}
    assert {write.inode for write in writes} <= synced
    if writes_directly(tmp_path):  # else everything went through the page cache
        assert any(len(write.data) % BLOCK == 0 for write in writes)


KINDS = {
    "write": "write",
    "writev": "write",
    "pwrite": "write",
    "pwrite64": "write",
    "fsync": "fsync",
    "fallocate": "fallocate",
    "ftruncate": "ftruncate",
    "openat": "create",
    "mkdir": "mkdir",
    "rename": "rename",
    "replace": "rename",
    "renameat": "rename",
    "renameat2": "rename",
    "link": "link",
    "linkat": "link",
    "rmdir": "remove",
    "unlink": "remove",
    "unlinkat": "remove",
}
NAMES_OF_PYTHON = {"pwrite", "replace"}
COUNTING = """
import collections, json, os, sys
from pathlib import Path
from chaos.calls import CHANGES, met
from chaos.crash_states.lives import named
counted = collections.Counter()
def count(call, go):
    result = go()
    if call.name != "open" or call.arguments[1] & os.O_CREAT:
        counted["openat" if call.name == "open" else call.name] += result != -1
    return result
base = Path(sys.argv[1])
for name in sys.argv[2:]:
    life = named(name)
    life.before(base / name)
    with met(count, base, CHANGES):
        os.access("/begin-" + name, os.F_OK)
        life.live(base / name, lambda kind, number: None)
        os.access("/end-" + name, os.F_OK)
print(json.dumps(counted))
"""


def traces() -> bool:
    """Whether strace is here and may trace."""
    program = shutil.which("strace")
    return program is not None and subprocess.run([program, "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not traces(), reason="strace cannot be used here")
def test_no_call_that_changes_the_disk_goes_past_the_recorder(tmp_path):
    """What strace sees from outside is, call for call, what is met in process."""
    log, names = tmp_path / "strace", ["grow", "large", "over", "replace", "quarantine", "publish", "journal"]
    calls = ",".join({"access", "faccessat", "faccessat2", *KINDS} - NAMES_OF_PYTHON)
    command = ["strace", "-f", "-y", "-qq", "-o", str(log), "-e", f"trace={calls}", sys.executable, "-c", COUNTING, str(tmp_path), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    seen: collections.Counter[str] = collections.Counter()
    now = False
    for line in whole_lines(log.read_text(errors="replace")):
        mark = re.search(r'access.*"/(begin|end)-', line)
        now = mark[1] == "begin" if mark else now
        call = re.match(r"(\w+)\(", line)
        if now and call and call[1] in KINDS and str(tmp_path) in line and " = -1 " not in line:
            seen[KINDS[call[1]]] += call[1] != "openat" or "O_CREAT" in line
    met: collections.Counter[str] = collections.Counter()
    counted = json.loads(done.stdout)
    for name, count in counted.items():
        met[KINDS[name]] += count
    assert counted.get("writev", 0) > 3 or not writes_directly(tmp_path)
    assert +met == +seen
    assert met["write"] > 50 and met["fsync"] > 50


def whole_lines(text: str) -> list[str]:
    """Calls by their beginnings, without pids; those that strace told in two parts joined."""
    begun: dict[str, str] = {}
    lines = []
    for line in text.splitlines():
        pid, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            begun[pid] = rest.removesuffix("<unfinished ...>")
        elif rest.startswith("<... "):
            lines.append(begun.pop(pid, "") + rest.partition("resumed>")[2])
        else:
            lines.append(rest)
    return lines


def record_two_blocks(base: Path, *, sync: bool = False):
    with (recorder := Recorder(base)).on():
        fd = os.open(base / "file", os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"n" * 2 * BLOCK)
        if sync:
            os.fsync(fd)
        os.close(fd)
    return recorder.recording()


def test_a_lost_block_holds_what_was_there_before(tmp_path):
    """Old content, zeros or what another file left; and what was synced is never lost."""
    (tmp_path / "file").write_bytes(b"o" * BLOCK)
    cut = Cut(recording := record_two_blocks(tmp_path), len(recording.events))

    def content(kept: Kept) -> bytes:
        return State(cut, frozenset(), {1: kept}).nodes()[0].content

    old, new = b"o" * BLOCK, b"n" * BLOCK
    assert content(Kept(None)) == new + new
    assert content(Kept(frozenset(), resized=False)) == old
    assert content(Kept(frozenset())) == old + bytes(BLOCK)
    assert content(Kept(frozenset({0}), fill=0xA5)) == new + b"\xa5" * BLOCK
    assert content(Kept(frozenset({1}), resized=False)) == old + new
    (tmp_path / "file").write_bytes(b"o" * BLOCK)
    recording = record_two_blocks(tmp_path, sync=True)
    everywhere = states(Cut(recording, len(recording.events)), "weak", random.Random(1), BREADTH)
    assert {state.nodes()[0].content for state in everywhere} == {new + new}


def test_what_a_failed_sync_should_have_saved_stays_lost(tmp_path):
    """A later fsync of the same file that succeeds saves only what came after."""
    events = [Write(1, 0, b"a" * BLOCK, "a"), Sync(1, "s", lost=True), Write(1, BLOCK, b"b" * BLOCK, "b"), Sync(1, "s")]
    (tmp_path / "file").write_bytes(b"")
    recording = record_two_blocks(tmp_path)
    cut = Cut(type(recording)(recording.baseline, events, recording.directories), len(events))
    assert State(cut, frozenset(), {1: Kept(frozenset())}).nodes()[0].content == bytes(BLOCK) + b"b" * BLOCK


def test_an_acknowledgement_comes_after_its_syncs():
    """In every life the recorder saw something written, synced and acknowledged, in this order."""
    for life in LIVES:
        events = explore.record(life).events
        kinds = [type(event) for event in events if isinstance(event, Write | Sync | Ack)]
        assert Ack in kinds and Write in kinds and Sync in kinds
        last = max(at for at, kind in enumerate(kinds) if kind is Ack)
        assert Sync in kinds[:last] or life.name in ("quarantine", "damaged final")
    assert any(isinstance(event, Resize) for event in explore.record(named("grow")).events)
