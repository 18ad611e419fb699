"""Runs the tests under inside/ in the environment that has vLLM, a file at a time."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
INSIDE = Path(__file__).parent / "inside"
LIMIT_S = 600


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in INSIDE.glob("test_*.py")))
def test_inside_vllm(name: str, vllm_python: Path, tmp_path: Path) -> None:
    settings = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CACHE_ROOT": str(tmp_path / "cache"),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "PYTHONPATH": str(ROOT / "src"),
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "FAIRLANE"))}
    done = subprocess.run(
        [str(vllm_python), "-m", "pytest", "-q", "-c", str(INSIDE / "pytest.ini"), INSIDE / name],
        cwd=ROOT, env=environment | settings, timeout=LIMIT_S, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
