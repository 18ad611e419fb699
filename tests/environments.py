"""Environments beside .venv in which some tests run, by the scripts in tools/ that make them."""

import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_AVAILABLE = 3  # exit code of those scripts


def make(script: str) -> "subprocess.CompletedProcess[str]":
    """Make one unless it is there; whoever else makes it is waited for."""
    tool = [sys.executable, "-m", f"tools.{script}"]
    return subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=False)


def begin(session: pytest.Session, fixture: str, script: str) -> None:
    """Begin to make one while other tests run, once however many processes run them."""
    worker = getattr(session.config, "workerinput", {"workerid": "gw0"})["workerid"]
    needed = any(fixture in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and worker == "gw0" and not session.config.option.collectonly:
        Thread(target=make, args=(script,)).start()


def interpreter(script: str, folder: str) -> Path:
    """An environment's interpreter; it is made on first use, which takes minutes.

    Where this machine cannot have it the test is skipped, or fails where CI=true.
    """
    made = make(script)
    if made.returncode == NOT_AVAILABLE and os.environ.get("CI") != "true":
        pytest.skip(made.stderr)
    assert made.returncode == 0, made.stderr
    return ROOT / folder / "bin" / "python"
