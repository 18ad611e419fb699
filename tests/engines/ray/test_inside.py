"""Runs the tests under inside/ in the environment that has Ray, all in one cluster."""

import os
from pathlib import Path

import pytest

from tests.processes import STANDSTILL_S, run_tool

ROOT = Path(__file__).resolve().parents[3]
INSIDE = Path(__file__).parent / "inside"
OF_VLLM = ROOT / "tests" / "engines" / "vllm" / "inside"  # its tiny model is served here, too


@pytest.mark.slow
@pytest.mark.alone
def test_inside_ray(ray_python: Path, tmp_path: Path) -> None:
    settings = {
        "RAY_AUTH_MODE": "disabled",  # else a token is written to the home directory
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT, INSIDE, OF_VLLM))),
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "FAIRLANE"))}
    run_tool(
        ray_python, "-m", "pytest", "-q", "-c", INSIDE / "pytest.ini",
        "--basetemp", tmp_path / "inside", INSIDE,
        cwd=ROOT, folder=tmp_path, environment=environment | settings,
        standstill_s=3 * STANDSTILL_S,
    )  # fmt: skip
