"""The start-up scripts for spot machines, run from end to end where everything outside them is a stand-in."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.notices import AwsServer

ROOT = Path(__file__).resolve().parent.parent
SPOT = ROOT / "examples" / "spot"
SCRIPTS = sorted(SPOT.glob("*.sh"))
COMMON = "# --- the rest is the same on every cloud"
DEVICES = {
    "aws": "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123",
    "gce": "/dev/disk/by-id/google-training",
    "azure": "/dev/disk/azure/data/by-lun/0",
}
# Each is told in `told`; what it does besides is here. $DEVICE is the disk, which a test made.
STAND_INS = {
    "apt-get": "",
    "mountpoint": 'grep --quiet "^mount " "$TOLD"',
    "blkid": '[ -s "$DEVICE" ] || exit 2; case "$*" in *UUID*) echo 0000-1111 ;; esac',
    "mkfs.ext4": 'echo ext4 > "$DEVICE"',
    "mount": "",
    "useradd": "",
    "chown": "",
    "systemctl": "",
    "git": 'case "$*" in clone*) mkdir -p "${!#}"; echo "print(1)" > "${!#}/train.py" ;; esac',
    "python3": 'case "$*" in *"-m venv"*) mkdir -p "${!#}/bin"; cp "$STAND_INS/"{pip,resilient,python} "${!#}/bin/" ;; esac',
    "pip": "",
    "id": "exit 1",
    "cmp": '[ ! -s "$DEVICE" ]',
    "aws": 'case "$*" in *describe*) echo i-old ;; *) [ "$(grep --count attach-volume "$TOLD")" -ge 3 ] ;; esac',
    "curl": 'case "$*" in *api/token*) echo token ;; *region*) echo eu-central-1 ;; *instance-id*) echo i-new ;; esac',
    "resilient": f'exec {sys.executable} -m resilient "$@"',
    "python": f'exec {sys.executable} "$@"',
}


class Machine:
    """A directory in place of /, and a PATH of stand-ins."""

    def __init__(self, root: Path, cloud: str) -> None:
        self.root, self.cloud = root, cloud
        self.told = root / "told"
        self.told.touch()
        self.bin = root / "bin"
        self.device = Path(f"{root}{DEVICES[cloud]}")
        for directory in (self.bin, self.device.parent, root / "etc"):
            directory.mkdir(parents=True)
        self.device.touch()
        (root / "etc/fstab").touch()
        for name, does in STAND_INS.items():
            self.stand_in(name, does)

    def stand_in(self, name: str, does: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "$TOLD"\n{does}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def start(self, **settings: str) -> subprocess.CompletedProcess[str]:
        given = {"RESILIENT": "resilient @ git+https://here/resilient", "PROGRAM": "https://here/program", "VOLUME": "vol-0123"}
        own = {"PREFIX": str(self.root), "TOLD": str(self.told), "DEVICE": str(self.device), "STAND_INS": str(self.bin), "PAUSE": "0"}
        environment = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **given, **own, **settings}
        script = SPOT / f"{self.cloud}.sh"
        return subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, timeout=120, check=False)

    def calls(self, name: str) -> list[str]:
        lines = self.told.read_text().splitlines()
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]

    @property
    def unit(self) -> str:
        return (self.root / "etc/systemd/system/train.service").read_text()


@pytest.fixture(params=sorted(DEVICES))
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(tmp_path, request.param)


def test_a_new_machine_with_an_empty_disk_begins_to_train(machine: Machine) -> None:
    """File system, mount, packages, program and service, in that order; the unit is what `resilient unit systemd` prints."""
    done = machine.start()
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(machine.calls("mkfs.ext4")) == 1
    assert machine.calls("mount") == [f"{machine.device} {machine.root}/var/lib/training"]
    assert machine.calls("systemctl") == ["daemon-reload", "enable --now train.service"]
    assert machine.calls("pip")[-1] == "install --quiet resilient @ git+https://here/resilient"
    venv, program = machine.root / "var/lib/training/venv", machine.root / "var/lib/training/program"
    assert re.search(rf"ExecStart=.* run .*-- {venv}/bin/python train.py$", machine.unit, re.MULTILINE), machine.unit
    assert f"WorkingDirectory={program}\n" in machine.unit and "User=training\n" in machine.unit
    assert "RequiresMountsFor=/var/lib/training" in (machine.root / "etc/systemd/system/train.service.d/disk.conf").read_text()
    assert (machine.root / "etc/fstab").read_text().startswith("UUID=0000-1111 /var/lib/training ext4 defaults,nofail")


def test_the_next_machine_finds_everything_on_the_disk(machine: Machine) -> None:
    """Neither a file system is made nor anything cloned or installed again; the training is started all the same."""
    assert machine.start().returncode == 0
    machine.told.write_text("")  # another machine: nothing is mounted
    (machine.root / "etc/systemd/system/train.service").unlink()
    again = machine.start()
    assert again.returncode == 0, again.stderr
    assert not machine.calls("mkfs.ext4") and not machine.calls("git")
    assert not [line for line in machine.calls("pip") if "resilient" in line]
    assert len(machine.calls("mount")) == 1 and "ExecStart=" in machine.unit
    assert (machine.root / "etc/fstab").read_text().count("UUID=") == 1


def test_a_disk_with_something_else_on_it_is_left_alone(machine: Machine) -> None:
    """No file system that blkid knows, and not empty: nothing is written, and the script says so."""
    machine.device.write_text("precious")
    machine.stand_in("blkid", "exit 2")
    done = machine.start()
    assert done.returncode == 1 and "is not empty, and holds no file system" in done.stderr
    assert not machine.calls("mkfs.ext4") and not machine.calls("mount")
    assert machine.device.read_text() == "precious"


def test_without_a_disk_nothing_is_started(machine: Machine) -> None:
    """A training on the machine's own disk would be lost with it."""
    machine.device.unlink()
    machine.stand_in("sleep", "")
    done = machine.start()
    assert done.returncode == 1 and "Is the disk attached?" in done.stderr
    assert not machine.calls("mount") and not machine.calls("systemctl")


