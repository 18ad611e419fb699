"""`fairlane serve --ray` with direct streaming: vLLM's server behind HAProxy.

The command is started as a user does, with Ray's two variables, and makes a cluster of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Server, configured, free_port, stop, wait_for, write_model

from fairlane.door.tenants import Limits, Role, Tenant, hash_key, new_key

KEYS = {name: new_key() for name in ("alice", "bob", "slow", "root")}
MORE: dict[str, Any] = {"slow": {"limits": Limits(requests_per_minute=1)},
                        "root": {"role": Role.OPERATOR}}  # fmt: skip
COMPLETION = {"model": "tiny", "prompt": "w1 w2 w3 w4", "max_tokens": 6, "ignore_eos": True}
OPTIONS = (
    "--dtype", "float32", "--enforce-eager", "--dummy", "--block-size", "32",
    "--max-model-len", "512", "--max-num-seqs", "4", "--served-model-name", "tiny",
)  # fmt: skip
ENVIRONMENT = {
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # it would listen at a fixed port
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("direct")
    model = write_model(folder / "model")
    tenants = [
        Tenant(name, keys=(hash_key(key),), **MORE.get(name, {})) for name, key in KEYS.items()
    ]
    environment = {**ENVIRONMENT, **configured(folder, tenants)}
    environment["RAY_SERVE_HAPROXY_STATS_PORT"] = str(free_port())
    port, log = free_port(), folder / "server.log"
    command = [sys.executable, "-m", "fairlane", "serve", str(model), "--ray", "--replicas", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), *OPTIONS]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | environment,
        )  # fmt: skip
    try:
        made = Server(process, f"http://127.0.0.1:{port}", log)
        wait_for(made)
        yield made
    finally:
        stop(process)


def ask(server: Server, key: str | None, **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of a completion that says in its body that it is alice's."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    forged = {"vllm_xargs": {"fairlane_client": "alice"}, "user": "alice"}
    status, found, body = server.request("POST", "/v1/completions", COMPLETION | forged, named, key)
    return status, found, body


def test_each_request_is_its_keys_whatever_else_it_says(server: Server) -> None:
    assert ask(server, None)[0] == ask(server, None, X_Fairlane_Client="alice")[0] == 401
    assert server.clients(KEYS["root"]) == {}
    for _ in range(2):
        status, _, body = ask(server, KEYS["bob"], X_Fairlane_Client="alice")
        assert status == 200, body
    charged = {name: row["admissions"] for name, row in server.clients(KEYS["root"]).items()}
    assert charged == {"bob": 2}


def test_each_sees_its_own_and_the_metrics_are_there(server: Server) -> None:
    status, _, body = server.request("GET", "/fairlane/tenants", key=KEYS["alice"])
    assert status == 200
    assert "bob" not in json.loads(body)["clients"]
    _, _, metrics = server.request("GET", "/metrics", key=KEYS["root"])
    assert 'fairlane_client_admissions_total{client="bob"} 2.0' in metrics


def test_a_refusal_says_when_to_come_again(server: Server) -> None:
    assert ask(server, KEYS["slow"])[0] == 200
    status, headers, body = ask(server, KEYS["slow"])
    assert status == 429, body
    assert 0 < int(headers["retry-after"]) <= 60


def test_an_answer_is_streamed(server: Server) -> None:
    body = COMPLETION | {"stream": True}
    status, headers, text = server.request("POST", "/v1/completions", body, key=KEYS["alice"])
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    assert text.count("data: {") >= COMPLETION["max_tokens"]
