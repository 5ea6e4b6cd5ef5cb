"""A cluster of our own: a real Slurm of one node on loopback, with its own munge, in a PID namespace whose end is the end of all of it.

It needs root and Debian's slurm-wlm and munge. Slurm's own delays are compiled in: time limits and --signal are looked at every 30 s, and
a requeued job is held back for a while (see `hurry`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from namespaces import PATIENCE, refusal, wait_until

_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_TOOLS = ("nsenter", "munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={state}/munge/socket,cred_expire=5
StateSaveLocation={state}/controller
SlurmdSpoolDir={state}/spool
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/{tracker}
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=10000,bf_interval=1
JobRequeue=1
KillWait=20
MinJobAge=3600
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES DefaultTime=60 MaxTime=INFINITE State=UP
"""
_START = """
set -e
[ ! -e /etc/hosts ] || mount --bind "$STATE/hosts" /etc/hosts
if [ -d "$STATE/groups" ]; then  # a freezer of its own is the root that Slurm sees
  mount -t cgroup -o freezer cgroup "$STATE/groups/freezer"
  mkdir "$STATE/groups/freezer/$NAME"
  mount --bind "$STATE/groups/freezer/$NAME" "$STATE/groups/freezer"
fi
munged --foreground --force --socket="$STATE/munge/socket" --key-file="$STATE/munge/key" --pid-file="$STATE/munge/pid" \
  --seed-file="$STATE/munge/seed" --log-file="$STATE/munge/log" &
for _ in $(seq 200); do [ ! -S "$STATE/munge/socket" ] || break; sleep 0.05; done
slurmctld -D -f "$SLURM_CONF" & slurmd -D -f "$SLURM_CONF" & wait
"""


