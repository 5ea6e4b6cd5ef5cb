from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import FAST, MODEL, OPTIMIZER, STATE, commit, is_sample, prepared, reports, tensors
from store_samples import manifest as sample_manifest

from resilient.errors import CheckpointCorruptError, CheckpointMismatchError, StorageError
from resilient.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, step_name
from resilient.store import Store, checksum
from resilient.store.safetensors_format import FormatError, layout, parse

FILES = [MANIFEST_NAME, MODEL, OPTIMIZER, STATE]
OLD, NEW = 10, 20


def run_with_two(place: Path) -> tuple[Path, Path]:
    """Directories of an older and a newer checkpoint."""
    store = prepared(place)
    commit(store, OLD)
    commit(store, NEW)
    return place / "checkpoints" / step_name(OLD), place / "checkpoints" / step_name(NEW)


def assert_falls_back(place: Path, expected: int = OLD) -> str:
    """The older one is restored exactly, the damaged one is in quarantine, and a message says why; returns it."""
    assert [problem.path.name for problem in Store(place).verify()] == [step_name(NEW)]
    seen, report = reports()
    found = Store(place).latest(report)
    assert found.manifest.sequence == expected and is_sample(found)
    ((name, reason),) = seen
    assert name == step_name(NEW) and len(reason) > 10
    assert os.path.lexists(place / "quarantine" / name)
    assert reason in (place / "quarantine" / f"{name}.reason.txt").read_text()
    assert Store(place).verify() == []
    return reason


def assert_exact(place: Path) -> None:
    """The newer one is restored exactly, without a word."""
    seen, report = reports()
    found = Store(place).latest(report)
    assert found.manifest.sequence == NEW and is_sample(found) and seen == []


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=50)
def test_any_changed_byte_is_found(name, data):
    """One byte of any file, changed to any other value."""
    with tempfile.TemporaryDirectory(dir=FAST) as place:
        _, newer = run_with_two(Path(place))
        content = bytearray((newer / name).read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        (newer / name).write_bytes(content)
        assert_falls_back(Path(place))


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=30)
def test_any_truncation_or_extension_is_found(name, data):
    """Cut to any length, to nothing, or with anything appended."""
    with tempfile.TemporaryDirectory(dir=FAST) as place:
        _, newer = run_with_two(Path(place))
        content = (newer / name).read_bytes()
        length = data.draw(st.integers(0, len(content) - 1))
        (newer / name).write_bytes(data.draw(st.sampled_from([content[:length], content + b"\0" * (length + 1), b""])))
        assert_falls_back(Path(place))


@given(st.sampled_from(FILES), st.binary(max_size=300))
@settings(max_examples=20)
def test_any_other_content_is_found(name, content):
    """A file replaced by arbitrary bytes."""
    with tempfile.TemporaryDirectory(dir=FAST) as place:
        _, newer = run_with_two(Path(place))
        (newer / name).write_bytes(content)
        assert_falls_back(Path(place))


def missing(path: Path, _: Path) -> None:
    path.unlink()


def from_the_other(path: Path, older: Path) -> None:
    shutil.copy(older / path.name, path)


def link_to_good(path: Path, _: Path) -> None:
    path.rename(path.parent.parent / f"moved-{path.name}")
    path.symlink_to(path.parent.parent / f"moved-{path.name}")


