"""What is charged when: whole answers in advance, what has no tokens by its price, and limits."""

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fairlane.door.tenants import Role
from tests.engines.identity.site import Town
from tests.engines.identity.site import running as identity_running
from tests.gateway.scripted import Reply, scripted
from tests.gateway.site import Site, gateway, until
from tests.loadgen.server import CompletionServer

CHAT = "/v1/chat/completions"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "Where is the ferry?"}]}


def told(output: int, prompt: int = 8) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": output}
    return {"choices": [{"message": {"content": "Gone."}}], "usage": usage}


def now(site: Site) -> dict[str, Any]:
    """What its only client was charged so far."""
    clients = json.loads(site.request("GET", "/fairlane/tenants")[2])["clients"]
    found: dict[str, Any] = clients["anonymous"]
    return found


pytestmark = pytest.mark.usefixtures("any_desk")


# -- whole answers ----------------------------------------------------------------------------


def test_a_whole_answer_is_charged_in_advance_and_settled() -> None:
    """256 tokens before anything is known; then what this client's answers had."""
    reply = Reply(told(40))
    with scripted({CHAT: reply}) as upstream, gateway(upstream.url) as site:
        for expected in (256, 40):
            reply.held = threading.Event()
            before = len(upstream.seen)
            with ThreadPoolExecutor(1) as pool:
                answer = pool.submit(site.request, "POST", CHAT, ASKED)
                until(lambda: len(upstream.seen) > before)  # noqa: B023
                until(lambda: now(site)["output_tokens"] == before * 40 + expected)  # noqa: B023
                reply.held.set()
                assert answer.result()[0] == 200
            assert site.clients()["anonymous"]["output_tokens"] == (before + 1) * 40
    assert site.running.live == 0


def test_what_has_no_output_is_charged_for_none_in_advance() -> None:
    reply = Reply({"data": [], "usage": {"prompt_tokens": 8}}, held=threading.Event())
    embeddings = "/v1/embeddings"
    with scripted({embeddings: reply}) as upstream, gateway(upstream.url) as site:
        with ThreadPoolExecutor(1) as pool:
            body = {"model": "tiny", "input": "a b", "max_tokens": 50}
            answer = pool.submit(site.request, "POST", embeddings, body)
            until(lambda: len(upstream.seen) == 1 and now(site)["service"] > 0)
            assert now(site)["output_tokens"] == 0
            assert reply.held is not None
            reply.held.set()
            assert answer.result()[0] == 200
        assert site.clients()["anonymous"]["service"] == 8


def test_no_more_is_charged_in_advance_than_was_asked_for() -> None:
    reply = Reply(told(3), held=threading.Event())
    with scripted({CHAT: reply}) as upstream, gateway(upstream.url) as site:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(site.request, "POST", CHAT, {**ASKED, "max_tokens": 7, "n": 2})
            until(lambda: site.running.live == 1 and now(site)["output_tokens"] == 14)
            assert reply.held is not None
            reply.held.set()
            assert answer.result()[0] == 200
        assert site.clients()["anonymous"]["output_tokens"] == 3


def test_who_hangs_up_on_a_whole_answer_pays_for_what_the_engine_likely_did() -> None:
    reply = Reply(told(40), held=threading.Event())
    with scripted({CHAT: reply}) as upstream, gateway(upstream.url) as site:
        connection = site.connect()
        connection.request("POST", CHAT, json.dumps({**ASKED, "max_tokens": 100}))
        until(lambda: len(upstream.seen) == 1)
        lane = site.running.fleet.models["tiny"].pool.lanes["u0"]
        lane.window.token_s = 1e-6  # as of an engine that made more than a hundred by now
        connection.close()
        client = site.clients()["anonymous"]
        assert (client["aborted"], client["output_tokens"]) == (1, 100)
        until(lambda: upstream.seen[0].gone)


@pytest.mark.parametrize(("length", "tokens"), [(400, 100), (3, 1)])
def test_an_engine_that_tells_no_usage_is_charged_by_the_length_of_its_answer(
    length: int, tokens: int
) -> None:
    body = b'{"a":' + b"1" * (length - 6) + b"}" if length > 6 else b"[1]"
    with scripted({CHAT: Reply(body)}) as upstream, gateway(upstream.url) as site:
        assert site.request("POST", CHAT, ASKED)[2] == body
        assert site.clients()["anonymous"]["output_tokens"] == tokens


