"""The middleware over real sockets: who is who, who may what, and what is told to whom."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.door.config import Configuration
from fairlane.door.tenants import new_key
from tests.engines.identity.site import CLIENT_KEY, Engine, Server, Town, running
from tests.processes import PATIENCE_S
from tests.talking import bearer, until


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town.with_all(tmp_path)


FORGED = {CLIENT_KEY: "bob"}


def test_all_requests_of_a_request_are_of_its_keys_holder(town: Town) -> None:
    bodies: tuple[dict[str, Any], ...] = (
        {"vllm_xargs": FORGED, "n": 3},
        {"vllm_xargs": FORGED, "pool": True},
        {"model": "bob"},
    )
    with running(town.access()) as server:
        for body in bodies:
            status, _, clients = server.send(town.keys["alice"], body)
            assert (status, clients) == (200, ["alice"] * body.get("n", 1))


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


def test_what_everyone_may_ask_the_engine_would_not_answer(town: Town) -> None:
    with running(town.access()) as server:
        assert server.request("OPTIONS", "/v1/completions")[0] == 200
        status, _, text = server.request("POST", "/ping", {}, {})
        assert (status, text) == (500, "the sender of this request is unknown")
        assert server.engine.clients == []


def test_a_prompt_counts_as_soon_as_the_engine_has_it(town: Town) -> None:
    key = town.add("small", tokens_per_minute=1000)
    with running(town.access()) as server:
        headers = server.send(key, {"prompt_tokens": 100})[1]
        assert headers["x-ratelimit-remaining-tokens"] == "899"


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


def hang_up(server: Server, key: str, prompt_tokens: int, when: Callable[[], bool]) -> None:
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

            def reached(before: int = number) -> bool:
                return len(engine.clients) > before

            hang_up(server, key, 8_000, reached)
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
        until(lambda: bool(engine.asked))
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
        assert remaining(server, key) == 10_000 - 1_000 - 3_000 / 8 - 1


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


def test_each_adapter_has_limits_of_its_own(town: Town) -> None:
    access = town.access(identity={"lora": True}, limits={"requests_per_minute": 1})
    with running(access) as server:
        assert server.send(None, {"model": "a"})[0] == 200
        assert server.send(None, {"model": "a"})[0] == 429
        assert server.send(None, {"model": "b"})[0] == 200


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


def test_schedulers_are_told_of_new_weights_without_a_restart(town: Town) -> None:
    with running(town.access()) as server:
        assert server.engine.weights == {"alice": 1, "bob": 1, "gate": 1, "root": 1}
        key = town.add("alice", weight=3.0)
        assert server.send(key)[0] == 200
        until(lambda: server.engine.weights["alice"] == 3.0)


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
