"""The machine: platform and notices, service manager, scheduler, memory, versions. No request leaves it."""

from __future__ import annotations

import importlib.metadata
import platform as python_platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from resilient import __version__
from resilient import memory as host
from resilient.amounts import size
from resilient.doctoring.finding import Item, ok, problem, warning
from resilient.preemption import platform

_ROOT = Path("/")
_WATCHED = {
    "aws": "Spot interruptions and rebalance recommendations, asked for every 5 s",
    "gce": "preemption and maintenance events, told at once",
    "azure": "scheduled events, asked for every second",
    "slurm": "the end of the time limit",
}
# From a notice to the end of the machine where nothing is configured: docs/notices.md.
_GRACE = {"aws": 120.0, "gce": 30.0, "azure": 30.0, "slurm": 60.0}
_PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch")
_SHARE = 0.9  # of a memory limit


def notices(environ: Mapping[str, str], dmi: Path = platform.DMI) -> Iterator[Item]:
    """Which platform this is, and what `fit` would listen to."""
    found = platform.detect(environ, dmi)
    product = " ".join(filter(None, (_first_line(dmi / name) for name in ("sys_vendor", "product_name"))))
    if not found:
        told = f" (its firmware says {product!r})" if product else ""
        yield ok("platform", f"none that announces preemption{told}: no notices are watched, and signals are. No request is made.")
    for name in found:
        yield ok("platform", f"{name}: {_WATCHED[name]}.")
    if "aws" in found and in_container(environ):
        text = "In a container the instance's metadata may be out of reach, one network hop away."
        yield warning("notices", text, "Set the instance's HttpPutResponseHopLimit to 2, see docs/notices.md.")


def grace(given: float | None, environ: Mapping[str, str], default: float, dmi: Path = platform.DMI) -> tuple[float, str]:
    """Seconds that an emergency save has, and who says so: the operator, else the strictest of `fit`'s default and the platform."""
    if given is not None:
        return given, "as given"
    known = [(_GRACE[name], f"what {name} gives") for name in platform.detect(environ, dmi)]
    seconds, source = min([(default, "the default after a signal"), *known])
    longer = "".join(
        f"; {name} gives {_GRACE[name]:g} s after a notice" for name in platform.detect(environ, dmi) if _GRACE[name] > seconds
    )
    return seconds, source + longer


def in_container(environ: Mapping[str, str], root: Path = _ROOT) -> bool:
    """Whether this is one, by what Docker, Podman and Kubernetes leave there."""
    return "KUBERNETES_SERVICE_HOST" in environ or any((root / name).exists() for name in (".dockerenv", "run/.containerenv"))


def schedulers(environ: Mapping[str, str], seconds: float, now: float | None = None) -> Iterator[Item]:
    """What systemd, Slurm and Kubernetes grant, as far as it can be known from here; `seconds`: the grace period that is counted on."""
    yield from _systemd(seconds)
    if "SLURM_JOB_ID" in environ:
        end = environ.get("SLURM_JOB_END_TIME", "")
        left = (
            f"{float(end) - (time.time() if now is None else now):.0f} s until its time limit" if end.isdecimal() else "no time limit told"
        )
        text = (
            f"job {environ['SLURM_JOB_ID']}, {left}. How long it lives after scancel (KillWait) is the cluster's, and not told to the job."
        )
        yield ok("slurm", f"{text} `scontrol show config | grep KillWait` tells; 30 s is usual.")
    if "KUBERNETES_SERVICE_HOST" in environ:
        text = f"A pod has terminationGracePeriodSeconds, which cannot be read from within (30 s by default; {seconds:g} s are counted on)."
        yield warning(
            "kubernetes", text, "Set it in the pod's spec, see `resilient unit kubernetes`. On GKE a spot pod never gets more than 15 s."
        )


def _systemd(seconds: float) -> Iterator[Item]:
    unit = _unit(Path("/proc/self/cgroup"))
    if unit is None:
        return
    told = _timeout_of(unit)
    if told is None:
        yield ok("systemd", f"runs in {unit}; its TimeoutStopSec cannot be read.")
    elif told < seconds:
        text = f"{unit} is killed {told:g} s after it was asked to stop, and {seconds:g} s are counted on."
        yield problem("systemd", text, f"Set TimeoutStopSec={seconds + 15:g} in the unit, or a shorter --grace.")
    else:
        yield ok("systemd", f"{unit} has {told:g} s to stop, and {seconds:g} s are counted on.")


def _unit(cgroup: Path) -> str | None:
    """The service that this process belongs to; None in a login session."""
    for line in _lines(cgroup):
        name = line.rpartition("/")[2]
        if name.endswith(".service") and not name.startswith("user@"):
            return name
    return None


def _timeout_of(unit: str) -> float | None:
    command = ["systemctl", "show", "--property=TimeoutStopUSec", "--value", unit]
    try:
        # The unit's name comes from the kernel.
        told = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout.strip()  # noqa: S603  no shell
    except (OSError, subprocess.SubprocessError):
        return None
    if told == "infinity":
        return float("inf")
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
    parts = re.findall(r"(\d+)(us|ms|s|min|h)\b", told)
    return sum(int(number) * units[name] for number, name in parts) if parts else None


def memory(peak: int | None, root: Path = _ROOT, *, waited: bool = False) -> Item:
    """The limit against the most that the run has used.

    Args:
        peak: bytes, None where it is not known.
        root: where /proc and /sys are.
        waited: the last saves found no room for copies.
    """
    limit, whose = host.limit(root), "the limit of its cgroup"
    total = psutil.virtual_memory().total
    if limit is None or limit >= total:
        limit, whose = total, "all that the machine has"
    text = f"{size(limit)} ({whose})"
    if waited:
        text += "; where the run has trained, there was no room for copies beside a save, and training waited for each of the last."
        return warning("memory", text, "Give it more, or save less often, see docs/promises.md.")
    if peak is None:
        return ok("memory", f"{text}; what the run needs is known after a supervised attempt.")
    text = f"{size(peak)} at most so far, of {text}."
    if peak > _SHARE * limit:
        return warning("memory", text, "Give it more, or use a smaller batch: out of memory, the kernel kills it without a word.")
    return ok("memory", text)


def versions(trained_with: Mapping[str, object] | None) -> Iterator[Item]:
    """What is installed, and whether it is what the run was trained with so far. Nothing is imported."""
    here = {name: version for name in _PACKAGES if (version := _version(name)) is not None}
    listed = ", ".join(f"{name} {version}" for name, version in here.items()) or "no Keras"
    yield ok("versions", f"resilient {__version__}, Python {python_platform.python_version()}, {listed}.")
    known = {**here, "python": python_platform.python_version(), "tensorflow": here.get("tensorflow", here.get("tensorflow-cpu"))}
    changed = [
        f"{name} {before} (now {known[name]})"
        for name, before in (trained_with or {}).items()
        if isinstance(before, str) and known.get(name) not in (None, before)
    ]
    if changed:
        text = f"The run was trained with {', '.join(changed)}: the bits of its results may change."
        yield warning("versions", text, "Install what it began with, or accept it: fit warns, and with exact='require' it refuses.")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(path: Path) -> str:
    return next(iter(_lines(path)), "").strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
