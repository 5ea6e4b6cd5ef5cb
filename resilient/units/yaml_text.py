"""Mappings, lists, strings, integers and booleans as YAML, which is all that a manifest is made of.

A library to read YAML would be a dependency of everybody who trains; to write this much of it takes a page. What could be taken for
something else by any version of YAML is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

Value = str | int | bool | Sequence["Value"] | Mapping[str, "Value"]

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*|/[A-Za-z0-9_./-]+", re.ASCII)
_NOT_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}
_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def document(value: Mapping[str, Value]) -> str:
    """One document, which ends with a newline."""
    return "".join(f"{line}\n" for line in _mapping(value))


def _lines(value: Value) -> Iterable[str]:
    if not _is_nested(value):
        return [_scalar(value)]
    return _mapping(value) if isinstance(value, Mapping) else _list(value)  # type: ignore[arg-type]  # or a list, if it is nested


def _mapping(value: Mapping[str, Value]) -> Iterable[str]:
    for key, item in value.items():
        lines = list(_lines(item))
        if _is_nested(item):
            yield f"{_scalar(key)}:"
            yield from (f"  {line}" for line in lines)
        else:
            yield f"{_scalar(key)}: {lines[0]}"


def _list(value: Sequence[Value]) -> Iterable[str]:
    for item in value:
        for number, line in enumerate(_lines(item)):
            yield f"{'  ' if number else '- '}{line}"


def _is_nested(value: Value) -> bool:
    """Whether it needs lines of its own. Numbers stand in one."""
    if isinstance(value, str) or not isinstance(value, (Mapping, Sequence)):
        return False
    return bool(value) and not (isinstance(value, Sequence) and all(type(item) is int for item in value))


def _scalar(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT else f'"{"".join(map(_escaped, value))}"'
    return "{}" if isinstance(value, Mapping) else f"[{', '.join(map(str, value))}]"


def _escaped(character: str) -> str:
    return _ESCAPED.get(character) or (character if character.isprintable() else f"\\U{ord(character):08x}")
