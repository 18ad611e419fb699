"""The systemd unit is what systemd takes, and is closed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, unit

UNIT = DEPLOY / "systemd" / "fairlane-gateway.service"
PROGRAM = "/opt/fairlane/bin/fairlane"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def analyze(folder: Path, text: str, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run systemd-analyze on a unit, with a program that is there in place of the installed one."""
    path = folder / UNIT.name
    path.write_text(text.replace(PROGRAM, sys.executable))
    words = ["systemd-analyze", *command, str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    done = analyze(tmp_path, UNIT.read_text(), "verify")
    assert (done.returncode, about_it(done.stderr)) == (0, [])


@needs_systemd
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("TimeoutStopSec=", "TimeoutStop=", "TimeoutStop"),
        ("KillSignal=SIGTERM", "KillSignal=SIGTREM", "SIGTREM"),
        (f"ExecStart={PROGRAM}", "ExecStart=/no/such/fairlane", "/no/such/fairlane"),
    ],
)
def test_a_mistake_in_it_would_be_found(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    done = analyze(tmp_path, UNIT.read_text().replace(right, wrong), "verify")
    assert any(said in line for line in about_it(done.stderr))


def about_it(said: str) -> list[str]:
    """What is said of the unit, and not of others of the machine."""
    return [line for line in said.splitlines() if UNIT.name in line]


@needs_systemd
def test_systemd_finds_it_closed(tmp_path: Path) -> None:
    """In tenths, of 0 (closed) to 100; a unit with nothing but a command is far above."""
    told = ("security", "--offline=yes", "--threshold=20")
    assert analyze(tmp_path, UNIT.read_text(), *told).returncode == 0
    open_one = "[Service]\nExecStart=" + PROGRAM + "\n"
    assert analyze(tmp_path, open_one, *told).returncode != 0


def test_it_drains_starts_again_and_reads_its_keys() -> None:
    settings = unit()
    assert settings["Service.KillSignal"] == ["SIGTERM"]
    assert settings["Service.Restart"] == ["on-failure"]
    assert settings["Service.EnvironmentFile"] == ["-/etc/fairlane/keys.env"]
    assert settings["Service.User"] == ["fairlane"]
    assert int(settings["Service.LimitNOFILE"][0]) >= 65536
    [user] = [
        line.split()
        for line in (DEPLOY / "systemd" / "fairlane.sysusers.conf").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert user[:2] == ["u", settings["Service.User"][0]]
