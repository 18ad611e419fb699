"""The command as a user runs it: answers on standard output, complaints in one line, exit codes."""

import csv
import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fairlane
from fairlane.cli import main
from tests.processes import PATIENCE_S, started

TRACE = "client,arrival_s,prompt_len,output_len\na,0.0,16,8\nb,0.5,32,4\na,1.0,16,8\n"


COMMAND = (sys.executable, "-m", "fairlane")


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)."""
    with started(*COMMAND, *arguments, cwd=folder) as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output, errors


@pytest.fixture
def fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command that must fail, in this process to save time; gives its one line."""
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        output, errors = capsys.readouterr()
        assert (end.value.code, output) == (2, "")
        assert errors.startswith("fairlane: ")
        assert errors.count("\n") == 1
        return errors

    return run_here


def answer(folder: Path, *arguments: str) -> str:
    code, output, errors = run(folder, *arguments)
    assert code == 0, errors
    return output


def parsed(folder: Path, *arguments: str) -> Any:
    return json.loads(answer(folder, *arguments, "--json"))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return path


def test_version_and_help(tmp_path: Path) -> None:
    assert answer(tmp_path, "--version") == f"fairlane {fairlane.__version__}\n"
    output = answer(tmp_path, "--help")
    for command in ("demo", "schedulers", "simulate", "reproduce", "compare", "plot", "trace"):
        assert command in output
        assert f"fairlane {command}" in answer(tmp_path, command, "--help")


def test_lists(tmp_path: Path) -> None:
    schedulers = {row["name"]: row for row in parsed(tmp_path, "schedulers")}
    assert schedulers["vtc"]["aliases"] == ["vtc_fair"]
    assert {"fcfs", "vtc-predict", "vtc-oracle", "lcf", "rpm", "drr"} < schedulers.keys()
    suites = {row["name"]: row for row in parsed(tmp_path, "suites")}
    assert suites["overload"]["figures"] == ["fig3"]
    assert suites["real"]["needs_trace"]
    profiles = {row["name"]: row for row in parsed(tmp_path, "profiles")}
    assert profiles["a10g-llama-2-7b"]["memory_tokens"] == 10000
    assert profiles["a10g-llama-2-7b"]["provenance"]["source"]
    for command in ("schedulers", "suites", "profiles"):
        names = [row["name"] for row in parsed(tmp_path, command)]
        lines = answer(tmp_path, command).splitlines()
        assert [line.split()[0] for line in lines[1:]] == names


