"""The tables as `docs/crash-states.md` has them, between markers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from chaos.crash_states.explore import Bad, Count
from chaos.crash_states.lives import LIVES
from chaos.crash_states.mutants import MUTANTS, Mutant
from chaos.crash_states.persistence import MODELS

_SHORTEST = 90  # characters of a reason that are shown


def write_states(path: Path, found: Mapping[str, Mapping[str, Count]], distinct: int) -> None:
    """The table of states."""
    write(path, "states", states(found, distinct))


def write_mutants(path: Path, found: Mapping[str, Bad | None]) -> None:
    """The table of mutants."""
    write(path, "mutants", mutants(found))


def states(found: Mapping[str, Mapping[str, Count]], distinct: int) -> str:
    """Lives by models."""
    says = {life.name: life.says for life in LIVES}
    rows: list[tuple[str, ...]] = [("life", "what happens", *MODELS, "in restarts", "bad")]
    for name, counts in found.items():
        numbers = [str(counts[model].states) for model in MODELS]
        restarts, bad = (sum(column) for column in zip(*((one.restarts, len(one.bad)) for one in counts.values()), strict=True))
        rows.append((name, says[name.partition(" (")[0]], *numbers, str(restarts), str(bad)))
    return f"{_table(rows)}\n\n{distinct} different states."


def mutants(found: Mapping[str, Bad | None]) -> str:
    """What is broken, and the state that shows it."""
    head = _table([("mutant", "what it does", "caught in", "after", "what is then found")])
    return "\n".join([head, *(mutant_row(mutant, found[mutant.name]) for mutant in MUTANTS)])


def mutant_row(mutant: Mutant, bad: Bad | None) -> str:
    """One line of that table."""
    if bad is None:
        return _row((mutant.name, mutant.says, "**not caught**", "", ""))
    return _row((mutant.name, mutant.says, f"{bad.life}, {bad.model}", bad.state.removeprefix("after "), shortened(bad.why)))


def shortened(why: str) -> str:
    """The reason without the remedy, which is for a user."""
    inner = re.search(r"valid \((.*?)(: it is not JSON.*)?\)\. Put", why)
    text = inner[1] if inner else why
    text = re.sub(r"step-0*(\d)", r"step-\1", re.sub(r"The manifest at \S+ is damaged", "its manifest is damaged", text))
    text = re.sub(r"^damaged: \[Problem\(.*checkpoints/([^']*)'\), reason='([^']*)'.*", r"\1: \2", text)
    return text if len(text) <= _SHORTEST else f"{text[:_SHORTEST]} …"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [_row(row) for row in rows]
    lines.insert(1, f"|{'---|' * len(rows[0])}")
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def write(path: Path, what: str, text: str) -> None:
    """Puts the text between the markers of that name.

    Raises:
        ValueError: the file has no such markers.
    """
    content = path.read_text(encoding="utf-8")
    before, begin, rest = content.partition(f"<!-- {what}: generated -->")
    _, end, after = rest.partition(f"<!-- {what}: end -->")
    if not begin or not end:
        raise ValueError(f"{path} has no markers for its {what}. Add {begin or f'<!-- {what}: generated -->'} and its end.")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def between(path: Path, what: str) -> str:
    """What stands between the markers of that name."""
    return path.read_text(encoding="utf-8").partition(f"<!-- {what}: generated -->\n")[2].partition(f"\n<!-- {what}: end -->")[0]
