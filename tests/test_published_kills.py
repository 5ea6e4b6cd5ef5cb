"""A published file under SIGKILL at every system call that changes the disk: whole for readers, and able to be taken back."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from resilient.store.published import Ledger

ROOT = Path(__file__).resolve().parent.parent

# Writes A, marks it as a recovery checkpoint does, writes B, and dies of SIGKILL before call number argv[2] that changes the disk.
CHILD = """
import os, signal, sys
from pathlib import Path
from resilient.store.published import Ledger, publish
count = 0
def deadly(function):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
for name in ("fsync", "replace", "rename", "link", "unlink", "mkdir"):
    setattr(os, name, deadly(getattr(os, name)))
path = Path(sys.argv[1]) / "new" / "best.bin"
ledger = Ledger(path.parent, path.name, "run")
ledger.mark(0)
for serial, content in ((1, b"A" * 1000), (2, b"B" * 3000)):
    publish(path, lambda to: to.write_bytes(content), before=lambda from_: ledger.record(from_, path, serial, None))
    ledger.mark(serial)
    print(serial, flush=True)
"""


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def test_killed_at_any_system_call_the_file_is_whole_and_can_be_taken_back(tmp_path):
    """A real process dies before each such call: readers see A, B or nothing; going back gives A where it was, or nothing."""
    seen = set()
    for point in range(1, 100):
        path = tmp_path / str(point) / "new" / "best.bin"
        command = [sys.executable, "-c", CHILD, str(tmp_path / str(point)), str(point)]
        child = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
        assert child.returncode in (0, -signal.SIGKILL), child.stderr
        content, done = content_of(path), child.stdout.split()
        assert content in (None, b"A" * 1000, b"B" * 3000)
        assert (content is not None or "1" not in done) and (content == b"B" * 3000 or "2" not in done)
        Ledger(path.parent, path.name, "run").roll_back(1)
        assert content_of(path) == (content and b"A" * 1000)
        Ledger(path.parent, path.name, "run").roll_back(0)
        assert content_of(path) is None
        seen.add(content and content[:1])
        if child.returncode == 0:
            break
    assert seen == {None, b"A", b"B"} and point > 15
