"""A program under supervision: its guardian, the page it beats on, and what these tell when it has ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from resilient.heartbeat import ENVIRONMENT, Orders, Page
from resilient.journal import Journal
from resilient.supervisor.guardian import Exit, Guardian, Program
from resilient.supervisor.standby import spare_command

_TUNABLES, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


class Child:
    """A program that was started.

    Args:
        command, environment: of the program.
        output: descriptors that become its standard output and error.
        orders: for its `fit`.
        keeps: one more descriptor that it inherits.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: tuple[int, int],
        orders: Orders,
        keeps: int | None = None,
    ) -> None:
        self.page = Page()
        self.page.give(orders)
        # Unbuffered, or the last words of a killed program stay in it.
        complete = {"PYTHONUNBUFFERED": "1", **environment, **huge_page_variables(environment), ENVIRONMENT: self.page.path}
        self.guardian = Guardian(Program(command, complete, output, keeps), self._bereaved)

    def position(self) -> dict[str, Any]:
        """Which attempt this is and where it stands, for the journal."""
        progress, saves = self.page.beat().progress, self.page.saves()
        position: dict[str, Any] = {"attempt": self.page.orders.attempt}
        if progress is not None:
            lost = max(0, progress.step - (saves.committed or 0))
            position |= {**dataclasses.asdict(progress), "committed": saves.committed, "lost_steps": lost}
        return position

    def close(self) -> None:
        """It has ended, and the journal says so."""
        self.guardian.take_leave()
        self.page.close()

    def _bereaved(self, ended: Exit) -> None:
        """In the guardian: there is nobody else left to tell the story."""
        announced = self.page.announcement()
        if announced is not None:
            Journal(announced.directory).append(
                "exited", durable=True, **self.position(), **dataclasses.asdict(ended), reason="its supervisor died"
            )


def huge_page_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variable that has a program's C library ask for huge pages; none where the environment says something about them already.

    A save of large tensors that lie in them costs training less; for those nobody can ask any more once the program runs.
    glibc older than 2.35, and any other C library, does not look at it.
    """
    present = environment.get(_TUNABLES, "")
    if any(setting.startswith(f"{_HUGE_PAGES}=") for setting in present.split(":")):
        return {}
    return {_TUNABLES: ":".join(filter(None, (present, f"{_HUGE_PAGES}=1")))}


class Spare:
    """An interpreter that has imported the framework and waits to become a program.

    Args:
        command, environment, output: as of `Child`.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], output: tuple[int, int]) -> None:
        waits, self._turn = os.pipe()
        self.child = Child(spare_command(command, waits) or command, environment, output, Orders(), keeps=waits)
        os.close(waits)

    def begin(self, orders: Orders) -> Child:
        """Let it become the program."""
        self.child.page.give(orders)
        with contextlib.suppress(OSError):  # it has just died: an attempt that ends before it began
            os.write(self._turn, b"\1")
        os.close(self._turn)
        return self.child