def reason_to_skip() -> str | None:
    """Why there can be no such cluster here, None if there can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None]
    if refusal() is not None:
        return f"a Slurm of our own {refusal()}"
    if missing:
        return f"a Slurm of our own needs Debian's packages slurm-wlm and munge (missing: {', '.join(missing)})"
    return None


def has_freezer() -> bool:
    """Whether the kernel lets us have what Slurm's process tracking by cgroups needs here: the freezer of cgroups' first version."""
    trial = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt && mkdir /mnt/f && mount -t cgroup -o freezer cgroup /mnt/f"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


class Cluster:
    """Slurm.

    Args:
        tracker: how it finds a job's processes, and so who gets its signals: `linuxproc` (all of them) or `cgroup` (what most clusters
            have: the batch shell alone).
    """

    def __init__(self, tracker: str) -> None:
        # The path is short because sockets lie in it, and not below /tmp, which a job may see another one of.
        self.state = Path(tempfile.mkdtemp(prefix="slurm-", dir="/dev/shm"))
        self.log = self.state / "log"
        self._tracker = tracker
        self._environment = {"PATH": _PATH, "SLURM_CONF": str(self.state / "slurm.conf"), "LC_ALL": "C.UTF-8"}
        self._init = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        """With its node idle; in the end everything is gone."""
        try:
            self._configure()
            start = {**self._environment, "STATE": str(self.state), "NAME": self.state.name}
            with self.log.open("ab") as log:
                process = subprocess.Popen(
                    ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "bash", "-c", _START],
                    env=start, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            try:
                self._wait_until_up(process)
                yield self
            finally:
                process.kill()
                process.wait()
                wait_until(lambda: not self._init or not Path(f"/proc/{self._init}").exists(), "it is gone", self.log)
        finally:
            self._clean_up()

    def call(self, *command: str, cwd: Path | str = "/") -> subprocess.CompletedProcess[str]:
        """Run a command beside it."""
        inside = ["nsenter", "-t", str(self._init), "-p", "-m", f"--wd={cwd}", *command]
        return subprocess.run(inside, env=self._environment, capture_output=True, text=True, check=False, timeout=PATIENCE)

    def submit(self, script: Path) -> Job:
        """With sbatch, in the script's directory."""
        done = self.call("sbatch", "--parsable", str(script), cwd=script.parent)
        assert done.returncode == 0, done.stderr
        return Job(self, done.stdout.strip(), script.parent)

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        for name in ("controller", "spool", "munge"):
            (self.state / name).mkdir()
        key = self.state / "munge" / "key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        known = Path("/etc/hosts").read_text() if os.path.exists("/etc/hosts") else ""
        (self.state / "hosts").write_text(f"127.0.0.1 {host}\n{known}")
        self.state.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            ports = {"controller": one.getsockname()[1], "node": other.getsockname()[1]}
        text = _CONFIGURATION.format(host=host, state=self.state, tracker=self._tracker, **ports)
        (self.state / "slurm.conf").write_text(text)
        if self._tracker == "cgroup":
            (self.state / "groups" / "freezer").mkdir(parents=True)
            (self.state / "cgroup.conf").write_text(f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={self.state}/groups\n")

    def _wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def is_idle() -> bool:
            assert process.poll() is None, f"Slurm did not start:\n{self.log.read_text()[-3000:]}"
            self._init = int(children.read_text() or 0)
            return bool(self._init) and self.call("sinfo", "--noheader", "--format=%t").stdout.strip() == "idle"

        wait_until(is_idle, "its node is idle", self.log)

    def _clean_up(self) -> None:
        if (self.state / "groups").is_dir():
            remove = (
                'cd "$0/groups" && mount -t cgroup -o freezer cgroup freezer && cd freezer && find "$1" -depth -type d -exec rmdir {} +'
            )
            subprocess.run(["unshare", "--mount", "sh", "-c", remove, str(self.state), self.state.name], capture_output=True, check=False)
        shutil.rmtree(self.state, ignore_errors=True)


class Job:
    """A job, and the log that it writes."""

    def __init__(self, cluster: Cluster, number: str, directory: Path) -> None:
        self._cluster, self.number, self._directory = cluster, number, directory

    def fields(self) -> dict[str, str]:
        """What scontrol tells of it."""
        text = self._cluster.call("scontrol", "--oneliner", "show", "job", self.number).stdout
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def control(self, *command: str) -> None:
        """A command that ends with the job's number, such as `scancel`."""
        done = self._cluster.call(*command, self.number)
        assert done.returncode == 0, done.stderr

    def update(self, setting: str) -> None:
        """Such as `EndTime=now+5`."""
        done = self._cluster.call("scontrol", "update", f"JobId={self.number}", setting)
        assert done.returncode == 0, done.stderr

    def wait_for(self, **fields: str) -> None:
        """Returns when it has these fields."""
        self.wait_until(lambda: fields.items() <= self.fields().items(), f"the job has {fields}")

    def hurry(self) -> None:
        """It is back in the queue: let it begin in two seconds and not when its credential has expired."""
        self.wait_for(JobState="PENDING")
        self.update("StartTime=now+2")

    def wait_until(self, reached, what: str) -> None:
        """Look again and again; where that was in vain, show the job's log, or Slurm's where the job has none yet."""
        wait_until(reached, what, self.log if self.log.exists() else self._cluster.log)

    @property
    def log(self) -> Path:
        """Where its output goes."""
        found = list(self._directory.glob(f"*-{self.number}.log"))
        return found[0] if found else self._directory / "no log yet"

    def lines(self, word: str) -> list[list[str]]:
        """What the program said after `word`, each time."""
        text = self.log.read_text() if self.log.exists() else ""
        return [line.split()[1:] for line in text.splitlines() if line.split()[:1] == [word]]

    def wait_for_line(self, word: str, times: int = 1) -> list[str]:
        """The first, second ... of them."""
        self.wait_until(lambda: len(self.lines(word)) >= times, f"the program has said {word!r} {times} times")
        return self.lines(word)[times - 1]
