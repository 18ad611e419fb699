"""Every benchmark runs: shortened, as the module that the documents name, with numbers to show.

Those that need vLLM or Ray run in its environment: engines/*/inside.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    path.stem: path.read_text()
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
}
OF_VLLM = {name for name, text in SCRIPTS.items() if "tests.engines.vllm.inside" in text}
OF_RAY = {name for name, text in SCRIPTS.items() if "tests.engines.ray.inside" in text}
OF_ALL = SCRIPTS.keys() - OF_VLLM - OF_RAY


def run_quick(name: str, *options: str) -> tuple[list[str], str]:
    """The lines with numbers that a benchmark prints, and its complaints."""
    command = [sys.executable, *options, "-m", f"benchmarks.{name}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\b(nan|inf)\b", done.stdout), done.stdout
    return re.findall(r"^.*\d.*$", done.stdout, flags=re.MULTILINE), done.stderr


@pytest.mark.parametrize("name", sorted(OF_ALL))
def test_a_benchmark_prints_numbers(name: str) -> None:
    lines, complaints = run_quick(name, "-W", "error")
    assert any(line.startswith("| ") for line in lines)
    assert complaints == ""


def test_make_bench_runs_all_that_need_no_engine() -> None:
    told = subprocess.run(
        ["make", "-n", "bench", "BENCH_ARGS=--quick"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    [loop] = re.findall(r"for name in ([\w ]+);", told)
    assert set(loop.split()) == OF_ALL
    assert "-m benchmarks.$name --quick" in told
