"""Everything that is parsed, before hostile and mutated input: only the documented error, bounded, and nothing outside the directory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from chaos.fuzz import __main__ as fuzzing
from chaos.fuzz import answers, commands, mutations, parsers
from chaos.fuzz.finding import Broken
from chaos.fuzz.targets import TARGETS, samples
from resilient import manifest
from resilient.cli import outcome
from resilient.errors import CheckpointCorruptError, ConfigurationError
from resilient.heartbeat import ENVIRONMENT, Heartbeat, Page, Section
from resilient.preemption import aws
from resilient.preemption.metadata import Address, Unavailable
from resilient.store import safetensors_format

ROOT = Path(__file__).resolve().parent.parent
SLOW = {"arguments", "printed-checkpoint", "printed-journal"}  # whole commands, some milliseconds each


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_input_does_nothing_that_is_not_documented(target: str) -> None:
    """Valid samples with changed bytes and values, and raw bytes: read as what they are, or refused by the documented error."""

    @settings(max_examples=30 if target in SLOW else 150, suppress_health_check=list(HealthCheck), deadline=None)
    @given(mutations.cases(samples(target)))
    def attempt(data: bytes) -> None:
        TARGETS[target](data)

    attempt()


def test_hostile_input_takes_neither_memory_nor_time() -> None:
    """Depth, absurd lengths, endless numbers, and hostile values in each place of a document, in a process of bounded memory."""
    quick = [name for name in TARGETS if name not in SLOW]
    command = [sys.executable, "-m", "chaos.fuzz", *quick, "--seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("nothing found in") == len(quick)


def test_samples_are_valid() -> None:
    """Mutation begins with what is read and not with what is refused: else nothing behind the first check is ever reached."""
    for sample in samples("manifest"):
        assert manifest.decode(sample, "sample").progress.step == parsers.STEP
    for sample in samples("safetensors"):
        assert list(safetensors_format.parse(sample)) == ["kernel", "bias", "n"]
    server = answers.answerer()
    for name, kind in (("aws", "terminate"), ("azure", "Preempt"), ("gce", "preempted")):
        server.answer = answers.ok(samples(name)[0])
        make = {"aws": aws.Interruption, "azure": answers.azure.ScheduledEvents, "gce": answers.gce.preempted}[name]
        assert [found.kind for found in make(server.address).poll()] == [kind]


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "link.safetensors", "absolute.safetensors", "pipe.safetensors", "folder.safetensors"]
)
def test_a_manifest_reaches_no_file_beyond_its_directory(name: str) -> None:
    """Valid tensors lie where the name leads, in the right size and checksum; the checkpoint is damaged all the same."""
    document = json.loads(samples("checkpoint")[0])
    document["files"][name] = document["files"]["model.safetensors"]
    parsers.read_checkpoint(json.dumps(document).encode())
    run = parsers.run_directory()
    with pytest.raises(CheckpointCorruptError):
        parsers.Store(run).load(parsers.STEP)


def test_the_target_notices_a_reader_that_leaves_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with the pattern for names gone and links followed, the same manifest is a finding."""
    monkeypatch.setattr(manifest, "_FILE_NAME", re.compile(".*"))
    document = json.loads(samples("checkpoint")[0])
    document["files"]["../outside.safetensors"] = document["files"]["model.safetensors"]
    for target in ("manifest", "checkpoint"):
        with pytest.raises(Broken):
            TARGETS[target](json.dumps(document).encode())


