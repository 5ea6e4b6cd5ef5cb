"""Run directories as a long or unlucky training leaves them, for the tests of the report. Nothing is trained."""

from __future__ import annotations

import datetime as dt
import json
import random
from pathlib import Path

from resilient.journal import JOURNAL_NAME

BEGAN = dt.datetime(2026, 3, 1, 8, 0, tzinfo=dt.UTC)


class Diary:
    """Writes a journal with a clock of its own."""

    def __init__(self, directory: Path, began: dt.datetime = BEGAN) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / JOURNAL_NAME
        self.now = began
        self._lines: list[str] = []

    def wait(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)

    def tell(self, event: str, **fields) -> None:
        self._lines.append(json.dumps({"event": event, "time": self.now.isoformat(), **fields}))

    def close(self) -> Path:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in self._lines))
        self._lines.clear()
        return self.path.parent


ENDS = {
    "killed": {"signal": "SIGKILL", "code": None, "reason": "was ended by SIGKILL, training", "verdict": "failed"},
    "oom": {"signal": "SIGKILL", "code": None, "reason": "ran out of memory", "verdict": "failed", "out_of_memory": True},
    "failed": {"signal": None, "code": 1, "reason": "ended with 1", "verdict": "failed"},
}


def loss_at(step: int, whole: int) -> float:
    return 0.2 + 2.0 / (1 + 12 * step / whole)


def long_run(
    directory: Path, *, attempts: int, saves: int, epoch: int = 1000, every: int = 250, pace: float = 0.5, seed: int = 0, names=("loss",)
) -> Path:
    """A run of so many attempts with about so many saves each, with kills, preemptions, hangs, errors and failed saves; it finishes.

    `epoch`: steps of one; `every`: steps between saves; `pace`: seconds a step.
    """
    chance, diary, step = random.Random(seed), Diary(directory), 0
    whole = attempts * saves * every
    for number in range(1, attempts + 1):
        began = diary.now.isoformat()
        diary.tell("attempt", attempt=number, pid=1000 + number, supervisor=7, command=["python", "train.py"], began=began, skip=[])
        diary.wait(chance.uniform(20, 60))
        diary.tell("started", pid=1000 + number, run_id="one", fresh=number == 1, data="arrays", positioning="seek")
        diary.tell("restored" if number > 1 else "saved", **position(step, epoch))
        for _ in range(max(1, round(chance.gauss(saves, saves / 3)))):
            diary.wait(every * pace * chance.uniform(0.9, 1.1))
            step += every
            metrics = {name: loss_at(step, whole) * chance.uniform(0.97, 1.03) for name in names}
            if step % epoch == 0:
                metrics |= {f"val_{name}": value * 1.1 for name, value in metrics.items()}
            diary.tell(
                "saved", **position(step, epoch), final=False, best=False, nbytes=2_000_000_000, seconds=chance.uniform(4, 9),
                training_seconds=chance.uniform(0.1, 0.4), sequence=step, metrics=metrics,
            )  # fmt: skip
        if number == attempts:
            diary.tell("finished", **position(step, epoch))
            diary.tell("exited", attempt=number, pid=1000 + number, code=0, signal=None, reason="is done", verdict="done")
            break
        _end(diary, chance, number, step, epoch, every, pace)
        diary.wait(chance.choice([0.01, 3, 40, 900]))
    return diary.close()


def position(step: int, epoch: int) -> dict[str, int]:
    return {"step": step, "epoch": step // epoch, "batch": step % epoch}


def _end(diary: Diary, chance: random.Random, number: int, step: int, epoch: int, every: int, pace: float) -> None:
    lost = chance.randrange(every)
    diary.wait(lost * pace)
    common = {"attempt": number, "pid": 1000 + number, "peak_rss": 8 * 10**9, "restart_in": 0.0, "failures": 0}
    how = chance.choice(["killed", "killed", "killed", "preempted", "oom", "failed", "hung", "vanished"])
    if how == "preempted":
        diary.tell("preempted", reason="SIGTERM", saved=True, resume_step=step, **position(step, epoch))
        diary.tell("exited", **common, code=75, signal=None, reason="was preempted", verdict="preempted", **position(step, epoch))
    elif how == "hung":
        diary.tell("save_failed", error="No space left on device", failures=1)
        diary.wait(1200)
        diary.tell("hung", attempt=number, pid=1000 + number, section="training", silent=1200.0)
        diary.tell("exited", **common, **{**ENDS["killed"], "reason": "hung"}, **position(step + lost, epoch))
    elif how != "vanished":
        diary.tell("exited", **common, **ENDS[how], **position(step + lost, epoch))
