"""`fairlane gateway` as it is typed: checked before it listens, ready, drained, ended."""

import json
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from fairlane.cli import main
from tests.gateway.site import command, port_of
from tests.loadgen.server import CompletionServer
from tests.processes import PATIENCE_S, started
from tests.simulated.engines import ask, running, wait_until


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_with_an_engine_of_its_own_it_serves_and_ends_in_order(
    number: signal.Signals, status: int
) -> None:
    with command("--simulated", "--speed", "50", "--max-num-seqs", "4") as (process, url):
        [model] = ask(url, "/v1/models").json["data"]
        body = {"model": model["id"], "prompt": "a b", "max_tokens": 5}
        assert ask(url, "/v1/completions", body).status == 200
        clients = "/fairlane/tenants"
        wait_until(lambda: ask(url, clients).json["clients"]["anonymous"]["finished"] == 1)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == status


def test_told_to_stop_it_serves_who_is_here() -> None:
    with running(model="m", speed=5) as engine, command("--upstream", engine.url) as (process, url):
        body = {"model": "m", "prompt": "a", "max_tokens": 300, "ignore_eos": True}
        words = [sys.executable, "-c", _ASK, url, json.dumps(body)]
        with started(*words) as client:
            while not ask(engine.url, "/simulated").json["sequences"]:
                pass
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            assert "draining: 1 requests are under way" in process.stderr.readline()
            assert client.wait(PATIENCE_S) == 0
        assert process.wait(PATIENCE_S) == 0
        assert engine.engine.counts.generation_tokens == 300


def test_it_takes_more_clients_than_files_are_allowed_at_first() -> None:
    few = ("sh", "-c", 'ulimit -Sn 64 && exec "$@"', "sh")
    with (
        running(model="m") as engine,
        command("--upstream", engine.url, shell=few) as (_, url),
        ExitStack() as life,
    ):
        for _ in range(200):
            client = life.enter_context(socket.create_connection(("127.0.0.1", port_of(url))))
            client.settimeout(PATIENCE_S)
            client.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")


_ASK = """
import sys, urllib.request
urllib.request.urlopen(sys.argv[1] + "/v1/completions", sys.argv[2].encode()).read()
"""


def test_a_check_says_what_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with CompletionServer() as upstream:
        Path("fairlane.toml").write_text(
            f'[upstreams.big]\nurl = "{upstream.url}/v1"\n[scheduler]\nname = "fcfs"\n'
            "[weights]\nalice = 2\n"
        )
        with pytest.raises(SystemExit) as end:
            main(["gateway", "--config", "fairlane.toml", "--check"])
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (0, "tiny: big\n")
    assert "the weight of alice is ignored" in printed.err


@pytest.mark.parametrize(
    ("toml", "options", "said"),
    [
        ("", [], "no upstream; name one by --upstream or under [upstreams]"),
        ("", ["--upstream", "http://127.0.0.1:9"], "is it running? Or name what it serves: models"),
        ("", ["--upstream", "ftp://x"], "takes an address such as http://HOST:8000, not 'ftp://x'"),
        ("", ["--upstream", "http://u:p@h"], "holds a password; name a variable"),
        ("", ["--speed", "3"], "--speed is for --simulated"),
        ("", ["--profile", "h200-llama-2-7b"], "--profile is for --simulated"),
        ("", ["--scheduler", "vtcc"], "unknown scheduler 'vtcc'"),
        ("", ["--scheduler", "dlpm"], "dlpm needs to see the prefix cache"),
        ("[scheduler]\npreemption = 'newest'\n", [], "unknown key 'preemption'"),
        ("[upstreams.a]\nmodels = ['m']\n", [], "[upstreams] a: url is missing"),
        ("[upstreams.a]\nurl = 'http://h'\nmodels = []\n", [], "a: models must name one at least"),
        ("[upstreams.a]\nurl = 'http://h'\nweight = 0\n", [], "a: weight must be greater"),
        ("[upstreams.a]\nurl = 'http://h'\nverify = false\n", [], "a: ca and verify are for https"),
        ("[upstreams.a]\nurl = 'https://h'\nca = 'no.pem'\n", [], "a: ca: there is no file"),
        (
            "[upstreams.a]\nurl = 'http://h'\nkey_env = 'NOT_SET'\n",
            [],
            "environment has no NOT_SET",
        ),
        ("[upstreams.a]\nurl = 'http://h'\nwindow = 1\nleast_window = 1\n", [], "window is fixed"),
        ("[upstreams.a]\nurl = 'http://h'\nleast_window = 5\ngreatest_window = 2\n", [], "above"),
        ("[upstreams.a]\nurl = 'http://h'\nwindow = 0\n", [], "a: window must be greater"),
        ("[upstreams.a]\nurl = 'http://h'\nsilence_s = nan\n", [], "a: silence_s must be a finite"),
        ("[upstreams]\na = 'http://h'\n", [], "[upstreams] a: must be a table"),
        ("[gateway]\ntries = 0\n", [], "[gateway] tries must be greater"),
        ("[gateway]\nmax_body = 1\n", [], "[gateway] unknown setting 'max_body'"),
        ('[identity]\nroutes = ["/v1/x"]\n', [], "[identity] routes: add them under [routes]"),
        ("[identity]\nlora = true\n", [], "[identity] lora: the gateway tells clients apart by"),
    ],
)
def test_what_is_wrong_is_one_line_before_it_listens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], toml: str, options: list[str], said: str
) -> None:
    config = tmp_path / "fairlane.toml"
    config.write_text(toml)
    with pytest.raises(SystemExit) as end:
        main(["gateway", "--config", str(config), "--port", "0", *options])
    printed = capsys.readouterr()
    assert (end.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert said in printed.err


def test_an_upstream_that_is_named_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gateway", "--upstream", "http://h:1", "--upstream", "http://h:1"])
    assert "the upstream http://h:1 is there twice" in capsys.readouterr().err