def test_a_finding_ends_in_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What a target raises is printed, and is no success."""

    def finds(data: bytes) -> None:
        raise Broken("something else")

    monkeypatch.setattr(fuzzing, "bound_memory", lambda: None)
    monkeypatch.setitem(TARGETS, "duration", finds)
    assert fuzzing.main(["duration", "--seconds", "0", "--with", "hypothesis"]) == 1
    assert "something else" in capsys.readouterr().err


# -- What was found ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"), [("created", "2026-01-01T00:00:00+01:00"), ("created", "0001-01-01T00:00:00+23:59"), ("format", 1.0)]
)
def test_a_manifest_in_another_form_is_damage(field: str, value: object) -> None:
    """Another time zone, a time that UTC does not know, and 1.0 for 1 carry the right checksum, and are not what is written."""
    document = json.loads(samples("manifest")[0])
    document[field] = value
    with pytest.raises(CheckpointCorruptError):
        manifest.decode(parsers.signed(json.dumps(document).encode()), "here")


@pytest.mark.parametrize(
    "record", [b"[" * 20_000, b"[1]\0", b'{"a": 1}\0', b"7\0", b'{"skip": [1]}\0', b'{"pid": "x", "directory": 1, "variables": []}\0']
)
def test_a_scribbled_heartbeat_page_is_silence(record: bytes) -> None:
    """A supervisor outlives whatever its program does to the page: no announcement, no orders, and an unknown section says nothing."""
    page = Page()
    scribbled = parsers.heartbeat_page(record, record, b"\x4d" * 64)
    descriptor = os.open(page.path, os.O_RDWR)
    os.pwrite(descriptor, scribbled[64:], 64)
    os.close(descriptor)
    assert page.announcement() is None
    assert page.orders.skip == ()
    assert page.beat().section is Section.SILENT
    page.close()


def test_a_page_that_is_too_short_is_no_page(tmp_path: Path) -> None:
    """A file that begins like one and ends too early: nobody supervises, and the descriptor is closed."""
    (tmp_path / "page").write_bytes(b"resil\x00\x00\x01")
    before = len(os.listdir("/proc/self/fd"))
    beating = Heartbeat.claim({ENVIRONMENT: str(tmp_path / "page")})
    assert not beating.supervised
    beating.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("make", "header"),
    [
        (aws.Interruption, b"Date: Mon, 19 Sep 2016 18:29:47 +99999999999999"),
        (aws.Interruption, b"X-aws-ec2-metadata-token-ttl-seconds: " + b"9" * 5000),
        (aws.Rebalance, b"X-aws-ec2-metadata-token-ttl-seconds: " + b"9" * 400),
    ],
)
def test_an_absurd_header_hides_no_notice(make: type[aws.Interruption], header: bytes) -> None:
    """A date or a life of a token that no number holds is as good as none: the notice in the body still counts."""
    server = answers.answerer()
    body = b'{"action":"stop","time":"2033-09-18T08:22:00Z","noticeTime":"2033-09-18T08:22:00Z"}'
    server.answer = answers.ok(body, header)
    assert len(make(server.address).poll()) == 1


def test_an_answer_that_does_not_end_takes_no_memory() -> None:
    """A chunk of length -1 made Python's client read for as long as something came: gigabytes within the patience of one question."""
    server = answers.Answerer()
    server.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n"
    server.endless = True
    tracemalloc.start()
    with pytest.raises(Unavailable):
        _ask(server.address)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def _ask(address: Address) -> str:
    return answers.MetadataServer(address).ask("GET", "/", {}, seconds=5).text


@pytest.mark.parametrize("data", commands.hostile()[:: max(1, len(commands.hostile()) // 40)])
def test_hostile_arguments_end_in_a_sentence(data: bytes) -> None:
    """Numbers of thousands of digits, control characters, bytes that are no text: an exit code of ours and one sentence."""
    commands.arguments(data)


@pytest.mark.parametrize("words", [["diff", ".", "9" * 5000, "latest"], ["prune", ".", "--dry-run", "--every", "9" * 5000]])
def test_a_number_of_thousands_of_digits_is_refused_like_any_other(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Python refuses to read it, which is no unexpected failure of ours."""
    monkeypatch.chdir(parsers.run_directory())
    assert outcome.run(words) == ConfigurationError.exit_code


def test_no_checkpoint_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The name of a metric is printed with its control characters escaped, and with what is no text at all."""
    document = json.loads(samples("printed-checkpoint")[0])
    document["metrics"] = {"\x1b]0;title\x07": 0.5, "\ud800": 0.25}
    document["state"]["input"]["kind"] = "\x1b[31mred"
    commands.printed_checkpoint(json.dumps(document).encode())
    assert outcome.run(["ls", str(parsers.run_directory())]) == 0
    assert "\\x1b]0;" in capsys.readouterr().out
