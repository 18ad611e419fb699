"""`fairlane bench` as it is typed: tables, JSON, Ctrl-C, and one line for each mistake."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fairlane.cli import main
from fairlane.cli.bench import progress_text
from fairlane.loadgen.errors import OMITTABLE
from fairlane.loadgen.send import Progress
from fairlane.records import read_run
from fairlane.workloads import TracedRequest, write_csv
from tests.loadgen.server import (
    CompletionServer,
    answer_with,
    chunk,
    event,
    hang_up,
    stream_of,
    usage,
)
from tests.processes import PATIENCE_S, started

LATER_S = 3600.0


def write_trace(folder: Path, *arrivals: float) -> str:
    path = folder / "trace.csv"
    write_csv(path, [TracedRequest(i, "ab"[i % 2], at, 8, 4) for i, at in enumerate(arrivals)])
    return str(path)


def run(*arguments: str) -> int:
    """The exit status of `fairlane bench real` with these arguments."""
    with pytest.raises(SystemExit) as ended:
        main(["bench", "real", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_tables_are_printed_and_the_file_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, output = write_trace(tmp_path, 0, 0, 0, 0.01), tmp_path / "run.jsonl"
    with CompletionServer() as server:
        assert run("--trace", trace, "--server", server.url, "--output", str(output)) == 0
    printed = capsys.readouterr()
    for said in (f"real at {server.url}", "throughput (tokens/s)", "TTFT p99", "entitled"):
        assert said in printed.out
    assert "slowdown" not in printed.out
    assert f"wrote {output}" in printed.err
    assert "requests/s of 400 intended" in printed.err
    assert len(read_run(output).records) == 4


def test_json_holds_the_same_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with CompletionServer(faults={4: answer_with(503, "down")}) as server:
        assert run("--trace", write_trace(tmp_path, 0, 0), "--server", server.url, "--json") == 3
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["metrics"]["aborted"] == 2
    assert answer["manifest"]["failures"] == {"aborted: 503": 2}
    assert [client["client"] for client in answer["clients"]] == ["a", "b"]
    assert "2 aborted: 503, the first: down" in printed.err


def test_status_says_whether_anything_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write_trace(tmp_path, 0, 0)
    for refused in (answer_with(429, "no"), answer_with(500, "down"), hang_up):
        with CompletionServer(faults={4: refused}) as server:
            assert run("--trace", trace, "--server", server.url) == 3
        assert "no request finished" in capsys.readouterr().err


def test_one_finished_request_is_a_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    write_csv(trace, [TracedRequest(i, "a", 0.0, 8, 4 + i) for i in range(3)])
    with CompletionServer(faults={4: answer_with(429, "no"), 5: hang_up}) as server:
        assert run("--trace", str(trace), "--server", server.url) == 0
    said = capsys.readouterr().err
    assert "1 rejected: 429, the first: no" in said
    assert "1 aborted: disconnected" in said


def test_fields_are_left_out_and_help_is_offered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"error": {"message": "property 'ignore_eos' is unsupported", "type": "invalid"}}
    faults = {4: answer_with(400, error)}
    with CompletionServer(faults=faults) as server:
        asked = ("--trace", write_trace(tmp_path, 0, 0), "--server", server.url)
        assert run(*asked, "--omit", "min_tokens", "--omit", "temperature") == 3
    assert not {"min_tokens", "temperature"} & set(server.seen[0].body)
    said = capsys.readouterr().err
    assert "2 aborted: 400 invalid, the first: property 'ignore_eos' is unsupported" in said
    assert "warning: the server complains of ignore_eos in 2 answers: --omit ignore_eos" in said


def test_help_names_every_field_and_every_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for said in (*OMITTABLE, "3 if none did", "130 after Ctrl-C"):
        assert said in printed


def test_broken_request_is_imported_as_it_was_asked_for(tmp_path: Path) -> None:
    trace, output = write_trace(tmp_path, 0.0, 0.01), tmp_path / "run.jsonl"
    fault = stream_of(event(chunk()), event(chunk()), event(usage(9, 2)), cut=True)
    with CompletionServer(faults={4: fault}) as server:
        assert run("--trace", trace, "--server", server.url, "--output", str(output)) == 3
    assert [r.output_len for r in read_run(output).records] == [2, 2]
    with pytest.raises(SystemExit) as ended:
        main(["trace", "import", str(output), str(tmp_path / "again.csv")])
    assert ended.value.code == 0
    assert (tmp_path / "again.csv").read_bytes() == Path(trace).read_bytes()


BENCH = (sys.executable, "-m", "fairlane", "bench", "real")


def test_interrupt_writes_a_complete_file_and_exits_130(tmp_path: Path) -> None:
    """Three requests are under way and one is an hour off when Ctrl-C comes."""
    trace, output = write_trace(tmp_path, 0, 0, 0, LATER_S), tmp_path / "run.jsonl"
    with (
        CompletionServer(hold=99) as server,
        started(*BENCH, "--trace", trace, "--server", server.url, "--output", output) as process,
    ):
        server.wait_for(3)
        process.send_signal(signal.SIGINT)
        server.release()
        printed, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert "throughput" in printed
    assert "1 requests were not sent" in said
    assert "interrupted" in said
    assert [r.outcome for r in read_run(output).records] == ["finished"] * 3
    manifest = json.loads(output.with_suffix(".manifest.json").read_text())
    assert (manifest["unsent"], manifest["interrupted"]) == (1, True)


def test_second_interrupt_writes_at_once(tmp_path: Path) -> None:
    trace, output = write_trace(tmp_path, 0, 0, LATER_S), tmp_path / "run.jsonl"
    options = ("--trace", trace, "--output", str(output), "--drain", "0")
    with (
        CompletionServer(hold=99) as server,
        started(*BENCH, *options, "--server", server.url) as process,
    ):
        server.wait_for(2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert [r.reason for r in read_run(output).records] == ["interrupted"] * 2


def test_in_the_background_kill_ends_it_as_ctrl_c_would_and_ctrl_c_is_for_others(
    tmp_path: Path,
) -> None:
    trace, output = write_trace(tmp_path, 0, 0, LATER_S), tmp_path / "run.jsonl"
    background = ("sh", "-c", 'trap "" INT; exec "$@"', "sh", *BENCH)
    with (
        CompletionServer(hold=99) as server,
        started(*background, "--trace", trace, "--server", server.url, "--output", output) as sent,
    ):
        server.wait_for(2)
        sent.send_signal(signal.SIGINT)
        sent.send_signal(signal.SIGTERM)  # the first to count: what is under way may end
        server.release()
        _, said = sent.communicate(timeout=PATIENCE_S)
    assert sent.returncode == 130, said
    assert [r.outcome for r in read_run(output).records] == ["finished"] * 2
    assert "1 requests were not sent" in said


def test_without_aiohttp_the_error_says_what_to_install(tmp_path: Path) -> None:
    hide = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from fairlane.cli import main\n"
        "main(['bench', 'overload', '--server', 'http://127.0.0.1:1'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith("pip install aiohttp")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--server", "http://127.0.0.1:1"), "http://127.0.0.1:1 cannot be reached"),
        (("--server", "localhost:8000"), "--server takes an address such as http://HOST:8000"),
        (("--server", "http://h", "--weights", "1,x"), "--weights takes numbers above 0"),
        ((), "Missing option '--server'"),
    ],
)
def test_mistakes_end_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run("--trace", write_trace(tmp_path, 0), *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_progress_tells_achieved_against_intended() -> None:
    progress = Progress(10.0, 100, 50, 40, 7, 30, 2, 1, 12_340, 0.0042)
    assert progress_text(progress) == (
        "10 s: 4.00 requests/s of 5.00 intended, 40/100 sent, 7 running, 30 finished, 2 rejected, "
        "1 aborted, 1,234 tokens/s, lag 4 ms"
    )
