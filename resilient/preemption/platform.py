"""Which platforms this machine is on, from its own firmware tables and environment: no request leaves the machine to find out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DMI = Path("/sys/class/dmi/id")

_AMAZON = "Amazon EC2"
_GOOGLE = ("Google Compute Engine", "Google")  # not the vendor: a Chromebook's is Google too
_AZURE = "7783-7084-3265-9085-8269-3286-77"  # not the vendor: that of any Hyper-V is Microsoft too


def detect(environ: Mapping[str, str], dmi: Path = DMI) -> tuple[str, ...]:
    """Names of the platforms, () where it is none that gives notices. A container sees its host's."""
    found = {
        "aws": _is_aws(dmi),
        "gce": _field(dmi, "product_name") in _GOOGLE,
        "azure": _field(dmi, "chassis_asset_tag") == _AZURE,
        "slurm": "SLURM_JOB_ID" in environ,
    }
    return tuple(name for name, here in found.items() if here)


def _is_aws(dmi: Path) -> bool:
    # Nitro and bare metal name Amazon as the vendor; the older Xen machines do so in the firmware's version only (4.11.amazon).
    return _field(dmi, "sys_vendor") == _AMAZON or _field(dmi, "bios_version").endswith(".amazon")


def _field(dmi: Path, name: str) -> str:
    try:
        return (dmi / name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # no DMI (many ARM boards, some containers), or not for our eyes
        return ""
