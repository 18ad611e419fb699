"""Nobody can act as another on a real server: forged fields on every route that it has."""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from serving import PLUGIN, Server, running, write_model

from fairlane.door.tenant_file import change_tenants
from fairlane.door.tenants import Limits, Role, Tenant, Tenants, hash_key, new_key
from tests.dashboard.looking import viewer
from tests.processes import STANDSTILL_S, wait_until

KEYS = {name: new_key() for name in ("alice", "bob", "gate", "root", "small", "one")}
FORGED: dict[str, Any] = {
    "vllm_xargs": {"fairlane_client": "bob", "client": "bob"},
    "extra_args": {"fairlane_client": "bob"},
    "extra_body": {"fairlane_client": "bob"},
    "fairlane_client": "bob",
    "client": "bob",
    "user": "bob",
    "priority": -1000,
    "session_id": "bob",
    "request_id": "bob",
    "cache_salt": "bob",
    "safety_identifier": "bob",
}
FORGED_HEADERS = {
    "X-Request-Id": "bob",
    "X-Session-ID": "bob",
    "X-Vllm-Priority": "-1000",
    "X-Fairlane-Client": "bob",
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-User": "bob",
}
SAY: Any = [{"role": "user", "content": "w1 w2"}]
AB = {"a": None, "b": None}
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/completions": [
        {"prompt": "w1"},
        {"prompt": [5, 6, 7]},
        {"prompt": ["w1", "w2"], "n": 2},
        {"prompt": "w1", "use_beam_search": True, "n": 2},
        {"prompt": "w1", "stream": True},
        {"prompt": "w1", "echo": True, "max_tokens": 0, "logprobs": 1},
    ],
    "/v1/chat/completions": [
        {"messages": SAY},
        {"messages": SAY, "n": 3},
        {"messages": SAY, "use_beam_search": True, "n": 2},
        {"messages": SAY, "stream": True},
    ],
    "/v1/chat/completions/batch": [{"messages": [SAY, SAY]}],
    "/v1/responses": [{"input": "w1", "max_output_tokens": 4}],
    "/v1/messages": [{"messages": SAY}, {"messages": SAY, "stream": True}],
    "/invocations": [{"prompt": "w1"}, {"messages": SAY}],
    "/inference/v1/generate": [
        {"token_ids": [5, 6], "sampling_params": {"max_tokens": 4, "extra_args": FORGED}},
    ],
    "/generative_scoring": [{"query": "w1", "items": ["w2", "w3"], "label_token_ids": [5, 6]}],
    "/v1/systemone": [{"state": "w1", "questions": {"q": {"type": "choice", "criteria": AB}}}],
}  # fmt: skip
REACH_THE_ENGINE = set(BODIES) - {"/v1/systemone"}  # it needs a tokenizer that knows A and B
OPEN = {"/health", "/ping", "/version", "/metrics"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    tenants = [
        Tenant("alice", keys=(hash_key(KEYS["alice"]),)),
        Tenant("bob", keys=(hash_key(KEYS["bob"]),)),
        Tenant("gate", role=Role.GATEWAY, keys=(hash_key(KEYS["gate"]),)),
        Tenant("root", role=Role.OPERATOR, keys=(hash_key(KEYS["root"]),)),
        Tenant("small", limits=Limits(2, 1000), keys=(hash_key(KEYS["small"]),)),
        Tenant("one", limits=Limits(max_running=1), keys=(hash_key(KEYS["one"]),)),
    ]
    everyone = Tenants({tenant.name: tenant for tenant in tenants})
    change_tenants(folder / "tenants.toml", lambda _: everyone)
    (folder / "fairlane.toml").write_text('tenants = "tenants.toml"\n')
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = write_model(tmp_path_factory.mktemp("model"))
    return made


@pytest.fixture(scope="module")
def server(model: Path, folder: Path) -> Iterator[Server]:
    environment = {
        "FAIRLANE_CONFIG": str(folder / "fairlane.toml"),
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    }
    options = (*PLUGIN, "--enable-scale-out", "--enable-lora", "--max-lora-rank", "8")
    with running(model, folder, options, environment) as server:
        yield server


def arrivals(server: Server) -> dict[str, int]:
    """Requests that reached the scheduler, by client."""
    clients = server.clients(KEYS["root"])
    return {name: client.get("arrivals", 0) for name, client in clients.items()}


def account(server: Server, name: str) -> dict[str, Any]:
    found: dict[str, Any] = server.clients(KEYS["root"])[name]
    return found


def routes(server: Server) -> dict[str, list[str]]:
    """The methods of each route of /openapi.json."""
    paths = json.loads(server.request("GET", "/openapi.json")[2])["paths"]
    return {path: [method.upper() for method in methods] for path, methods in paths.items()}


def test_forged_fields_on_every_route(server: Server) -> None:
    before = arrivals(server)
    reached = set()
    for path, methods in routes(server).items():
        for method in methods:
            for body in BODIES.get(path, [{}]) if method == "POST" else [None]:
                count = arrivals(server).get("alice", 0)
                sent = body if body is None else {"model": "tiny", "max_tokens": 4} | FORGED | body
                url = path.replace("{response_id}", "resp_bob")
                server.request(method, url, sent, FORGED_HEADERS, KEYS["alice"])
                if arrivals(server).get("alice", 0) > count:
                    reached.add(path)
    after = arrivals(server)
    assert reached >= REACH_THE_ENGINE
    assert {n for n in after if after[n] != before.get(n, 0)} == {"alice"}


def test_without_a_key_no_route_but_the_open_ones_answers(server: Server) -> None:
    before = arrivals(server)
    for path, methods in routes(server).items():
        for method in methods:
            for body in BODIES.get(path, [{}]) if method == "POST" else [None]:
                sent = body if body is None else {"model": "tiny", "max_tokens": 4} | FORGED | body
                url = path.replace("{response_id}", "resp_bob")
                for key in (None, new_key()):
                    status = server.request(method, url, sent, FORGED_HEADERS, key)[0]
                    assert (status == 401) is (path not in OPEN), (method, path, status)
    assert arrivals(server) == before


def test_routes_that_control_the_server_are_closed_to_clients(server: Server) -> None:
    known = routes(server)
    control = {
        "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/collective_rpc", "/sleep",
        "/reset_prefix_cache", "/abort_requests", "/inference/v1/abort_requests", "/server_info",
    }  # fmt: skip
    assert control & set(known), known
    for path in control:
        for key in ("alice", "gate"):
            assert server.request("POST", path, {}, key=KEYS[key])[0] == 403
            assert server.request("GET", path, key=KEYS[key])[0] == 403


def test_the_openai_client_and_its_errors(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEYS["small"], max_retries=0)
    said = client.chat.completions.create(model="tiny", messages=SAY, max_tokens=4)
    assert said.usage is not None
    assert said.usage.completion_tokens == 4
    chunks = list(client.completions.create(model="tiny", prompt="w1", max_tokens=4, stream=True))
    assert chunks
    with pytest.raises(openai.RateLimitError) as limited:
        client.completions.create(model="tiny", prompt="w1")
    assert limited.value.code == "rate_limit_exceeded"
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 30
    assert limited.value.response.headers["x-ratelimit-limit-requests"] == "2"
    wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key=new_key(), max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_a_gateway_names_its_clients(server: Server) -> None:
    body = {"model": "tiny", "prompt": "w1", "max_tokens": 2}
    before = arrivals(server)
    for name in ("zoe", "日本", "a/b"):
        header = {"X-Fairlane-Client": name.encode().decode("latin-1")}
        assert server.request("POST", "/v1/completions", body, header, KEYS["gate"])[0] == 200
    after = arrivals(server)
    assert {n for n in after if after[n] != before.get(n, 0)} == {"zoe", "日本", "a%2Fb"}


def has_arrivals(count: int, figures: dict[str, Any]) -> bool:
    return bool(figures["arrivals"] >= count)


def test_one_at_a_time_with_many_samples_and_clients_that_leave(server: Server) -> None:
    body = {"model": "tiny", "prompt": "w1", "max_tokens": 8, "n": 5}
    with ThreadPoolExecutor(4) as pool:
        statuses = pool.map(
            lambda _: server.request("POST", "/v1/completions", body, key=KEYS["one"])[0], range(4)
        )
        assert list(statuses) == [200] * 4
    before = account(server, "one")
    long = {"model": "tiny", "prompt": "w1", "max_tokens": 480, "ignore_eos": True, "n": 3}
    for number in range(3):
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEYS['one']}"}
        connection.request("POST", "/v1/completions", json.dumps(long | {"stream": True}), headers)
        has_come = partial(has_arrivals, before["arrivals"] + number + 1)
        wait_until(lambda: account(server, "one"), has_come, "the first sample")
        connection.close()  # while two samples wait for their turns
    assert server.request("POST", "/v1/completions", body, key=KEYS["one"])[0] == 200
    after = account(server, "one")
    assert after["output_tokens"] - before["output_tokens"] < 3 * 480  # none went on to its end
    assert after["arrivals"] - before["arrivals"] == 3 + 5  # those whose turn had come


