"""How a command ends: its exit code, and every error as one sentence on stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from resilient.errors import EXIT_FAILED, ResilientError
from resilient.store.oserrors import storage_error

_INTERRUPTED = 130  # what a shell reports for SIGINT


@dataclasses.dataclass
class Settings:
    """What the options before the command's name say."""

    debug: bool = False


def run(arguments: Sequence[str] | None) -> int:
    """Run the command line and return its exit code; only `--debug` lets a traceback through."""
    from resilient.cli.app import app

    settings = Settings()
    with _warnings_as_sentences():
        try:
            code = app(args=None if arguments is None else list(arguments), prog_name="resilient", standalone_mode=False, obj=settings)
            sys.stdout.flush()  # a full disk or a closed pipe shows here and not after main
        except KeyboardInterrupt:
            return _INTERRUPTED
        except BrokenPipeError:
            return _reader_left()
        except Exception as error:  # noqa: BLE001 (the boundary of the program: everything becomes a sentence and an exit code)
            return _report(error, settings)
    return code if isinstance(code, int) else 0


def _report(error: Exception, settings: Settings) -> int:
    if settings.debug:
        traceback.print_exception(error)
    else:
        say("Error", _sentence(error))
    return int(getattr(error, "exit_code", EXIT_FAILED))


def _sentence(error: Exception) -> str:
    if isinstance(error, ResilientError):
        return str(error)
    usage: Any = getattr(error, "format_message", None)  # typer's own: an unknown option, a missing argument
    if usage is not None:
        context = getattr(error, "ctx", None)
        return f"{usage().rstrip('.')}. See {context.command_path if context else 'resilient'} --help."
    if isinstance(error, OSError) and error.filename is not None:
        return str(storage_error(error, "use a file", error.filename))
    kind = type(error).__name__
    return f"resilient failed unexpectedly ({kind}: {error}). Run it as `resilient --debug ...` and report what it shows."


def say(kind: str, sentence: str) -> None:
    """One line on stderr."""
    with contextlib.suppress(OSError):  # nobody listens
        sys.stderr.write(f"{kind}: {sentence}\n")


def _reader_left() -> int:
    """`resilient ls | head -1`: the reader has what it wanted. The descriptor is replaced so that the interpreter's last flush is quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@contextlib.contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Warnings as one line each, without the place in the code; those for programmers (deprecations) are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_args, **_kwargs: say("Warning", str(message))
        yield
