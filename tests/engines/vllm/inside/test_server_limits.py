"""What limits take and give back, and what refusals say, on a real server."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from serving import CONTENDED, PLUGIN, Server, running, write_model

from fairlane.door.tenant_file import change_tenants
from fairlane.door.tenants import Limits, Role, Tenant, Tenants, hash_key, new_key
from tests.processes import wait_until

KEYS = {name: new_key() for name in ("alice", "small", "one", "root")}
PAGE = "https://page.example"
TOKENS = 1_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that pages of one origin may ask."""
    folder = tmp_path_factory.mktemp("server")
    limits = {"small": Limits(tokens_per_minute=TOKENS), "one": Limits(requests_per_minute=1)}
    roles = {"root": Role.OPERATOR}
    everyone = {
        name: Tenant(
            name,
            role=roles.get(name, Role.CLIENT),
            limits=limits.get(name, Limits()),
            keys=(hash_key(key),),
        )
        for name, key in KEYS.items()
    }
    change_tenants(folder / "tenants.toml", lambda _: Tenants(everyone))
    (folder / "fairlane.toml").write_text('tenants = "tenants.toml"\n')
    environment = {"FAIRLANE_CONFIG": str(folder / "fairlane.toml"), "VLLM_SERVER_DEV_MODE": "1"}
    options = (*PLUGIN, "--allowed-origins", json.dumps([PAGE]), "--allow-credentials")
    model = write_model(tmp_path_factory.mktemp("model"), **CONTENDED)
    with running(model, folder, options, environment) as made:
        yield made


def remaining(server: Server) -> int:
    """What small has left, rounded down to a hundred: a second gives 17."""
    headers = server.request("GET", "/v1/models", key=KEYS["small"])[1]
    return int(headers["x-ratelimit-remaining-tokens"]) // 100 * 100


def figures(server: Server, name: str) -> dict[str, Any]:
    found: dict[str, Any] = server.clients(KEYS["root"]).get(name, {})
    return found


@contextmanager
def sent(server: Server, name: str, body: dict[str, Any]) -> Iterator[http.client.HTTPConnection]:
    """A streaming completion that is under way; its sender hangs up at the end of the block."""
    host, port = server.address
    connection = http.client.HTTPConnection(host, port, timeout=120)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEYS[name]}"}
    data = {"model": "tiny", "ignore_eos": True, "stream": True, **body}
    connection.request("POST", "/v1/completions", json.dumps(data), headers)
    try:
        yield connection
    finally:
        connection.close()


def prompt(seed: int) -> list[int]:
    """400 tokens that no cache holds yet."""
    return [5 + (seed + i * (seed + 1)) % 400 for i in range(400)]


def test_a_prompt_that_was_hung_up_while_it_was_queued_costs_nothing(server: Server) -> None:
    with sent(server, "alice", {"prompt": [[7 + i] for i in range(8)], "max_tokens": 500}):
        wait_until(lambda: figures(server, "alice"), lambda f: f.get("running") == 8, "it is full")
        for number in range(4):
            with sent(server, "small", {"prompt": prompt(number), "max_tokens": 4}):
                wait_until(
                    lambda: figures(server, "small"), lambda f: f.get("queued") == 1, "it waits"
                )
                assert remaining(server) <= TOKENS - 300
            wait_until(lambda: figures(server, "small"), lambda f: not f["queued"], "it is gone")
            wait_until(lambda: remaining(server), lambda left: left == TOKENS, "it is given back")
        assert figures(server, "small")["input_tokens"] == 0
    wait_until(lambda: figures(server, "alice"), lambda f: not f["running"], "alice is gone")


def test_a_prompt_that_the_server_refuses_costs_nothing(server: Server) -> None:
    wait_until(lambda: remaining(server), lambda left: left == TOKENS, "all is there")
    for body in ({"prompt": prompt(9) * 2}, {"prompt": [10**9] * 400}, {"prompt": "w1 " * 900}):
        status = server.request(
            "POST", "/v1/completions", {"model": "tiny", **body}, key=KEYS["small"]
        )[0]
        assert status == 400
        assert remaining(server) == TOKENS


