"""The middleware over real sockets: who is who, who may what, and what is told to whom."""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.door.access import Access
from fairlane.door.config import Configuration
from fairlane.door.tenants import Role, new_key
from tests.engines.identity.site import CLIENT_KEY, Engine, Server, Town, running
from tests.processes import PATIENCE_S


@pytest.fixture
def town(tmp_path: Path) -> Town:
    town = Town(tmp_path)
    for name in ("alice", "bob"):
        town.add(name)
    town.add("gate", role=Role.GATEWAY)
    town.add("root", role=Role.OPERATOR)
    return town


FORGED = {CLIENT_KEY: "bob"}


def test_the_key_says_who_it_is_whatever_else_is_sent(town: Town) -> None:
    with running(town.access()) as server:
        bodies: tuple[dict[str, Any], ...] = (
            {},
            {"vllm_xargs": FORGED},
            {"vllm_xargs": {**FORGED, "other": 1}, "user": "bob"},
            {"vllm_xargs": FORGED, "n": 3},
            {"vllm_xargs": FORGED, "pool": True},
            {"model": "bob"},
        )
        for body in bodies:
            status, _, clients = server.send(
                town.keys["alice"],
                body,
                X_Fairlane_Client="bob",
                X_Request_Id="bob",
                X_Session_ID="bob",
                X_Forwarded_User="bob",
            )
            assert status == 200
            assert set(clients) == {"alice"}
            assert len(clients) == body.get("n", 1)
        assert server.send(None, {}, x_api_key=town.keys["bob"])[2] == ["bob"]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "missing_api_key"),
        ({"Authorization": "Bearer " + new_key()}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer"}, 401, "invalid_api_key"),
        ({"Authorization": "Basic YWxpY2U6"}, 401, "invalid_api_key"),
        ({"x-api-key": "alice"}, 401, "invalid_api_key"),
        ({"x-api-key": ""}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer " + "x" * 9_000}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer sch\xfcssel"}, 401, "invalid_api_key"),
        ({"X-Fairlane-Client": "alice"}, 401, "missing_api_key"),
    ],
)
def test_without_a_right_key_nothing_reaches_the_engine(
    town: Town, headers: dict[str, str | bytes], status: int, code: str
) -> None:
    with running(town.access()) as server:
        found, answered, text = server.request("POST", "/v1/completions", headers, {})
        assert (found, json.loads(text)["error"]["code"]) == (status, code)
        assert answered["www-authenticate"] == "Bearer"
        assert server.engine.clients == []


def test_a_wrong_key_is_not_anonymous(town: Town) -> None:
    with running(town.access(identity={"anonymous": "guest"})) as server:
        assert server.send(None)[2] == ["guest"]
        assert server.send(new_key())[0] == 401
        assert server.engine.clients == ["guest"]


def test_two_keys_or_a_repeated_header_are_refused(town: Town) -> None:
    alice, bob = town.keys["alice"], town.keys["bob"]
    with running(town.access()) as server:
        status, _, answer = server.send(alice, x_api_key=bob)
        assert (status, answer["error"]["code"]) == (400, "two_api_keys")
        assert server.send(alice, x_api_key=alice)[2] == ["alice"]
        status, text = raw(
            server,
            f"Authorization: Bearer {alice}\r\nAuthorization: Bearer {bob}\r\n",
        )
        assert (status, "repeated_header" in text) == (400, True)
        gate = town.keys["gate"]
        status, text = raw(
            server,
            f"Authorization: Bearer {gate}\r\nX-Fairlane-Client: a\r\nx-fairlane-client: b\r\n",
        )
        assert (status, "repeated_header" in text) == (400, True)
        joined: tuple[dict[str, str | bytes], ...] = (
            {"Authorization": f"Bearer {alice}, Bearer {bob}"},
            {"Authorization": f"Bearer {alice},{alice}"},
            {"x-api-key": f"{alice}, {bob}"},
            {"Authorization": f"Bearer {gate}", "X-Fairlane-Client": "alice, bob"},
            {"Authorization": f"Bearer {gate}", "X-Fairlane-Client": "alice,"},
        )
        for headers in joined:
            status, _, text = server.request("POST", "/v1/completions", headers, {})
            assert (status, json.loads(text)["error"]["code"]) == (400, "repeated_header")
            assert "send one, without a comma" in text
        assert server.engine.clients == ["alice"]


