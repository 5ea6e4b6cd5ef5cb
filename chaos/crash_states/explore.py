"""Cuts a life after every call, builds what a crash may leave there, and asks the judge; then cuts what a restart makes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from chaos.calls import met
from chaos.crash_states import lives
from chaos.crash_states.lives import Life
from chaos.crash_states.persistence import MODELS, Breadth, Cut, Kept, Node, State, key, states
from chaos.crash_states.recording import Ack, Recorder, Recording
from chaos.samples import FAST

RUN = "run"  # the run directory's name below the base, so that its own name may be lost as well
NARROW = Breadth(exhaustive=2, samples=2, pairs=6)  # within a restart, of which there are many
_NAMED = 3  # losses that are told one by one
Protocol = Callable[[], contextlib.AbstractContextManager[object]]


@dataclasses.dataclass(frozen=True)
class Bad:
    """A state that is not as promised."""

    life: str
    model: str
    state: str
    why: str

    def __str__(self) -> str:
        return f"{self.life}, {self.model}: {self.state}: {self.why}"


@dataclasses.dataclass
class Count:
    """What was tried of one life under one model."""

    states: int = 0
    restarts: int = 0  # states that cutting a restart left
    bad: list[Bad] = dataclasses.field(default_factory=list)


def record(life: Life, way: str = "", protocol: Protocol = contextlib.nullcontext) -> Recording:
    """The calls of one life, from what lies there beforehand to its end, with the protocol that is to be tried."""
    with tempfile.TemporaryDirectory() as place:  # on a real disk: memory knows no direct writes
        base = Path(place)
        life.before(base / RUN)
        recorder = Recorder(base)
        # The fault lies nearer to the disk than the recorder, which is to see what it does.
        with met(life.fault(), base), lives.way(way), protocol(), recorder.on():
            life.live(base / RUN, recorder.acknowledge)
        return recorder.recording()


class Explorer:
    """Tries the states of one life on one kind of machine.

    Args:
        life: it.
        way: see `lives.way`.
        breadth: how many states where there are too many.
        restarts: at how many states of each model what a restart does is recorded and cut again, spread over all of them.
    """

    def __init__(self, life: Life, way: str = "", breadth: Breadth = Breadth(), restarts: int = 0) -> None:  # noqa: B008  frozen
        self._life = life
        self._way = way
        self._breadth = breadth
        self._restarts = restarts if life.restarts else 0
        self._verdicts: dict[tuple[str, tuple[tuple[str, int], ...]], str | None] = {}
        self.name = f"{life.name} ({way})" if way else life.name

    @property
    def distinct(self) -> int:
        """How many different states were tried so far, all models together."""
        return len(self._verdicts)

    def explore(self, recording: Recording, model: str) -> Iterator[tuple[State, Mapping[str, int], str | None]]:
        """Each different state once, with what had been acknowledged, and what is wrong with it."""
        chance = random.Random(1)
        seen = set()
        acks: dict[str, int] = {}
        for length in range(len(recording.events) + 1):
            last = recording.events[length - 1] if length else None
            if isinstance(last, Ack):
                acks[last.kind] = max(last.number, acks.get(last.kind, -1))
            for state in states(Cut(recording, length), model, chance, self._breadth):
                nodes = state.nodes()
                mark = (key(nodes), tuple(sorted(acks.items())))
                if mark not in seen:
                    seen.add(mark)
                    if mark not in self._verdicts:
                        self._verdicts[mark] = self._judged(nodes, acks)
                    yield state, dict(acks), self._verdicts[mark]

    def _judged(self, nodes: list[Node], acks: Mapping[str, int]) -> str | None:
        with built(nodes) as base, lives.way(self._way):
            why = self._life.judge(base / RUN, acks)
            return None if why is None else why.replace(f"{base / RUN}/", "").replace(str(base), "")

    def count(self, recording: Recording, model: str) -> Count:
        """All states of a model, and those within restarts from some of them."""
        count = Count()
        good = []
        for state, acks, why in self.explore(recording, model):
            count.states += 1
            if why is not None:
                count.bad.append(Bad(self.name, model, says(state), why))
            elif self._restarts:
                good.append((state, acks))
        step = max(1, len(good) // max(1, self._restarts))
        for state, acks in good[step // 2 :: step]:
            self._cut_restart(state, acks, model, count)
        return count

    def _cut_restart(self, state: State, acks: Mapping[str, int], model: str, count: Count) -> None:
        recording = self._restart(state)
        inner = Explorer(self._life, self._way, NARROW)
        inner._verdicts = self._verdicts
        before = [Ack(kind, number) for kind, number in acks.items()]
        again = dataclasses.replace(recording, events=[*before, *recording.events])
        for second, _, why in inner.explore(again, model):
            count.restarts += 1
            if why is not None:
                count.bad.append(Bad(self.name, model, f"{says(state)}; then a restart, {says(second)}", why))

    def _restart(self, state: State) -> Recording:
        with built(state.nodes()) as base:
            recorder = Recorder(base)
            with lives.way(self._way), recorder.on(seed=1):
                lives.recover(base / RUN, recorder.acknowledge)
            return recorder.recording()


@contextlib.contextmanager
def built(nodes: list[Node]) -> Iterator[Path]:
    """A directory in memory with this tree in it."""
    with tempfile.TemporaryDirectory(dir=FAST) as place:
        base = Path(place)
        first: dict[int, Path] = {}
        for node in nodes:
            path = base / node.path
            if node.content is None:
                path.mkdir()
            elif node.inode in first:
                path.hardlink_to(first[node.inode])
            else:
                path.write_bytes(node.content)
                first[node.inode] = path
        yield base


def says(state: State) -> str:
    """When the crash came and what it took, for a human."""
    cut = state.cut
    event = cut.events[-1].says if cut.events else "the beginning"
    lost = [entry.says for at, entry in cut.names if at not in state.names]
    lost += [f"{_how(kept)} of {_path(cut, inode)}" for inode, kept in state.kept.items() if kept.blocks is not None]
    if len(lost) > _NAMED:
        lost = [*lost[: _NAMED - 1], f"{len(lost) - _NAMED + 1} more"]
    torn = f", {state.torn} bytes into the next write" if state.torn is not None else ""
    return f"after {event}{torn}" + (f", without: {'; '.join(lost)}" if lost else "")


def _how(kept: Kept) -> str:
    if not kept.blocks:
        return "the content" if kept.resized else "content and size"
    return "some blocks"


def _path(cut: Cut, inode: int) -> str:
    changes = [change.says for change in cut.pending.get(inode, ())]
    return changes[-1].partition(" ")[2] if changes else str(inode)


def survey(life: Life, way: str, breadth: Breadth, restarts: int) -> tuple[str, dict[str, Count], int]:
    """One life under all models: its name, what was tried of each, and the number of different states."""
    explorer = Explorer(life, way, breadth, restarts)
    recording = record(life, way)
    counts = {model: explorer.count(recording, model) for model in MODELS}
    return explorer.name, counts, explorer.distinct


def first_bad(life: Life, way: str, protocol: Protocol, breadth: Breadth) -> Bad | None:
    """The first state, from the kindest model to the harshest, that a protocol does not survive."""
    explorer = Explorer(life, way, breadth)
    recording = record(life, way, protocol)
    for model in MODELS:
        for state, _, why in explorer.explore(recording, model):
            if why is not None:
                return Bad(explorer.name, model, says(state), why)
    return None
