"""Fail the n-th call of everything that is done to a run directory: `python -m chaos.nth_call`.

The table says for each call and error how often it failed and how often all was as promised. Exit code 0 if it always was, 1 otherwise.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import errno
import os
import sys
import time
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from chaos import result
from chaos.nth_call import counting
from chaos.nth_call.operations import OPERATIONS, named


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.nth_call", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="OPERATION", help=f"of {', '.join(one.name for one in OPERATIONS)} (all)")
    parser.add_argument("--quick", action="store_true", help="one error a call, every third call")
    parser.add_argument("--fit", type=int, metavar="N", help="instead: N failures drawn over a real training with TensorFlow")
    parser.add_argument("--seed", type=int, default=1, help="of those draws (1)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    result.add_option(parser)
    return parser.parse_args(given)


Line = tuple[str, str, int, bool, str | None]  # operation, call, error, whether it went on, what is wrong


def lines(name: str, quick: bool) -> list[Line]:
    """What came of all failures of one operation."""
    found = counting.outcomes(named(name), every_errno=not quick, stride=3 if quick else 1)
    return [_line(outcome) for outcome in found]


def _line(outcome: counting.Outcome) -> Line:
    case = outcome.case
    wrong = None if outcome.wrong is None else f"{case}: {outcome.wrong}"
    return case.operation.name, case.call, case.number, outcome.went_on, wrong


def _trained(args: argparse.Namespace) -> list[Line]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from chaos.nth_call import training

    return [_line(outcome) for outcome in training.outcomes(args.fit, args.seed)]


def _tried(args: argparse.Namespace) -> list[Line]:
    # The longest ones are the last of the list: they begin first.
    names = [one.name for one in reversed(OPERATIONS) if not args.only or one.name in args.only]
    with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
        return [line for found in pool.map(lines, names, [args.quick] * len(names)) for line in found]


def table(found: Iterable[Line]) -> Table:
    """Calls by errors: how often each failed, how often all was as promised, and how often the operation went on all the same."""
    view = Table("call", "error", "failures", "survived", "went on", title="the n-th call fails, once and persistently")
    groups: dict[tuple[str, int], list[Line]] = {}
    for line in found:
        groups.setdefault((line[1], line[2]), []).append(line)
    for (call, number), mine in groups.items():
        survived = sum(line[4] is None for line in mine)
        view.add_row(call, errno.errorcode[number], str(len(mine)), str(survived), str(sum(line[3] for line in mine)))
    return view


def main(given: list[str] | None = None) -> int:
    """Let everything fail; 0 if all was as promised each time, else 1."""
    args = arguments(given)
    console = Console(highlight=False)
    began = time.monotonic()
    found = _trained(args) if args.fit else _tried(args)
    console.print(table(found))
    problems = [line[4] for line in found if line[4] is not None]
    for problem in problems[:20]:
        console.print(f"BAD {problem}", markup=False)
    seconds = time.monotonic() - began
    console.print(f"{'BAD' if problems else 'GOOD'}: {len(found)} failures in {seconds:.0f} s, {len(problems)} not survived.")
    what = "n-th call fails, real training" if args.fit else "n-th call fails"
    result.write(args.result, [result.Row(what, len(found), len(found) - len(problems))], problems)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
