"""Runs survive their files, the artifact's files are read, and bad ones are named."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.errors import FairlaneError
from fairlane.records import (
    RecordError,
    RequestRecord,
    Run,
    manifest_path,
    read_jsonl,
    read_run,
    write_csv,
    write_jsonl,
    write_parquet,
)

seconds = st.floats(0, 1e9)
tokens = st.integers(0, 10**9)
finished = st.builds(
    RequestRecord,
    id=st.integers() | st.text(),
    client=st.text(),
    arrival_s=seconds,
    prompt_len=tokens,
    output_len=tokens,
    ttft_s=seconds,
    latency_s=seconds,
    asked_prompt_len=st.none() | tokens,
    asked_output_len=st.none() | tokens,
    replica=st.none() | tokens,
    token_times_s=st.none() | st.lists(seconds),
)
turned_away = st.builds(
    RequestRecord,
    id=st.integers() | st.text(),
    client=st.text(),
    arrival_s=seconds,
    prompt_len=tokens,
    output_len=tokens,
    outcome=st.sampled_from(["rejected", "aborted"]),
    reason=st.text(),
)
manifests = st.dictionaries(
    st.text().filter(lambda key: key not in ("total_time_s", "request_count")),
    st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.floats(-1e9, 1e9)),
)
ONE = Run({"suite": "overload"}, [RequestRecord(0, "a", 0.5, 7, 3, 0.1, 0.4)], 9.5)
LINE = '{"id": 0, "client": "a", "arrival_s": 0.5, "prompt_len": 7, "output_len": 3'
ENDED = LINE + ', "ttft_s": 0.1, "latency_s": 0.4'


@given(run=st.builds(Run, manifests, st.lists(finished | turned_away), seconds))
def test_jsonl_gives_back_the_run(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("runs") / "run.jsonl"
    write_jsonl(path, run)
    assert read_jsonl(path) == run
    if run.records:
        again = read_run(path)  # counted from the first arrival: no suite made these
        first = min(record.arrival_s for record in run.records)
        assert (again.manifest, again.start_s) == (run.manifest, first)
        arrivals = [record.arrival_s for record in again.records]
        assert min(arrivals) == 0
        assert arrivals == pytest.approx([r.arrival_s - first for r in run.records], abs=1e-6)
        for record, given in zip(again.records, run.records, strict=True):
            assert replace(record, arrival_s=given.arrival_s) == given


@pytest.mark.parametrize(
    ("manifest", "first", "start"),
    [
        ({"suite": "overload"}, 0.65, 0.0),  # the clock began with the suite's clients
        ({"suite": "overload"}, 819_000.0, 819_000.0),  # no suite's clock is so late
        ({"suite": "real"}, 0.65, 0.65),
        ({"suite": "Real"}, 0.65, 0.65),
        ({}, 819_000.0, 819_000.0),
        ({"config": {"mode": "real"}}, 1.7e9, 1.7e9),
    ],
)
def test_a_run_is_counted_from_its_first_arrival_unless_a_suite_began_its_clock(
    tmp_path: Path, manifest: dict[str, Any], first: float, start: float
) -> None:
    records = [
        RequestRecord(0, "a", first, 7, 3, 0.1, 0.4),
        RequestRecord(1, "b", first + 2, 7, 3, 0.1, 0.4),
    ]
    write_jsonl(tmp_path / "run.jsonl", Run(manifest, records, first + 3))
    run = read_run(tmp_path / "run.jsonl")
    assert run.start_s == start
    assert [r.arrival_s for r in run.records] == [first - start, first + 2 - start]
    assert run.total_time_s == first + 3 - start


def test_a_total_time_that_does_not_count_from_the_clock_is_left_alone(tmp_path: Path) -> None:
    record = RequestRecord(0, "a", 1.7e9, 7, 3, 0.1, 0.4)
    write_jsonl(tmp_path / "run.jsonl", Run({}, [record], 9.5))
    assert read_run(tmp_path / "run.jsonl").total_time_s == 9.5


def test_record_keeps_what_was_asked_for_beside_what_came(tmp_path: Path) -> None:
    """In a file only where it differs, so that old files and simulated ones read alike."""
    broken = RequestRecord(0, "a", 0.5, 7, 3, 0.1, 0.4, outcome="aborted")
    assert broken.asked == (7, 3)
    broken.asked_prompt_len, broken.asked_output_len = 6, 5
    assert broken.asked == (6, 5)
    path = tmp_path / "run.jsonl"
    write_jsonl(path, Run({}, [broken, *ONE.records], 9.5))
    first, second = path.read_text().splitlines()
    assert json.loads(first)["asked_output_len"] == 5
    assert json.loads(second) == json.loads(ENDED + ', "outcome": "finished", "reason": ""}')
    assert [record.asked for record in read_run(path).records] == [(6, 5), (7, 3)]


def test_the_manifest_lies_beside_sorted_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.b.jsonl"
    write_jsonl(path, Run({"z": 1, "a": [2]}, ONE.records, 9.5))
    assert manifest_path(path) == tmp_path / "a.b.manifest.json"
    text = manifest_path(path).read_text()
    assert list(json.loads(text).items()) == [
        ("a", [2]), ("request_count", 1), ("total_time_s", 9.5), ("z", 1),
    ]  # fmt: skip


def test_csv_has_one_row_per_request(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    refused = RequestRecord("x", "b\r,", 1.0, 1, 1, outcome="rejected", reason="rate limit\nof 5")
    broken = RequestRecord(2, "a", 2.0, 7, 3, 0.1, 0.4, outcome="aborted", asked_output_len=5)
    write_csv(path, Run({}, [*ONE.records, refused, broken], 9.5))
    with open(path, newline="") as file:
        first, second, third = csv.DictReader(file)
    assert first == {
        "id": "0", "client": "a", "arrival_s": "0.5", "prompt_len": "7", "output_len": "3",
        "ttft_s": "0.1", "latency_s": "0.4", "outcome": "finished", "reason": "",
        "asked_prompt_len": "", "asked_output_len": "", "replica": "",
    }  # fmt: skip
    assert (second["client"], second["ttft_s"]) == ("b\r,", "")
    assert second["reason"] == "rate limit\nof 5"
    assert (third["output_len"], third["asked_output_len"]) == ("3", "5")
    assert manifest_path(path).exists()


def test_parquet_keeps_the_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an optional dependency")
    path = tmp_path / "run.parquet"
    record = RequestRecord(
        "x",
        "b",
        1.0,
        1,
        2,
        0.5,
        0.75,
        asked_output_len=9,
        replica=3,
        token_times_s=[0.5, 0.75],
    )
    write_parquet(path, Run({}, [*ONE.records, record], 9.5))
    rows = parquet.read_table(path).to_pylist()
    assert [row["id"] for row in rows] == ["0", "x"]
    assert [row["token_times_s"] for row in rows] == [None, [0.5, 0.75]]
    assert rows[1]["latency_s"] == 0.75
    assert [row["asked_output_len"] for row in rows] == [None, 9]
    assert [row["replica"] for row in rows] == [None, 3]


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FairlaneError, match="pip install pyarrow"):
        write_parquet(tmp_path / "run.parquet", ONE)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        (LINE + "}", "ttft_s must be seconds >= 0, not None"),
        (LINE + ', "ttft_s": 0.1}', "latency_s must be seconds >= 0, not None"),
        (ENDED + ', "latncy_s": 3}', "unknown field 'latncy_s'"),
        ('{"id": 0, "client": "a", "arrival_s": 0.5, "prompt_len": 7}', "no field 'output_len'"),
        (ENDED.replace("0.5", "NaN") + "}", "NaN is not a number"),
        (ENDED.replace("0.5", "-0.5") + "}", "arrival_s must be seconds >= 0, not -0.5"),
        (ENDED.replace("0.5", '"0.5"') + "}", "arrival_s must be seconds >= 0, not '0.5'"),
        (ENDED.replace("0.5", "1e999") + "}", "arrival_s must be seconds >= 0, not inf"),
        (ENDED.replace("7", "7.5") + "}", "prompt_len must be a whole number >= 0, not 7.5"),
        (ENDED.replace("7", "true") + "}", "prompt_len must be a whole number >= 0, not True"),
        (ENDED.replace(": 3", ": -3") + "}", "output_len must be a whole number >= 0, not -3"),
        (ENDED.replace('"a"', "5") + "}", "client must be a string"),
        (ENDED.replace('"id": 0', '"id": null') + "}", "id must be a whole number or a string"),
        (ENDED + ', "outcome": "lost"}', "outcome must be one of finished, rejected, aborted"),
        (ENDED + ', "token_times_s": [-1]}', "token_times_s must be seconds >= 0, not -1"),
        (ENDED + ', "token_times_s": 5}', "token_times_s must be a list of seconds"),
        (ENDED + ', "replica": -1}', "replica must be a whole number >= 0, not -1"),
        (ENDED + ', "replica": true}', "replica must be a whole number >= 0, not True"),
        (ENDED + ', "asked_output_len": -5}', "asked_output_len must be a whole number >= 0"),
        (ENDED + ', "asked_prompt_len": "5"}', "asked_prompt_len must be a whole number >= 0"),
    ],
)
def test_malformed_lines_are_named_by_file_and_line(
    tmp_path: Path, line: str, complaint: str
) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(f"{ENDED}}}\n\n{line}\n")
    for read in (read_jsonl, read_run):
        with pytest.raises(RecordError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}:3: {complaint}")


def test_a_run_needs_its_own_manifest(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(f"{ENDED}}}\n")
    with pytest.raises(RecordError, match=r"run\.manifest\.json: cannot be read .* beside it"):
        read_run(path)
    for broken in ("{", "[]", "{}", "\ufeff", '{"request_count": 1, "total_time_s": -1}'):
        manifest_path(path).write_text(broken)
        with pytest.raises(RecordError, match="not the manifest of this run"):
            read_run(path)
    manifest_path(path).write_text('{"request_count": 2, "total_time_s": 1}')
    with pytest.raises(RecordError, match="says 2 requests, beside it are 1"):
        read_run(path)


def test_files_that_hold_nothing_readable(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with pytest.raises(RecordError, match=r"run\.jsonl: cannot be read \(no such file"):
        read_run(path)
    path.write_text("\n")
    with pytest.raises(RecordError, match="holds no requests"):
        read_run(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="not a text file in UTF-8"):
        read_run(path)


def artifact(*responses: dict[str, Any], **changes: Any) -> str:
    sums = {"total_time": 80.0, "num_abort": 0, "throughput": 1.0, "responses": list(responses)}
    return json.dumps({"config": {"mode": "uniform"}, "result": {**sums, **changes}})


SERVED = {
    "adapter_dir": "dummy-lora-7b-rank-8-13", "prompt_len": 256, "output_len": 128,
    "request_latency": 9.5, "first_token_latency": 1.5, "req_time": 0.25,
}  # fmt: skip
DROPPED = {**SERVED, "request_latency": -1, "first_token_latency": -1, "adapter_dir": "x-2"}


def test_the_artifacts_runs_are_read_with_their_traps(tmp_path: Path) -> None:
    path = tmp_path / "all_results.jsonl"
    path.write_text(artifact(SERVED, DROPPED) + "\n")
    run = read_run(path)
    assert run.records == [
        RequestRecord(0, "13", 0.25, 256, 128, 1.5, 9.5),
        RequestRecord(1, "2", 0.25, 256, 128, outcome="aborted"),
    ]
    assert run.total_time_s == 80.0
    assert run.manifest == {
        "source": "artifact",
        "config": {"mode": "uniform"},
        "reported": {"num_abort": 0, "throughput": 1.0},
    }


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (artifact({**SERVED, "adapter_dir": "lora"}), ":1: response 0: no client number in"),
        (artifact({**SERVED, "req_time": -3}), ":1: response 0: req_time must be seconds"),
        (artifact({**SERVED, "prompt_len": None}), ":1: response 0: prompt_len must be a whole"),
        (artifact({**SERVED, "first_token_latency": -1}), ":1: response 0: FTL must be seconds"),
        (artifact({"adapter_dir": "x-1"}), ":1: no field 'req_time'"),
        (artifact(responses=5), ":1: not a result of the artifact"),
        (artifact(total_time=None), ":1: total_time must be seconds"),
        (artifact(SERVED) + "\n" + artifact(SERVED), ": holds several experiments"),
    ],
)
def test_malformed_results_of_the_artifact(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "all_results.jsonl"
    path.write_text(content)
    with pytest.raises(RecordError) as caught:
        read_run(path)
    assert str(caught.value).startswith(f"{path}{complaint}")


def test_all_measured_files_are_read(reference_dir: Path) -> None:
    aborted = {}
    for path in (reference_dir / "measured").rglob("*.jsonl"):
        run = read_run(path)
        assert run.records
        aborted[path.parent.name] = sum(r.outcome == "aborted" for r in run.records)
    assert aborted["rpm10"] == 600
    assert sum(aborted.values()) == 600


def test_a_failed_write_leaves_the_good_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_jsonl(path, ONE)
    before = {file: file.read_text() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_jsonl(path, Run({}, [*ONE.records, RequestRecord(1, "a", float("nan"), 1, 1)]))
    assert {file: file.read_text() for file in tmp_path.iterdir()} == before
