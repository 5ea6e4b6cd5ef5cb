"""Which attributes the methods of a class assign, read from their bytecode: told apart are what is set once and what changes later."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterable, Iterator

# These run before the first batch of every attempt, and give an attribute its value again.
_SETTING_UP = {"__init__", "__new__", "__post_init__", "__setstate__", "set_model", "set_params", "on_train_begin"}
_INTO_ITEMS = {"STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"}


def assigned(classes: Iterable[type]) -> frozenset[str]:
    """Names of the attributes that any code of these classes assigns, inherited code not counted."""
    return frozenset(name for one in classes for code, _ in _methods(one) for name in _stored(code))


@functools.cache
def assigned_later(one: type) -> frozenset[str]:
    """Names of the attributes that a class or its bases assign outside of setting up, also item by item (`self.table[row] = ...`)."""
    found: set[str] = set()
    for base in one.__mro__:
        for code, name in _methods(base):
            if name not in _SETTING_UP:
                found |= _stored(code) | _items_stored(code)
    return frozenset(found)


def _methods(one: type) -> Iterator[tuple[types.CodeType, str]]:
    for name, value in vars(one).items():
        functions = (value.fget, value.fset) if isinstance(value, property) else (getattr(value, "__func__", value),)
        for function in functions:
            if isinstance(function, types.FunctionType):
                yield from ((code, name) for code in _nested(function.__code__))


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _stored(code: types.CodeType) -> set[str]:
    return {instruction.argval for instruction in dis.get_instructions(code) if instruction.opname in ("STORE_ATTR", "DELETE_ATTR")}


def _items_stored(code: types.CodeType) -> set[str]:
    """Every attribute that is read where something is stored by key: which one it is stored into, bytecode does not say plainly."""
    instructions = list(dis.get_instructions(code))
    if not any(instruction.opname in _INTO_ITEMS for instruction in instructions):
        return set()
    return {instruction.argval for instruction in instructions if instruction.opname == "LOAD_ATTR"}