# -- what has no tokens -----------------------------------------------------------------------


def form(**fields: Any) -> tuple[bytes, str]:
    """A multipart form, with a file of so many bytes."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'
        for n, v in fields.items()
    ]
    file = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = "".join(parts).encode() + file.encode() + b"\0\xff" * 5000 + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


HEARD = "/v1/audio/transcriptions"
DRAWN = "/v1/images/generations"


@pytest.mark.parametrize(
    ("usage", "charged"),
    [
        ({"type": "duration", "seconds": 9}, 9 * 50),
        ({"type": "tokens", "input_tokens": 14, "output_tokens": 45}, 14 + 2 * 45),
        (None, 2570),  # its bytes, as if they were text
    ],
)
def test_a_recording_is_passed_on_whole_and_charged_by_what_is_told(
    usage: Any, charged: int
) -> None:
    reply = Reply({"text": "Gone.", "usage": usage} if usage else {"text": "Gone."})
    with scripted({HEARD: reply}) as upstream, gateway(upstream.url) as site:
        body, kind = form(model="tiny", language="en")
        status, _, _ = site.request("POST", HEARD, body, Content_Type=kind)
        assert (status, upstream.seen[0].body) == (200, body)
        assert upstream.seen[0].headers["content-type"] == kind
        service = site.clients()["anonymous"]["service"]
        assert service == pytest.approx(charged, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"language": "en"}, "model must be the name"),
        ({"model": "other"}, "'other' is not served"),
    ],
)
def test_a_form_must_say_which_model(fields: dict[str, str], said: str) -> None:
    with scripted({HEARD: Reply({})}) as upstream, gateway(upstream.url) as site:
        body, kind = form(**fields)
        status, _, text = site.request("POST", HEARD, body, Content_Type=kind)
        assert (status in (400, 404), said in text.decode()) == (True, True)
        cut = site.request("POST", HEARD, body[:-20], Content_Type=kind)
        assert (cut[0], b"form" in cut[2]) == (400, True)
        once, kind = form(model="tiny")
        head, _ = once.split(b"tiny", 1)
        repeated = site.request("POST", HEARD, head + b"other\r\n" + once, Content_Type=kind)
        assert (repeated[0], b"stands twice" in repeated[2]) == (400, True)
        assert not upstream.seen


def test_a_route_has_the_price_that_is_configured_for_each_of_what_is_asked() -> None:
    routes = {DRAWN: {"request": 700}, "/v1/bells": {"request": 50}}
    replies = {DRAWN: Reply({"data": []}), "/v1/bells": Reply(b"ding", "audio/wav")}
    with scripted(replies) as upstream, gateway(upstream.url, routes=routes) as site:
        assert site.request("POST", DRAWN, {"model": "tiny", "prompt": "", "n": 3})[0] == 200
        assert site.clients()["anonymous"]["service"] == 2100
        status, headers, body = site.request("POST", "/v1/bells", {"model": "tiny"})
        assert (status, headers["content-type"], body) == (200, "audio/wav", b"ding")
        assert site.clients()["anonymous"]["service"] == 2150
        assert site.request("POST", "/v1/whistles", {"model": "tiny"})[0] == 404


# -- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [10**400, 4097])
def test_so_many_pictures_are_refused_and_break_nothing(n: int) -> None:
    with scripted({DRAWN: Reply({"data": []})}) as upstream, gateway(upstream.url) as site:
        status, _, text = site.request("POST", DRAWN, {"model": "tiny", "prompt": "", "n": n})
        assert (status, b"may be 4,096 at most" in text) == (400, True)
        assert not upstream.seen


def test_a_prompt_counts_against_the_limit_when_it_is_sent(tmp_path: Path) -> None:
    town = Town(tmp_path)
    key = town.add("a", tokens_per_minute=100)
    with (
        CompletionServer(hold=10**9) as upstream,
        gateway(upstream.url, folder=tmp_path, tenants="tenants.toml") as site,
        ThreadPoolExecutor(1) as pool,
    ):
        here = pool.submit(site.complete, 3, key, prompt="word " * 100)
        upstream.wait_for(1)
        status, headers, _ = site.complete(3, key)
        assert (status, headers["x-ratelimit-remaining-tokens"]) == (429, "0")
        upstream.release()
        assert here.result()[0] == 200


def test_what_an_engine_refused_is_given_back(tmp_path: Path) -> None:
    town = Town(tmp_path)
    key = town.add("a", tokens_per_minute=1000)
    error = Reply({"error": {"message": "too long"}}, status=400)
    with scripted({CHAT: error}) as upstream, gateway(
        upstream.url, folder=tmp_path, tenants="tenants.toml"
    ) as site:  # fmt: skip
        long = {"model": "tiny", "messages": [{"role": "user", "content": "word " * 600}]}
        assert site.request("POST", CHAT, long, key)[0] == 400
        until(lambda: site.running.live == 0)
        _, headers, _ = site.request("POST", CHAT, ASKED, key)
        assert int(headers["x-ratelimit-remaining-tokens"]) > 900


@pytest.mark.parametrize("stream", [True, False])
def test_a_tenant_may_have_its_own_patience(tmp_path: Path, stream: bool) -> None:
    """A stream that has its head by then hears it as an event."""
    town = Town(tmp_path)
    key = town.add("hurried", max_wait_s=0.3)
    patience = {"comment_s": 0.1}
    with (
        CompletionServer(hold=10**9) as upstream,
        gateway(
            upstream.url, folder=tmp_path, window=1, tenants="tenants.toml", gateway=patience
        ) as site,
        ThreadPoolExecutor(1) as pool,
    ):
        here = pool.submit(site.complete, 3, town.add("patient"))
        upstream.wait_for(1)
        status, headers, text = site.complete(3, key, stream=stream)
        if stream:
            assert text.startswith(b": waiting for a turn\n\n")
            assert json.loads(text.split(b"data: ")[1])["error"]["code"] == "queue_timeout"
        else:
            assert (status, json.loads(text)["error"]["code"]) == (504, "queue_timeout")
            assert int(headers["retry-after"]) >= 1
        upstream.release()
        assert here.result()[0] == 200
    assert len(upstream.seen) == 1


# -- whose request it is ----------------------------------------------------------------------


@pytest.mark.parametrize("header", ["x-llm-d-inference-fairness-id", "x-fairlane-client"])
def test_an_upstream_is_told_whose_request_it_is_if_it_is_asked_for(
    tmp_path: Path, header: str
) -> None:
    town = Town(tmp_path)
    town.add("org", with_key=False)
    key = town.add("Zoë 100%", parent="org")
    with CompletionServer() as upstream:
        upstreams = {"u0": {"url": upstream.url, "client_header": header}}
        groups = {"groups": True}
        with gateway(
            upstream.url, folder=tmp_path, tenants="tenants.toml", upstreams=upstreams,
            scheduler=groups,
        ) as site:  # fmt: skip
            body = {"model": "tiny", "prompt": "a", "max_tokens": 2, "stream": True, "user": "u"}
            forged = {header.replace("-", "_"): "root"}
            assert site.request("POST", "/v1/completions", body, key, **forged)[0] == 200
        sent = [v for n, v in upstream.seen[0].headers.items() if n.lower() == header]
        assert sent == ["Zoë 100%"]


def test_the_plugin_behind_the_gateway_knows_its_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a key of role gateway, in the header that names whose request it is."""
    town = Town(tmp_path)
    monkeypatch.setenv("KEY_OF_THE_GATEWAY", town.add("the-gateway", role=Role.GATEWAY))
    town.add("acme", with_key=False)
    alice = town.add("alice", parent="acme", weight=2.0)
    with identity_running(town.access()) as plugin:
        there = {
            "url": f"http://127.0.0.1:{plugin.port}", "models": ["tiny"],
            "key_env": "KEY_OF_THE_GATEWAY", "client_header": "X-Fairlane-Client",
        }  # fmt: skip
        tables: dict[str, Any] = {"upstreams": {"u0": there}, "scheduler": {"groups": True}}
        with gateway("", folder=tmp_path, tenants="tenants.toml", **tables) as site:
            body = {"model": "tiny", "prompt": "a", "user": "u"}
            forged = {"X_Fairlane_Client": "bob"}
            assert site.request("POST", "/v1/completions", body, alice, **forged)[0] == 200
    assert plugin.engine.clients == ["acme/alice"]
