"""What a target raises where a parser did something that is not documented."""

from __future__ import annotations


class Broken(Exception):  # noqa: N818  a finding, and no error of the target's
    """A parser took what it should refuse, or did more than it should."""


def expect(condition: object, what: str) -> None:
    """Raise Broken with `what` should have been, unless it is."""
    if not condition:
        raise Broken(what)
