"""Rewrite constraints.txt: the exact version of everything that an install of Fairlane brings.

Run it with `make lock`. It installs the project with its development tools into a throwaway
environment, writes down what came, and then asks pip whether each supported Python finds a wheel
for every line. The file names versions alone, so that it works with any package index.
"""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "constraints.txt"
SUPPORTED = ("3.11", "3.12", "3.13")
BUILD_TOOLS = ("hatchling", "editables")  # what an editable install needs at build time
LEFT_OUT = ("fairlane", "pip", "setuptools", "wheel")
HEADER = """\
# Exact versions of everything Fairlane installs, build and development tools included.
# Written by `make lock`; do not edit by hand.
"""


def installed_versions(directory: Path) -> list[str]:
    """Install the project into a new environment; return its `name==version` lines, sorted."""
    venv.create(directory, with_pip=True)
    python = str(directory / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", f"{ROOT}[dev]", *BUILD_TOOLS], check=True)
    excluded = [word for name in LEFT_OUT for word in ("--exclude", name)]
    frozen = subprocess.run(
        [*pip, "freeze", *excluded], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    lines = [line.strip() for line in frozen if line.strip()]
    odd = [line for line in lines if "==" not in line or "+" in line or "@" in line]
    if odd:
        raise SystemExit(f"lock: these are not plain released versions: {', '.join(odd)}")
    return sorted(lines, key=str.lower)


def check_wheels(lines: list[str], python_version: str) -> None:
    """Ask pip to resolve all `lines` from wheels for `python_version`; end the program if not."""
    with tempfile.TemporaryDirectory() as target:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        command += ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--report", "-"]
        command += ["--python-version", python_version, "--target", target, *lines]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"lock: no complete set of wheels for {python_version}:\n{done.stderr}")
    found = {entry["metadata"]["name"].lower() for entry in json.loads(done.stdout)["install"]}
    extra = len(found) - len(lines)
    if extra:
        raise SystemExit(f"lock: Python {python_version} needs {extra} packages more: {found}")


def main() -> None:
    """Write constraints.txt beside its old version, check it, then put it in place."""
    with tempfile.TemporaryDirectory() as directory:
        lines = installed_versions(Path(directory) / "venv")
    for version in SUPPORTED:
        check_wheels(lines, version)
    beside = TARGET.with_suffix(".new")
    beside.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    beside.replace(TARGET)
    print(f"{TARGET.name}: {len(lines)} versions, with wheels for Python {', '.join(SUPPORTED)}")


if __name__ == "__main__":
    main()
