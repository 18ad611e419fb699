"""tools/check_build.py tells a build that computes what it should: the one of these tests does."""

import json
import os
import sys
from pathlib import Path

from tests.processes import run_tool

ROOT = Path(__file__).resolve().parents[4]


def test_this_build_is_as_exact_as_transformers(tmp_path: Path) -> None:
    path = tmp_path / "check.json"
    tool = (sys.executable, "-m", "tools.check_build", "--output", path)
    run_tool(*tool, cwd=ROOT, folder=tmp_path, environment=os.environ)

    told = json.loads(path.read_text())
    built, usual = told["vllm"], told["transformers_bfloat16"]
    assert built["positions"] == usual["positions"] == 80
    assert built["same_token"] >= usual["same_token"] - 5
    assert 0 < built["mean_difference"] < 1.5 * usual["mean_difference"]
