"""A run directory as a place of checkpoints: commit, load, fall back, keep, verify."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from resilient.errors import CheckpointCorruptError, CheckpointMismatchError, ConfigurationError, StorageError
from resilient.keep import Keep, best_sequence, ranked
from resilient.manifest import MAX_STEP, CheckpointInfo, Frozen, Manifest, parse_step_name, step_name
from resilient.store import parts
from resilient.store.commit import Committed, discard, put_aside, recover, write_checkpoint
from resilient.store.files import make_directories
from resilient.store.oserrors import storage_errors
from resilient.store.output import Reused, WriteOptions
from resilient.store.reading import Absent, Checkpoint, Damaged, Known, Problem, check_sizes, describe, read_checkpoint, read_manifest
from resilient.store.spare import Spare

CHECKPOINTS = "checkpoints"
FINAL = "final"
QUARANTINE = "quarantine"

_ATTEMPTS = 100
_T = TypeVar("_T")
_Tensors = Mapping[str, Mapping[str, Any]]

OnQuarantine = Callable[[str, str], None]


class Store:
    """The checkpoints of one run directory. Making one touches nothing on disk.

    Reading works for anyone at any time, also while another process trains there. All else needs the run's lock, and so do `latest` and
    `best`, which move what is damaged. Every method raises `StorageError` where the disk refuses.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._checkpoints = self.directory / CHECKPOINTS
        self._known_valid: set[tuple[int, int]] = set()  # (step, sequence) of what this object wrote or verified
        self._parts = parts.KnownParts()
        self._spare = Spare()
        self._reused: Reused | None = None  # from the first commit on
        self._decoded: Known = {}  # what retention need not decode

    # -- writing ---------------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the directory ready for a run: creates it, checks that it is writable, cleans up after a killed process.

        Raises:
            StorageError: it cannot be used; one sentence says why.
        """
        with storage_errors("create the run directory", self.directory):
            make_directories(self.directory)
        with storage_errors("create the checkpoint directory", self._checkpoints):
            make_directories(self._checkpoints)
        self.sweep()  # first: where the disk is full, that makes room
        with storage_errors("write to the run directory", self.directory):
            for parent in (self.directory, self._checkpoints):
                probe = parent / f".tmp-{uuid.uuid4().hex}"
                probe.mkdir()
                probe.rmdir()

    def sweep(self) -> None:
        """Cleans up after processes that were killed or had to end."""
        with storage_errors("clean up", self.directory):
            for parent in filter(Path.is_dir, (self.directory, self._checkpoints)):
                recover(parent, self._spare.keep)

    def close(self) -> None:
        """Deletes what is kept for the next commit to write over; else the next start finds it."""
        with contextlib.suppress(OSError):
            self._spare.drop()

    def commit(
        self,
        manifest: Manifest,
        files: Mapping[str, Mapping[str, Any]],
        frozen: Mapping[str, Frozen] = MappingProxyType({}),
        *,
        options: WriteOptions = WriteOptions(),  # noqa: B008  frozen
    ) -> Manifest:
        """Saves a checkpoint; it is durable when this returns.

        Args:
            manifest: its `files` are ignored and filled in.
            files: file name (`*.safetensors`) -> tensor name -> anything that `np.asarray` views; the order of names is kept.
            frozen: file name -> those of its tensors that are not written again where one of the last two commits has the same bits.
            options: how it is written, see there.

        Returns:
            The manifest as written.

        Raises:
            StorageError: the disk refused. Nothing was committed and no temporary is left.
            ConfigurationError: a name, dtype or value that cannot be saved.
            CommitCancelled: it was given up; nothing is committed.
        """
        step = manifest.progress.step
        if not 0 <= step <= MAX_STEP:
            raise ConfigurationError(f"Step {step} cannot be saved. It has to lie between 0 and {MAX_STEP}.")
        written = self._write(self._path(step), manifest, files, frozen, options)
        self._known_valid.add((step, written.manifest.sequence))
        self._decoded[step_name(step)] = written.encoded, written.manifest
        return written.manifest

    def commit_final(
        self, manifest: Manifest, files: Mapping[str, Mapping[str, Any]], frozen: Mapping[str, Frozen] = MappingProxyType({})
    ) -> Manifest:
        """Saves the state after the end of training, in place of an earlier one. Like `commit`; nothing else is left to do by then."""
        options = WriteOptions(awaited=lambda: True)
        return self._write(self.directory / FINAL, manifest, files, frozen, options).manifest

    def continue_from(self, checkpoint: Checkpoint, generation: int) -> None:
        """The live state is that of this checkpoint: as long as its frozen tensors are of this generation, commits may link to it."""
        self._parts.remember(checkpoint.path, checkpoint.manifest, dict.fromkeys(checkpoint.manifest.files, generation))

    def _write(self, target: Path, manifest: Manifest, tensors: _Tensors, frozen: Mapping[str, Frozen], options: WriteOptions) -> Committed:
        files = parts.split(target, tensors, frozen, self._parts)
        self._make_way(target)
        with storage_errors("save the checkpoint", target):
            self._reused = self._reused or Reused(self._spare)
            written = write_checkpoint(target, manifest, files, dataclasses.replace(options, reused=self._reused))
        self._parts.remember(target, written.manifest, {name: file.generation for name, file in files.items()})
        # The new one is durable by now. That the old one cannot be removed is no failure of the commit; `prepare` will try again.
        with contextlib.suppress(OSError):
            self._spare.drop()
            discard([written.replaced] if written.replaced is not None else [], self._spare.keep)
        return written

    def _make_way(self, target: Path) -> None:
        """Keeps what is damaged there. Once it is replaced it has a temporary's name: a kill would leave it to be swept."""
        try:
            check_sizes(target)
        except (Absent, StorageError):  # nothing is known against what is there, if anything is
            return
        except (Damaged, CheckpointMismatchError) as finding:
            self._move_to_quarantine(target, target.name, str(finding))

    def quarantine(self, name: str, reason: str) -> Path:
        """Moves a damaged checkpoint out of the way, durably. Nothing is deleted.

        Args:
            name: of a directory under `checkpoints/`, or "final".
            reason: goes into a text file beside it.

        Returns:
            Where it is now.
        """
        if name != FINAL and parse_step_name(name) is None:
            raise ConfigurationError(f'{name!r} cannot be quarantined. Name a checkpoint, such as {step_name(0)!r}, or "{FINAL}".')
        source = self.directory / FINAL if name == FINAL else self._checkpoints / name
        return self._move_to_quarantine(source, name, reason)

    def _move_to_quarantine(self, source: Path, name: str, reason: str) -> Path:
        with storage_errors("move a damaged checkpoint to quarantine", source):
            return put_aside(source, self.directory / QUARANTINE, name, reason)

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def manifests(self) -> list[Manifest]:
        """Manifests of the checkpoints, oldest first; what cannot be decoded is left out. Their data is not read."""
        scan = self._settled(self._scan)
        return _oldest_first(found for found in scan.values() if isinstance(found, Manifest))

    def infos(self) -> list[CheckpointInfo]:
        """Descriptions of the checkpoints, oldest first; [] where there are none or the directory does not exist."""
        manifests = self.manifests()
        best = best_sequence(manifests)
        return [self._describe(manifest, best) for manifest in manifests]

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of `step`, verified.

        Raises:
            ConfigurationError: there is none; names the steps there are.
            CheckpointCorruptError: it is damaged. It is left where it is.
            CheckpointMismatchError: a newer version wrote it.
        """
        try:
            return self._read(step)
        except Absent:
            steps = [manifest.progress.step for manifest in self.manifests()]
            available = f"Use one of {', '.join(map(str, steps))}" if steps else "Nothing was saved there yet"
            raise ConfigurationError(f"There is no checkpoint of step {step} in {self._checkpoints}. {available}.") from None
        except Damaged as damage:
            raise CheckpointCorruptError(
                f"The checkpoint at {self._path(step)} is damaged: {damage}. Use another step, or the latest valid one."
            ) from damage

    def load_final(self) -> Checkpoint | None:
        """The state after the end of training, verified; None where there is none. Raises as `load`."""
        path = self.directory / FINAL
        try:
            return read_checkpoint(path)
        except Absent:
            return None
        except Damaged as damage:
            raise CheckpointCorruptError(f"The final state at {path} is damaged: {damage}. Use the latest checkpoint instead.") from damage

    def latest(self, on_quarantine: OnQuarantine) -> Checkpoint | None:
        """The newest valid checkpoint (by sequence, not by step); None if there never was one.

        Damaged ones that were found on the way are moved to quarantine once a valid one is found. Where none is valid all of them stay, so
        that the next attempt fails as well instead of silently starting anew.

        Args:
            on_quarantine: called with name and reason of each damaged one.

        Raises:
            CheckpointCorruptError: there are checkpoints and none is valid.
            CheckpointMismatchError: a newer version wrote one of them; nothing is moved.
        """
        return self._first_valid(reversed, on_quarantine)

    def best(self, on_quarantine: OnQuarantine) -> Checkpoint | None:
        """The valid checkpoint with the best score (see `ranked`); None if none has a score. Else like `latest`."""
        return self._first_valid(ranked, on_quarantine)

    def _first_valid(self, order: Callable[[Sequence[Manifest]], Iterable[Manifest]], on_quarantine: OnQuarantine) -> Checkpoint | None:
        found, damaged = self._settled(lambda: self._search(order))
        if found is None and damaged:
            raise self._none_valid(damaged)
        for name, reason in damaged.items():
            on_quarantine(name, self._try_quarantine(name, reason))
        return found

    def _search(self, order: Callable[[Sequence[Manifest]], Iterable[Manifest]]) -> tuple[Checkpoint | None, dict[str, str]]:
        """The first valid one in the order of preference, and the damaged ones met before it; moves nothing."""
        manifests, damaged = self._readable()
        for manifest in order(manifests):
            try:
                return self._read(manifest.progress.step), damaged
            except Damaged as damage:
                damaged[step_name(manifest.progress.step)] = str(damage)
        return None, damaged

    def _settled(self, read: Callable[[], _T]) -> _T:
        """Result of `read`, from the beginning again whenever the run's owner removed something between listing and reading.

        Passing over what vanished would not do: the checkpoints that replaced it were not in the list, and the answer would be
        "there never was one".
        """
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(Absent):
                return read()
        raise StorageError(f"The checkpoints in {self._checkpoints} change faster than they can be read. Try again when the run is idle.")

    def _try_quarantine(self, name: str, reason: str) -> str:
        """Moves a damaged checkpoint. That it cannot be moved (a read-only disk) does not keep the valid one from being used."""
        try:
            self.quarantine(name, reason)
        except StorageError as error:
            return f"{reason} (it stays where it is: {error})"
        return reason

    def _none_valid(self, damaged: Mapping[str, str]) -> CheckpointCorruptError:
        findings = "; ".join(f"{name}: {reason}" for name, reason in sorted(damaged.items(), reverse=True))
        return CheckpointCorruptError(
            f"None of the checkpoints in {self._checkpoints} that could be used is valid ({findings}). They were left in place. "
            "Put an intact copy there, or start afresh with resume=False."
        )

    def verify(self) -> list[Problem]:
        """Re-reads and re-hashes everything, the final state included; [] if all is as it was saved."""
        problems = []
        for path in [*(self._checkpoints / name for name in self._names()), self.directory / FINAL]:
            try:
                read_checkpoint(path)
            except Absent:  # no final state, or removed while we read
                continue
            except (Damaged, CheckpointMismatchError) as finding:
                problems.append(Problem(path, str(finding)))
        return problems

    # -- retention -------------------------------------------------------------------------------------------------------------

    def prune(self, keep: Keep, *, dry_run: bool = False, hastily: bool = False) -> list[CheckpointInfo]:
        """Removes what `keep` does not want; never the newest valid checkpoint, and never a damaged one.

        The newest is verified unless this object wrote or read it before. The others are checked for presence and size only: re-reading all
        of them after each save would cost more than the save. Damaged ones do not count, so that they cannot push out good ones.

        Args:
            keep: which ones stay.
            dry_run: remove nothing.
            hastily: leave the deleting to `sweep`.

        Returns:
            What was (with `dry_run`: would be) removed, oldest first.
        """
        sound = self._sound()
        survivors = keep.survivors(sound)
        doomed = [manifest for manifest in sound if manifest.sequence not in survivors]
        return self._remove(doomed, sound, dry_run=dry_run, hastily=hastily)

    def drop_abandoned(self, run_id: str, since_sequence: int, from_step: int | None) -> list[CheckpointInfo]:
        """Removes the checkpoints that a run sent back to an earlier point has left behind.

        Call it after the first commit of the new line of history, not before: until then they are all there is.

        Args:
            run_id: of the line that goes on.
            since_sequence: sequence of its first commit after it was sent back; only older ones are removed.
            from_step: the step it was sent back to; the same run's checkpoints up to there are its ancestors and stay. None: it began
                afresh and has no ancestors.

        Returns:
            What was removed, oldest first.
        """
        manifests = self.manifests()
        abandoned = [
            manifest
            for manifest in manifests
            if manifest.sequence < since_sequence and (manifest.run_id != run_id or from_step is None or manifest.progress.step > from_step)
        ]
        return self._remove(abandoned, manifests)

    def _sound(self) -> list[Manifest]:
        """Checkpoints that are there in full by their sizes, oldest first; the last of them is verified."""
        names = self._names()
        self._decoded = {name: known for name, known in self._decoded.items() if name in names}
        sound = _oldest_first(manifest for name in names if (manifest := self._present(name)) is not None)
        while sound and not self._is_valid(sound[-1]):
            sound.pop()
        return sound

    def _present(self, name: str) -> Manifest | None:
        with contextlib.suppress(Absent, Damaged, CheckpointMismatchError):
            return check_sizes(self._checkpoints / name, self._decoded)
        return None

    def _is_valid(self, manifest: Manifest) -> bool:
        if (manifest.progress.step, manifest.sequence) in self._known_valid:
            return True
        try:
            return self._read(manifest.progress.step).manifest.sequence == manifest.sequence
        except (Absent, Damaged):
            return False

    def _remove(
        self, manifests: Sequence[Manifest], among: Sequence[Manifest], *, dry_run: bool = False, hastily: bool = False
    ) -> list[CheckpointInfo]:
        best = best_sequence(among)
        if not dry_run:
            with storage_errors("remove old checkpoints", self._checkpoints):
                discard((self._path(manifest.progress.step) for manifest in manifests), None if hastily else self._spare.keep)
        return [self._describe(manifest, best) for manifest in manifests]

    # -- shared ----------------------------------------------------------------------------------------------------------------

    def _path(self, step: int) -> Path:
        return self._checkpoints / step_name(step)

    def _describe(self, manifest: Manifest, best: int | None) -> CheckpointInfo:
        return describe(manifest, self._path(manifest.progress.step), best=manifest.sequence == best)

    def _names(self) -> list[str]:
        """Names of what lies in a checkpoint's place, by step."""
        with storage_errors("list the checkpoints", self._checkpoints), contextlib.suppress(FileNotFoundError):
            return sorted(path.name for path in self._checkpoints.iterdir() if parse_step_name(path.name) is not None)
        return []

    def _scan(self) -> dict[str, Manifest | Damaged | CheckpointMismatchError]:
        """What lies under each checkpoint's name: its manifest, or why there is none."""
        found: dict[str, Manifest | Damaged | CheckpointMismatchError] = {}
        for name in self._names():
            try:
                found[name] = read_manifest(self._checkpoints / name)
            except (Damaged, CheckpointMismatchError) as finding:
                found[name] = finding
        return found

    def _readable(self) -> tuple[list[Manifest], dict[str, str]]:
        """Manifests, oldest first, and the undecodable ones with their reason."""
        scan = self._scan()
        for finding in scan.values():
            if isinstance(finding, CheckpointMismatchError):
                raise finding
        damaged = {name: str(finding) for name, finding in scan.items() if isinstance(finding, Damaged)}
        return _oldest_first(finding for finding in scan.values() if isinstance(finding, Manifest)), damaged

    def _read(self, step: int) -> Checkpoint:
        checkpoint = read_checkpoint(self._path(step))
        self._known_valid.add((step, checkpoint.manifest.sequence))
        return dataclasses.replace(checkpoint, best=checkpoint.manifest.sequence == best_sequence(self.manifests()))


def _oldest_first(manifests: Iterable[Manifest]) -> list[Manifest]:
    return sorted(manifests, key=lambda manifest: (manifest.sequence, manifest.progress.step))
