"""`resilient status`: once, or again and again until Ctrl-C."""

from __future__ import annotations

import json as json_module
import sys
import time
from pathlib import Path

from resilient.cli import standing, tables
from resilient.observing import Observation, Observer

_INTERVAL = 1.0  # seconds from one look to the next


def status_run(directory: Path, *, watch: bool, json: bool) -> int:
    """Show what the run is doing; the exit code says it too. Watching ends with Ctrl-C, and then with 0."""
    observer = Observer(directory)
    if not watch:
        seen = observer.look()
        if json:
            tables.print_json({"directory": str(directory), **standing.document(seen)})
        else:
            tables.show(standing.text(seen))
        return seen.status.state.exit_code
    try:
        if sys.stdout.isatty() and not json:
            _show(observer)
        else:
            _log(observer, json=json)
    except KeyboardInterrupt:  # the way to leave
        return 0
    return 0


def _show(observer: Observer) -> None:
    from rich.live import Live

    with Live(console=tables.console(), auto_refresh=False, vertical_overflow="crop") as display:
        while True:
            display.update(standing.text(observer.look()), refresh=True)
            time.sleep(_INTERVAL)


def _log(observer: Observer, *, json: bool) -> None:
    """A line for each change; nobody reads a screen that is redrawn in a file."""
    last: object = None
    while True:
        seen = observer.look()
        if (change := standing.change(seen)) != last:
            last = change
            tables.print_line(_as_json(seen) if json else standing.line(seen))
            sys.stdout.flush()
        time.sleep(_INTERVAL)


def _as_json(seen: Observation) -> str:
    return json_module.dumps(tables.strict(standing.document(seen)))
