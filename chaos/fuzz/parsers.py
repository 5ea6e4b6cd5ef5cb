"""Targets for what lies on disk or in memory: manifest, tensors, a whole checkpoint, journal, heartbeat, durations, Slurm's environment."""

from __future__ import annotations

import datetime as dt
import functools
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from chaos.fuzz.finding import expect
from resilient import journal, manifest
from resilient.durations import parse_duration
from resilient.errors import CheckpointCorruptError, CheckpointMismatchError, ConfigurationError
from resilient.heartbeat import ENVIRONMENT, Heartbeat, Page, Section
from resilient.manifest import Manifest, Progress
from resilient.preemption import slurm
from resilient.store import Store, safetensors_format

STEP = 7
MODEL = "model.safetensors"
_LONGEST_DURATION = dt.timedelta.max.total_seconds()
_TEXT = 24 << 10  # of a heartbeat's records


@functools.cache
def scratch() -> Path:
    """A directory of this process, in memory where there is such a place; removed when it ends."""
    keep = tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)  # noqa: S108
    _kept.append(keep)
    return Path(keep.name)


_kept: list[Any] = []  # so that they go with the process and not before


def signed(data: bytes) -> bytes:
    """JSON with the right checksum, as someone writes it who knows the format; what is no JSON object stays as it is."""
    try:
        document = json.loads(data)
        del document["checksum"]
    except (ValueError, RecursionError, KeyError, TypeError):
        pass
    else:
        document["checksum"] = xxhash.xxh3_128_hexdigest(_canonical(document))
        return _canonical(document)
    return data


def _canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def read_manifest(data: bytes) -> None:
    """A manifest is what `Manifest.encode` writes, or damage, or newer; names in it are names of files beside it."""
    for version in (data, signed(data)):
        try:
            found = manifest.decode(version, "fuzzed")
        except (CheckpointCorruptError, CheckpointMismatchError):
            continue
        expect(found.encode() == version, "that only what it writes is read")
        expect(all(_is_plain(name) for name in found.files), "plain names of files")


def _is_plain(name: str) -> bool:
    return os.path.basename(name) == name and not name.startswith(".") and "\0" not in name and name == name.lower()


def read_tensors(data: bytes) -> None:
    """Tensors are views on the data, never more than there is."""
    try:
        found = safetensors_format.parse(data)
    except safetensors_format.FormatError:
        return
    expect(sum(array.nbytes for array in found.values()) <= len(data), "tensors within the file")
    expect(not any(array.flags.owndata for array in found.values()), "views")


@functools.cache
def run_directory() -> Path:
    """A run with one checkpoint, around which lies what nothing may reach: valid tensors above it, links to them, a pipe."""
    root = scratch() / "run-with-neighbours"
    store = Store(root / "run")
    store.prepare()
    store.commit(_a_manifest(), {MODEL: {"w": np.arange(6, dtype=np.float32)}})
    checkpoint = root / "run/checkpoints" / manifest.step_name(STEP)
    for place in (root, root / "run", root / "run/checkpoints"):
        shutil.copy(checkpoint / MODEL, place / "outside.safetensors")
    (checkpoint / "link.safetensors").symlink_to("../outside.safetensors")
    (checkpoint / "absolute.safetensors").symlink_to(root / "outside.safetensors")
    (checkpoint / "folder.safetensors").mkdir()
    os.mkfifo(checkpoint / "pipe.safetensors")
    return root / "run"


def _a_manifest() -> Manifest:
    created = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    state = {"settings": {"monitor": "loss"}, "weights_h5": {}, "input": {"kind": "arrays", "positioning": "seek"}}
    return Manifest(Progress(1, 2, STEP), STEP, "run", created, {"loss": 0.5}, 0.5, "min", best=True, state=state, files={})


def read_checkpoint(data: bytes) -> None:
    """A checkpoint with this manifest, its checksum made right, is read from its own directory alone."""
    run = run_directory()
    checkpoint = run / "checkpoints" / manifest.step_name(STEP)
    (checkpoint / manifest.MANIFEST_NAME).write_bytes(signed(data))
    store = Store(run)
    store.infos()
    store.verify()
    try:
        found = store.load(STEP)
    except (CheckpointCorruptError, CheckpointMismatchError, ConfigurationError):
        return
    own = {entry.name for entry in os.scandir(checkpoint) if entry.is_file(follow_symlinks=False)}
    expect(found is not None and found.tensors.keys() <= own, "regular files of the checkpoint's own")


