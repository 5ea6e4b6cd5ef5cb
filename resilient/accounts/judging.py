"""How each attempt ended, what it lost, and where its time went."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence

from resilient.accounts import fields
from resilient.accounts.drafts import Draft
from resilient.accounts.values import Attempt, End, Event, Run, Save, Time

# After these, what went on since the last checkpoint was for nothing, though no step may be lost: a hang, a validation.
_FOR_NOTHING = (End.HUNG, End.KILLED, End.OUT_OF_MEMORY, End.FAILED)


def run(drafts: Sequence[Draft], damaged: Sequence[Event], gave_up: Sequence[str] | None, now: dt.datetime | None) -> Run:
    """One run from its attempts, oldest first; `now`: see `accounts`."""
    attempts: list[Attempt] = []
    limit = math.inf  # the lowest step that a later attempt went on from
    following: Draft | None = None
    for draft in reversed(drafts):
        attempts.append(_attempt(draft, following, limit, now))
        limit = min(limit, math.inf if draft.start is None else draft.start)
        following = draft
    ids = [draft.run_id for draft in drafts if draft.run_id is not None]
    trained = [draft for draft in drafts if draft.start is not None]
    return Run(ids[-1] if ids else None, attempts[::-1], bool(trained) and _is_finished(trained[-1]), gave_up, damaged)


def _is_finished(draft: Draft) -> bool:
    return "finished" in draft.newest or draft.newest.get("restored", {}).get("finished") is True


def _attempt(draft: Draft, following: Draft | None, limit: float, now: dt.datetime | None) -> Attempt:
    exited, begun = draft.newest.get("exited", {}), draft.newest.get("attempt", {})
    end, reason = _end(draft, vanished=following is not None)
    ended = _ended(draft, end)
    until = ended or (now if now is not None and following is None else draft.last)
    lost_steps = _lost_steps(draft, end, limit)
    exactly, lives = draft.gone or draft.last_word is not None, now is not None and following is None
    # After the end nobody was meant to run: the program was merely started again, or given more epochs.
    gap = fields.between(ended or draft.last, following.began) if following is not None and end is not End.FINISHED else 0.0
    down = gap if ended is not None else 0.0
    return Attempt(
        number=fields.whole(begun, "attempt"),
        pid=draft.pid,
        supervisor=fields.whole(begun, "supervisor"),
        began=draft.began,
        trained_from=draft.trained_from,
        ended=ended,
        last=draft.last,
        end=end,
        reason=reason,
        verdict=fields.text(exited, "verdict"),
        start=draft.start,
        reached=draft.reached,
        reached_exactly=exactly,
        saves=draft.saves,
        lost_steps=lost_steps,
        lost_exactly=exactly or lives or draft.start is None or end is End.FINISHED,
        time=_time(draft, until, limit, end, lost=lost_steps > 0 or end in _FOR_NOTHING) + Time(down=down, unknown=gap - down),
        down=down,
        peak_rss=fields.whole(exited, "peak_rss"),
        failures=fields.whole(exited, "failures") or 0,
        restart_in=fields.real(exited, "restart_in"),
        failed_saves=sum(event["event"] == "save_failed" for event in draft.events),
        events=draft.events,
    )


def _lost_steps(draft: Draft, end: End, limit: float) -> int:
    """Steps trained here that no later attempt went on from; `limit`: the lowest step that one of them did go on from."""
    if draft.start is None or draft.reached is None or (end in (End.OPEN, End.FINISHED) and limit == math.inf):
        return 0
    committed = max([draft.start, *(save.step for save in draft.saves)])
    return int(max(0, draft.reached - max(draft.start, min(committed, limit))))


def _time(draft: Draft, until: dt.datetime, limit: float, end: End, *, lost: bool) -> Time:
    """Where the attempt's own time went, until then."""
    if draft.trained_from is None:
        return Time(starting=fields.between(draft.began, until))
    whole = fields.between(draft.trained_from, until)
    kept = [save for save in draft.saves if save.step <= limit]
    captured = draft.trained_from
    if kept:  # training goes on while a checkpoint is written: what it holds ends where it was captured
        captured = fields.after(kept[-1].time, -kept[-1].seconds)
    lost_seconds = min(whole, fields.between(captured, until)) if lost else 0.0
    stalls = sum(save.seconds if save.final or _is_waited_for(save, draft, end) else save.stall for save in draft.saves)
    saving = min(whole - lost_seconds, stalls)
    starting = fields.between(draft.began, draft.trained_from)
    return Time(training=whole - lost_seconds - saving, saving=saving, lost=lost_seconds, starting=starting)


def _is_waited_for(save: Save, draft: Draft, end: End) -> bool:
    """Whether training stood still until it was durable: it is the one with which a stop was obeyed."""
    return end is End.PREEMPTED and save is draft.saves[-1] and draft.last_word is not None and draft.last_word.get("step") == save.step


def _end(draft: Draft, *, vanished: bool) -> tuple[End, str]:
    """How it ended, and why, by the one who knows best: the supervisor for what it did or saw, the program for its own reasons."""
    exited, newest = draft.newest.get("exited", {}), draft.newest
    seen = fields.text(exited, "reason") or ""
    if "hung" in newest:
        return End.HUNG, seen or f"was silent for {fields.real(newest['hung'], 'silent') or 0:.0f} s"
    if exited.get("out_of_memory") is True:
        return End.OUT_OF_MEMORY, seen
    word = draft.last_word or {}
    match word.get("event"):
        case "failed":
            return End.FAILED, fields.text(word, "error") or seen
        case "preempted":
            return End.PREEMPTED, fields.text(word, "reason") or seen
        case "finished":
            return End.FINISHED, seen
    if exited:
        return _by_exit(exited), seen
    if _is_finished(draft):
        return End.FINISHED, seen
    return (End.VANISHED, "nobody wrote how it ended") if vanished else (End.OPEN, "")


def _by_exit(exited: Event) -> End:
    verdict, code = exited.get("verdict"), exited.get("code")
    if verdict == "preempted":
        return End.PREEMPTED
    if verdict == "done" or code == 0:
        return End.FINISHED
    return End.FAILED if isinstance(code, int) else End.KILLED


def _ended(draft: Draft, end: End) -> dt.datetime | None:
    """When training ended in it; None where it has not, or nobody wrote it."""
    if end in (End.OPEN, End.VANISHED):
        return None
    if draft.last_word is not None:
        return fields.time(draft.last_word)
    exited = draft.newest.get("exited")
    if exited is None:
        return None if end is End.HUNG else draft.last  # it is being ended
    seconds = fields.real(exited, "seconds")
    held_back = "started" not in draft.newest  # until it was known where to write: its seconds tell when it was
    return fields.after(draft.began, seconds) if seconds is not None and held_back else fields.time(exited)
