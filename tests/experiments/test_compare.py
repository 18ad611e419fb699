"""Files laid out like the artifact's are compared; others are skipped with a reason."""

import json
import shutil
from pathlib import Path

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.experiments.catalogue import Experiment
from fairlane.experiments.compare import Comparison, Row, compare, error_medians
from fairlane.experiments.settings import Settings

RPM = "LShare/rpm10/all_results_real.jsonl"
INCREASE = "VTC/all_results_increase.jsonl"


def artifact_file(path: Path, **config: object) -> None:
    """A small result file as the artifact writes them: client 0 sends one request."""
    response = {
        "adapter_dir": "dummy-lora-7b-rank-8-0",
        "prompt_len": 16,
        "output_len": 2,
        "request_latency": 0.1,
        "first_token_latency": 0.05,
        "req_time": 0.5,
    }
    result = {"total_time": 0.6, "num_abort": 0, "responses": [response]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"config": config, "result": result}) + "\n")


@pytest.fixture
def measured(tmp_path: Path, reference_dir: Path) -> Path:
    for name in (RPM, INCREASE):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(reference_dir / "measured" / name, tmp_path / name)
    return tmp_path


def test_measured_and_simulated_side_by_side(measured: Path) -> None:
    seen: list[str] = []
    comparison = compare(
        measured, runs=3, workers=1, progress=lambda done, total, _: seen.append(f"{done}/{total}")
    )
    assert seen == [f"{n}/6" for n in range(1, 7)]
    assert comparison.skipped == {}
    rows = {(row.file, row.metric): row for row in comparison.rows}
    assert len(rows) == 2 * 9
    for row in rows.values():
        assert row.low <= row.simulated <= row.high
    aborted = rows[RPM, "aborted"]
    assert (aborted.measured, aborted.simulated, aborted.error) == (600, 600, 0.0)
    total = rows[INCREASE, "total_time"]
    assert total.measured == pytest.approx(660.695, abs=0.001)
    assert total.error == pytest.approx((total.simulated - total.measured) / total.measured)
    assert total.error is not None
    assert abs(total.error) < 0.005
    latency = rows[INCREASE, "mean_first_token_latency"].error
    assert latency is not None
    assert abs(latency) < 0.06


def test_the_cold_start_is_an_option(measured: Path) -> None:
    def latency(cold_start_s: float) -> float:
        rows = compare(measured, runs=1, workers=1, cold_start_s=cold_start_s).rows
        return next(
            row.simulated
            for row in rows
            if (row.file, row.metric) == (INCREASE, "mean_first_token_latency")
        )

    assert latency(60.0) > latency(0.0) + 1


def test_copies_and_strangers_are_skipped_with_a_reason(tmp_path: Path) -> None:
    artifact_file(tmp_path / "VTC/all_results_a.jsonl", mode="a")
    artifact_file(tmp_path / "all_results_a.jsonl", mode="a")
    artifact_file(tmp_path / "WVTC/all_results_b.jsonl", mode="b")
    artifact_file(tmp_path / "MINE/all_results_c.jsonl", mode="c")
    (tmp_path / "FCFS").mkdir()
    (tmp_path / "FCFS/all_results_d.jsonl").write_text("{}\nnot JSON\n")
    comparison = compare(tmp_path, runs=1, workers=1)
    assert {row.file for row in comparison.rows} == {"VTC/all_results_a.jsonl"}
    assert "assumed" in comparison.experiments[0].note
    skipped = comparison.skipped
    assert skipped["all_results_a.jsonl"] == "the same as VTC/all_results_a.jsonl"
    assert (
        skipped["WVTC/all_results_b.jsonl"]
        == "4 weights for 1 clients: give one each, to 0, or NAME=NUMBER"
    )
    assert skipped["MINE/all_results_c.jsonl"] == "no settings known for this name"
    assert "FCFS/all_results_d.jsonl:1:" in skipped["FCFS/all_results_d.jsonl"]


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FairlaneError, match="no result files like"):
        compare(tmp_path)
    with pytest.raises(FairlaneError, match="not a folder"):
        compare(tmp_path / "missing")
    with pytest.raises(FairlaneError, match="runs must be at least 1"):
        compare(tmp_path, runs=0)


def test_medians_leave_out_fitted_files() -> None:
    settings = Settings(suite="overload", scheduler="vtc")
    files = [Experiment("a", settings, fitted=True), Experiment("b", settings)]
    rows = [
        Row("a", "total_time", 100.0, 110.0, 110.0, 110.0, 0.1),
        Row("b", "total_time", 100.0, 80.0, 70.0, 100.0, -0.2),
        Row("b", "aborted", 0.0, 1.0, 1.0, 1.0, None),
    ]
    total, aborted = error_medians(Comparison(rows, files, {}))
    assert total.all_files == pytest.approx(0.15)
    assert total.files == 2
    assert (total.held_out, total.held_out_files) == (0.2, 1)
    assert total.in_range == 1
    assert aborted.files == 0
