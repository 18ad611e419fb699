"""The second environment, with vLLM for CPUs, in which the tests under inside/ run."""

import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

ROOT = Path(__file__).resolve().parents[3]
collect_ignore = ["inside"]  # these run in the other environment, by test_inside.py
NOT_AVAILABLE = 3  # exit code of tools/vllm_env.py


def make_environment() -> "subprocess.CompletedProcess[str]":
    """Make it unless it is there; whoever else makes it is waited for."""
    tool = [sys.executable, "tools/vllm_env.py"]
    return subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=False)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to make it while other tests run, once however many processes run them."""
    worker = getattr(session.config, "workerinput", {"workerid": "gw0"})["workerid"]
    needed = any("vllm_python" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and worker == "gw0" and not session.config.option.collectonly:
        Thread(target=make_environment).start()


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The environment's interpreter; it is made on first use, which takes minutes and 2.5 GB.

    Where vLLM for CPUs does not exist the test is skipped, or fails where CI=true.
    """
    made = make_environment()
    if made.returncode == NOT_AVAILABLE and os.environ.get("CI") != "true":
        pytest.skip(made.stderr)
    assert made.returncode == 0, made.stderr
    return ROOT / ".venv-vllm" / "bin" / "python"