def test_a_header_with_underscores_is_not_taken_for_none(town: Town) -> None:
    """Some proxies drop such headers and others turn '_' into '-': it would mean two things."""
    gate: dict[str, str | bytes] = bearer(town.keys["gate"])
    with running(town.access(identity={"anonymous": "guest"})) as server:
        sent: list[dict[str, str | bytes]] = [{"X_API_Key": town.keys["alice"]}]
        for headers in [*sent, {**gate, "X_Fairlane_Client": "bob"}]:
            status, _, text = server.request("POST", "/v1/completions", headers, {})
            assert (status, json.loads(text)["error"]["code"]) == (400, "misspelt_header")
        assert server.engine.clients == []


def raw(server: Server, headers: str) -> tuple[int, str]:
    """A POST written by hand: status and the rest."""
    import socket

    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as connection:
        start = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        connection.sendall(f"{start}{headers}Content-Length: 2\r\n\r\n{{}}".encode("latin-1"))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return int(answer.split()[1]), answer.decode("latin-1")


def test_a_gateway_names_its_clients_and_nobody_else_does(town: Town) -> None:
    town.add("org", with_key=False)
    town.add("carol", parent="org", with_key=False)
    with running(town.access(identity={"header": "X-Tenant"})) as server:
        gate = town.keys["gate"]
        assert server.send(gate, X_Tenant="zoe")[2] == ["zoe"]
        assert server.send(gate, X_Tenant="carol")[2] == ["org/carol"]
        assert server.send(gate, X_Tenant="org/carol")[2] == ["org%2Fcarol"]
        assert server.send(gate)[2] == ["gate"]
        assert server.send(town.keys["alice"], X_Tenant="zoe")[2] == ["alice"]
        assert server.send(town.keys["root"], X_Tenant="zoe")[2] == ["root"]
        name: dict[str, str | bytes] = {
            "Authorization": f"Bearer {gate}",
            "X-Tenant": "日本".encode(),
        }
        assert json.loads(server.request("POST", "/v1/completions", name, {})[2]) == ["日本"]


@pytest.mark.parametrize(
    "name",
    [b"", b" ", b"\xff\xfe", b"a\x7fb", "a\u202eb".encode(), "u\u0308".encode(), b"x" * 201,
     b"x" * 5000],
)  # fmt: skip
def test_names_that_a_gateway_must_not_give(town: Town, name: bytes) -> None:
    with running(town.access()) as server:
        headers: dict[str, str | bytes] = {
            "Authorization": f"Bearer {town.keys['gate']}",
            "X-Fairlane-Client": name,
        }
        status, _, text = server.request("POST", "/v1/completions", headers, {})
        assert (status, json.loads(text)["error"]["code"]) == (400, "invalid_client")
        assert server.engine.clients == []


def test_adapters_tell_clients_apart_where_that_is_configured(town: Town) -> None:
    town.add("org", with_key=False)
    town.add("carol", parent="org", with_key=False)
    identity = {"lora": True, "anonymous": "guest"}
    with running(town.access(identity=identity)) as server:
        assert server.send(None, {"model": "adapter-1"})[2] == ["adapter-1"]
        assert server.send(None, {"model": "carol", "n": 2})[2] == ["org/carol"] * 2
        assert server.send(None, {})[2] == ["guest"]
        assert server.send(town.keys["alice"], {"model": "adapter-1"})[2] == ["alice"]
        reached = len(server.engine.clients)
        for name in ("alice", "org"):
            status, _, answer = server.send(None, {"model": name})
            assert (status, answer["error"]["code"]) == (401, "missing_api_key")
        assert len(server.engine.clients) == reached