def dangling_link(path: Path, _: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def link_to_itself(path: Path, _: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def directory(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path, _: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


REPLACEMENTS = [missing, from_the_other, link_to_good, dangling_link, link_to_itself, directory, pipe, device]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("replace", REPLACEMENTS, ids=lambda function: function.__name__)
def test_a_file_replaced_by_something_else_is_found(tmp_path, name, replace):
    """Missing, the other checkpoint's, links of all kinds, a directory, a pipe that would block, a device without end."""
    older, newer = run_with_two(tmp_path)
    replace(newer / name, older)
    assert_falls_back(tmp_path)


@pytest.mark.parametrize("first", FILES[1:])
@pytest.mark.parametrize("second", FILES[1:])
def test_two_files_that_changed_places_are_found(tmp_path, first, second):
    """Each file is good in itself."""
    _, newer = run_with_two(tmp_path)
    contents = (newer / first).read_bytes(), (newer / second).read_bytes()
    (newer / first).write_bytes(contents[1])
    (newer / second).write_bytes(contents[0])
    assert_exact(tmp_path) if first == second else assert_falls_back(tmp_path)


@pytest.mark.parametrize("kind", ["file", "empty directory", "link to the older", "dangling link", "content of the older", "pipe"])
def test_a_whole_checkpoint_replaced_by_something_else_is_found(tmp_path, kind):
    """A directory of the right name proves nothing."""
    older, newer = run_with_two(tmp_path)
    shutil.rmtree(newer)
    makers = {
        "file": lambda: newer.write_text("mine"),
        "empty directory": newer.mkdir,
        "link to the older": lambda: newer.symlink_to(older, target_is_directory=True),
        "dangling link": lambda: newer.symlink_to("nowhere"),
        "content of the older": lambda: shutil.copytree(older, newer),
        "pipe": lambda: os.mkfifo(newer),
    }
    makers[kind]()
    assert_falls_back(tmp_path)


def test_extra_files_are_ignored(tmp_path):
    """What a file browser or a backup program puts there is no damage."""
    _, newer = run_with_two(tmp_path)
    (newer / ".DS_Store").write_bytes(b"x")
    (newer / "other.safetensors").write_bytes(b"no tensors")
    (newer / "folder").mkdir()
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    (tmp_path / "checkpoints" / "step-1").mkdir()
    assert_exact(tmp_path)
    assert Store(tmp_path).verify() == []


def test_a_checkpoint_renamed_to_another_step_is_found(tmp_path):
    """The manifest knows its step."""
    _, newer = run_with_two(tmp_path)
    newer.rename(newer.with_name(step_name(30)))
    assert [problem.path.name for problem in Store(tmp_path).verify()] == [step_name(30)]
    with pytest.raises(CheckpointCorruptError, match="that of step 20"):
        Store(tmp_path).load(30)


def test_several_damaged_ones_are_passed_over(tmp_path):
    """Every one of them is reported and kept."""
    store = prepared(tmp_path)
    for step in range(5):
        commit(store, step)
    for step, name in ((4, MANIFEST_NAME), (3, MODEL), (2, STATE)):
        (tmp_path / "checkpoints" / step_name(step) / name).write_bytes(b"")
    seen, report = reports()
    assert store.latest(report).manifest.progress.step == 1
    assert {name for name, _ in seen} == {step_name(step) for step in (2, 3, 4)}
    assert {path.name for path in (tmp_path / "quarantine").iterdir() if path.is_dir()} == {step_name(step) for step in (2, 3, 4)}


def test_where_none_is_valid_every_attempt_fails_and_nothing_is_lost(tmp_path):
    """Starting anew in silence would be the worst answer, on the second attempt as on the first."""
    for path in run_with_two(tmp_path):
        (path / MODEL).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CheckpointCorruptError, match=r"None of the checkpoints .*step-000000000010.*resume=False"):
            Store(tmp_path).latest(reports()[1])
    assert [info.step for info in Store(tmp_path).infos()] == [OLD, NEW]


def test_a_damaged_best_gives_way_to_the_next_best(tmp_path):
    """Best is the best of what can be restored."""
    store = prepared(tmp_path)
    for step, score in ((1, 0.3), (2, 0.1), (3, 0.2)):
        commit(store, step, score=score, mode="min")
    (tmp_path / "checkpoints" / step_name(2) / MODEL).unlink()
    seen, report = reports()
    assert store.best(report).manifest.progress.step == 3
    assert [name for name, _ in seen] == [step_name(2)]


def test_a_damaged_checkpoint_that_is_committed_again_is_kept(tmp_path):
    """What is damaged is never deleted, also where the new one takes its name."""
    _, newer = run_with_two(tmp_path)
    (newer / MODEL).write_bytes(b"evidence")
    store = Store(tmp_path)
    commit(store, NEW)
    assert_exact(tmp_path)
    assert (tmp_path / "quarantine" / step_name(NEW) / MODEL).read_bytes() == b"evidence"


def test_no_permission_is_no_damage(tmp_path, monkeypatch):
    """What says nothing about the checkpoint must not cost it: nothing is moved, the error names the remedy."""
    run_with_two(tmp_path)
    real = os.open

    def refuse(path, *arguments, **keywords):
        if path == MODEL:
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="permission is denied"):
        Store(tmp_path).latest(reports()[1])
    monkeypatch.undo()
    assert_exact(tmp_path)


def test_a_sector_that_cannot_be_read_is_damage(tmp_path, monkeypatch):
    """An input/output error makes the older checkpoint the newest, and not the program crash."""
    run_with_two(tmp_path)
    real = os.preadv

    def fail_in_the_newer(fd, buffers, offset):
        if step_name(NEW) in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(5, "Input/output error")
        return real(fd, buffers, offset)

    monkeypatch.setattr(checksum, "_madvise", lambda *_: -1)  # what a kernel says of such a sector, which tests cannot make
    monkeypatch.setattr(os, "preadv", fail_in_the_newer)
    seen, report = reports()
    assert Store(tmp_path).latest(report).manifest.sequence == OLD
    assert "input/output error" in seen[0][1]


# -- written by an attacker ------------------------------------------------------------------------------------------------------


def sign(document: dict) -> bytes:
    """Manifest bytes of any document, with the right checksum."""
    document = {key: value for key, value in document.items() if key != "checksum"}
    checksum = xxhash.xxh3_128_hexdigest(canonical(document))
    return canonical({**document, "checksum": checksum})


def canonical(document: dict) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def rewrite(checkpoint: Path, **changes) -> None:
    document = json.loads((checkpoint / MANIFEST_NAME).read_bytes())
    (checkpoint / MANIFEST_NAME).write_bytes(sign({**document, **changes}))


def entry(content: bytes) -> dict:
    return {"size": len(content), "xxh3_128": xxhash.xxh3_128_hexdigest(content)}


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/hostname", "..", ".", "", "a/b.safetensors", "a\0.safetensors", ".hidden"])
def test_a_signed_manifest_cannot_name_a_file_elsewhere(tmp_path, name):
    """Not even where that file exists and has the listed checksum."""
    _, newer = run_with_two(tmp_path)
    secret = layout({"x": np.ones(3)})
    content = b"".join(map(bytes, secret.chunks()))
    (newer.parent / "secret.safetensors").write_bytes(content)
    rewrite(newer, files={name: entry(content)})
    assert_falls_back(tmp_path)


@pytest.mark.parametrize("size", [0, 10**30, 2**63])
def test_a_signed_manifest_with_an_absurd_size_is_found(tmp_path, size):
    """Nothing is allocated by what a manifest claims."""
    _, newer = run_with_two(tmp_path)
    rewrite(newer, files={MODEL: {"size": size, "xxh3_128": "0" * 32}})
    assert_falls_back(tmp_path)


def test_a_huge_manifest_is_not_read(tmp_path):
    """A sparse file of a terabyte costs neither memory nor time."""
    _, newer = run_with_two(tmp_path)
    os.truncate(newer / MANIFEST_NAME, 2**40)
    assert str(2**40) in assert_falls_back(tmp_path)
    assert MAX_MANIFEST_BYTES < 2**40


@pytest.mark.parametrize("depth", [100, 5_000, 1_000_000])
def test_a_deeply_nested_manifest_is_damage(tmp_path, depth):
    """No recursion error escapes."""
    _, newer = run_with_two(tmp_path)
    (newer / MANIFEST_NAME).write_bytes(b'{"state":' + b"[" * depth + b"]" * depth + b"}\n")
    assert_falls_back(tmp_path)


def test_a_checkpoint_from_the_future_is_an_error_and_nothing_is_moved(tmp_path):
    """It is no damage: an upgrade makes it readable. The older one is not silently used in its place."""
    older, newer = run_with_two(tmp_path)
    (older / MODEL).write_bytes(b"damaged")
    rewrite(newer, format=2)
    for read in (
        lambda: Store(tmp_path).latest(reports()[1]),
        lambda: Store(tmp_path).best(reports()[1]),
        lambda: Store(tmp_path).load(NEW),
    ):
        with pytest.raises(CheckpointMismatchError, match="Upgrade resilient"):
            read()
    assert older.exists() and newer.exists() and not (tmp_path / "quarantine").exists()
    assert len(Store(tmp_path).verify()) == 2


def header(text: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def one(**changes) -> bytes:
    return header(json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}).encode(), b"\0" * 8)


