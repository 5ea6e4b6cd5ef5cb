"""Real deaths: a process lives a life and is killed before its n-th system call, n = 1, 2, … until it survives, or within its n-th write.

Forked and not started anew, so that thousands of deaths take seconds: `python -m chaos.crash_states.dying`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from chaos import result
from chaos.calls import CHANGES, met
from chaos.crash_states import lives, mutants
from chaos.crash_states.explore import RUN, Protocol
from chaos.crash_states.lives import Life
from chaos.faults import fail_at
from chaos.faults.kill import before_call, within_write
from chaos.samples import FAST

CALLS = (*CHANGES, "close", "listdir", "scandir", "sync_file_range")
Death = tuple[str, str | None]  # which, and what is wrong with what it left


def deaths(base: Path, life: Life, way: str, *, torn: bool, protocol: Protocol = contextlib.nullcontext) -> Iterator[Death]:
    """Every death of a life, below `base`; the last attempt survives and is judged too."""
    name = f"{life.name}{f' ({way})' if way else ''}, {'within write' if torn else 'before call'}"
    for point in itertools.count(1):
        place = base / str(point)
        place.mkdir()
        life.before(place / RUN)
        code, acks = _live_until(place, point, functools.partial(_live, life, way, protocol, place / RUN), torn=torn)
        if code not in (0, -signal.SIGKILL):
            yield f"{name} {point}", f"it ended with {code}"
            return
        with lives.way(way):
            yield f"{name} {point}", life.judge(place / RUN, acks)
        shutil.rmtree(place)
        if code == 0:
            return


def _live(life: Life, way: str, protocol: Protocol, place: Path, acknowledge: lives.Acknowledge) -> None:
    with lives.way(way), protocol():
        life.live(place, acknowledge)


def _live_until(place: Path, point: int, live: Callable[[lives.Acknowledge], None], *, torn: bool) -> tuple[int, Mapping[str, int]]:
    """Exit code of a child that dies at a point of its life, and what it had been told is durable."""
    log = place / "acknowledged"
    schedule = fail_at(point)
    fault = (within_write if torn else before_call)(schedule)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with met(fault, place / RUN, CALLS), log.open("ab", buffering=0) as told:
                live(functools.partial(_note, told))
            code = 3 if schedule.struck else 0  # it should not have survived that
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = log.read_text().splitlines() if log.exists() else []
    return code, dict(json.loads(line) for line in lines)


def _note(told: BinaryIO, kind: str, number: int) -> None:
    told.write(json.dumps([kind, number]).encode() + b"\n")


def main(given: list[str] | None = None) -> int:
    """Die everywhere; 0 if nothing was lost, else 1."""
    parser = argparse.ArgumentParser(prog="python -m chaos.crash_states.dying", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="LIFE", help=f"of {', '.join(life.name for life in lives.LIVES)} (all)")
    parser.add_argument("--mutant", metavar="NAME", help="with a broken protocol")
    result.add_option(parser)
    args = parser.parse_args(given)
    protocol = mutants.named(args.mutant).protocol if args.mutant else contextlib.nullcontext
    chosen = [one for one in lives.LIVES if not args.only or one.name in args.only]
    count, problems = 0, []
    for life, way, torn in [(one, way, torn) for one in chosen for way in one.ways for torn in (False, True)]:
        with tempfile.TemporaryDirectory(dir=FAST) as base:
            for which, wrong in deaths(Path(base), life, way, torn=torn, protocol=protocol):
                count += 1
                if wrong is not None:
                    problems.append(f"{which}: {wrong}")
    print(*problems[:20], sep="\n", end="\n" if problems else "")
    print(f"{'BAD' if problems else 'GOOD'}: {count} deaths, {len(problems)} bad.")
    result.write(args.result, [result.Row("SIGKILL at every system call", count, count - len(problems))], problems)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
