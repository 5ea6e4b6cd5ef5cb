"""How a command ends: its exit code, and every error as one sentence on stderr."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from resilient.errors import EXIT_FAILED, EXIT_NEEDS_HUMAN, ResilientError

_TAKE_A_PROGRAM = ("run", "chaos", "unit")
_NO_OUTPUT = "Standard output cannot be written: {}. Send it to a file or program that takes it."
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
_INTERRUPTED = 130  # what a shell reports for SIGINT


def run(arguments: Sequence[str] | None) -> int:
    """Run the command line and return its exit code; only `--debug` lets a traceback through."""
    from resilient.cli.app import app

    if sys.stdout is None:  # closed by whoever started us
        say("Error", _NO_OUTPUT.format("it is closed"))
        return EXIT_FAILED
    rest, debug = _without_debug(sys.argv[1:] if arguments is None else list(arguments))
    with _warnings_as_sentences():
        try:
            code = app(args=rest, prog_name="resilient", standalone_mode=False)
            sys.stdout.flush()  # a full disk or a closed pipe shows here and not after main
        except KeyboardInterrupt:
            return _INTERRUPTED
        except BrokenPipeError:
            return _reader_left()
        except Exception as error:  # noqa: BLE001 (the boundary of the program: everything becomes a sentence and an exit code)
            return _report(error, debug=debug)
    return code if isinstance(code, int) else 0


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """`--debug` is accepted anywhere before `--`: people add it at the end of the command that has just failed.

    What follows the first word after a command that takes a program may be the program's own.
    """
    words = [place for place, argument in enumerate(arguments) if not argument.startswith("-")]
    takes_program = bool(words) and arguments[words[0]] in _TAKE_A_PROGRAM
    end = words[1] if takes_program and len(words) > 1 else len(arguments)
    options = arguments[: arguments.index("--") if "--" in arguments else end]
    rest = [argument for argument in options if argument != "--debug"] + arguments[len(options) :]
    return rest, "--debug" in options


def _report(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    say("Error", _sentence(error))
    return EXIT_NEEDS_HUMAN if _is_of_a_value(error) else int(getattr(error, "exit_code", EXIT_FAILED))


def _is_of_a_value(error: Exception) -> bool:
    """Whether the command line could be read, and an option has a value that it cannot have: no wrong line, but a wrong setting."""
    from typer import BadParameter

    return type(error) is BadParameter  # what descends from it is about options that are missing


def _sentence(error: Exception) -> str:
    if isinstance(error, ResilientError):
        return str(error)
    usage: Any = getattr(error, "format_message", None)  # typer's own: an unknown option, a missing argument
    if usage is not None:
        context = getattr(error, "ctx", None)
        return f"{usage().rstrip('.')}. See `{context.command_path if context else 'resilient'} --help`."
    if isinstance(error, OSError) and error.filename is not None:
        from resilient.store.oserrors import storage_error

        return str(storage_error(error, "use a file", error.filename))
    if isinstance(error, OSError) and error.errno in _REFUSALS:  # whatever else is written names its file
        _discard_output()
        return _NO_OUTPUT.format(error.strerror)
    kind = type(error).__name__
    return f"resilient failed unexpectedly ({kind}: {error}). Run the command with --debug and report what it shows."


def say(kind: str, sentence: str) -> None:
    """One line on stderr."""
    with contextlib.suppress(OSError):  # nobody listens
        sys.stderr.write(f"{kind}: {printable(' '.join(sentence.split()))}\n")


def printable(text: str) -> str:
    """Text from files and arguments for a terminal, which must not take any of it for a command; what cannot be shown is escaped."""
    return text if text.isprintable() else "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def _reader_left() -> int:
    """`resilient ls | head -1`: nobody reads the rest."""
    _discard_output()
    return EXIT_FAILED  # as typer does where a longer output meets the closed pipe inside a command


def _discard_output() -> None:
    """The descriptor is replaced so that the interpreter's last flush is quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Warnings as one line each, without the place in the code; those for programmers (deprecations) are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_args, **_kwargs: say("Warning", str(message))
        yield
