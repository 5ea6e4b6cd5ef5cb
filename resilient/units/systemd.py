"""A service of systemd."""

from __future__ import annotations

import math
import re

from resilient.errors import EXIT_PREEMPTED, ConfigurationError
from resilient.units.launch import AFTER_GRACE, FINAL_CODES, Launch

# Beside the time that the supervisor asks for with each sign of life, which is what counts as a hang just then. It finds hangs itself
# and stops the program first; this is for the case that it cannot.
_WATCHDOG_SLACK = 60.0
_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./^~-]+", re.ASCII)  # means itself, wherever it stands
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?", re.ASCII)
_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}

_SERVICE = """\
# Printed by `resilient unit systemd`.
{install}
[Unit]
Description={title}
{network}# The supervisor knows progress and decides when to give up (exit code 93): systemd need not count starts.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
{account}WorkingDirectory={directory}
{environment}ExecStart={command}

# 75: it was asked to stop, and the state is saved. No failure, and it goes on unless it was systemd that asked.
SuccessExitStatus={preempted}
Restart=on-failure
RestartForceExitStatus={preempted}
# 78: needs a human. 93: gave up. 2: the command line is wrong.
RestartPreventExitStatus={final}
RestartSec=10

# SIGTERM goes to the supervisor alone, which passes it on to the training and not to its data workers. It asks for more time itself while
# a save is under way.
KillMode=mixed
TimeoutStopSec={stop}
# Fed by progress of the training and by nothing else. The supervisor sets it anew each time.
WatchdogSec={watchdog}
# One process killed for lack of memory is the supervisor's affair, and no reason to stop it.
OOMPolicy=continue

[Install]
WantedBy={target}
"""

_SYSTEM = """\
#   save it as   /etc/systemd/system/{name}.service
#   start it     systemctl daemon-reload && systemctl enable --now {name}
#   watch it     systemctl status {name}; journalctl -fu {name}
"""
_USER = """\
#   save it as   ~/.config/systemd/user/{name}.service
#   start it     systemctl --user daemon-reload && systemctl --user enable --now {name}
#   watch it     systemctl --user status {name}; journalctl --user -fu {name}
#   have it run while you are not logged in, and after a boot:   loginctl enable-linger
"""
_NETWORK = "Wants=network-online.target\nAfter=network-online.target\n"


def service(launch: Launch, *, user: bool, account: str | None = None) -> str:
    """The unit file.

    Args:
        launch: with an absolute path of the supervisor's program, and a directory.
        user: for the service manager of a user instead of the system's.
        account: whom the system's service runs as; None: root.

    Raises:
        ConfigurationError: the account is no name.
    """
    if account is not None and not _ACCOUNT.fullmatch(account):
        raise ConfigurationError(f"--run-as {account!r} is no name of a user. Name one that `id` knows on the machine that it runs on.")
    return _SERVICE.format(
        install=(_USER if user else _SYSTEM).format(name=launch.name),
        title=_specifiers_escaped(launch.title.replace("\\", "/")),
        network="" if user else _NETWORK,
        account=f"User={account}\n" if account is not None else "",
        directory=_specifiers_escaped(launch.directory or "/"),
        environment="".join(f"Environment={quoted(f'{name}={value}')}\n" for name, value in launch.environment),
        command=" ".join(quoted(word).replace("$", "$$") for word in launch.words),
        preempted=EXIT_PREEMPTED,
        final=" ".join(map(str, FINAL_CODES)),
        stop=math.ceil(launch.grace + AFTER_GRACE),
        watchdog=math.ceil(launch.grace + _WATCHDOG_SLACK),
        target="default.target" if user else "multi-user.target",
    )


def quoted(text: str) -> str:
    """`text` as one word of a unit file, by systemd.syntax(7): quoted where it must be, with `%` doubled."""
    if _PLAIN.fullmatch(text):
        return text
    return '"' + _specifiers_escaped("".join(map(_escaped, text))) + '"'


def _escaped(character: str) -> str:
    plain = character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in character.encode())
    return _ESCAPED.get(character, plain)


def _specifiers_escaped(text: str) -> str:
    return text.replace("%", "%%")
