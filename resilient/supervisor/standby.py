"""A spare interpreter: it imports the framework, waits, and becomes the next attempt. Most of a restart's time is that import.

No device is touched before its turn comes: the attempt that still runs has them.
"""

from __future__ import annotations

import importlib.machinery
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

_TAKES_VALUE = ("-X", "-W", "--check-hash-based-pycs")
_CODE = (
    "import sys; sys.flags.safe_path or sys.path.__setitem__(0, {path!r}); "
    "from resilient.supervisor.standby import wait; wait({descriptor})"
)


def spare_command(command: Sequence[str], descriptor: int) -> list[str] | None:
    """What to run as the spare of `command`; None where that is not `python [options] script.py ...` or `python -m module ...`.

    Args:
        command: of the program.
        descriptor: which the spare reads: a byte is its turn, the end means that nobody needs it.
    """
    options, rest = _split(command[1:])
    if not Path(command[0]).name.startswith("python") or not rest:
        return None
    if rest[0] == "-m" and len(rest) > 1:
        path = os.getcwd()
    elif rest[0].endswith(".py"):
        path = os.path.dirname(os.path.realpath(rest[0]))
    else:
        return None
    return [command[0], *options, "-c", _CODE.format(path=path, descriptor=descriptor), *rest]


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The interpreter's own options, and what follows them."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("-") and arguments[at] not in ("-m", "-c", "-"):
        at += 2 if arguments[at] in _TAKES_VALUE else 1
    return list(arguments[:at]), list(arguments[at:])


def wait(descriptor: int) -> None:
    """In the spare: import, wait for the turn, and be the program."""
    output = {number: os.dup(number) for number in (1, 2)}
    silence = os.open(os.devnull, os.O_WRONLY)
    for number in output:
        os.dup2(silence, number)  # what an import says was said when the first attempt began
    import resilient

    resilient.fit  # noqa: B018  the name's first use imports Keras and its backend
    if not os.read(descriptor, 1):
        os._exit(0)
    for number, kept in output.items():
        os.dup2(kept, number)
    for finished in (descriptor, silence, *output.values()):
        os.close(finished)
    _become(sys.argv[1:])


def _become(arguments: list[str]) -> None:
    """Run `script.py ...` or `-m module ...` as the interpreter itself would have."""
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    sys.argv[:] = arguments
    script = os.path.abspath(arguments[0])
    main = sys.modules["__main__"]
    for name in [name for name in vars(main) if not name.startswith("__")]:
        delattr(main, name)
    main.__file__ = script
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", script)
    code = compile(Path(script).read_bytes(), script, "exec", dont_inherit=True)
    exec(code, vars(main))  # noqa: S102  the operator's own program
