"""The second environment, with vLLM for CPUs, in which the tests under inside/ run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
collect_ignore = ["inside"]  # these run in the other environment, by test_inside.py
NOT_AVAILABLE = 3  # exit code of tools/vllm_env.py


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The environment's interpreter; it is made on first use, which takes minutes and 2.5 GB.

    Where vLLM for CPUs does not exist the test is skipped, or fails where CI=true.
    """
    made = subprocess.run(
        [sys.executable, "tools/vllm_env.py"], cwd=ROOT, capture_output=True, text=True
    )
    if made.returncode == NOT_AVAILABLE and os.environ.get("CI") != "true":
        pytest.skip(made.stderr)
    assert made.returncode == 0, made.stderr
    return ROOT / ".venv-vllm" / "bin" / "python"