def read_journal(data: bytes) -> None:
    """Events are objects with a name and a time; an event appended to whatever lies there is the last one."""
    directory = scratch() / "journal"
    directory.mkdir(exist_ok=True)
    (directory / journal.JOURNAL_NAME).write_bytes(data)
    for newest in (None, 100):
        for event in journal.read(directory, newest):
            expect(isinstance(event["event"], str) and dt.datetime.fromisoformat(event["time"]).tzinfo, "events")
    before = len(journal.read(directory))
    diary = journal.Journal(directory)
    expect(diary.append("saved", step=3), "that it is written")
    diary.close()
    after = journal.read(directory)
    expect(after[-1]["step"] == 3 and len(after) == before + 1, "one event more")


def read_heartbeat(data: bytes) -> None:
    """Whatever a program made of its page, the supervisor reads signs of life, or none; and a training can begin on it."""
    page = Page()
    try:
        descriptor = os.open(page.path, os.O_RDWR)
        os.pwrite(descriptor, data[: 1 << 17], 0)
        os.close(descriptor)
        expect(isinstance(page.beat().section, Section), "a section")
        page.saves()
        announced = page.announcement()
        expect(announced is None or (type(announced.pid) is int and isinstance(announced.directory, Path)), "an announcement")
        expect(isinstance(page.orders.skip, tuple), "orders")
        beating = Heartbeat.claim({ENVIRONMENT: page.path})
        expect(isinstance(beating.orders.attempt, int), "orders")
        beating.announce(Path("run"))
        beating.beat(Section.TRAINING, Progress(0, 1, 1))
        if beating.supervised:
            expect(page.beat().progress == Progress(0, 1, 1), "the beat that was given")
        beating.close()
    finally:
        page.close()


def heartbeat_page(announcement: bytes, orders: bytes, beat: bytes = b"", counts: tuple[int, int, int, int] = (0, 0, 0, 0)) -> bytes:
    """A page with these records, where docs and supervisor expect them."""
    page = bytearray(4096 + 4 * _TEXT)
    page[:8] = b"resil\x00\x00\x01"
    page[8:40] = struct.pack("@qqqq", *counts)
    for start, record in ((64, beat), (4096, announcement), (4096 + 2 * _TEXT, orders)):
        page[start : start + len(record)] = record
    return bytes(page)


def read_duration(data: bytes) -> None:
    """A duration is positive and finite, or refused in a sentence."""
    try:
        seconds = parse_duration(data.decode("utf-8", "surrogateescape"), "--grace")
    except ConfigurationError:
        return
    expect(0 < seconds <= _LONGEST_DURATION, "a positive, finite duration")


def read_slurm(data: bytes) -> None:
    """The end of a job is a time to come, or there is none."""
    for limit in slurm.time_limit({"SLURM_JOB_END_TIME": data.decode("utf-8", "surrogateescape")}, None):
        for announcement in limit.poll():
            expect(announcement.ends and announcement.left is not None, "the end of the time limit")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "manifest": read_manifest,
    "safetensors": read_tensors,
    "checkpoint": read_checkpoint,
    "journal": read_journal,
    "heartbeat": read_heartbeat,
    "duration": read_duration,
    "slurm": read_slurm,
}


def _tensors_sample() -> bytes:
    planned = safetensors_format.layout({"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float16), "n": np.array(1)})
    return b"".join(bytes(chunk) for chunk in planned.chunks())


@functools.cache
def samples() -> dict[str, list[bytes]]:
    """Valid input of each target, from which mutation begins."""
    committed = (run_directory() / "checkpoints" / manifest.step_name(STEP) / manifest.MANIFEST_NAME).read_bytes()
    line = b'{"event":"saved","time":"2026-01-01T00:00:00+00:00","step":3,"epoch":0}\n'
    orders = b'{"attempt": 2, "resume_at_most": 5, "skip": [[0, 3]], "grace": 2.5}\0'
    announced = b'{"pid": 1, "directory": "/runs/a", "variables": {"TF_X": "1"}}\0'
    return {
        "manifest": [committed],
        "safetensors": [_tensors_sample()],
        "checkpoint": [committed, committed.replace(MODEL.encode(), b"link.safetensors")],
        "journal": [line * 3, line + line[:30]],
        "heartbeat": [heartbeat_page(announced, orders, struct.pack("@qqqq", 2, 0, 3, 3))],
        "duration": [b"30s", b"1h30m", b"1.5h"],
        "slurm": [b"4000000000", b"1"],
    }