def test_metrics_for_operators(server: Server) -> None:
    stock = server.request("GET", "/metrics")[2]
    text = server.request("GET", "/metrics", key=KEYS["root"])[2]
    assert "vllm:" in stock or "python_info" in stock
    assert "fairlane_" not in stock
    assert 'fairlane_client_service_total{client="alice"}' in text
    assert 'fairlane_client_rejections_total{client="small",reason="requests_per_minute"}' in text


def test_a_revoked_key_and_a_new_weight_hold_at_once(server: Server, folder: Path) -> None:
    body = {"model": "tiny", "prompt": "w1", "max_tokens": 2}
    file = folder / "tenants.toml"
    key = new_key()
    change_tenants(file, lambda t: t.with_tenant(Tenant("new", 5.0, keys=(hash_key(key),))))
    assert server.request("POST", "/v1/completions", body, key=key)[0] == 200
    seen = json.loads(server.request("GET", "/fairlane/tenants", key=key)[2])
    assert seen["clients"]["new"]["weight"] == 5.0
    change_tenants(file, lambda t: t.without_key(hash_key(key).id))
    assert server.request("POST", "/v1/completions", body, key=key)[0] == 401


def test_the_page_shows_it_live_until_the_server_ends(server: Server) -> None:
    """The last test here, for it ends the server: no answer without an end holds that up."""
    _, port = server.address
    assert server.request("GET", "/fairlane/")[0] == 200
    assert server.request("GET", "/fairlane/live")[0] == 401
    with viewer(port, KEYS["root"]) as operator:
        assert operator.hello["host"] == "vllm"
        assert operator.frame["difference"]["bound"] > 0
        before = operator.rows["alice"]["requests"]
        server.stream({"prompt": "w1 w2", "max_tokens": 20}, KEYS["alice"])
        operator.until(lambda it: it.rows["alice"]["requests"] == before + 1)
        operator.until(lambda it: it.rows["alice"]["ttft_p50"] is not None)
        assert operator.rows["alice"]["ttft_p50"] < 60
        server.process.terminate()
        assert operator.ends()
    assert server.process.wait(STANDSTILL_S) is not None
    assert "Traceback" not in server.log.read_text()[-2000:]
