"""Every error raised on purpose, and the exit codes: what happened, where, and what to do next."""

from __future__ import annotations

from typing import ClassVar

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: state saved, start me again
EXIT_NEEDS_HUMAN = 78  # EX_CONFIG of sysexits.h: a restart would fail the same way
EXIT_GAVE_UP = 93  # outside sysexits' 64-78, the shell's 126-128 and signals' 129-165


class ResilientError(Exception):
    """Base of every error that `resilient` raises on purpose.

    `exit_code` is what the process exits with when the program does not catch the error.
    """

    exit_code: ClassVar[int] = EXIT_FAILED


# Deriving from both ValueError and TypeError lets callers write whichever of the two they know from Keras.
class ConfigurationError(ResilientError, ValueError, TypeError):
    """An argument is wrong; the message names it, the value received, and what is accepted."""

    exit_code = EXIT_NEEDS_HUMAN


class CheckpointCorruptError(ResilientError):
    """There are checkpoints, but what was read is not what was saved, and nothing older is left to fall back to."""

    exit_code = EXIT_NEEDS_HUMAN


class CheckpointMismatchError(ResilientError):
    """The model, optimizer or data is not the run's; the message names the first differences. Nothing was changed."""

    exit_code = EXIT_NEEDS_HUMAN


class RunLockedError(ResilientError):
    """Another live process owns the run directory; the message names its pid and host."""


class RunInUseError(ResilientError):
    """This process already trains in that run directory."""

    exit_code = EXIT_NEEDS_HUMAN


class StorageError(ResilientError):
    """The disk refused: full, read-only, no permission, gone."""


class PreemptedError(ResilientError):
    """Training stopped for a preemption and its state is on disk (`on_preempt="raise"`)."""

    exit_code = EXIT_PREEMPTED


class Preempted(SystemExit):
    """Training stopped for a preemption and its state is on disk (`on_preempt="exit"`): exit code 75."""

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_PREEMPTED)
        self.message = message

    def __str__(self) -> str:
        return self.message
