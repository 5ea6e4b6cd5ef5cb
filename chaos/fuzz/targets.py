"""All targets by name, with valid samples of what each reads."""

from __future__ import annotations

from collections.abc import Callable

from chaos.fuzz import answers, commands, parsers

TARGETS: dict[str, Callable[[bytes], None]] = {**parsers.TARGETS, **answers.TARGETS, **commands.TARGETS}


def samples(target: str) -> list[bytes]:
    """Valid input of one target."""
    return {**parsers.samples(), **answers.SAMPLES, **commands.samples()}[target]
