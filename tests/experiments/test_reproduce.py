"""`reproduce`: real small reproductions, what they leave, and how they go on after an interrupt."""

import csv
import json
import re
import signal
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest

from fairlane.core.errors import FairlaneError
from fairlane.experiments.figures import figures
from fairlane.experiments.reproduce import reproduce
from fairlane.metrics import Table, difference_table, headline, tokens_per_second
from fairlane.records import read_run
from tests.processes import PATIENCE_S, started

TRACE = "client,arrival_s,prompt_len,output_len\n" + "".join(
    f"{i % 5},{0.3 * i:.1f},{20 + i % 7},{30 + i % 11}\n" for i in range(150)
)


class Tags(HTMLParser):
    """Collects tags and checks that they nest."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_self_contained(html: str, pictures: int) -> None:
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert len(tags.images) == pictures
    assert all(image.startswith("data:image/png;base64,") for image in tags.images)
    assert not re.search(r"https?:|[\"'(]//|<script|<link|@import|url\(", html)
    assert 'name="viewport"' in html


def test_a_reproduction_leaves_drawings_numbers_manifest_and_one_report(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = reproduce(
        only=["fig3", "fig9"], runs=2, output=tmp_path, workers=2,
        progress=lambda so_far, total, _label: seen.append((so_far, total)),
    )  # fmt: skip
    assert done.figures == ["fig3", "fig9"]
    assert done.simulated == 6
    assert seen == [(n, 8) for n in range(1, 9)]
    for name in done.figures:
        assert matplotlib.image.imread(tmp_path / f"{name}.png").shape[0] > 300
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert_self_contained(done.report.read_text(encoding="utf-8"), pictures=2)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["figures"]) == ["fig3", "fig9"]
    settings = manifest["figures"]["fig9"]["series"]["VTC"]["settings"]
    assert settings["suite"] == "increase"
    assert settings["charging"] == "step-start"
    assert settings["artifact_lift"] is True
    expected = {"report.html", "manifest.json", "runs"}
    expected |= {f"{name}.{kind}" for name in done.figures for kind in ("png", "pdf", "csv")}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_the_numbers_are_the_metrics_of_the_runs_in_the_manifest(tmp_path: Path) -> None:
    reproduce(only=["fig3"], runs=1, output=tmp_path, workers=1)
    run = figures()["fig3"].sources["VTC"].settings.run()
    want = difference_table(Table.from_records(run.records), run.total_time_s)
    with open(tmp_path / "fig3.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["series"] == "VTC"]
    found = {row["x"]: float(row["median"]) for row in rows if row["x"].endswith(("diff", "var"))}
    assert found == {"max diff": want.max, "avg diff": want.avg, "diff var": want.var}


def test_what_is_there_is_not_simulated_again(tmp_path: Path) -> None:
    assert reproduce(only=["fig9"], runs=1, output=tmp_path, workers=1).simulated == 1
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert reproduce(only=["fig9"], runs=1, output=tmp_path, workers=1).simulated == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    assert reproduce(only=["fig9"], runs=2, output=tmp_path, workers=1).simulated == 1


def test_a_trace_is_used_where_one_is_needed(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(TRACE)
    done = reproduce(only=["fig13"], runs=1, trace=trace, output=tmp_path / "out", workers=1)
    assert "synthesized" not in done.report.read_text(encoding="utf-8")
    source = figures()["fig13"].sources["VTC"].on_trace(str(trace))
    run = source.settings.run()
    with open(tmp_path / "out" / "fig13.csv", encoding="utf-8") as file:
        throughput = {row["series"]: float(row["median"]) for row in csv.DictReader(file)}
    assert throughput["VTC"] == tokens_per_second(Table.from_records(run.records), run.total_time_s)


def test_without_a_trace_the_report_says_that_one_was_synthesized(tmp_path: Path) -> None:
    done = reproduce(only=["fig11"], runs=1, output=tmp_path, workers=1)
    assert "Figure 11: Real trace: response time of four of 27 clients (synthesized trace)" in (
        done.report.read_text(encoding="utf-8")
    )


def test_bad_input_is_refused_before_anything_is_simulated(tmp_path: Path) -> None:
    output = tmp_path / "out"
    trace = tmp_path / "trace.csv"
    trace.write_text(TRACE + "1,nan,5,5\n")
    with pytest.raises(FairlaneError, match="runs must be at least 1"):
        reproduce(runs=0, output=output)
    with pytest.raises(FairlaneError, match="unknown figure 'fig99'"):
        reproduce(only=["fig99"], output=output)
    with pytest.raises(FairlaneError, match="nowhere: not a folder"):
        reproduce(measured=tmp_path / "nowhere", output=output)
    with pytest.raises(FairlaneError, match=r"trace\.csv:152"):
        reproduce(only=["fig13"], trace=trace, output=output)
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FairlaneError, match="cannot be written"):
        reproduce(only=["fig9"], runs=1, output=tmp_path / "file", workers=1)


def test_an_interrupted_reproduction_leaves_nothing_partial_and_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from fairlane.experiments.reproduce import reproduce\n"
        "if __name__ == '__main__':\n"
        "    reproduce(only=['fig9'], runs=16, workers=2)\n"
    )
    runs = tmp_path / "reproduction" / "runs"
    with started(sys.executable, script.name, cwd=tmp_path) as process:
        while not (runs.is_dir() and len(list(runs.glob("*.npz"))) >= 3):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=PATIENCE_S)
    assert "KeyboardInterrupt" in complaint
    files = [path.name for path in (tmp_path / "reproduction").rglob("*") if path.is_file()]
    assert 3 <= len(files) < 16
    assert all(re.fullmatch(r"[0-9a-f]{32}\.npz", name) for name in files)
    done = reproduce(only=["fig9"], runs=16, output=tmp_path / "reproduction")
    assert done.simulated == 16 - len(files)


def test_what_was_measured_stands_beside_with_its_errors(
    tmp_path: Path, reference_dir: Path
) -> None:
    measured = reference_dir / "measured"
    done = reproduce(only=["fig9"], runs=2, measured=measured, output=tmp_path, workers=2)
    file = "VTC/all_results_increase.jsonl"
    want = headline(read_run(measured / file))
    assert {row.metric: row.measured for row in done.errors.rows} == want
    errors = {row.metric: row.error for row in done.errors.rows}
    assert errors["total_time"] == pytest.approx(0, abs=0.01)
    html = done.report.read_text(encoding="utf-8")
    assert_self_contained(html, pictures=1)
    assert file in html
    assert "Errors against the measurements" in html
    with open(tmp_path / "fig9.csv", encoding="utf-8") as numbers:
        assert all(row["measured"] for row in csv.DictReader(numbers) if row["median"])


def test_measured_files_give_the_trace_where_none_is_given(
    tmp_path: Path, reference_dir: Path
) -> None:
    done = reproduce(
        only=["fig11"], runs=1, measured=reference_dir / "measured", output=tmp_path, workers=2
    )
    assert "synthesized" not in done.report.read_text(encoding="utf-8")
    assert {row.file for row in done.errors.rows} == {
        "FCFS/all_results_real.jsonl", "VTC/all_results_real.jsonl"
    }  # fmt: skip