def test_lists_start_without_numpy() -> None:
    script = (
        "import sys, fairlane.cli\n"
        "try:\n    fairlane.cli.main(['schedulers'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print(sorted({'numpy', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    with started(sys.executable, "-c", script) as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == "[]"


def test_simulate_writes_rows_and_a_manifest_with_all_settings(tmp_path: Path) -> None:
    arguments = ("simulate", "overload", "--duration", "20", "--scheduler", "vtc", "--artifact")
    report = parsed(tmp_path, *arguments, "--output", "out.jsonl", "--seed", "3", "--no-noise")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert len(rows) == manifest["request_count"] == 90
    for name, value in {
        "suite": "overload",
        "scheduler": "vtc",
        "duration": 20.0,
        "artifact_lift": True,
        "charging": "step-start-and-finish",
        "seed": 3,
        "noise": False,
        "workload_seed": 42,
    }.items():
        assert manifest[name] == report["settings"][name] == value
    assert manifest["server"]["memory_tokens"] == 10000
    assert report["files"] == ["out.jsonl"]
    clients = {row["client"]: row for row in report["clients"]}
    assert clients["1"]["requests"] == {"median": 60, "low": 60, "high": 60}
    assert clients["1"]["ttft_mean"]["median"] > 0
    assert clients["1"]["slowdown_mean"]["median"] > 1
    assert 0 < clients["0"]["share"]["median"] < 1


def test_simulate_formats(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name in ("out.csv", "out.parquet"):
        answer(tmp_path, "simulate", "overload", "--duration", "5", "--output", name)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["client"] for row in rows] == (
        parquet.read_table(tmp_path / "out.parquet").column("client").to_pylist()
    )
    answer(tmp_path, "simulate", "overload", "--duration", "5", "--output", "o", "--format", "csv")
    assert (tmp_path / "o").read_bytes() == (tmp_path / "out.csv").read_bytes()


def test_simulate_several_seeds_gives_ranges_and_a_file_each(tmp_path: Path) -> None:
    arguments = ("simulate", "overload", "--duration", "30", "--runs", "3", "--workers", "2")
    report = parsed(tmp_path, *arguments, "--output", "out.jsonl")
    assert report["files"] == [f"out.seed{seed}.jsonl" for seed in range(3)]
    total = report["metrics"]["total_time"]
    assert total["low"] < total["median"] < total["high"]
    single = parsed(tmp_path, *arguments[:4], "--seed", "1")["metrics"]["total_time"]["median"]
    assert total["low"] <= single <= total["high"]
    assert "[" in answer(tmp_path, *arguments)


def test_simulate_with_every_option_of_the_schedulers(tmp_path: Path, trace: Path) -> None:
    short = ("simulate", "overload", "--duration", "10", "--scheduler")
    answer(tmp_path, *short, "rpm", "--rate-limit", "5")
    answer(tmp_path, *short, "vtc_oracle", "--predict-range", "0.5", "--cost", "quadratic")
    answer(tmp_path, *short, "vtc", "--weights", "1,2", "--rates", "2,2", "--cold-start", "1")
    answer(tmp_path, *short, "lcf", "--profile", "a100-llama-2-13b", "--memory-tokens", "65000")
    report = parsed(tmp_path, "simulate", "real", "--trace", trace.name)
    assert [row["client"] for row in report["clients"]] == ["a", "b"]


def test_simulate_a_cluster(tmp_path: Path) -> None:
    flood = ("simulate", "overload", "--duration", "60", "--rates", "4,4", "--weights", "4,1")
    cluster = (*flood, "--replicas", "2", "--reach", "1=0.5", "--router", "random")
    alone = parsed(tmp_path, *cluster, "--exchange", "off")
    shared = parsed(tmp_path, *cluster, "--exchange", "0.2", "--guard", "0.1", "--max-debt", "4e4")
    assert shared["settings"]["cluster"] == {
        "replicas": 2, "router": "random", "reach": [["1", 0.5]], "exchange": 0.2, "guard": 0.1,
        "max_debt": 4e4,
    }  # fmt: skip
    of_alone, of_shared = (report["clients"][0]["share"]["median"] for report in (alone, shared))
    assert of_alone > of_shared + 0.05
    assert [row["replica"] for row in shared["replicas"]] == ["0", "1"]
    home = max(shared["replicas"], key=lambda row: row["service of 1"]["median"])
    assert sum(row["requests"]["median"] for row in shared["replicas"]) == 480
    assert home["service of 1"]["median"] == shared["clients"][1]["service"]["median"]
    table = answer(tmp_path, *cluster, "--output", "run.jsonl")
    assert "largest difference while two wait at every replica" in table
    assert "replica  requests" in table
    records = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert {record["replica"] for record in records} == {0, 1}
    answer(tmp_path, "plot", "run.jsonl", "--by-replica", "--output", "run.pdf")
    assert (tmp_path / "run.pdf").read_bytes().startswith(b"%PDF")


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'summary = "made up"\nmemory_tokens = 5000\n'
        "[decode]\nconstant_ms = 10.0\nper_context_token_us = 1.0\n"
        "[prefill]\npoints_ms = [[0, 5.0], [1000, 100.0]]\n"
    )
    answer(
        tmp_path, "simulate", "overload", "--duration", "5", "--profile", "mine.toml",
        "--output", "x.jsonl",
    )  # fmt: skip
    server = json.loads((tmp_path / "x.manifest.json").read_text())["server"]
    assert (server["profile"], server["memory_tokens"]) == ("mine", 5000)


