"""Requests through the gateway, over real sockets: what passes, who waits, what breaks."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fairlane.door.tenants import Role
from fairlane.policies.registry import create_policy
from tests.engines.identity.site import Town
from tests.gateway.site import Site, data_of, gateway, port_of, until
from tests.loadgen.server import (
    CompletionServer,
    answer_with,
    chunk,
    event,
    hang_up,
    never_answer,
    stream_of,
    usage,
)
from tests.processes import PATIENCE_S

pytestmark = pytest.mark.usefixtures("any_desk")

# -- what passes ------------------------------------------------------------------------------


def test_an_answer_passes_as_it_is_but_for_usage_that_nobody_asked_for() -> None:
    with CompletionServer() as upstream, gateway(upstream.url) as site:
        status, headers, hidden = site.complete(3)
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        chunks = [event(chunk()), event(chunk()), event(chunk(finish="length"))]
        assert hidden == b"".join([*chunks, event("[DONE]")])
        _, _, asked = site.complete(3, stream_options={"include_usage": True})
        assert asked == b"".join([*chunks, event(usage(3, 3)), event("[DONE]")])
        assert upstream.seen[0].body["stream_options"] == {"include_usage": True}
        status, _, whole = site.request(
            "POST", "/v1/completions", {"model": "tiny", "prompt": "a b", "max_tokens": 1}
        )
        assert json.loads(whole)["usage"] == {"prompt_tokens": 2, "completion_tokens": 1}
        client = site.clients()["anonymous"]
        assert (client["finished"], client["output_tokens"]) == (3, 7)
        assert client["input_tokens"] == 3 + 3 + 2  # as the engine says, and not as was guessed
        assert client["service"] == 8 + 2 * 7


def test_a_long_prompt_passes_whole() -> None:
    with CompletionServer() as upstream, gateway(upstream.url) as site:
        status, _, body = site.complete(1, prompt="word " * 500_000)
        assert (status, data_of(body)[-1]) == (200, "[DONE]")
        assert upstream.seen[0].body["prompt"] == 500_000
        assert "content-length" in {name.lower() for name in upstream.seen[0].headers}


def test_models_are_those_of_the_upstreams() -> None:
    with CompletionServer() as upstream, gateway(upstream.url) as site:
        status, _, body = site.request("GET", "/v1/models")
        assert status == 200
        assert [model["id"] for model in json.loads(body)["data"]] == ["tiny"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/v1/completions", b"{", 400, "not JSON"),
        ("POST", "/v1/completions", b'{"model":"tiny","model":"x"}', 400, "twice"),
        ("POST", "/v1/completions", {"model": "huge"}, 404, "'huge' is not served"),
        ("POST", "/v1/completions", b'{"model":"tiny","p":"' + b"x" * 5000, 413, "4,096 bytes"),
        ("GET", "/v1/completions", None, 405, "takes POST"),
        ("POST", "/v1/complete", {}, 404, "no /v1/complete"),
        ("POST", "//v1/completions", {}, 404, "no //v1"),
        ("POST", "/abort_requests", {}, 404, "no /abort"),
    ],
)
def test_what_is_wrong_is_said_and_never_sent(
    method: str, path: str, body: Any, status: int, said: str
) -> None:
    with (
        CompletionServer() as upstream,
        gateway(upstream.url, gateway={"max_body_bytes": 4096}) as site,
    ):
        found, _, text = site.request(method, path, body)
        assert (found, said in json.loads(text)["error"]["message"]) == (status, True), text
        assert not upstream.seen


def test_keys_and_names_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "sk-of-the-engine")
    town = Town(tmp_path)
    alice = town.add("alice")
    with CompletionServer() as upstream:
        tables: dict[str, Any] = {
            "tenants": "tenants.toml",
            "upstreams": {"u0": {"url": upstream.url, "key_env": "ENGINE_KEY"}},
        }
        with gateway(upstream.url, folder=tmp_path, **tables) as site:
            assert site.complete(2)[0] == 401
            headers = {
                "X_API_Key": alice, "Cookie": "a=b", "X_Fairlane_Client": "root",
                "X_Data_Parallel_Rank": "1", "X_Forwarded_For": "1.2.3.4", "X_Other": "kept",
            }  # fmt: skip
            body = {"model": "tiny", "prompt": "a", "max_tokens": 2, "stream": True, "user": "u"}
            assert site.request("POST", "/v1/completions", body, alice, **headers)[0] == 200
        sent = {name.lower(): value for name, value in upstream.seen[0].headers.items()}
        assert sent["authorization"] == "Bearer sk-of-the-engine"
        assert sent["x-other"] == "kept"
        for name in ("x-api-key", "cookie", "x-fairlane-client", "x-data-parallel-rank"):
            assert name not in sent
        assert alice not in str(upstream.seen[0].headers)


# -- who waits --------------------------------------------------------------------------------


def flood(site: Site, town: Town, counts: dict[str, int]) -> None:
    """So many requests of each client at once; all are answered."""
    work = [name for name, count in counts.items() for _ in range(count)]
    with ThreadPoolExecutor(len(work)) as pool:
        for status, _, _ in pool.map(
            lambda name: site.complete(8, town.keys[name], user=name), work
        ):
            assert status == 200


@pytest.mark.parametrize(("policy", "fair"), [("vtc", True), ("fcfs", False)])
def test_twice_the_load_gives_no_larger_share_of_any_engine(
    tmp_path: Path, policy: str, fair: bool
) -> None:
    """The engine is first come, first served; the order is made here, for it gets few at once."""
    town = Town(tmp_path)
    for name in ("a", "b", "first"):
        town.add(name)
    order: list[str] = []
    with CompletionServer(create_policy("fcfs"), slots=4, hold=1) as upstream, gateway(
        upstream.url, folder=tmp_path, window=4, tenants="tenants.toml",
        scheduler={"name": policy},
    ) as site:  # fmt: skip
        upstream.hold = 10**9  # the engine stands still until all have come
        thread = threading.Thread(target=flood, args=(site, town, {"a": 60, "b": 30}))
        thread.start()
        live = site.running
        until(lambda: live.live == 90)
        upstream.release()
        thread.join(PATIENCE_S)
        order = [seen.body["user"] for seen in upstream.seen]
    half = order[6:46]  # while both wait
    assert len(order) == 90
    share = half.count("a") / len(half)
    assert share == pytest.approx(0.5, rel=0.1) if fair else share > 0.6


def test_who_hangs_up_while_waiting_is_never_sent() -> None:
    with ExitStack() as life:
        upstream = life.enter_context(CompletionServer(slots=1, hold=10**9))
        site = life.enter_context(gateway(upstream.url, window=1))
        thread = threading.Thread(target=site.complete, args=(2,))
        thread.start()
        upstream.wait_for(1)
        connection = site.connect()
        body = {"model": "tiny", "prompt": "a", "max_tokens": 5, "stream": True, "user": "u"}
        connection.request("POST", "/v1/completions", json.dumps(body))
        until(lambda: site.running.live == 2)
        connection.close()
        until(lambda: site.running.live == 1)
        upstream.release()
        thread.join(PATIENCE_S)
        assert [seen.body["max_tokens"] for seen in upstream.seen] == [2]
        assert site.clients()["anonymous"]["aborted"] == 1


def test_who_hangs_up_in_the_middle_is_charged_for_what_came_and_the_engine_is_told() -> None:
    with CompletionServer() as upstream, gateway(upstream.url) as site:
        connection = site.connect()
        body = {"model": "tiny", "prompt": "a", "max_tokens": 10**6, "stream": True, "user": "u"}
        connection.request("POST", "/v1/completions", json.dumps(body))
        answer = connection.getresponse()
        answer.read(2000)
        answer.close()
        connection.close()
        until(lambda: site.running.live == 0)
        until(lambda: not upstream._running)
        client = site.clients()["anonymous"]
        assert (client["aborted"], client["running"]) == (1, 0)
        assert 20 <= client["output_tokens"] <= upstream.delivered["u", 10**6] + 1


def test_a_stream_that_waits_hears_so_and_a_whole_answer_is_refused_in_time() -> None:
    with CompletionServer(slots=1, hold=10**9) as upstream:
        patience = {"comment_s": 0.05, "max_wait_s": 0.3}
        with gateway(upstream.url, window=1, gateway=patience) as site:
            with ThreadPoolExecutor(2) as pool:
                first = pool.submit(site.complete, 2)
                upstream.wait_for(1)
                second = pool.submit(site.complete, 2)
                until(lambda: site.running.live == 2)
                whole = {"model": "tiny", "prompt": "a", "max_tokens": 1}
                status, headers, text = site.request("POST", "/v1/completions", whole)
                assert (status, json.loads(text)["error"]["code"]) == (504, "queue_timeout")
                assert int(headers["retry-after"]) >= 1
                upstream.release()
                assert first.result()[0] == 200
                status, headers, stream = second.result()
            assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            assert stream.startswith(b": waiting for a turn\n\n")
            assert data_of(stream)[-1] == "[DONE]"


# -- what breaks ------------------------------------------------------------------------------


def test_an_engine_that_dies_in_the_middle_is_an_error_event() -> None:
    broken = stream_of(event(chunk()), event(chunk()), cut=True)
    with CompletionServer(faults={7: broken}) as upstream, gateway(upstream.url) as site:
        status, _, stream = site.complete(7)
        *chunks, error = data_of(stream)
        assert (status, len(chunks)) == (200, 2)
        assert "did not answer to the end" in error["error"]["message"]
        client = site.clients()["anonymous"]
        assert (client["aborted"], client["output_tokens"]) == (1, 2)


def test_an_engine_that_cuts_before_its_head_is_replaced_by_another() -> None:
    with (
        CompletionServer(faults={7: hang_up}) as bad,
        CompletionServer() as good,
        gateway(bad.url, good.url) as site,
    ):
        assert all(site.complete(7)[0] == 200 for _ in range(4))
        assert sum(len(seen.seen) for seen in (bad, good)) > 4


def test_an_engine_that_always_cuts_is_an_error_with_a_status() -> None:
    with CompletionServer(faults={7: hang_up}) as upstream, gateway(upstream.url) as site:
        status, _, text = site.complete(7)
        assert (status, json.loads(text)["error"]["code"]) == (502, "upstream_error")
        assert 3 <= len(upstream.seen) <= 6  # a try on a kept connection may take a new one, too
        assert site.clients()["anonymous"]["service"] == 0  # no engine did anything for it


def test_a_busy_engine_is_asked_again_and_its_last_word_passes() -> None:
    busy = answer_with(429, {"error": {"message": "slow down"}}, {"Retry-After": "0"})
    with CompletionServer(faults={7: busy}) as upstream, gateway(upstream.url) as site:
        status, _, text = site.complete(7)
        assert (status, json.loads(text)["error"]["message"]) == (429, "slow down")
        assert len(upstream.seen) == 3


def test_an_error_of_the_engine_passes_as_it_is() -> None:
    bad = answer_with(400, {"error": {"message": "too long", "code": "context"}})
    with CompletionServer(faults={7: bad}) as upstream, gateway(upstream.url) as site:
        status, _, text = site.complete(7)
        assert (status, json.loads(text)["error"]["message"]) == (400, "too long")
        assert len(upstream.seen) == 1


def test_who_waits_for_an_engine_that_is_down_is_kept_until_it_is_back() -> None:
    with ExitStack() as life, ExitStack() as first:
        url = first.enter_context(CompletionServer()).url
        site = life.enter_context(gateway(url))
        first.close()
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(site.complete, 3)
            [lane] = site.running.fleet.models["tiny"].pool.lanes.values()
            until(lambda: not lane.accepts)
            assert not waits.done()
            with CompletionServer(port=port_of(url)) as back:
                assert waits.result(PATIENCE_S)[0] == 200
                assert len(back.seen) == 1


def test_draining_serves_who_is_here_and_refuses_who_comes() -> None:
    with (
        CompletionServer(hold=10**9) as upstream,
        gateway(upstream.url) as site,
        ThreadPoolExecutor(1) as pool,
    ):
        here = pool.submit(site.complete, 3)
        upstream.wait_for(1)
        site.server.app.drain()
        status, headers, text = site.complete(3)
        assert (status, json.loads(text)["error"]["code"]) == (503, "draining")
        assert int(headers["retry-after"]) >= 1
        assert site.request("GET", "/health")[0] == 503  # a load balancer looks elsewhere
        upstream.release()
        assert here.result()[0] == 200


# -- what is told -----------------------------------------------------------------------------


def test_operators_see_everyone_and_every_upstream_and_clients_themselves(tmp_path: Path) -> None:
    town = Town(tmp_path)
    for name, role in (("alice", Role.CLIENT), ("bob", Role.CLIENT), ("root", Role.OPERATOR)):
        town.add(name, role=role)
    with ExitStack() as life:
        upstream = life.enter_context(CompletionServer())
        site = life.enter_context(gateway(upstream.url, folder=tmp_path, tenants="tenants.toml"))
        for name in ("alice", "bob"):
            assert site.complete(3, town.keys[name])[0] == 200
        assert set(site.clients(town.keys["alice"])) == {"alice"}
        assert set(site.clients(town.keys["root"])) == {"alice", "bob"}
        for path in ("/fairlane/upstreams", "/metrics"):
            assert site.request("GET", path, key=town.keys["alice"])[0] == 403
            assert site.request("GET", path)[0] == 401
        _, _, text = site.request("GET", "/fairlane/upstreams", key=town.keys["root"])
        [told] = json.loads(text)["upstreams"]
        assert (told["upstream"], told["models"], told["in_flight"]) == ("u0", ["tiny"], 0)
        metrics = site.request("GET", "/metrics", key=town.keys["root"])[2].decode()
        assert 'fairlane_client_output_tokens_total{client="bob"} 3.0' in metrics
        assert 'fairlane_upstream_window{model="tiny",upstream="u0"} 8.0' in metrics


def test_limits_are_told_and_hold(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.add("alice", requests_per_minute=2)
    with ExitStack() as life:
        upstream = life.enter_context(CompletionServer())
        site = life.enter_context(gateway(upstream.url, folder=tmp_path, tenants="tenants.toml"))
        _, headers, _ = site.complete(3, town.keys["alice"])
        assert headers["x-ratelimit-remaining-requests"] == "1"
        assert site.complete(3, town.keys["alice"])[0] == 200
        status, headers, _ = site.complete(3, town.keys["alice"])
        assert (status, len(upstream.seen)) == (429, 2)
        assert 1 <= int(headers["retry-after"]) <= 30


def test_new_weights_and_keys_hold_without_a_restart(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.add("root", role=Role.OPERATOR)
    with ExitStack() as life:
        upstream = life.enter_context(CompletionServer())
        site = life.enter_context(gateway(upstream.url, folder=tmp_path, tenants="tenants.toml"))
        alice = town.add("alice", weight=3.0)
        assert site.complete(3, alice)[0] == 200
        assert site.clients(town.keys["root"])["alice"]["weight"] == 3.0


def test_an_engine_that_says_nothing_is_given_up_and_asked_once() -> None:
    with CompletionServer(faults={7: never_answer}) as upstream:
        upstreams = {"u0": {"url": upstream.url, "silence_s": 0.3}}
        with gateway(upstream.url, upstreams=upstreams) as site:
            status, _, text = site.complete(7)
            assert (status, "silent for 0.3 s" in json.loads(text)["error"]["message"]) == (
                504,
                True,
            )
            assert len(upstream.seen) == 1


def test_who_waits_for_the_clients_own_limit_is_kept_or_leaves(tmp_path: Path) -> None:
    """max_running makes wait; who hangs up meanwhile is never sent."""
    town = Town(tmp_path)
    town.add("a", max_running=1)
    with ExitStack() as life:
        upstream = life.enter_context(CompletionServer(hold=10**9))
        patience = {"comment_s": 0.05}
        site = life.enter_context(
            gateway(upstream.url, folder=tmp_path, tenants="tenants.toml", gateway=patience)
        )
        pool = life.enter_context(ThreadPoolExecutor(2))
        first = pool.submit(site.complete, 2, town.keys["a"])
        upstream.wait_for(1)
        second = pool.submit(site.complete, 3, town.keys["a"])
        connection = site.connect()
        body = {"model": "tiny", "prompt": "a", "max_tokens": 5, "stream": True, "user": "u"}
        headers = {"Authorization": f"Bearer {town.keys['a']}"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        assert connection.getresponse().read(5) == b": wai"
        connection.close()
        upstream.release()
        assert first.result()[0] == 200
        assert second.result()[0] == 200
        assert sorted(seen.body["max_tokens"] for seen in upstream.seen) == [2, 3]


def test_a_request_that_no_engine_can_be_found_for_is_not_lost(tmp_path: Path) -> None:
    """However often nobody can be reached, the request waits, and is not counted as tried."""
    with ExitStack() as life, ExitStack() as first:
        url = first.enter_context(CompletionServer()).url
        site = life.enter_context(gateway(url, gateway={"tries": 1}))
        first.close()
        pool = life.enter_context(ThreadPoolExecutor(1))
        waits = pool.submit(site.complete, 3)
        [lane] = site.running.fleet.models["tiny"].pool.lanes.values()
        for _ in range(4):
            until(lambda: not lane.accepts)
            lane.accepts = True  # as if it had been back for a moment
        until(lambda: not lane.accepts)
        assert not waits.done()
        life.enter_context(CompletionServer(port=port_of(url)))
        assert waits.result(PATIENCE_S)[0] == 200


def test_cached_prompt_tokens_count_against_limits_by_their_price(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.add("a", tokens_per_minute=1000)
    counts: dict[str, Any] = {"prompt_tokens": 400, "completion_tokens": 10}
    counts["prompt_tokens_details"] = {"cached_tokens": 300}
    told = event({"choices": [], "usage": counts})
    answer = stream_of(event(chunk()), told, event("[DONE]"))
    for price, left in ((0.1, 1000 - 100 - 30 - 10), (1.0, 1000 - 400 - 10)):
        with CompletionServer(faults={7: answer}) as upstream:
            tables: dict[str, Any] = {"tenants": "tenants.toml", "prices": {"cached": price}}
            with gateway(upstream.url, folder=tmp_path, **tables) as site:
                site.complete(7, town.keys["a"])
                until(lambda: site.running.live == 0)
                _, headers, _ = site.complete(2, town.keys["a"])
                left -= 20  # of the second prompt, as it is guessed now
                assert 0 <= int(headers["x-ratelimit-remaining-tokens"]) - left <= 100
