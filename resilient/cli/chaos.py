"""`resilient chaos`."""

from __future__ import annotations

import contextlib
import json as json_module
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from resilient.chaos import Outcome, Proof, Verdict
from resilient.chaos.document import document
from resilient.chaos.lifetimes import SHAPES
from resilient.chaos.schedules import Lives, Replay, Schedule, Spread, parse_trace
from resilient.chaos.strikes import DEFAULT_MIX, parse_mix
from resilient.chaos.trained import Rules
from resilient.cli import chaos_telling, tables
from resilient.cli.output import checked_output
from resilient.cli.running import program_at
from resilient.durations import parse_duration
from resilient.errors import EXIT_DONE, EXIT_FAILED, ConfigurationError
from resilient.store.oserrors import storage_errors
from resilient.store.temporaries import replacing
from resilient.supervisor.patience import Patience

KILLS = 20
RECORD = "chaos.json"


def chaos_command(
    command: Sequence[str],
    *,
    kills: int | None,
    mix: str | None,
    seed: int,
    mtbf: str | None,
    lifetimes: str | None,
    replay: Path | None,
    scale: float | None,
    timeout: str | None,
    hang_timeout: str | None,
    control: bool,
    root: Path | None,
    output: Path | None,
    json: bool,
) -> int:
    """Put `command` to the test and return the exit code."""
    program_at(command[0])
    schedule = schedule_of(kills=kills, mix=mix, mtbf=mtbf, lifetimes=lifetimes, replay=replay, scale=scale)
    patience = Patience(None if hang_timeout is None else parse_duration(hang_timeout, "--hang-timeout"))
    rules = Rules(patience, None if timeout is None else parse_duration(timeout, "--timeout"), seed=seed)
    with _place(root) as place:
        ending = None if output is None else checked_output(output, place.root, (".html", ".json"), "Name it like report.html")
        with chaos_telling.telling(command, place.root) as told:
            outcome = Proof(command, schedule, place.root, rules, control).run(told)
        place.settled = outcome.verdict is Verdict.EQUAL
        _write_record(place.root / RECORD, outcome)
        if output is not None:
            write_report(output, str(ending), outcome)
        if json:
            tables.print_json(document(outcome))
        else:
            chaos_telling.print_outcome(outcome, kept=None if place.vanishes else place.root, output=output)
        return EXIT_DONE if place.settled else EXIT_FAILED


def schedule_of(
    *, kills: int | None, mix: str | None, mtbf: str | None, lifetimes: str | None, replay: Path | None, scale: float | None
) -> Schedule:
    """The schedule that the options ask for.

    Raises:
        ConfigurationError: they contradict each other, or one is wrong.
    """
    if replay is not None and any(option is not None for option in (kills, mix, mtbf, lifetimes)):
        raise ConfigurationError("--replay says by itself what happens when. Leave out --kills, --mix, --mtbf and --lifetimes.")
    if lifetimes is not None and lifetimes not in SHAPES:
        raise ConfigurationError(f"--lifetimes {lifetimes!r} is not accepted. Use one of {', '.join(SHAPES)}.")
    if lifetimes is not None and mtbf is None:
        raise ConfigurationError(f"--lifetimes {lifetimes} needs a mean. Add --mtbf 30s, with your time.")
    if scale is not None and replay is None:
        raise ConfigurationError("--scale stretches the times of a trace. Use it with --replay.")
    if scale is not None and not 0 < scale < math.inf:
        raise ConfigurationError(f"--scale {scale} is no positive number. Write it like 0.01.")
    if replay is not None:
        return _trace(replay, 1.0 if scale is None else scale)
    chosen = DEFAULT_MIX if mix is None else parse_mix(mix)
    if mtbf is not None:
        return Lives(SHAPES[lifetimes or "exponential"](parse_duration(mtbf, "--mtbf")), chosen, kills)
    return Spread(KILLS if kills is None else kills, chosen)


def _trace(path: Path, scale: float) -> Replay:
    with storage_errors("read the trace", path):
        if not path.is_file():
            raise ConfigurationError(f"--replay {path}: there is no such file. Name a CSV file with the columns seconds,kind.")
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"--replay {path} is no text in UTF-8. Name a CSV file with the columns seconds,kind.") from error
    return parse_trace(lines, path.name, scale)


class _Root:
    """The folder of everything; a temporary one goes when all is well."""

    def __init__(self, root: Path, *, temporary: bool) -> None:
        self.root, self._temporary = root, temporary
        self.settled = False

    @property
    def vanishes(self) -> bool:
        return self._temporary and self.settled


@contextlib.contextmanager
def _place(root: Path | None) -> Iterator[_Root]:
    temporary = root is None
    with storage_errors("make the folder of the test", root or tempfile.gettempdir()):
        if root is None:
            root = Path(tempfile.mkdtemp(prefix="resilient-chaos-"))
        else:
            root.mkdir(parents=True, exist_ok=True)
            if any(root.iterdir()):
                raise ConfigurationError(f"--root {root} is not empty. Name a new folder: two tests must not meet in one.")
    place = _Root(Path(os.path.abspath(root)), temporary=temporary)
    try:
        yield place
    finally:
        if place.vanishes:
            shutil.rmtree(place.root, ignore_errors=True)
        elif temporary:
            with contextlib.suppress(OSError):  # not empty: it is kept
                place.root.rmdir()


def _write_record(path: Path, outcome: Outcome) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json_module.dumps(tables.strict(document(outcome)), indent=1) + "\n", "utf-8")


def write_report(output: Path, ending: str, outcome: Outcome) -> None:
    """The outcome as a page, or as the JSON of `chaos.json`."""
    if ending == ".json":
        _write_record(output, outcome)
        return
    from resilient.report import Kill, Storm, write_report

    told = document(outcome)
    first = next((run["first_difference"]["sentence"] for run in told["runs"] if run["first_difference"]), None)
    shown = outcome.disturbed.directories[-1]
    blows = [blow for blow in outcome.disturbed.blows if blow.directory in (None, shown)]
    write_report(
        shown,
        output,
        chaos=Storm(
            identical={Verdict.EQUAL: True, Verdict.UNFINISHED: None}.get(outcome.verdict, False),
            verdict=outcome.sentence,
            kills=[Kill(chaos_telling.does(blow), blow.time, blow.attempt) for blow in blows],
            first_difference=first,
            details=chaos_telling.details(outcome),
        ),
    )
