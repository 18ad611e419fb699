"""Over several seeds numbers become ranges; being alone on a server is no slowdown."""

import math
from pathlib import Path

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.experiments.runs import Range, simulate_runs, summarise_run
from fairlane.experiments.settings import Settings
from fairlane.records import read_run

SHORT = Settings(suite="overload", scheduler="vtc", duration=20)


def test_a_range_is_of_what_is_there() -> None:
    assert Range.of([3.0, math.nan, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert all(math.isnan(value) for value in Range.of([math.nan]))


def test_every_run_is_written_and_counted(tmp_path: Path) -> None:
    report = simulate_runs(SHORT, runs=2, output=tmp_path / "out.jsonl", workers=1)
    runs = [read_run(file) for file in report.files]
    totals = [run.total_time_s for run in runs]
    assert report.metrics["total_time"] == (sum(totals) / 2, min(totals), max(totals))
    assert [run.manifest["seed"] for run in runs] == [0, 1]
    assert report.clients["1"]["requests"].median == 60


def test_a_client_alone_is_not_slowed_down() -> None:
    alone = Settings(suite="overload", scheduler="vtc", duration=60, rates=(0.2, 1e-9), noise=False)
    run = alone.run()
    (client,) = summarise_run(alone, run)
    assert client.slowdown is not None
    assert client.slowdown == pytest.approx((1.0, 1.0, 1.0, 1.0))


def test_being_among_others_is_slower() -> None:
    run = SHORT.run()
    for client in summarise_run(SHORT, run):
        assert client.slowdown is not None
        assert client.slowdown.mean > 1


def test_no_runs_are_an_error() -> None:
    with pytest.raises(FairlaneError, match="runs must be at least 1"):
        simulate_runs(SHORT, runs=0)