def test_profile_cost_fits_and_the_simulator_takes_it(tmp_path: Path) -> None:
    truth = {"prompt": 0.2, "output_linear": 30.0, "cross": 0.01, "output_square": 0.002}
    rows = ["phase,prompt_len,output_len,seconds,batch"]
    for x in (16, 64, 256):
        rows.append(f"prefill,{x},,{4 * (truth['prompt'] * x + 5.0) / 1e3},4")
        for y in (16, 128, 512):
            decode = (30.0 + 0.01 * x) * y + 0.002 * y * y
            rows.append(f"decode,{x},{y},{decode / 1e3},1")
            rows.append(f"request,{x},{y},{(decode + truth['prompt'] * x + 5.0) / 1e3},1")
    (tmp_path / "times.csv").write_text("\n".join(rows) + "\n")
    fit = parsed(tmp_path, "profile-cost", "times.csv", "--output", "cost.toml")
    assert fit["cost"] == pytest.approx({**truth, "constant": 5.0}, rel=1e-6)
    assert fit["r_squared"] == pytest.approx(1.0)
    answer(tmp_path, "profile-cost", "times.csv", "--output", "cost.json")
    assert json.loads((tmp_path / "cost.json").read_text())["cost"] == fit["cost"]
    report = parsed(tmp_path, "simulate", "overload", "--duration", "5", "--cost", "cost.toml")
    assert report["clients"][0]["service"]["median"] > 30 * 256
    answer(tmp_path, "profile-cost", "--profile", "a10g-llama-2-7b", "--batch", "8")