def test_adapters_alone(town: Town) -> None:
    with running(town.access(identity={"lora": True})) as server:
        assert server.send(None, {"model": "adapter-1"})[2] == ["adapter-1"]
        assert server.send(None, {})[0] == 401


def test_without_a_configuration_all_are_one_client(tmp_path: Path) -> None:
    with running(Access()) as server:
        assert server.send(None, {"vllm_xargs": FORGED}, X_Fairlane_Client="bob")[2] == [
            "anonymous"
        ]
        # clients of these APIs cannot but send a key, and there are none that could be wrong
        assert server.send(new_key())[2] == ["anonymous"]
        assert server.send("any", x_api_key="other")[2] == ["anonymous"]


@pytest.mark.parametrize(
    ("path", "client", "operator"),
    [
        ("/v1/completions", 200, 200),
        ("/invocations", 200, 200),
        ("/inference/v1/generate", 200, 200),
        ("/v1/load_lora_adapter", 403, 200),
        ("/abort_requests", 403, 200),
        ("/inference/v1/abort_requests", 403, 200),
        ("/sleep", 403, 200),
        ("/v1/load_lora_adapter?x=/v1/completions", 403, 200),
        ("/%73leep", 403, 200),
        ("/something/new", 403, 200),
        ("/v1/completions/", 404, 200),
        ("//v1/completions", 404, 200),
        ("/V1/completions", 404, 200),
        ("/v1/complétions", 404, 200),
        ("/v1%252fcompletions", 404, 200),
        ("/v1/./completions", 404, 200),
        ("/v1/x/../completions", 404, 200),
        ("/v1/completions;x", 404, 200),
        ("/", 404, 200),
        ("//sleep", 404, 200),
        ("/sleep/", 404, 200),
        ("/v1/../sleep", 404, 200),
        ("/SLEEP", 404, 200),
    ],
)
def test_routes_that_control_the_server_are_for_operators(
    town: Town, path: str, client: int, operator: int
) -> None:
    with running(town.access()) as server:
        path = quote(path, safe="/%?=;.")
        assert server.send(None, path=path)[0] == 401
        reached = len(server.engine.clients)
        assert server.send(town.keys["alice"], path=path)[0] == client
        assert server.send(town.keys["gate"], path=path)[0] == client
        assert len(server.engine.clients) == reached + (2 if client == 200 else 0)
        assert server.send(town.keys["root"], path=path)[0] == operator


def test_a_route_that_is_not_there_is_told_from_one_that_is_for_operators(town: Town) -> None:
    with running(town.access()) as server:
        for path, status, code in (("/v1/x", 404, "not_found"), ("/sleep", 403, "operators_only")):
            found, _, answer = server.send(town.keys["alice"], path=path)
            assert (found, answer["error"]["code"]) == (status, code)
        server.routes = None  # type: ignore[assignment]
        assert server.send(town.keys["alice"], path="/v1/x")[0] == 403
        server.routes = [object()]  # type: ignore[list-item]
        assert server.send(town.keys["alice"], path="/v1/x")[0] == 403


