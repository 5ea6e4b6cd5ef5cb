"""Tensors that are the same in many checkpoints lie in a file of their own, which those share by hard links.

`model.frozen.safetensors` is that part of `model.safetensors`: weights that are not trained. The manifest says which positions its tensors
have among all of them, so that who reads a checkpoint sees one file in its order.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import xxhash

from resilient.store import safetensors_format

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from resilient.manifest import FileEntry, Frozen, Manifest
    from resilient.store.safetensors_format import Layout

_SUFFIX = safetensors_format.SUFFIX
_PART = f".frozen{_SUFFIX}"


@dataclasses.dataclass(frozen=True)
class Earlier:
    """A part as an earlier checkpoint has it: the file, its entry, and the generation it was captured in (None: not known)."""

    path: Path
    entry: FileEntry
    generation: int | None


class KnownParts:
    """The parts of the last two commits that had them, to which the next one may link."""

    def __init__(self) -> None:
        self._files: dict[str, list[Earlier]] = {}  # by name, the newest last

    def remember(self, path: Path, manifest: Manifest, generations: Mapping[str, int | None]) -> None:
        """A checkpoint is at `path` now; `generations` of its files by name."""
        for name, entry in manifest.files.items():
            if entry.positions is not None:
                newest = Earlier(path / name, entry, generations[name])
                others = [earlier for earlier in self._files.get(name, ()) if earlier.path != newest.path]  # that file is replaced
                self._files[name] = [*others, newest][-2:]

    def to_link(self, path: Path, part: Frozen, positions: tuple[int, ...]) -> Earlier | None:
        """The file that the one at `path` may be, if it holds the same bytes; None where it has to be written."""
        count = 2 if part.twice else 1
        found = [earlier for earlier in self._files.get(path.name, [])[-count:] if earlier.entry.positions == positions]
        if part.twice:
            found = [earlier for earlier in found if earlier.generation == part.generation]
            # In turn, so that damage to one file leaves every second checkpoint; but one that is saved again stays with its own.
            found.sort(key=lambda earlier: earlier.path != path)
        return next((earlier for earlier in found if os.path.lexists(earlier.path)), None) if len(found) == count else None


@dataclasses.dataclass(frozen=True)
class NewFile:
    """A file about to be written: its tensors; for a part also their positions, and the file it may be a link to."""

    tensors: dict[str, Any]
    positions: tuple[int, ...] | None = None
    generation: int | None = None
    earlier: Earlier | None = None

    @property
    def surely_same(self) -> bool:
        """Whether nobody has written to any of the tensors since the earlier file was captured."""
        return self.earlier is not None and self.generation is not None and self.generation == self.earlier.generation

    def hand_over(self) -> Layout:
        """The file's layout, which holds the tensors from here on: this one lets go of them."""
        by_content = self.positions is not None and self.generation is None  # it can be a link to any file of the same bytes
        layout = safetensors_format.layout(self.tensors, in_place=not by_content)
        self.tensors.clear()
        return layout

    def may_link(self, layout: Layout | None) -> bool:
        """Whether the earlier file holds the very same bytes; without a generation their checksum decides."""
        if self.earlier is None or layout is None or self.generation is not None:
            return self.surely_same
        return layout.size == self.earlier.entry.size and _checksum(layout.chunks()) == self.earlier.entry.xxh3_128


def split(target: Path, files: Mapping[str, Mapping[str, Any]], frozen: Mapping[str, Frozen], known: KnownParts) -> dict[str, NewFile]:
    """The files to write for the checkpoint `target`, each with its frozen part taken out into one of its own."""
    found: dict[str, NewFile] = {}
    for name, tensors in files.items():
        part = frozen.get(name)
        names = set(part.names) if part is not None else set()
        if part is not None and names:
            still = {key: value for key, value in tensors.items() if key in names}
            positions = tuple(index for index, key in enumerate(tensors) if key in names)
            earlier = known.to_link(target / part_name(name), part, positions)
            found[part_name(name)] = NewFile(still, positions, part.generation, earlier)
        if len(names) < len(tensors) or not names:
            found[name] = NewFile({key: value for key, value in tensors.items() if key not in names})
    return found


def merge(entries: Mapping[str, FileEntry], tensors: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The files as they were before `split`.

    Raises:
        ValueError: the positions do not fit.
    """
    merged: dict[str, Mapping[str, Any]] = {name: content for name, content in tensors.items() if entries[name].positions is None}
    for name, content in tensors.items():
        positions = entries[name].positions
        if positions is not None:
            whole = _whole_name(name)
            merged[whole] = _in_order(merged.get(whole, {}), content, positions)
    return merged


def frozen_names(entries: Mapping[str, FileEntry], tensors: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Merged file -> names of its frozen tensors."""
    found = {}
    for name, entry in entries.items():
        if entry.positions is not None:
            keys = list(tensors[_whole_name(name)])
            found[_whole_name(name)] = tuple(keys[position] for position in entry.positions)
    return found


def part_name(name: str) -> str:
    """File name of the frozen part of a file."""
    return name.removesuffix(_SUFFIX) + _PART


def _whole_name(name: str) -> str:
    return name.removesuffix(_PART) + _SUFFIX


def _in_order(changing: Mapping[str, Any], still: Mapping[str, Any], positions: tuple[int, ...]) -> dict[str, Any]:
    total = len(changing) + len(still)
    taken = set(positions)
    if len(taken) != len(positions) or len(positions) != len(still) or not taken <= set(range(total)) or changing.keys() & still.keys():
        raise ValueError("the positions of its tensors are not those of a part")
    first, second = iter(changing.items()), iter(still.items())
    return dict(next(second) if index in taken else next(first) for index in range(total))


def linked(earlier: Earlier, target: Path) -> bool:
    """Make `target` a link to an earlier file; False where that cannot be (no links here, too many, gone, of another size)."""
    try:
        os.link(earlier.path, target, follow_symlinks=False)
        if target.lstat().st_size == earlier.entry.size:
            return True
        target.unlink()
    except OSError:
        return False
    return False


def _checksum(chunks: Iterable[bytes | memoryview]) -> str:
    digest = xxhash.xxh3_128()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