HOSTILE = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "header longer than the file": header(b"{}", length=2**63),
    "header of a gigabyte": header(b"{}", length=2**30),
    "not UTF-8": header(b"\xff\xfe"),
    "not JSON": header(b"{"),
    "not an object": header(b"[]"),
    "NaN": header(b'{"x":NaN}'),
    "deep": header(b"[" * 100_000),
    "deep object": header(b'{"x":' * 50_000),
    "twice": header(b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\0"),
    "entry is null": header(b'{"x":null}'),
    "no shape": header(b'{"x":{"dtype":"U8","data_offsets":[0,0]}}'),
    "unknown dtype": one(dtype="F31"),
    "dtype is a list": one(dtype=[]),
    "negative dimension": one(shape=[-2]),
    "negative dimensions": one(shape=[-1, -2]),
    "boolean dimension": one(shape=[True, 2]),
    "fraction": one(shape=[2.0]),
    "absurd shape": one(shape=[2**62, 2**62]),
    "absurd shape of nothing": header(json.dumps({"x": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}).encode()),
    "number beyond everything": one(shape=[10**400]),
    "digits beyond parsing": header(b'{"x":{"dtype":"U8","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,0]}}'),
    "rank": one(shape=[1] * 1000 + [2]),
    "beyond the end": one(data_offsets=[0, 16], shape=[4]),
    "before the start": one(data_offsets=[-8, 0]),
    "backwards": one(data_offsets=[8, 0]),
    "three offsets": one(data_offsets=[0, 8, 8]),
    "hole": header(json.dumps({"x": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}).encode(), b"\0\0"),
    "rest": one(shape=[1], data_offsets=[0, 4]),
    "overlap": header(
        json.dumps(
            {name: {"dtype": "U8", "shape": [2], "data_offsets": [start, start + 2]} for name, start in (("a", 0), ("b", 1))}
        ).encode(),
        b"\0\0\0",
    ),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_tensor_file_with_the_right_checksum_is_damage(tmp_path, content):
    """The checksum says who wrote it no more than any other file does."""
    with pytest.raises(FormatError):
        parse(content)
    _, newer = run_with_two(tmp_path)
    (newer / MODEL).write_bytes(content)
    rewrite(newer, files={MODEL: entry(content)})
    assert_falls_back(tmp_path)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_tensors_or_are_read(content):
    """No other exception escapes from the reader."""
    for attempt in (content, header(content), header(b'{"x":' + content + b"}")):
        try:
            parse(attempt)
        except FormatError:
            continue


leaves = st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(["F32", "U8", "data_offsets", "shape", "dtype"])
keys = st.sampled_from(["dtype", "shape", "data_offsets", "x"])


@given(st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)))
def test_an_arbitrary_header_is_an_error_or_is_read(document):
    """Any JSON in the header's place."""
    with contextlib.suppress(FormatError):
        parse(header(json.dumps({"x": document}).encode(), b"\0" * 8))


def test_the_samples_differ_from_one_another():
    """Else a fallback to the wrong checkpoint would go unnoticed."""
    assert tensors(OLD)[MODEL]["seed"] != tensors(NEW)[MODEL]["seed"]
    assert sample_manifest(OLD) != sample_manifest(NEW)
