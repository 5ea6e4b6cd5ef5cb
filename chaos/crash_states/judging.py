"""Whether what a crash has left is as promised: asked of the real restore, as a reader without the lock and as the next start."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from chaos.samples import commit, is_sample, leftovers, reports, tensors
from resilient import journal as journal_file
from resilient import reading
from resilient.errors import ConfigurationError, ResilientError
from resilient.keep import Keep
from resilient.manifest import MANIFEST_NAME, decode
from resilient.store import Checkpoint, Store, published

NEWEST, FINAL, PUBLISHED_SERIAL, JOURNALED = "commit", "final", "published", "event"
PUBLISHED = Path("models") / "best.bin"
DAMAGED_BYTES = 5  # what the lives cut damaged files to

Judge = Callable[[Path, Mapping[str, int]], str | None]


class _Wrong(Exception):  # noqa: N818  a finding
    """What is not as promised."""


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Wrong(otherwise)


def run(place: Path, acks: Mapping[str, int]) -> str | None:
    """A run directory in which nothing may be damaged."""
    return _finding(lambda: _judge_run(place, acks, may_be_damaged=False))


def evidence(*sequences: int) -> Judge:
    """For a run directory with damaged checkpoints of these sequences: no file of them may be lost, in place or in quarantine."""

    def judge(place: Path, acks: Mapping[str, int]) -> str | None:
        return _finding(lambda: _judge_evidence(place, acks, set(sequences)))

    return judge


def _judge_evidence(place: Path, acks: Mapping[str, int], expected: set[int]) -> None:
    for when in ("", ", after the next start"):
        found = _damaged_ones(place)
        _must(expected <= found, f"of what was damaged {sorted(expected - found)} is lost{when}")
        if not when:
            _judge_run(place, acks, may_be_damaged=True)


def _finding(judge: Callable[[], None]) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that something damaged was passed over
            judge()
    except _Wrong as wrong:
        return str(wrong)
    except Exception as error:  # noqa: BLE001  whatever it is, the run cannot go on
        return f"{type(error).__name__}: {error}"
    return None


def _judge_run(place: Path, acks: Mapping[str, int], *, may_be_damaged: bool) -> None:
    if not any(place.rglob(".replaced-*")):  # between two renames a reader finds one of the two, or waits for the next start
        _as_reader(place, acks)
    store = Store(place)
    store.prepare()
    seen, report = reports()
    latest = store.latest(report)
    _is_as_new(latest, NEWEST, acks)
    _must(may_be_damaged or not seen, f"damaged: {seen}")
    try:
        _is_as_new(store.load_final(), FINAL, acks)
    except ResilientError:
        _must(may_be_damaged and FINAL not in acks, "the final state is damaged")
        store.quarantine("final", "damaged")
    _must(may_be_damaged or not store.verify(), f"damaged: {store.verify()}")
    _must(not leftovers(place), f"left over: {leftovers(place)}")
    _go_on(store, latest)


def _go_on(store: Store, latest: Checkpoint | None) -> None:
    """Training goes on: one more checkpoint, which is the newest from now on."""
    step, sequence = (latest.manifest.progress.step, latest.manifest.sequence) if latest is not None else (0, 0)
    if latest is not None:
        store.continue_from(latest, 0)
    commit(store, step + 1, sequence + 100)
    store.prune(Keep(last=1, best=0))
    found = store.latest(lambda name, reason: None)
    _must(found is not None and found.manifest.sequence == sequence + 100 and is_sample(found), "the next checkpoint is not the newest")


def _as_reader(place: Path, acks: Mapping[str, int]) -> None:
    if not (place / "checkpoints").is_dir():
        return _must(not acks, "there are no checkpoints")
    try:
        found: Checkpoint | None = reading.choose(place, "latest")
    except ConfigurationError:
        found = None
    wanted = max(acks.get(NEWEST, -1), acks.get(FINAL, -1))
    _must(wanted < 0 or found is not None, "a reader finds nothing")
    return _must(found is None or (found.manifest.sequence >= wanted and is_sample(found)), "a reader finds something else")


def _is_as_new(found: Checkpoint | None, kind: str, acks: Mapping[str, int]) -> None:
    _must(found is None or is_sample(found), f"{kind} is not what was saved")
    if kind in acks:
        _must(found is not None, f"{kind} {acks[kind]} was acknowledged and nothing is found")
        _must(
            found is not None and found.manifest.sequence >= acks[kind],
            f"{kind} {acks[kind]} was acknowledged and {found and found.manifest.sequence} is found",
        )


def _damaged_ones(place: Path) -> set[int]:
    """Sequences of the damaged checkpoints that are still there with all their files, whatever their directories are called."""
    found = set()
    for path in place.rglob(MANIFEST_NAME):
        sizes = [file.stat().st_size for file in path.parent.glob("*.safetensors")]
        if DAMAGED_BYTES in sizes and len(sizes) > len(tensors(0)):  # the frozen part is a file more
            found.add(decode(path.read_bytes(), "here").sequence)
    return found


def published_content(serial: int) -> bytes:
    """What a published file holds after so many writes."""
    return bytes([serial]) * (5000 + serial)


def published_file(place: Path, acks: Mapping[str, int]) -> str | None:
    """A reader finds a whole version at least as new as acknowledged, and every older one that is referred to can be had back."""

    def judge() -> None:
        path = place / PUBLISHED
        content = path.read_bytes() if path.exists() else None
        serial = next((one for one in (1, 2, 3) if published_content(one) == content), 0)
        _must(content is None or serial > 0, "a published file is torn")
        _must(serial >= acks.get(PUBLISHED_SERIAL, 0), f"version {acks.get(PUBLISHED_SERIAL)} was acknowledged and {serial} is found")
        for wanted in range(serial, -1, -1):
            published.Ledger(path.parent, path.name, "run").roll_back(wanted)
            now = path.read_bytes() if path.exists() else None
            _must(now == (published_content(wanted) if wanted else None), f"rolled back from {serial} to {wanted}, it is another one")

    return _finding(judge)


def journal(place: Path, acks: Mapping[str, int]) -> str | None:
    """Every durable event is read, in order, and the next one as well."""

    def judge() -> None:
        durable = list(range(1, acks.get(JOURNALED, 0) + 1))
        steps = [event["step"] for event in journal_file.read(place) if event["event"] == "saved"]
        _must(steps[: len(durable)] == durable, f"{durable} were acknowledged and {steps} are read")
        after = journal_file.Journal(place)
        _must(after.append("finished", durable=True), "no more events can be written")
        after.close()
        events = journal_file.read(place)
        _must(events[-1]["event"] == "finished", "the next event is not read")

    return _finding(judge)
