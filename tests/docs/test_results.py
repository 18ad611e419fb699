"""What docs/results.md says was measured is what the data in results/h200 say."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tables_and_figures_are_made_of_the_data(tmp_path: Path) -> None:
    page, data = tmp_path / "results.md", tmp_path / "h200"
    shutil.copy(ROOT / "docs" / "results.md", page)
    shutil.copytree(ROOT / "results" / "h200", data)
    for figure in data.glob("*.png"):
        figure.unlink()

    tool = [sys.executable, "-m", "tools.h200_results"]
    subprocess.run([*tool, "--output", str(data), "--page", str(page)], cwd=ROOT, check=True)

    assert page.read_text() == (ROOT / "docs" / "results.md").read_text()
    assert (data / "fig3.png").exists()


def test_the_real_trace_is_not_among_the_data() -> None:
    assert not list((ROOT / "results").rglob("real-*.jsonl"))
