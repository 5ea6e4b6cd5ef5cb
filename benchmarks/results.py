"""What was measured, as JSON files with the machine, the versions and the commit that it was measured on."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

DIRECTORY = Path(__file__).parent / "results"
_PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "orbax-checkpoint", "h5py", "numpy")


def save(directory: Path, name: str, scale: str, seconds: float, figures: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Write `<name>.json` and return what it holds. `scratch`: where the checkpoints were written, of which the file system is told."""
    result = {
        "benchmark": name,
        "scale": scale,
        "seconds": round(seconds, 1),
        "taken": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(scratch),
        "versions": versions(),
        "figures": figures,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def load(directory: Path, name: str) -> dict[str, Any] | None:
    """What `save` wrote, None where it has not."""
    path = directory / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def machine(scratch: Path) -> dict[str, str]:
    """Processor, usable cores, memory, kernel, and the file system that was written to."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "kernel": platform.release().split("-")[0],
        "file system": _file_system(scratch),
    }


def versions() -> dict[str, str]:
    """Python's and those of the packages that are measured, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _file_system(scratch: Path) -> str:
    """Type of the innermost mount that holds the path."""
    mounts = [m for m in psutil.disk_partitions(all=True) if scratch.resolve().is_relative_to(m.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "unknown"


def _commit() -> str:
    """Short name of the commit, with a plus sign where the library or the measurements differ from it."""
    root = Path(__file__).parent.parent
    try:
        name = _git(root, "rev-parse", "--short", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "resilient", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}+" if changed else name


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