def test_traces(tmp_path: Path) -> None:
    answer(tmp_path, "trace", "synthesize", "made.csv", "--duration", "60", "--clients", "5")
    found = parsed(tmp_path, "trace", "info", "made.csv")
    assert (found["requests"], len(found["clients"])) == (210, 5)
    answer(tmp_path, "trace", "import", "made.csv", "again.csv")
    assert parsed(tmp_path, "trace", "info", "again.csv") == {**found, "start_s": 0.0}
    answer(tmp_path, "simulate", "real", "--trace", "made.csv", "--output", "run.jsonl")
    answer(tmp_path, "trace", "import", "run.jsonl", "replayed.csv")
    assert (tmp_path / "replayed.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    assert "per minute" in answer(tmp_path, "trace", "info", "made.csv")


class _Call:
    """Pickled, it asks whoever reads it to write a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (Path("done.txt"), "ran")


def test_a_pickle_is_read_without_running_what_it_asks_for(
    tmp_path: Path, fail: Callable[..., str]
) -> None:
    (tmp_path / "real_trace.pkl").write_bytes(pickle.dumps([_Call()]))
    errors = fail("trace", "import", "real_trace.pkl", "trace.csv")
    assert errors.startswith("fairlane: real_trace.pkl: asks for pathlib")
    assert [path.name for path in tmp_path.iterdir()] == ["real_trace.pkl"]


def test_plot_and_demo(tmp_path: Path, trace: Path) -> None:
    answer(tmp_path, "simulate", "overload", "--duration", "20", "--output", "run.jsonl")
    answer(tmp_path, "plot", "run.jsonl", "--output", "run.pdf")
    assert (tmp_path / "run.pdf").read_bytes().startswith(b"%PDF")
    demo = parsed(tmp_path, "demo", "--trace", trace.name, "--workers", "1", "--no-gateway")
    two_clients = {row["scheduler"]: row for row in next(iter(demo["outcomes"].values()))}
    vtc, fcfs = two_clients["VTC"], two_clients["FCFS"]
    assert vtc["max_difference"] < vtc["bound"] == 40000 < fcfs["max_difference"]
    assert vtc["throughput"] == pytest.approx(fcfs["throughput"], rel=0.02)
    html = (tmp_path / "fairlane-demo.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert "http" not in html


def test_compare_prints_rows_and_nothing_else(tmp_path: Path, reference_dir: Path) -> None:
    (tmp_path / "VTC").mkdir()
    name = "VTC/all_results_increase.jsonl"
    (tmp_path / name).symlink_to(reference_dir / "measured" / name)
    (tmp_path / "all_results_strange.jsonl").write_text("{}\n")
    rows = parsed(tmp_path, "compare", "--measured", ".", "--runs", "2", "--workers", "1")
    assert [row["metric"] for row in rows] == [
        "total_time",
        "throughput",
        "mean_first_token_latency",
        "mean_request_latency",
        "max_accumulated_service_difference",
        "mean_accumulated_service_difference",
        "table_max_difference",
        "table_average_difference",
        "aborted",
    ]
    for row in rows:
        keys = ["file", "metric", "measured", "simulated", "low", "high", "error"]
        assert list(row) == keys
        assert row["file"] == name
        if row["measured"]:
            error = (row["simulated"] - row["measured"]) / row["measured"]
            assert row["error"] == pytest.approx(error)
    code, output, errors = run(tmp_path, "compare", "--measured", ".", "--runs", "1")
    assert code == 0
    assert "held out" in output
    assert "skipped all_results_strange.jsonl" in errors


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("simulate overlaod", "unknown suite 'overlaod': did you mean overload or"),
        ("simulate overload --scheduler vct", "unknown scheduler 'vct': did you mean vtc?"),
        ("simulate overload --profile a10g", "unknown profile 'a10g': "),
        ("simulate overload --charging now", "unknown charging 'now': known: delivery"),
        ("simulate overload --cost cubic", "unknown cost 'cubic': known: linear, quadratic"),
        ("simulate overload --format xml", "unknown format 'xml': known: csv, jsonl, parquet"),
        ("simulate overload --weights 1,2,3", "3 weights for 2 clients: give one each"),
        ("simulate overload --weights 1,-2", "--weights takes numbers above 0"),
        ("simulate overload --rate-limit 5", "not rate_limit"),
        ("simulate overload --duration nan", "duration must be a finite number, not nan"),
        (
            "simulate overload --cold-start -1",
            "first_prefill_delay_s must be greater than or equal",
        ),
        ("simulate overload --rate-scale 1e9", "requests are more than the 10,000,000"),
        ("simulate shared-prefix --rate-scale 1e11", "requests are more than the 10,000,000"),
        ("simulate arena --rate-scale 1e11", "requests are more than the 10,000,000"),
        ("trace synthesize s.csv --duration 1e300", "requests are more than the 10,000,000"),
        ("simulate overload --duration 1e308", "requests are more than the 10,000,000"),
        ("simulate real --trace .", ".: cannot be read (is a directory)"),
        (
            "simulate overload --memory-tokens 300",
            "request 540 of client 1: prompt_len + output_len is 512, and at most 265",
        ),
        ("simulate real", "suite real needs a trace"),
        ("simulate overload --router random", "router: acts between --replicas"),
        ("simulate overload --guard 0.1", "guard: acts between --replicas"),
        ("simulate overload --replicas 2 --exchange now", "--exchange takes seconds, off or cent"),
        ("simulate overload --replicas 2 --exchange -1", "exchange must be seconds, off or centr"),
        ("simulate overload --replicas 2 --reach 1", "--reach takes CLIENT=PART with commas"),
        ("simulate overload --replicas 2 --router ring", "unknown router 'ring': "),
        ("simulate overload --replicas 2 --router prefix", "router prefix: no request says"),
        ("simulate overload --replicas 2 --scheduler drr --exchange 1", "keeps no charges to shar"),
        ("simulate overload --trace trace.csv", "suite overload takes no trace: real does"),
        ("simulate overload --too-long drop", "too-long is for a trace"),
        ("simulate overload --format csv", "format csv: nothing is written without an output"),
        ("simulate overload --runs 2 --no-noise", "without noise every seed gives the same run"),
        ("simulate overload --scheduler fcfs --artifact", "scheduler fcfs lifts nobody"),
        ("simulate overload --weights 1_0,2", "--weights takes numbers above 0"),
        ("simulate overload --rates 1_0,2", "--rates takes numbers above 0"),
        ("simulate real --trace trace.csv --weights a=1,z=2", "weights for z, who sends nothing"),
        ("trace import trace.csv made.csv --too-long drop", "give --memory-tokens"),
        ("demo --too-long drop", "too-long is for a trace"),
        ("demo --seconds 5", "--seconds is for --live"),
        ("demo --live --trace trace.csv", "--trace is not for --live"),
        ("demo --live --no-gateway", "--gateway is not for --live"),
        ("reproduce --only fig3 --trace trace.csv", "none of these figures is of a trace"),
        ("plot x.jsonl x.jsonl", "x.jsonl: named twice"),
        ("profile-cost trace.csv --batch 4", "--batch is for --profile"),
        ("simulate overload --output trace.csv/x.jsonl", "trace.csv/x.jsonl: cannot be written"),
        ("simulate overload --bogus", "No such option: --bogus"),
        ("simulate", "Missing argument 'suite'; see fairlane simulate --help"),
        ("smulate", "No such command 'smulate'"),
        ("plot nothing.jsonl", "nothing.jsonl: cannot be read (no such file or directory)"),
        ("plot trace.csv", "trace.csv:1: not JSON"),
        ("trace info nothing.csv", "nothing.csv: cannot be read"),
        ("trace import trace.csv made.csv --memory-tokens 20", "trace.csv:2: prompt_len + outp"),
        ("trace synthesize made.csv --clients 9999", "cannot be spread over 9999 clients"),
        ("compare --measured nowhere", "nowhere: not a folder"),
        ("compare --measured .", "no result files like VTC/all_results_overload.jsonl"),
        ("reproduce --only fig99", "unknown figure 'fig99': did you mean"),
        ("profile-cost", "give either a CSV file of times or --profile"),
        ("profile-cost trace.csv", "trace.csv:1: no column phase, seconds"),
        ("demo --trace nothing.csv", "nothing.csv: cannot be read"),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path, trace: Path, fail: Callable[..., str], arguments: str, complaint: str
) -> None:
    assert complaint in fail(*arguments.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.csv"]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("a,-1.0,16,8", "arrival_s must be seconds >= 0, not -1.0"),
        ("a,nan,16,8", "arrival_s must be a number, not 'nan'"),
        ("a,0.1,16,8", "arrival_s 0.1 is before the one above; sort by it"),
        ("a,2.0,16,4000", "prompt_len + output_len is 4016, and at most 3070 tokens fit"),
        ("a,2.0,16,x", "output_len must be a whole number, not 'x'"),
        ("a,2.0,16", "not as many fields as the first line names"),
    ],
)
def test_a_bad_trace_is_named_by_file_and_line_and_nothing_is_overwritten(
    tmp_path: Path, trace: Path, fail: Callable[..., str], row: str, complaint: str
) -> None:
    trace.write_text(f"{TRACE}{row}\n")
    old = tmp_path / "old.jsonl"
    old.write_text("kept\n")
    errors = fail("simulate", "real", "--trace", "trace.csv", "--output", "old.jsonl")
    assert errors.startswith(f"fairlane: trace.csv:5: {complaint}")
    assert old.read_text() == "kept\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.jsonl", "trace.csv"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("not JSON", "run.jsonl:2: not JSON"),
        ('{"id": 1}', "run.jsonl:2: no field 'client'"),
        (
            '{"id": 1, "client": "a", "arrival_s": NaN, "prompt_len": 1, "output_len": 1}',
            "run.jsonl:2: NaN is not a number",
        ),
        (
            '{"id": 1, "client": "a", "arrival_s": -1, "prompt_len": 1, "output_len": 1}',
            "run.jsonl:2: arrival_s must be seconds >= 0, not -1",
        ),
    ],
)
def test_a_malformed_result_file_is_named_by_line(
    tmp_path: Path, fail: Callable[..., str], line: str, complaint: str
) -> None:
    answer(tmp_path, "simulate", "overload", "--duration", "2", "--output", "run.jsonl")
    path = tmp_path / "run.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    assert fail("plot", "run.jsonl").startswith(f"fairlane: {complaint}")
    assert not (tmp_path / "fairlane.png").exists()


def test_a_complaint_is_on_standard_error_and_exits_with_2(tmp_path: Path) -> None:
    code, output, errors = run(tmp_path, "simulate", "overlaod")
    assert (code, output) == (2, "")
    assert errors.startswith("fairlane: unknown suite 'overlaod': did you mean overload or")


def test_an_interrupt_ends_with_130_and_leaves_no_half_file(tmp_path: Path) -> None:
    many = ("simulate", "overload", "--runs", "500", "--workers", "1", "--output", "out.jsonl")
    with started(*COMMAND, *many, cwd=tmp_path) as process:
        while not (tmp_path / "out.seed1.jsonl").exists():
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output, errors) == (130, "", "fairlane: interrupted\n")
    for path in tmp_path.iterdir():
        assert not path.name.endswith(".partial")
        if path.suffix == ".jsonl":
            assert path.read_text().count("\n") == 1620


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    script = f"{sys.executable} -m fairlane suites | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("name")
    assert done.stderr == ""
