"""Runs the tests under inside/ in the environment that has vLLM, a file at a time."""

import os
from pathlib import Path

import pytest

from tests.processes import STANDSTILL_S, run_tool

ROOT = Path(__file__).resolve().parents[3]
INSIDE = Path(__file__).parent / "inside"


LONGEST = ("test_switching.py", "test_server_start.py", "test_check_build.py")  # must not end last
NAMES = sorted(
    (path.name for path in INSIDE.glob("test_*.py")), key=lambda n: (n not in LONGEST, n)
)
# Most measure who gets how much of a server; that of trouble opens ten thousand connections.
ALONE = (
    "test_server_fairness.py", "test_server_features.py", "test_gateway.py",
    "test_server_trouble.py", "test_server_cluster.py", "test_server_ranks.py",
)  # fmt: skip
assert set(ALONE) < set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.alone] * (name in ALONE)) for name in NAMES],
)
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
    run_tool(
        vllm_python, "-m", "pytest", "-q", "-c", INSIDE / "pytest.ini",
        "--basetemp", tmp_path / "inside", INSIDE / name,
        cwd=ROOT, folder=tmp_path, environment=environment | settings,
        standstill_s=3 * STANDSTILL_S,  # what stands still in there is told there
    )  # fmt: skip