def test_a_prompt_that_was_read_is_charged_and_less_where_it_was_cached(server: Server) -> None:
    wait_until(lambda: remaining(server), lambda left: left == TOKENS, "all is there")
    before = figures(server, "small")
    with sent(server, "small", {"prompt": prompt(20), "max_tokens": 100}) as connection:
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: {")
    wait_until(lambda: figures(server, "small"), lambda f: not f["running"], "it is gone")
    assert figures(server, "small")["input_tokens"] - before["input_tokens"] == 400
    left = remaining(server)
    assert left <= TOKENS - 300
    body = {"model": "tiny", "prompt": prompt(20), "max_tokens": 1}
    assert server.request("POST", "/v1/completions", body, key=KEYS["small"])[0] == 200
    after = figures(server, "small")
    assert after["cached_tokens"] - before["cached_tokens"] == 384  # twelve blocks of 32
    assert remaining(server) >= left - 100  # 16 + 38 + 1


def test_refusals_can_be_read_by_a_page_of_the_servers_origins(server: Server) -> None:
    body = {"model": "tiny", "prompt": "w1", "max_tokens": 1}
    wrong = [
        ("POST", "/v1/completions", new_key(), 401),
        ("POST", "/sleep", KEYS["alice"], 403),
        ("POST", "/v1/x", KEYS["alice"], 404),
        ("POST", "/v1/completions", KEYS["one"], 200),
        ("POST", "/v1/completions", KEYS["one"], 429),
        ("GET", "/fairlane/tenants", KEYS["alice"], 200),
    ]
    for method, path, key, status in wrong:
        sends = body if method == "POST" else None
        found, headers, _ = server.request(method, path, sends, {"Origin": PAGE}, key)
        assert found == status
        assert headers["access-control-allow-origin"] == PAGE
        assert headers["access-control-allow-credentials"] == "true"
    other = {"Origin": "https://elsewhere.example"}
    found, headers, _ = server.request("POST", "/v1/completions", body, other, new_key())
    assert (found, "access-control-allow-origin" in headers) == (401, False)
    ask = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    assert server.request("OPTIONS", "/v1/completions", None, ask)[0] == 200


def test_only_what_the_router_has_is_for_operators(server: Server) -> None:
    paths = json.loads(server.request("GET", "/openapi.json")[2])["paths"]
    assert "/sleep" in paths
    closed = 0
    for path in paths.keys() - {"/metrics"}:
        status = server.request("PUT", path.replace("{response_id}", "x"), {}, key=KEYS["alice"])[0]
        assert status in (403, 405), path
        closed += status == 403
    assert closed > 5
    for path in (
        "//v1/completions", "/v1/completions/", "/v1/completion", "/V1/completions", "/v1//models",
        "/v1/./completions", "/x/../v1/completions", "/v1%252Fcompletions", "/", "/v1",
        "//sleep", "/sleep/", "/SLEEP", "/x/../sleep", "/sleep%2F", "/sleep;x", "/%2Fsleep",
        "/v1/models/../../sleep", "/v1/responses/../../sleep",
    ):  # fmt: skip
        for method in ("GET", "POST"):
            status = server.request(method, path, {}, key=KEYS["alice"])[0]
            assert status == 404, (method, path, status)
    assert server.request("POST", "/%73leep", {}, key=KEYS["alice"])[0] == 403
    assert server.request("GET", "/is_sleeping", key=KEYS["root"])[1]["content-type"]
    assert json.loads(server.request("GET", "/is_sleeping", key=KEYS["root"])[2]) == {
        "is_sleeping": False
    }


def test_an_unknown_path_tells_nothing_without_a_key(server: Server) -> None:
    for path in ("/sleep", "/v1/x", "//v1/completions"):
        assert server.request("POST", path, {})[0] == 401
