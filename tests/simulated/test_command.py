"""`fairlane simulated-engine` as it is typed: ready, measured, ended; one line for each mistake."""

import signal

import pytest

from fairlane.addresses import listen, url_of
from fairlane.cli import main
from tests.processes import PATIENCE_S
from tests.simulated.engines import ask, in_process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_end_it_in_order(number: signal.Signals, status: int) -> None:
    with in_process("--speed", "50", "--model", "mine") as (process, url):
        answer = ask(url, "/v1/completions", {"model": "mine", "prompt": "a", "max_tokens": 3})
        assert answer.json["usage"]["completion_tokens"] == 3
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == status


def test_bench_measures_it(capsys: pytest.CaptureFixture[str]) -> None:
    with in_process("a10g-llama-2-7b", "--speed", "100") as (_, url):
        with pytest.raises(SystemExit) as ended:
            main(["bench", "overload", "--server", url, "--duration", "60", "--time-scale", "0.01"])
        told = ask(url, "/simulated").json
    assert ended.value.code == 0
    assert "throughput (tokens/s)" in capsys.readouterr().out
    assert told["ended"] == {"length": told["sequences"]}
    assert told["sequences"] > 50


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("h200-llama",), "unknown profile 'h200-llama': did you mean"),
        (("missing.toml",), "missing.toml: cannot be read"),
        (("--speed", "0"), "speed must be greater than 0"),
        (("--scheduler", "vtc-oracle"), "needs true output lengths"),
        (("a10g-llama-2-7b", "--max-num-seqs", "4"), "admits by memory alone"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1:8001"),
        (("--port", "70000"), "Invalid value for '--port'"),
    ],
)
def test_mistakes_are_told_before_it_listens(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulated-engine", *arguments])
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert complaint in said.err


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = url_of(taken).rsplit(":", 1)[1]
        with pytest.raises(SystemExit) as ended:
            main(["simulated-engine", "--port", port])
    assert ended.value.code == 2
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in capsys.readouterr().err
