"""A server that changes its scheduler between measurements does what each mode says."""

import json
import os
import sys
from pathlib import Path

from serving import free_port, write_model

from tests.processes import run_tool

ROOT = Path(__file__).resolve().parents[4]
PLAN = """
[modes.stock]
[modes.vtc]
scheduler = { name = "vtc" }
running = 2
[[pairs]]
modes = ["stock", "vtc"]
loads = ["8:16:8:16"]
rounds = 1
[[suites]]
suite = "overload"
modes = ["stock", "vtc"]
options = ["--rate-scale", "4", "--duration", "1"]
[[suites]]
suite = "overload"
label = "lora"
modes = ["vtc"]
options = ["--rate-scale", "4", "--duration", "1", "--client-model", "adapter-{client}"]
"""
OPTIONS = (
    "--dtype", "float32", "--enforce-eager", "--load-format", "dummy", "--max-model-len", "1024",
    "--max-num-seqs", "4", "--block-size", "32",
)  # fmt: skip
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}


def test_modes_take_turns_on_one_server(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", vocab_size=32_000, max_position_embeddings=1024)
    plan, found = tmp_path / "plan.toml", tmp_path / "found"
    plan.write_text(PLAN)
    command = [sys.executable, "-m", "tools.server_modes", "--model", str(model)]
    command += ["--plan", str(plan), "--output", str(found), "--port", str(free_port())]
    command += ["--num-adapters", "2", "--start-limit", "86400", "--limit", "86400"]
    environment = os.environ | ENVIRONMENT
    run_tool(*command, "--", *OPTIONS, cwd=ROOT, folder=tmp_path, environment=environment)

    rows = [json.loads(line) for line in (found / "runs.jsonl").read_text().splitlines()]
    assert [row["mode"] for row in rows] == ["stock", "vtc"]
    assert all(row["output_tokens"] == 16 * 8 and row["steps"] > 8 for row in rows)
    assert "observed_difference" not in rows[0]
    assert rows[1]["observed_difference"] <= rows[1]["bound"]

    about = json.loads((found / "server.json").read_text())
    assert (about["hardware"], about["adapters"]) == ("CPU", 2)
    assert "--max-num-seqs 4" in about["vllm_options"]

    for run, most in (("overload-stock", 4), ("overload-vtc", 2), ("lora-vtc", 2)):
        steps = (found / f"{run}.steps.jsonl").read_text().splitlines()
        assert max(json.loads(step)["running"] for step in steps) == most
        told = json.loads((found / f"{run}.manifest.json").read_text())
        assert told["failures"] == {}
        assert told["request_count"] == 18
