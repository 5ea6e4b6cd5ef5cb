"""Targets for the command line, in this process: any arguments, and any checkpoint before the commands that print one."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from chaos.fuzz import parsers
from chaos.fuzz.finding import expect
from chaos.fuzz.mutations import VALUES, written
from resilient.cli import outcome
from resilient.journal import JOURNAL_NAME
from resilient.manifest import MANIFEST_NAME, step_name

CODES = {0, 1, 2, 78}
UNEXPECTED = "failed unexpectedly"
# What each command gets behind the arguments that are tried: nothing is removed, and the programs and models are ones that do not exist.
COMMANDS: dict[str, Sequence[str]] = {
    "ls": (),
    "verify": (),
    "diff": (),
    "prune": ("--dry-run",),
    "export": (),
    "restore": ("--model=no-such-file.py:build",),
    "run": ("--", "no-such-program"),
}
OPTIONS = ("--give-up", "--max-restarts", "--hang-timeout", "--grace", "--warm-standby", "--skip-poison-batch")


def arguments(data: bytes) -> None:
    """The first byte says which command, each line is an argument: an exit code of ours and a sentence, and no file above the run."""
    run = parsers.run_directory()
    names = list(COMMANDS)
    name = names[data[0] % len(names)] if data else "ls"
    given = [_tame(line) for line in data[1:].decode("utf-8", "surrogateescape").split("\n")]
    if name == "run":  # a word by itself would be a program to run
        given = [f"{OPTIONS[len(word) % len(OPTIONS)]}={word}" for word in given]
    above = set(os.listdir(run.parent))
    with contextlib.chdir(run):
        run_command([name, *given, *COMMANDS[name]])
        for left in os.scandir("."):  # what `export -o` wrote
            if left.is_file() and left.name not in ("outside.safetensors", "run.lock", "journal.jsonl"):
                os.unlink(left.name)
    expect(set(os.listdir(run.parent)) == above, "nothing beside the run directory")


def _tame(word: str) -> str:
    """Without what no argument can hold, and without a way out of the directory that a user might well ask for."""
    return word.replace("\0", "").replace("/", "").replace("..", "").replace("~", "")


def printed_checkpoint(data: bytes) -> None:
    """Commands that show a checkpoint with this manifest, its checksum made right, print text and nothing that commands a terminal."""
    run = parsers.run_directory()
    (run / "checkpoints" / step_name(parsers.STEP) / MANIFEST_NAME).write_bytes(parsers.signed(data))
    output = run / "exported.weights.h5"
    for words in (["ls"], ["ls", "--json"], ["status"], ["verify"], ["prune", "--dry-run"]):
        _printable([*words, str(run)])
    run_command(["export", str(run), "-o", str(output)])
    output.unlink(missing_ok=True)


def printed_journal(data: bytes) -> None:
    """So do those that tell a journal, whatever its events hold."""
    run = parsers.run_directory()
    diary = run / JOURNAL_NAME
    diary.write_bytes(data)
    for words in (["status"], ["status", "--json"]):
        _printable([*words, str(run)])
    diary.unlink()


def _printable(words: Sequence[str]) -> None:
    out, err = run_command(words)
    strange = [character for character in out + err if not character.isprintable() and character != "\n"]
    expect(not strange, f"printable text of {words[0]}, and not {strange[:3]}")


def run_command(words: Sequence[str]) -> tuple[str, str]:
    """What a command prints. Its stdout is as strict about its encoding as a real one."""
    with _captured() as (out, err):
        code = outcome.run(list(words))
    said = err()
    expect(UNEXPECTED not in said, f"a sentence, and not {said[:300]!r}")
    expect(code in CODES, f"an exit code of ours, and not {code}")
    return out(), said


@contextlib.contextmanager
def _captured() -> Iterator[tuple[Callable[[], str], Callable[[], str]]]:
    before = sys.stdout, sys.stderr
    streams = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    sys.stdout, sys.stderr = streams
    try:
        yield tuple(_reader(stream) for stream in streams)  # type: ignore[misc]  # two of them
    finally:
        sys.stdout, sys.stderr = before


def _reader(stream: io.TextIOWrapper) -> Callable[[], str]:
    def read() -> str:
        stream.flush()
        raw = stream.buffer
        return raw.getvalue().decode("utf-8", "surrogateescape") if isinstance(raw, io.BytesIO) else ""

    return read


def hostile() -> list[bytes]:
    """Every command with each hostile word where it takes one."""
    words = [value for value in VALUES if isinstance(value, str)]
    options = {"diff": ".\n{}\nlatest", "prune": ".\n--every\n{}", "export": ".\n-o\nx.safetensors\n--which\n{}", "run": "{}\n123\n1234567"}
    found = []
    for number, name in enumerate(COMMANDS):
        for form in ("{}", options.get(name, ".\n{}")):
            found += [bytes([number]) + form.format(word).encode("utf-8", "surrogatepass") for word in words]
    return found


TARGETS: dict[str, Callable[[bytes], None]] = {
    "arguments": arguments,
    "printed-checkpoint": printed_checkpoint,
    "printed-journal": printed_journal,
}
_EVENTS: tuple[dict[str, object], ...] = (
    {"event": "attempt", "attempt": 1, "pid": 7, "supervisor": 6, "command": ["python", "train.py"], "warm": False, "skip": []},
    {"event": "started", "pid": 7, "fresh": True},
    {"event": "saved", "step": 3, "epoch": 0, "batch": 3, "seconds": 0.25, "nbytes": 88, "training_seconds": 4.5},
    {"event": "failed", "error": "ValueError: no", "step": 4, "epoch": 0, "batch": 4},
    {"event": "exited", "attempt": 1, "pid": 7, "code": 1, "reason": "it failed", "verdict": "failed", "seconds": 9.5, "peak_rss": 1000},
)


def _events() -> list[dict[str, object]]:
    return [{**event, "time": f"2026-01-01T00:00:{second:02d}+00:00"} for second, event in enumerate(_EVENTS)]


def samples() -> dict[str, list[bytes]]:
    """Valid input of each target."""
    words = (b".", b".\n--json", b".\nlatest\n7", b".\n--every\n30m", b".\n--which\nbest\n-o\nx.safetensors", b".\n-o\nx.keras", b"3\n30s")
    return {
        "arguments": [bytes([number]) + word for number, word in enumerate(words)],
        "printed-checkpoint": parsers.samples()["manifest"],
        "printed-journal": [b"".join(map(written, _events())), *map(written, _events())],
    }
