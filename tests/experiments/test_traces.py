"""Traces as experiments read them: from their first arrival on, cut, fitted, and told of."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.experiments.compare import compare
from fairlane.experiments.demo import demonstrate
from fairlane.experiments.plotting import plot_runs
from fairlane.experiments.runs import simulate_runs
from fairlane.experiments.settings import Settings
from fairlane.experiments.traces import import_trace, read_requests
from fairlane.metrics import headline
from fairlane.records import Run, manifest_path, read_run, write_jsonl
from fairlane.workloads import info

HEADER = "client,arrival_s,prompt_len,output_len\n"
LATE_S = 819_000
LONG = f"{HEADER}x,5,20,20\ny,6,20,20\nx,3000,4000,10\n"


@pytest.fixture
def requests_csv(tmp_path: Path) -> Path:
    """Forty requests in twenty seconds; the clock begins at 0."""
    rows = [f"{'abb'[i % 3]},{i * 0.5:.3f},{64 + i},{32 + i}" for i in range(40)]
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


def later(path: Path, seconds: int = LATE_S) -> Path:
    """The same trace by a clock that began so many seconds before."""
    lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
    moved = [",".join((c, f"{float(at) + seconds:.3f}", p, o)) for c, at, p, o in lines]
    late = path.with_name("late.csv")
    late.write_text(HEADER + "\n".join(moved) + "\n")
    return late


def real(path: Path, **options: Any) -> Settings:
    return Settings(**{"suite": "real", "scheduler": "vtc", "trace": str(path), **options})


def move_clock(file: Path, seconds: float) -> None:
    """Rewrite a result file and its manifest as if the clock had begun so much before."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["arrival_s"] += seconds
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = json.loads(manifest_path(file).read_text())
    manifest["total_time_s"] += seconds
    manifest_path(file).write_text(json.dumps(manifest))


@pytest.mark.parametrize("seconds", [LATE_S, 1_700_000_000])
def test_a_late_clock_changes_nothing_but_the_manifest(requests_csv: Path, seconds: int) -> None:
    late = later(requests_csv, seconds)
    for options in ({}, {"duration": 7.0}, {"rate_scale": 4.0, "duration": 3.0}):
        plain, moved = real(requests_csv, **options).run(), real(late, **options).run()
        assert moved.records == plain.records
        assert headline(moved) == headline(plain)
        assert (plain.manifest["trace_start_s"], moved.manifest["trace_start_s"]) == (0.0, seconds)
    assert info(read_requests(str(late)).requests) == info(
        read_requests(str(requests_csv)).requests
    )


@pytest.mark.parametrize("suite", ["real", "overload"])
def test_a_result_file_with_a_late_clock_is_counted_from_its_first_arrival(
    tmp_path: Path, requests_csv: Path, suite: str
) -> None:
    settings = real(requests_csv) if suite == "real" else Settings(
        suite=suite, scheduler="vtc", duration=20
    )  # fmt: skip
    run = settings.run()
    file = tmp_path / "late.jsonl"
    write_jsonl(file, run)
    first = run.records[0].arrival_s
    move_clock(file, LATE_S)
    read = read_run(file)
    assert read.records[0].arrival_s == 0
    assert headline(read)["throughput"] == pytest.approx(
        headline(run)["throughput"] * run.total_time_s / (run.total_time_s - first)
    )
    drawn = plot_runs({"late": read}).axes[0]
    assert drawn.dataLim.x1 < 200
    again = real(file).run()
    assert again.manifest["trace_start_s"] == pytest.approx(LATE_S + first)
    assert again.records[-1].arrival_s == pytest.approx(run.records[-1].arrival_s - first)
    notes = import_trace(str(file), tmp_path / "out.csv")
    assert notes[0].startswith(f"{file}: counted from its first arrival, at 819,000")
    assert read_requests(str(tmp_path / "out.csv")).start_s == 0


def test_a_suites_own_run_is_replayed_at_its_very_times(tmp_path: Path) -> None:
    """Bit for bit: the first arrival of a suite is not the beginning of its clock."""
    suite = Settings(suite="overload", scheduler="vtc", duration=20)
    write_jsonl(tmp_path / "run.jsonl", suite.run())
    assert [r.arrival_s for r in real(tmp_path / "run.jsonl").requests()] == [
        r.arrival_s for r in suite.requests()
    ]
    import_trace(str(tmp_path / "run.jsonl"), tmp_path / "out.csv")
    assert read_requests(str(tmp_path / "out.csv")).requests[0].arrival_s == 0


def test_a_measurement_with_a_late_clock_is_compared_without_it(tmp_path: Path) -> None:
    for folder, at in (("plain", 0.0), ("late", float(LATE_S))):
        responses = [
            {"adapter_dir": f"lora-{i % 2}", "prompt_len": 64, "output_len": 32, "req_time": at + i,
             "request_latency": 1.5, "first_token_latency": 0.1}
            for i in range(8)
        ]  # fmt: skip
        result = {"total_time": at + 9, "num_abort": 0, "responses": responses}
        file = tmp_path / folder / "VTC" / "all_results_real.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"config": {"mode": "real"}, "result": result}) + "\n")
    plain, late = (compare(tmp_path / f, runs=1, workers=1).rows for f in ("plain", "late"))
    assert late == plain
    assert {row.metric: row.measured for row in late}["total_time"] == 9


