"""Fuzz one target: by atheris, guided by coverage, where that is installed, and by hypothesis where it is not.

    python -m chaos.fuzz manifest --seconds 30

Memory is bounded, and one input may take no longer than some seconds. Exit code 0 if nothing was found, 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import itertools
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chaos.fuzz import mutations

MEMORY = 2 * 2**30  # bytes of address space that targets may take beyond what is taken when they begin
PATIENCE = 10  # seconds for one input

Targets = dict[str, Callable[[bytes], None]]


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="+", metavar="TARGET", help="names out of chaos/fuzz/targets.py, or all")
    parser.add_argument("--seconds", type=float, default=30, help="for each of them (30); 0 for the hostile inputs alone")
    parser.add_argument("--with", dest="by", choices=("atheris", "hypothesis"), help="what makes the inputs (atheris where it is there)")
    return parser.parse_args(given)


def load(*, instrumented: bool) -> Targets:
    """All targets; what they test is imported here, so that atheris sees which branches are taken."""
    atheris: Any = importlib.import_module("atheris") if instrumented else None
    with atheris.instrument_imports(include=["resilient"]) if instrumented else contextlib.nullcontext():
        from chaos.fuzz.targets import TARGETS
    return TARGETS


def bound_memory(more: int = MEMORY) -> None:
    """Let this process take no more address space than so many bytes beyond what it has: then MemoryError, and no machine that swaps."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def by_hand(name: str, target: Callable[[bytes], None]) -> int:
    """The hostile inputs, and the samples with hostile values in every place, each timed. How many there were.

    Raises:
        TimeoutError: one takes too long; and whatever the target raises.
    """
    from chaos.fuzz import commands, targets

    inputs = [*mutations.hostile(), *itertools.chain.from_iterable(map(mutations.replaced, targets.samples(name)))]
    inputs += commands.hostile() if name == "arguments" else []
    for data in inputs:
        began = time.monotonic()
        target(data)
        if (seconds := time.monotonic() - began) > PATIENCE:
            raise TimeoutError(f"{name} took {seconds:.0f} s for {data[:40]!r} of {len(data)} bytes")
    return len(inputs)


def by_hypothesis(name: str, target: Callable[[bytes], None], seconds: float) -> int:
    """Mutations until the time is up. How many there were."""
    from hypothesis import HealthCheck, Phase, given, settings

    from chaos.fuzz.targets import samples

    end, count = time.monotonic() + seconds, 0
    phases = (Phase.generate, Phase.shrink)

    @settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=phases)
    @given(mutations.cases(samples(name)))
    def attempt(data: bytes) -> None:
        nonlocal count
        if time.monotonic() < end:
            count += 1
            target(data)

    while time.monotonic() < end:
        attempt()
    return count


def by_atheris(name: str, target: Callable[[bytes], None], seconds: float) -> None:
    """Mutations that follow the coverage. Ends the process, with another code than 0 where something was found."""
    from chaos.fuzz.targets import samples

    atheris: Any = importlib.import_module("atheris")
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-corpus-"))
    for number, sample in enumerate([*samples(name), *mutations.hostile()]):
        (corpus / f"sample-{number}").write_bytes(sample[:4096])
    found = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    print(f"{name}: what it finds is kept in {found}")
    options = [f"-max_total_time={int(seconds)}", f"-timeout={PATIENCE}", "-rss_limit_mb=2048", f"-artifact_prefix={found}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()


def main(given: Sequence[str] | None = None) -> int:
    """Fuzz; 0 if nothing was found, else 1."""
    args = arguments(given)
    guided = args.by == "atheris" or (args.by is None and args.seconds > 0 and importlib.util.find_spec("atheris") is not None)
    targets = load(instrumented=guided)
    names = list(targets) if "all" in args.target else args.target
    unknown = [name for name in names if name not in targets]
    if unknown or (guided and len(names) > 1 and args.by):
        raise SystemExit(
            f"There is no target {unknown[0]!r}. Use {', '.join(targets)}." if unknown else "atheris takes one target at a time."
        )
    if guided and len(names) == 1:
        by_hand(names[0], targets[names[0]])
        by_atheris(names[0], targets[names[0]], args.seconds)
    bound_memory()
    reports = [_report(name, targets[name], args.seconds) for name in names]  # each, also after a finding
    return int(not all(reports))


def _report(name: str, target: Callable[[bytes], None], seconds: float) -> bool:
    try:
        hostile, mutated = by_hand(name, target), by_hypothesis(name, target, seconds)
    except Exception:  # noqa: BLE001  the boundary: whatever a target raises is what was looked for
        traceback.print_exc()
        print(f"{name}: FOUND the above")
        return False
    print(f"{name}: nothing found in {hostile} hostile and {mutated} mutated inputs", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