def test_an_opened_route_that_is_not_there_is_told_at_the_start(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    with running(town.access(identity={"routes": ["/something/new", "/something/nwe"]})):
        said = [r.message for r in caplog.records if "[identity] routes" in r.message]
        assert said == ["[identity] routes: this server has no route '/something/nwe'"]


class CORSMiddleware:
    """A layer with Starlette's name and way of being made, that marks what goes through it."""

    def __init__(self, app: Any, mark: str, *, sign: str) -> None:
        self._app = app
        self._mark = f"{mark}{sign}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def marking(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"access-control-allow-origin", self._mark.encode())
                message["headers"] = [*message["headers"], header]
            await send(message)

        await self._app(scope, receive, marking)


def test_what_the_middleware_answers_goes_through_the_servers_own_cors_layer(town: Town) -> None:
    key = town.add("small", requests_per_minute=1)
    town.add("org", with_key=False)
    town.add("carol", parent="org", with_key=False)
    access = town.access(identity={"lora": True, "anonymous": "guest"})
    with running(access) as server:
        server.user_middleware = [(object, (), {}), (CORSMiddleware, ("https://a",), {"sign": "!"})]
        alice: dict[str, str | bytes] = bearer(town.keys["alice"])
        answers = [
            server.request("POST", "/v1/completions", bearer(new_key()), {}),
            server.request("POST", "/sleep", alice, {}),
            server.request("POST", "/v1/x", alice, {}),
            server.request("POST", "/v1/completions", {}, {"model": "org"}),  # refused by the door
            server.request("GET", "/fairlane/tenants", alice),
        ]
        server.send(key)
        answers.append(server.request("POST", "/v1/completions", bearer(key), {}))
        assert [status for status, _, _ in answers] == [401, 403, 404, 401, 200, 429]
        for _, headers, text in answers:
            assert headers["access-control-allow-origin"] == "https://a!"
            assert json.loads(text)
        assert answers[-1][1]["retry-after"] == "60"


def test_a_route_can_be_opened(town: Town) -> None:
    with running(town.access(identity={"routes": ["/something/new"]})) as server:
        assert server.send(town.keys["alice"], path="/something/new")[0] == 200


def test_what_everyone_may_see_reaches_no_engine(town: Town) -> None:
    with running(town.access()) as server:
        assert server.request("GET", "/health")[0] == 200
        assert server.request("OPTIONS", "/v1/completions")[0] == 200
        status, _, text = server.request("POST", "/ping", {}, {})
        assert (status, text) == (500, "the sender of this request is unknown")
        assert server.engine.clients == []


def test_a_key_in_a_url_is_refused_and_not_logged(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    key = town.keys["alice"]
    with running(town.access()) as server:
        for path in (f"/v1/completions?api_key={key}", f"/v1/completions?a=1&x=%66{key[1:]}"):
            for headers in ({}, {"Authorization": f"Bearer {key}"}):
                status, _, text = server.request("POST", path, dict(headers), {})
                assert (status, json.loads(text)["error"]["code"]) == (401, "key_in_url")
                assert key not in text
        assert key not in caplog.text
        assert server.send(key, path="/v1/completions?model=x")[0] == 200


def test_limits_answer_as_openai_does(town: Town) -> None:
    key = town.add("small", requests_per_minute=2, tokens_per_minute=1000)
    with running(town.access()) as server:
        status, headers, _ = server.send(key, {"prompt_tokens": 100})
        assert status == 200
        assert headers["x-ratelimit-limit-requests"] == "2"
        assert headers["x-ratelimit-remaining-requests"] == "1"
        assert headers["x-ratelimit-remaining-tokens"] == "899"
        assert server.send(key)[0] == 200
        status, headers, answer = server.send(key)
        assert status == 429
        assert headers["retry-after"] == "30"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert answer["error"] == {
            "message": "Your limit of requests per minute is reached. Try again in 30 s.",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
        server.now += 30
        assert server.send(key)[0] == 200
        assert "x-ratelimit-limit-requests" not in server.send(town.keys["alice"])[1]


def test_tokens_are_counted_as_the_engine_has_them(town: Town) -> None:
    key = town.add("small", tokens_per_minute=600)
    engine = Engine()
    engine.output_tokens = 50
    with running(town.access(), engine) as server:
        assert server.send(key, {"prompt_tokens": 100, "n": 4})[0] == 200  # 4 x 150
        status, headers, answer = server.send(key)
        assert (status, answer["error"]["type"], headers["retry-after"]) == (429, "tokens", "1")
        server.now += 0.5
        assert server.send(key)[0] == 200


def remaining(server: Server, key: str) -> int:
    """What is left of a tenant's tokens for a minute."""
    headers = server.request("GET", "/v1/models", bearer(key))[1]
    return int(headers["x-ratelimit-remaining-tokens"])


def hang_up(server: Server, key: str, prompt_tokens: int, when: object) -> None:
    """Send a prompt, and hang up once something is so."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = json.dumps({"prompt_tokens": prompt_tokens})
    connection.request("POST", "/v1/completions", body, {"Authorization": f"Bearer {key}"})
    until(when)
    connection.close()


def test_a_prompt_that_was_cancelled_while_it_was_queued_is_given_back(town: Town) -> None:
    key = town.add("small", tokens_per_minute=10_000, requests_per_minute=10)
    engine = Engine()
    engine.held = asyncio.Event()
    with running(town.access(), engine) as server:
        for number in range(4):
            hang_up(server, key, 8_000, lambda number=number: len(engine.clients) > number)
            until(lambda: remaining(server, key) == 10_000)
        headers = server.request("GET", "/v1/models", bearer(key))[1]
        assert headers["x-ratelimit-remaining-requests"] == "6"  # each counted


def test_a_prompt_is_taken_while_it_is_queued(town: Town) -> None:
    key = town.add("small", tokens_per_minute=10_000)
    engine = Engine()
    engine.held = asyncio.Event()
    with running(town.access(), engine) as server:
        with senders(server, key, 2, {"prompt_tokens": 8_000}):
            until(lambda: len(engine.clients) == 2)
            assert server.send(key)[0] == 429
            engine.held._loop.call_soon_threadsafe(engine.held.set)  # type: ignore[attr-defined]
        assert remaining(server, key) == 0


def test_a_prompt_that_the_engine_had_begun_to_read_is_charged(town: Town) -> None:
    """Whoever hangs up at the right moment would have it read for nothing."""
    key = town.add("small", tokens_per_minute=10_000)
    engine = Engine()
    engine.reading = asyncio.Event()
    with running(town.access(), engine) as server:
        hang_up(server, key, 8_000, lambda: bool(engine.begun))
        until(lambda: engine.asked)
        assert remaining(server, key) == 2_000


def test_a_prompt_that_the_engine_turned_away_is_given_back(town: Town) -> None:
    key = town.add("small", tokens_per_minute=10_000)
    engine = Engine()
    engine.turns_away = True
    with running(town.access(), engine) as server:
        for _ in range(3):
            assert server.send(key, {"prompt_tokens": 8_000})[0] == 200
            until(lambda: remaining(server, key) == 10_000)


async def refuse(request: object) -> None:
    raise ValueError("the context is too long")


def test_a_prompt_that_the_engine_refused_is_given_back(town: Town) -> None:
    key = town.add("small", tokens_per_minute=10_000)
    engine = Engine()
    engine.add_request_async = refuse  # type: ignore[method-assign]
    with running(town.access(), engine) as server:
        for _ in range(3):
            assert server.send(key, {"prompt_tokens": 8_000})[0] == 500
            assert remaining(server, key) == 10_000


def test_a_scheduler_that_does_not_say_what_it_read_leaves_it_charged(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    key = town.add("small", tokens_per_minute=10_000)
    engine = Engine()
    engine.turns_away = True
    with running(town.access(), engine) as server:
        engine.broken = True
        assert server.send(key, {"prompt_tokens": 8_000})[0] == 200
        until(lambda: "prompts that were not read stay charged: RuntimeError" in caplog.text)
        assert remaining(server, key) == 2_000


def test_cached_tokens_count_as_much_as_they_cost(town: Town) -> None:
    key = town.add("small", tokens_per_minute=10_000)
    engine = Engine()
    engine.cached_tokens = 3_000
    with running(town.access(), engine) as server:
        assert server.send(key, {"prompt_tokens": 4_000})[0] == 200
        assert remaining(server, key) == 10_000 - 1_000 - 300 - 1


@pytest.mark.parametrize(
    ("cost", "part"),
    [
        (LinearCost(), 1.0),
        (LinearCost(input_price=2.0, cached_price=0.5), 0.25),
        (LinearCost(input_price=1.0, cached_price=3.0), 1.0),
        (LinearCost(input_price=0.0, cached_price=0.0), 1.0),
        (QuadraticCost(), 1.0),
        (QuadraticCost(prompt=0.5, cached_price=0.125), 0.25),
    ],
)
def test_the_part_of_a_cached_token_is_that_of_the_prices(
    cost: LinearCost | QuadraticCost, part: float
) -> None:
    assert Configuration(cost=cost).cached_part == pytest.approx(part, rel=1e-5)


def test_limits_of_strangers_and_of_adapters(town: Town) -> None:
    access = town.access(identity={"lora": True}, limits={"requests_per_minute": 1})
    with running(access) as server:
        assert server.send(None, {"model": "a"})[0] == 200
        status, headers, answer = server.send(None, {"model": "a"})
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        assert headers["retry-after"] == "60"
        assert server.send(None, {"model": "b"})[0] == 200
        assert [server.send(town.keys["alice"])[0] for _ in range(3)] == [200] * 3


def test_questions_cost_no_requests(town: Town) -> None:
    key = town.add("small", requests_per_minute=1)
    with running(town.access()) as server:
        assert [server.request("GET", "/v1/models", bearer(key))[0] for _ in range(5)] == [200] * 5
        assert server.send(key)[0] == 200


def bearer(key: str) -> dict[str, str | bytes]:
    return {"Authorization": f"Bearer {key}"}


def until(condition: object) -> None:
    """Wait until a callable is true."""
    assert callable(condition)
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextmanager
def senders(
    server: Server, key: str, count: int, body: dict[str, Any] | None = None
) -> Iterator[list[int]]:
    """So many requests under way at once; their statuses, complete when the block ends."""
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.send(key, body)[0]), daemon=True)
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    yield answers
    for thread in threads:
        thread.join(PATIENCE_S)


def test_more_than_max_running_wait_and_more_than_max_queued_are_turned_away(town: Town) -> None:
    key = town.add("small", max_running=2, max_queued=3)
    engine = Engine()
    engine.held = asyncio.Event()
    with running(town.access(), engine) as server:
        with senders(server, key, 3) as answers:
            admission = server.identity._door.admission
            until(lambda: admission.waiting.get("small") == 3)
            until(lambda: len(engine.clients) == 2)
            status, headers, _ = server.send(key)
            assert (status, headers["retry-after"]) == (429, "1")
            assert server.request("GET", "/v1/models", bearer(key))[0] == 200
            engine.held._loop.call_soon_threadsafe(engine.held.set)  # type: ignore[attr-defined]
        assert answers == [200, 200, 200]
        assert engine.clients.count("small") == 3
        assert admission.waiting == {}
        assert server.identity._door.turns.inside("small") == 0


def test_keys_limits_and_weights_change_without_a_restart(town: Town) -> None:
    with running(town.access()) as server:
        alice = town.keys["alice"]
        assert server.send(alice)[0] == 200
        assert server.engine.weights == {"alice": 1, "bob": 1, "gate": 1, "root": 1}
        new = town.add("alice", weight=3.0, requests_per_minute=1)
        assert server.send(alice)[0] == 401
        assert server.send(new)[0] == 200
        assert server.send(new)[0] == 429
        until(lambda: server.engine.weights["alice"] == 3.0)
        town.file.write_text("[tenants.alice")
        server.now += 60
        assert server.send(new)[0] == 200
        metrics = server.request("GET", "/metrics", bearer(town.keys["root"]))[2]
        assert "fairlane_tenants_broken 1.0" in metrics


def test_tenants_are_shown_to_operators_and_to_themselves(town: Town) -> None:
    town.add("bob", weight=3.0)
    engine = Engine()
    engine.snapshot = {
        "policy": "vtc",
        "weighted": True,
        "shares": True,
        "observed_difference": 3.0,
        "clients": {
            "alice": {"queued": 1, "weight": 1.0, "service": 10.0},
            "bob": {"running": 1, "weight": 3.0, "service": 20.0},
        },
    }
    with running(town.access(), engine) as server:
        seen = json.loads(server.request("GET", "/fairlane/tenants", bearer(town.keys["root"]))[2])
        assert set(seen["clients"]) == {"alice", "bob"}
        assert seen["clients"]["bob"]["entitlement"] == 0.75
        assert seen["observed_difference"] == 3.0
        own = json.loads(server.request("GET", "/fairlane/tenants", bearer(town.keys["bob"]))[2])
        assert set(own["clients"]) == {"bob"}
        assert "observed_difference" not in own
        assert server.request("GET", "/fairlane/tenants")[0] == 401


@pytest.mark.parametrize(("weighted", "shares"), [(False, False), (True, False), (True, True)])
def test_no_share_is_claimed_that_nobody_enforces(town: Town, weighted: bool, shares: bool) -> None:
    """Under first come, first served a tenant's weight changes nothing, and none is shown."""
    town.add("bob", weight=3.0)
    engine = Engine()
    clients = {name: {"queued": 1, "weight": 1.0} for name in ("alice", "bob")}
    engine.snapshot = {"clients": clients, "weighted": weighted, "shares": shares}
    with running(town.access(), engine) as server:
        operator = bearer(town.keys["root"])
        bob = json.loads(server.request("GET", "/fairlane/tenants", operator)[2])["clients"]["bob"]
        assert bob["weight"] == (3.0 if weighted else 1.0)
        assert bob.get("entitlement") == (0.75 if shares else None)
        metrics = server.request("GET", "/metrics", operator)[2]
        assert ("fairlane_client_entitlement{" in metrics) is shares


def test_metrics_of_tenants_need_an_operators_key_and_the_stock_ones_none(town: Town) -> None:
    with running(town.access()) as server:
        for headers in ({}, bearer(town.keys["alice"]), bearer(new_key())):
            assert server.request("GET", "/metrics", headers)[2] == "stock_metric 1\n"
        text = server.request("GET", "/metrics", bearer(town.keys["root"]))[2]
        assert text.startswith("stock_metric 1\n# HELP fairlane_")
        assert "fairlane_scheduler_up 1.0" in text
        server.engine.broken = True
        text = server.request("GET", "/metrics", bearer(town.keys["root"]))[2]
        assert "fairlane_scheduler_up 0.0" in text


def test_a_server_without_our_scheduler_does_not_start(town: Town) -> None:
    engine = Engine()
    engine.broken = True
    with running(town.access(), engine) as server:
        assert server.exit_status == 3
        assert engine.add_request_async.__func__ is Engine.add_request_async  # type: ignore[attr-defined]


def test_a_vllm_of_another_shape_does_not_start(town: Town) -> None:
    engine = Engine()
    engine.output_processor = object()  # type: ignore[assignment]
    with running(town.access(), engine) as server:
        assert server.exit_status == 3


def test_a_gateways_header_without_a_gateway_is_said_when_it_starts_to_be_so(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    access = town.access(identity={"header": "x-org"})

    def said() -> int:
        return sum("'x-org' is ignored" in record.message for record in caplog.records)

    with running(access) as server:
        assert said() == 0  # the town has a gateway
        town.add("gate", role=Role.CLIENT)
        for _ in range(3):
            assert server.send(town.keys["alice"])[0] == 200
        assert said() == 1
    with running(access):
        assert said() == 2


def test_servers_of_one_engine_have_a_part_of_each_limit(town: Town) -> None:
    key = town.add("small", requests_per_minute=20, max_running=4, max_queued=8)
    engine = Engine()
    engine.client_count = 4
    engine.held = asyncio.Event()
    with running(town.access(), engine) as server:
        with senders(server, key, 2) as answers:
            until(lambda: server.identity._door.admission.waiting.get("small") == 2)
            assert server.send(key)[0] == 429  # max_queued
            assert len(engine.clients) == 1  # max_running
            engine.held._loop.call_soon_threadsafe(engine.held.set)  # type: ignore[attr-defined]
        assert answers == [200, 200]
        assert [server.send(key)[0] for _ in range(5)] == [200, 200, 200, 429, 429]
