"""`resilient diff`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from resilient import reading
from resilient.cli import tables
from resilient.cli.exporting import describe, step_or_word
from resilient.cli.progress import sign_of_life
from resilient.comparing import Difference, differences
from resilient.store import Checkpoint

_EQUAL, _DIFFERENT = 0, 1  # as diff(1)


def diff_run(directory: Path, step_a: str, step_b: str, *, json: bool) -> int:
    """Compare all tensors of two checkpoints bit for bit and print what differs."""
    with sign_of_life("reading and comparing"):
        a, b = (reading.choose(directory, step_or_word(step, name)) for step, name in ((step_a, "STEP_A"), (step_b, "STEP_B")))
        found = list(differences(a.tensors, b.tensors))
    if json:
        tables.print_json({"a": _document(a), "b": _document(b), "differences": [dataclasses.asdict(item) for item in found]})
    else:
        _print(a, b, found)
    return _DIFFERENT if found else _EQUAL


def _document(checkpoint: Checkpoint) -> dict[str, object]:
    return tables.as_json(checkpoint.info)


def _print(a: Checkpoint, b: Checkpoint, found: Sequence[Difference]) -> None:
    tables.print_line(f"A: {describe(a)}\nB: {describe(b)}")
    total = len({(file, name) for checkpoint in (a, b) for file, tensors in checkpoint.tensors.items() for name in tensors})
    if not found:
        tables.print_line(f"All {total} tensors are equal bit for bit.")
        return
    tables.print_line(f"{len(found)} of {tables.count(total, 'tensor')} differ:")
    columns = ["tensor", "differing", "max abs", "mean abs", "max ulp"]
    tables.print_table(columns, [_row(item) for item in found], left=["tensor"], folded=["tensor", "differing"])


def _row(item: Difference) -> list[str]:
    if item.note:
        return [item.name, item.note, "", "", ""]
    ulp = "" if item.max_ulp is None else f"{item.max_ulp}" if item.max_ulp < 10**6 else f"{item.max_ulp:.1e}"
    return [item.name, f"{item.differing}/{item.size}", f"{item.max_abs:.2e}", f"{item.mean_abs:.2e}", ulp]
