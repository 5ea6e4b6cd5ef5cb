"""A fork server: one process that has imported everything and touched nothing, and forks a child for each attempt at a training.

Importing Keras and its backend takes seconds, and a storm starts thousands of processes. Forking after an import is safe where the parent
runs one thread and has no device open: it is checked before the first fork (`untouched`). The children are real processes in sessions of
their own, they initialise their devices themselves, and are killed for real. That nothing depends on the fork is shown by running
the same storm without it (`python -m chaos.inputs --fresh`).

    parent -> child      {"id": 1, "arguments": [...], "output": "FILE", "environment": {...}}        one line each
    child  -> parent     {"id": 1, "pid": 4711}        {"id": 1, "code": -9}
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import itertools
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from chaos import kill

SETTLED = {  # of every process, forked or not: bits depend on thread counts
    "OPENBLAS_NUM_THREADS": "1",  # more would be started by the import of NumPy alone, and no thread survives a fork
    "OMP_NUM_THREADS": "2",
    "TF_NUM_INTRAOP_THREADS": "2",
    "TF_NUM_INTEROP_THREADS": "2",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "-1",
}
HEAVY = ("tensorflow", "torch", "grain", "torchdata.stateful_dataloader")  # what a program may import, where it is installed
STARTUP = 120.0  # seconds until a server that has not come up counts as hung


def environment(backend: str) -> dict[str, str]:
    """Environment variables of every process that trains on that backend."""
    return {**SETTLED, "KERAS_BACKEND": backend}


# -- the server --------------------------------------------------------------------------------------------------------------------


def untouched() -> list[str]:
    """Why this process must not be forked; empty if it may."""
    found = []
    if len(os.listdir("/proc/self/task")) > 1:
        found.append("it runs several threads")
    context = sys.modules.get("tensorflow.python.eager.context")
    if context is not None and getattr(context, "_context", None) is not None and context._context._initialized:
        found.append("TensorFlow has opened its devices")
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is not None and bridge.backends_are_initialized():
        found.append("JAX has opened its devices")
    return found


class Server:
    """Forks on request until its standard input ends."""

    def __init__(self, replies: int) -> None:
        self._replies = replies
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._children: dict[int, tuple[int, int]] = {}  # pidfd to (pid, id of the request)
        self._unread = b""

    def serve(self) -> dict[str, Any] | None:
        """None when there is nothing more to do; in a forked child, the request it is to carry out."""
        while True:
            for key, _ in self._selector.select():
                if key.fd in self._children:
                    self._reap(key.fd)
                    continue
                lines = self._read()
                if lines is None:
                    self._kill_all()
                    return None
                for line in lines:
                    request = json.loads(line)
                    if self._fork(request):
                        return cast("dict[str, Any]", request)

    def _read(self) -> list[bytes] | None:
        read = os.read(0, 65536)
        if not read:
            return None
        *lines, self._unread = (self._unread + read).split(b"\n")
        return lines

    def _reply(self, **what: Any) -> None:
        os.write(self._replies, json.dumps(what).encode() + b"\n")

    def _fork(self, request: Mapping[str, Any]) -> bool:
        """True in the child."""
        settled, settle = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.close(settle)  # the parent reads the end of the pipe: from now on a signal to the session meets somebody
            os.close(settled)
            self._become(request)
            return True
        os.close(settle)
        os.read(settled, 1)
        os.close(settled)
        descriptor = os.pidfd_open(pid)
        self._children[descriptor] = (pid, request["id"])
        self._selector.register(descriptor, selectors.EVENT_READ)
        self._reply(id=request["id"], pid=pid)
        return False

    def _become(self, request: Mapping[str, Any]) -> None:
        self._selector.close()
        for descriptor in (*self._children, self._replies):
            os.close(descriptor)
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open(request["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.environ.update(request["environment"])

    def _reap(self, descriptor: int) -> None:
        pid, number = self._children.pop(descriptor)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._reply(id=number, code=os.waitstatus_to_exitcode(status))

    def _kill_all(self) -> None:
        for pid, _ in self._children.values():
            os.killpg(pid, signal.SIGKILL)


def main() -> None:
    """Import, check, serve; and in a child, train."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
    replies = os.dup(1)
    os.dup2(2, 1)  # what an import prints is no reply
    for name in HEAVY:
        if importlib.util.find_spec(name.split(".")[0]) is not None:
            importlib.import_module(name)
    import resilient
    from chaos.programs import __main__ as programs
    from chaos.programs import registry

    registry.table()
    resilient.fit  # noqa: B018  the package is lazy: all of it that a training needs is imported here
    touched = untouched()
    if touched:
        raise SystemExit(f"The server must not be forked: {', '.join(touched)}.")
    gc.freeze()  # the collector of a child need not write into pages that it shares with its parent
    os.write(replies, b"{}\n")
    request = Server(replies).serve()
    if request is not None:
        programs.main(request["arguments"])


# -- its client --------------------------------------------------------------------------------------------------------------------


class Forked:
    """A child of the server, with the part of `subprocess.Popen` that `kill.Child` uses."""

    def __init__(self) -> None:
        self.pid = 0
        self.returncode: int | None = None
        self.started = threading.Event()
        self.ended = threading.Event()

    def poll(self) -> int | None:
        """Exit code, None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Exit code once there is one.

        Raises:
            subprocess.TimeoutExpired: there is none after `timeout` seconds.
        """
        if not self.ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return self.returncode


class Zygote:
    """The server of one backend, as its client sees it. Close it when done.

    Args:
        backend: of Keras.
        output: file for what the server itself prints.
    """

    def __init__(self, backend: str, output: Path) -> None:
        self.backend = backend
        with output.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chaos.zygote"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
                env={**os.environ, **environment(backend)},
            )
        self._children: dict[int, Forked] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._up = threading.Event()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        if not self._up.wait(STARTUP) or self._process.poll() is not None:
            raise RuntimeError(f"The fork server for {backend} did not come up. See {output}.")

    def start(self, arguments: Sequence[str], output: Path, attempt: int) -> kill.Child:
        """Fork a child that runs `chaos.programs` with these arguments."""
        child = Forked()
        with self._lock:
            number = next(self._numbers)
            self._children[number] = child
            request = {
                "id": number,
                "arguments": list(arguments),
                "output": str(output),
                "environment": {"CHAOS_ATTEMPT": str(attempt)},
            }
            _pipe(self._process.stdin).write(json.dumps(request).encode() + b"\n")
            _pipe(self._process.stdin).flush()
        if not child.started.wait(STARTUP):
            raise RuntimeError("The fork server does not answer.")
        return kill.Child(cast("subprocess.Popen[bytes]", child))

    def close(self) -> None:
        """End the server, and whatever it has forked."""
        _pipe(self._process.stdin).close()
        self._process.wait()
        self._reader.join()
        _pipe(self._process.stdout).close()

    def _listen(self) -> None:
        for line in _pipe(self._process.stdout):
            self._hear(json.loads(line))
        self._up.set()  # it ended, perhaps before it was up

    def _hear(self, reply: Mapping[str, Any]) -> None:
        if "id" not in reply:
            self._up.set()
        elif "pid" in reply:
            child = self._children[reply["id"]]
            child.pid = reply["pid"]
            child.started.set()
        else:
            child = self._children.pop(reply["id"])
            child.returncode = reply["code"]
            child.ended.set()


def _pipe(stream: Any) -> Any:
    if stream is None:
        raise RuntimeError("The fork server was started without its pipes.")
    return stream


if __name__ == "__main__":
    main()
