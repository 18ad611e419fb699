"""What docs/results.md says was measured is what the data in results/ say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("tool", "folder", "figure"),
    [
        ("h200_results", "h200", "fig3.png"),
        ("gateway_results", "gateway", "window.png"),
        ("cluster_results", "cluster", "service.png"),
    ],
)
def test_the_tables_and_figures_are_made_of_the_data(
    tmp_path: Path, tool: str, folder: str, figure: str
) -> None:
    page, data = tmp_path / "results.md", tmp_path / folder
    shutil.copy(ROOT / "docs" / "results.md", page)
    shutil.copytree(ROOT / "results" / folder, data)
    for drawn in data.glob("*.png"):
        drawn.unlink()

    command = [sys.executable, "-m", f"tools.{tool}", "--output", str(data), "--page", str(page)]
    subprocess.run(command, cwd=ROOT, check=True)

    assert page.read_text() == (ROOT / "docs" / "results.md").read_text()
    assert (data / figure).exists()


def test_the_real_trace_is_not_among_the_data() -> None:
    assert not list((ROOT / "results").rglob("real-*.jsonl"))