def test_one_request_has_no_rate_and_harms_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "one.csv"
    trace.write_text(f"{HEADER}x,1700000000.5,20,20\n")
    report = simulate_runs(real(trace))
    assert report.metrics["throughput"].median == pytest.approx(
        40 / report.metrics["total_time"].median
    )
    plot_runs({"one": real(trace).run()})
    done = demonstrate(trace=str(trace), output=tmp_path / "demo.html", workers=1, live=False)
    outcome = done.outcomes["A trace of 1 clients"][0]
    assert outcome.service == pytest.approx({"x": 60.0})


def test_duration_cuts_before_lengths_are_checked(tmp_path: Path) -> None:
    trace = tmp_path / "long.csv"
    trace.write_text(LONG)
    assert len(real(trace, duration=10).requests()) == 2
    with pytest.raises(FairlaneError) as caught:
        real(trace).requests()
    assert str(caught.value).startswith(
        f"{trace}:4: prompt_len + output_len is 4010, and at most 3070 tokens fit "
        "(1 of 3 requests are too long)"
    )


@pytest.mark.parametrize(
    ("too_long", "lengths", "key"),
    [
        ("drop", [(20, 20), (20, 20)], "trace_dropped"),
        ("clip", [(20, 20), (20, 20), (2046, 10)], "trace_clipped"),
    ],
)
def test_what_is_too_long_is_dropped_or_clipped_and_counted(
    tmp_path: Path, too_long: str, lengths: list[tuple[int, int]], key: str
) -> None:
    trace = tmp_path / "long.csv"
    trace.write_text(LONG)
    said: list[str] = []
    output = tmp_path / "run.jsonl"
    simulate_runs(real(trace, too_long=too_long), output=output, say=said.append)
    run = read_run(output)
    assert [(r.prompt_len, r.output_len) for r in run.records] == lengths
    assert (run.manifest["too_long"], run.manifest[key]) == (too_long, 1)
    assert f"{trace}: 1 of 3 requests too long, {too_long}ped" in said
    fitting = real(trace, duration=10, too_long=too_long)
    assert fitting.run().manifest[key] == 0


def test_a_trace_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "long.csv"
    trace.write_text(f"{HEADER}x,5,4000,20\nx,6,4000,20\n")
    with pytest.raises(FairlaneError, match=r"long\.csv:2: .*none of the trace is left"):
        real(trace, too_long="drop").requests()
    with pytest.raises(FairlaneError, match="'cut': known: clip, drop, refuse"):
        real(trace, too_long="cut").requests()


def test_a_result_file_without_requests_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text('{"config": {}, "result": {"responses": [], "total_time": 1}}\n')
    with pytest.raises(FairlaneError, match=r"empty\.jsonl: holds no requests"):
        read_requests(str(path))


def test_a_trace_whose_first_request_is_dropped_begins_with_its_second(tmp_path: Path) -> None:
    trace = tmp_path / "long.csv"
    trace.write_text(f"{HEADER}x,5,4000,20\nx,3000,20,20\nx,3001,20,20\n")
    run = real(trace, too_long="drop").run()
    assert [r.arrival_s for r in run.records] == [0.0, 1.0]
    assert run.manifest["trace_start_s"] == 3000


def test_import_fits_a_trace_into_a_memory(tmp_path: Path) -> None:
    trace = tmp_path / "long.csv"
    trace.write_text(LONG)
    with pytest.raises(FairlaneError, match=r"long\.csv:4: .* at most 4000 tokens fit"):
        import_trace(str(trace), tmp_path / "out.csv", memory_tokens=4000)
    with pytest.raises(FairlaneError, match="give --memory-tokens"):
        import_trace(str(trace), tmp_path / "out.csv", too_long="drop")
    assert not (tmp_path / "out.csv").exists()
    import_trace(str(trace), tmp_path / "out.csv", memory_tokens=4000, too_long="clip")
    assert read_requests(str(tmp_path / "out.csv")).requests[2].prompt_len == 3999


def test_rows_of_a_public_trace_are_read_once_their_columns_are_named(
    tmp_path: Path, reference_dir: Path
) -> None:
    source = reference_dir / "traces" / "azure_conv.csv"
    with pytest.raises(FairlaneError, match=r"azure_conv\.csv:1: no column client.*names TIMESTAM"):
        read_requests(str(source))
    rows = [line.split(",") for line in source.read_text().splitlines()[1:301]]
    trace = tmp_path / "azure.csv"
    trace.write_text(
        "client, arrival_s, prompt_len, output_len\n"
        + "".join(
            f"c{i % 3}, {datetime.fromisoformat(at).timestamp():.6f}, {prompt}.0, {output}\n"
            for i, (at, prompt, output) in enumerate(rows)
        )
    )
    vllm = real(trace, profile="h200-llama-2-7b", too_long="drop")
    run = vllm.run()
    assert {record.outcome for record in run.records} == {"finished"}
    assert len(run.records) + run.manifest["trace_dropped"] == 300
    assert run.manifest["trace_dropped"] == sum(int(p) + int(o) > 4096 for _, p, o in rows)


def test_old_manifests_with_weights_by_position_are_read(tmp_path: Path) -> None:
    run = Settings(suite="overload", scheduler="vtc", duration=5, weights=(1.0, 2.0)).run()
    assert run.manifest["weights"] == {"0": 1.0, "1": 2.0}
    old = Run({**run.manifest, "weights": [1.0, 2.0]}, run.records, run.total_time_s)
    write_jsonl(tmp_path / "old.jsonl", old)
    assert read_run(tmp_path / "old.jsonl").records == run.records
    assert replace(real(tmp_path / "old.jsonl"), weights=(2.0, 1.0)).run().records