def test_the_volume_is_waited_for_until_the_machine_before_lets_go(tmp_path: Path) -> None:
    """EBS attaches it to one instance at a time; the token of the metadata service is asked for and sent."""
    machine = Machine(tmp_path, "aws")
    assert machine.start().returncode == 0
    attempts = [call for call in machine.calls("aws") if "attach-volume" in call]
    assert len(attempts) == 3
    assert attempts[0] == "ec2 attach-volume --region eu-central-1 --volume-id vol-0123 --instance-id i-new --device /dev/sdf"
    assert all("X-aws-ec2-metadata-token: token" in call for call in machine.calls("curl") if "meta-data" in call)


def test_a_volume_that_is_attached_already_is_used(tmp_path: Path) -> None:
    """The machine was started again: `attach-volume` refuses, and the volume is here."""
    machine = Machine(tmp_path, "aws")
    machine.stand_in("aws", 'case "$*" in *describe*) echo i-new ;; *) exit 1 ;; esac')
    assert machine.start().returncode == 0


def test_the_metadata_service_as_it_is_documented_is_understood(tmp_path: Path) -> None:
    """With the real curl against a server that insists on version 2: no region there, which ends the script before anything is written."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    machine = Machine(tmp_path, "aws")
    (machine.bin / "curl").unlink()
    with AwsServer() as server:
        host, port = server.address
        done = machine.start(METADATA=f"http://{host}:{port}/latest")
        asked = [(request.method, request.path, "x-aws-ec2-metadata-token" in request.headers) for request in server.requests]
    assert done.returncode != 0
    assert asked[:2] == [("PUT", "/latest/api/token", False), ("GET", "/latest/meta-data/placement/region", True)]
    assert not machine.calls("mkfs.ext4") and not machine.calls("systemctl")


def test_what_is_to_happen_in_the_end_happens_only_when_training_is_done(tmp_path: Path) -> None:
    """The hook looks at how the service ended: not after a preemption (75), not after it gave up."""
    machine = Machine(tmp_path, "gce")
    assert machine.start(WHEN_DONE=f"touch {tmp_path}/given-back").returncode == 0
    hook = tmp_path / "etc/training-done.sh"
    assert f"ExecStopPost=+/bin/sh {hook}" in (tmp_path / "etc/systemd/system/train.service.d/disk.conf").read_text()
    for result, code, given_back in (("success", "75", False), ("exit-code", "93", False), ("success", "0", True)):
        environment = {**os.environ, "SERVICE_RESULT": result, "EXIT_CODE": "exited", "EXIT_STATUS": code}
        subprocess.run(["/bin/sh", str(hook)], env=environment, check=True)
        assert (tmp_path / "given-back").exists() == given_back


def test_a_script_that_nobody_filled_in_says_what_is_missing(machine: Machine) -> None:
    """Before anything is installed."""
    done = machine.start(PROGRAM="https://git.example.com/you/training.git")
    assert done.returncode == 1 and "set RESILIENT and PROGRAM" in done.stderr
    assert machine.told.read_text() == ""


def test_the_common_part_is_the_same_in_all_of_them() -> None:
    """User data is one file, so each script carries it; nobody has to read it three times."""
    parts = {path.read_text().split(COMMON)[1] for path in SCRIPTS}
    assert len(SCRIPTS) == 3 and len(parts) == 1
    settings = {re.search(r'^: "\$\{RESILIENT.*?\n\n', path.read_text(), re.MULTILINE | re.DOTALL)[0] for path in SCRIPTS}
    assert len(settings) == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_scripts_are_sound_shell(script: Path) -> None:
    """Bash reads them, they fit what clouds take as user data, and shellcheck, where it is installed, has nothing to say."""
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert len(script.read_bytes()) < 16_384  # AWS' limit, the smallest
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)
