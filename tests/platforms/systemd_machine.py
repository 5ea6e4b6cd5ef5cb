"""A machine of our own: a real systemd as process 1 of private namespaces, which knows the units that it is given and no others.

It boots in a fraction of a second and can be shut down and booted again. It needs root, Debian's systemd and cgroups that can be written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from namespaces import PATIENCE, refusal, wait_until

SYSTEMD = next((path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if os.path.exists(path)), None)
_TOOLS = ("nsenter", "systemctl", "systemd-analyze")
# What systemd insists on, and what it takes to shut down in order.
_BARE = "[Unit]\nDefaultDependencies=no\n"
_UNITS = {
    "default.target": "[Unit]\nAllowIsolate=yes\nWants=multi-user.target\n",
    "multi-user.target": _BARE,
    **dict.fromkeys(("basic.target", "sysinit.target", "shutdown.target", "umount.target", "final.target", "local-fs.target"), _BARE),
    **dict.fromkeys(("-.slice", "system.slice"), f"{_BARE}[Slice]\n"),
    "poweroff.target": f"{_BARE}AllowIsolate=yes\nRequires=systemd-poweroff.service\nAfter=systemd-poweroff.service\n",
    "systemd-poweroff.service": f"{_BARE}Requires=shutdown.target\nAfter=shutdown.target\nSuccessAction=poweroff-force\n"
    "[Service]\nType=oneshot\nExecStart=/bin/true\n",
}
_BOOT = """
for group in $GROUPS_TO_JOIN; do echo $$ >"$group/cgroup.procs" || exit 1; done
exec unshare --pid --fork --kill-child --mount --mount-proc --cgroup --uts --ipc sh -c '
  mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system &&
  exec env -i PATH="$PATH" container=lxc SYSTEMD_UNIT_PATH="$UNITS" \
    "$SYSTEMD" --system --log-target=console --show-status=no --unit=default.target'
"""


def reason_to_skip() -> str | None:
    """Why there can be no such machine here, None if there can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if refusal() is not None:
        return f"a systemd of our own {refusal()}"
    if SYSTEMD is None or missing:
        return f"a systemd of our own needs Debian's package systemd (missing: {', '.join(missing) or 'systemd'})"
    if not _hierarchies():
        return "a systemd of our own needs cgroups that can be written"
    return None


class Machine:
    """A machine that is off until it is booted; what it writes about itself is in `log`.

    Args:
        directory: for its units and log. Services see the file system as it is, but for /run.
    """

    def __init__(self, directory: Path) -> None:
        self.units, self.log = directory / "units", directory / "systemd.log"
        self.units.mkdir(parents=True)
        for name, text in _UNITS.items():
            (self.units / name).write_text(text)
        self._groups = [group / f"resilient-{os.getpid()}-{id(self)}" for group in _hierarchies()]
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    @contextlib.contextmanager
    def powered(self) -> Iterator[Machine]:
        """Booted, and in the end gone, with everything that it ran."""
        try:
            self.boot()
            yield self
        finally:
            self._pull_the_plug()

    def boot(self) -> None:
        """Returns when it is up."""
        for group in self._groups:
            group.mkdir(exist_ok=True)
        environment = {"PATH": os.environ["PATH"], "UNITS": str(self.units), "SYSTEMD": str(SYSTEMD)}
        environment["GROUPS_TO_JOIN"] = " ".join(map(str, self._groups))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _BOOT], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        wait_until(lambda: self._process.poll() is not None or self._is_systemd(children), "systemd is process 1", self.log)
        wait_until(lambda: self.call("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"), "it is up", self.log)

    def shut_down(self) -> None:
        """In order, as at a reboot: services are stopped first. Returns when nothing is left."""
        self.call("systemctl", "poweroff")
        assert self._process is not None
        self._process.wait(PATIENCE)

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine."""
        inside = ["nsenter", "-t", str(self._init), "-p", "-m", "-C", "-i", "-u", *command]
        return subprocess.run(inside, capture_output=True, text=True, check=False, timeout=PATIENCE)

    def systemctl(self, *arguments: str) -> str:
        """What it answers; it has to succeed."""
        done = self.call("systemctl", *arguments)
        assert done.returncode == 0, f"systemctl {' '.join(arguments)}: {done.stderr}\n{self.log.read_text()[-3000:]}"
        return done.stdout

    def install(self, name: str, text: str, drop_in: str = "") -> None:
        """Save a unit and enable it. `drop_in`: what the test needs otherwise than the unit has it, such as shorter times."""
        (self.units / name).write_text(text)
        wants = self.units / "multi-user.target.wants" / name
        wants.parent.mkdir(exist_ok=True)
        wants.unlink(missing_ok=True)
        wants.symlink_to(self.units / name)
        folder = self.units / f"{name}.d"
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(drop_in)
        self.systemctl("daemon-reload")

    def remove(self, name: str) -> None:
        """End a unit, and do not start it at the next boot."""
        self.call("systemctl", "kill", "--signal=KILL", name)
        self.call("systemctl", "stop", name)
        (self.units / "multi-user.target.wants" / name).unlink()

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        text = self.systemctl("show", unit, f"--property={','.join(properties)}")
        return dict(line.split("=", 1) for line in text.splitlines())

    def _is_systemd(self, children: Path) -> bool:
        with contextlib.suppress(OSError):
            self._init = int(children.read_text() or 0)
            return Path(f"/proc/{self._init}/comm").read_text().strip() == "systemd"
        return False

    def _pull_the_plug(self) -> None:
        if self._process is not None:
            self._process.kill()  # and unshare takes process 1 along, which takes everything along
            self._process.wait()
            wait_until(lambda: not Path(f"/proc/{self._init}").exists() or not self._init, "it is gone", self.log)
        for group in self._groups:
            _remove(group)


def _hierarchies() -> list[Path]:
    """Our own place in each hierarchy of cgroups that systemd uses and that can be written."""
    mounted = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            root, place = fields.split()[3:5]
            for controller in ("",) if kind == "cgroup2" else options.split(","):
                mounted[controller] = (root, place)
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        controllers, path = line.split(":", 2)[1:]
        # A group of cpuset takes no process before it was given processors, and systemd uses neither of the two here.
        if controllers in ("cpuset", "freezer") or controllers.split(",")[0] not in mounted:
            continue
        root, place = mounted[controllers.split(",")[0]]
        group = Path(place) / os.path.relpath(path, root) if path.startswith(root) else Path(place)
        if os.access(group / "cgroup.procs", os.W_OK):
            found.append(group)
    return found


def _remove(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):  # the kernel still takes leave of a process: an empty group is no harm
            os.rmdir(folder)
