"""What an attacker would try with a gateway between it and an engine, byte by byte."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.door.test_attacks import END, LINE
from tests.door.town import Town
from tests.gateway.answering import answering
from tests.gateway.site import Site, gateway, port_of
from tests.loadgen.server import CompletionServer, chunk, event
from tests.simulated.engines import running
from tests.talking import ask, spoken, statuses

BODY = b'{"model":"tiny","prompt":"a","max_tokens":1,"stream":true,"user":"u"}'


@pytest.fixture
def key(tmp_path: Path) -> bytes:
    return f"Authorization: Bearer {Town(tmp_path).add('alice')}\r\n".encode()


def start(life: ExitStack, folder: Path) -> tuple[CompletionServer, Site]:
    upstream = life.enter_context(CompletionServer())
    site = life.enter_context(gateway(upstream.url, folder=folder, tenants="tenants.toml"))
    return upstream, site


# -- requests that two readers would read differently ------------------------------------------


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4",
        b"Content-Length: 4\r\nTransfer-Encoding : chunked",
        b"Content-Length: 4\r\nTransfer-Encoding: xchunked",
        b"Content-Length: 4\r\nTransfer-Encoding: chunked, identity",
        b"Content-Length: 4\r\nTransfer-Encoding:\x0bchunked",
        b"Content-Length: 4\r\nContent-Length: 64",
        b"Content-Length: 4, 64",
        b"Content-Length: +4",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ],
)
def test_no_request_hides_in_anothers_body(
    life: ExitStack, tmp_path: Path, key: bytes, framing: bytes
) -> None:
    upstream, site = start(life, tmp_path)
    hidden = LINE + key + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    sent = LINE + key + framing + b"\r\n\r\n0\r\n\r\n" + hidden + END
    assert statuses(spoken(port_of(site.url), sent)) == [400]
    assert not upstream.seen


@pytest.mark.parametrize(
    "lines",
    [
        b"KEY x: y",  # a folded line
        b"X-Other: a\r\n\tKEY",
        b"X-Other: a\nKEY",
        b"X-Other: a\rKEY",
        b"X-Other: a\x00KEY",
        b" KEY",
        b"Content-Length: 0\x00\r\nKEY",
    ],
)
def test_a_key_is_read_from_a_header_that_all_read_alike(
    life: ExitStack, tmp_path: Path, key: bytes, lines: bytes
) -> None:
    upstream, site = start(life, tmp_path)
    sent = LINE + lines.replace(b"KEY", key) + b"\r\n" + END
    first, *_ = statuses(spoken(port_of(site.url), sent))
    assert first in (400, 401)
    assert not upstream.seen


def test_more_headers_than_anybody_needs_are_refused(
    life: ExitStack, tmp_path: Path, key: bytes
) -> None:
    upstream, site = start(life, tmp_path)
    for more in (b"X-Long: " + b"x" * 70_000 + b"\r\n", b"x: y\r\n" * 40_000):
        sent = LINE + key + more + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
        assert statuses(spoken(port_of(site.url), sent + END)) == [431, 200]
    assert not upstream.seen


# -- what goes on to the engine ----------------------------------------------------------------


def seen_by_engine(
    life: ExitStack, folder: Path, key: bytes, headers: bytes, target: bytes = b"/v1/completions"
) -> dict[str, str]:
    """The headers that the engine gets of a good request with these, in lower case."""
    upstream, site = start(life, folder)
    head = b"POST %b HTTP/1.1\r\nHost: evil\r\n" % target
    sent = head + key + headers + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    assert statuses(spoken(port_of(site.url), sent + END))[-2:] == [200, 200]
    [seen] = upstream.seen
    found = {name.lower(): value for name, value in seen.headers.items()}
    assert found["host"] == upstream.url.removeprefix("http://")
    return found


def test_what_only_the_gateway_or_an_engines_own_router_may_say_does_not_pass(
    life: ExitStack, tmp_path: Path, key: bytes
) -> None:
    forged = [
        "x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id",
        "x-gateway-model-name-rewrite", "x-dynamo-routing-mode", "x-data-parallel-rank",
        "x-dp-rank",
        "x_data_parallel_rank", "x-prefiller-host-port", "x-prefill-instance-id",
        "x-encoder-hosts-ports", "x-worker-instance-id", "x-epp-inject-nvext-token-data",
        "x-smg-routing-key", "x-forwarded-for", "x_forwarded_for", "forwarded", "x-real-ip",
        "x-fairlane-client", "cookie", "api-key", "api_key", "proxy-authorization",
        "x-ratelimit-limit-tokens",
    ]  # fmt: skip
    lines = "".join(f"{name}: forged\r\n" for name in forged) + "x-request-id: kept\r\n"
    found = seen_by_engine(life, tmp_path, key, lines.encode())
    assert "forged" not in found.values()
    assert "authorization" not in found
    assert found["x-request-id"] == "kept"


def test_no_client_says_to_an_engine_whose_request_it_is(
    life: ExitStack, tmp_path: Path, key: bytes
) -> None:
    upstream = life.enter_context(CompletionServer())
    tables = {"u": {"url": upstream.url, "client_header": "x-tenant"}}
    site = life.enter_context(gateway(folder=tmp_path, tenants="tenants.toml", upstreams=tables))
    forged = b"x-tenant: bob\r\nX_Tenant: bob\r\n"
    sent = LINE + key + forged + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    assert statuses(spoken(port_of(site.url), sent + END)) == [200, 200]
    found = upstream.seen[0].headers.items()
    told = [value for name, value in found if name.lower().replace("_", "-") == "x-tenant"]
    assert told == ["alice"]


def test_headers_for_the_next_machine_alone_do_not_pass(
    life: ExitStack, tmp_path: Path, key: bytes
) -> None:
    lines = (
        b"Connection: keep-alive, X-Hop\r\nConnection: x-other\r\nX-Hop: 1\r\nX-Other: 1\r\n"
        b"Keep-Alive: timeout=1\r\nTE: trailers\r\nTrailer: X-Late\r\nX-Kept: 1\r\n"
        b"Expect: 100-continue\r\n"
    )
    found = seen_by_engine(life, tmp_path, key, lines)
    assert found["x-kept"] == "1"
    for name in ("x-hop", "x-other", "keep-alive", "te", "trailer", "expect", "connection"):
        assert name not in found


@pytest.mark.parametrize(
    "target",
    [
        b"http://evil/v1/completions",
        b"http://evil:1/v1/completions?a=b",
        b"/v1%2Fcompletions",
        b"/%76%31/completions?x=%0d%0aX-Injected:%201",
        b"/v1/completions?x=%23&y=http://evil/",
    ],
)
def test_whatever_a_target_looks_like_it_leads_to_a_route_of_ours(
    life: ExitStack, tmp_path: Path, key: bytes, target: bytes
) -> None:
    assert "x-injected" not in seen_by_engine(life, tmp_path, key, b"", target)


def test_an_engine_reads_the_body_as_it_was_read_here(
    life: ExitStack, tmp_path: Path, key: bytes
) -> None:
    """In UTF-7 a body may hold names that are text in UTF-8."""
    lines = b"Content-Type: application/json; charset=utf-7\r\nContent-Encoding: identity\r\n"
    found = seen_by_engine(life, tmp_path, key, lines)
    assert found["content-type"] == "application/json"
    assert "content-encoding" not in found


# -- tokens that would not be counted ----------------------------------------------------------


@pytest.mark.parametrize(
    "members",
    [
        '"stream":"true"', '"stream":1', '"stream":[]', '"str\\u0065am":true,"stream":false',
        '"stream":true,"stream_interval":"1000"', '"stream":true,"stream_interval":1000',
        '"stream":true,"stream_options":[]', '"stream":true,"stream_options":true',
        '"stream":true,"stream_options":{"include_usage":false,"include_usage":true}',
        '"stream":true,"stream_options":{"include_usage":false,"include_us\\u0061ge":true}',
        '"background":true', '"max_tokens":NaN', '"n":Infinity', f'"max_tokens":{"9" * 5000}',
        '"model":"tiny"', '"mod\\u0065l":"other"', '"model\\u0000":1,"x":\x00',
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_body_that_could_be_read_in_two_ways_is_refused(
    life: ExitStack, tmp_path: Path, key: bytes, members: str, path: str
) -> None:
    upstream, site = start(life, tmp_path)
    head = {"Authorization": key.split(b": ")[1].strip()}
    body = f'{{"model":"tiny","prompt":"a",{members}}}'.encode()
    status, _, text = ask(port_of(site.url), "POST", path, head, body)
    assert (status, json.loads(text)["error"]["code"]) == (400, "invalid_request")
    assert not upstream.seen


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3, "stream": True},
        {"n": 3, "best_of": 3},
        {"stream": True, "stream_options": {"continuous_usage_stats": True}},
        {"stream": True, "stream_options": {"continuous_usage_stats": 1, "include_usage": "no"}},
        {"stream": True, "stream_options": {"include_usage": False}},
        {"stream": True, "stream_options": None},
        {"stream": None, "stream_interval": None, "background": False},
        {"prompt": ["a b", "c"], "stream": True},
        {"max_tokens": 20, "stream": True, "stream_interval": 1},
    ],
)
def test_what_an_engine_makes_is_counted_however_it_is_asked_for(
    life: ExitStack, fields: dict[str, Any]
) -> None:
    engine = life.enter_context(running(model="tiny"))
    site = life.enter_context(gateway(engine.url))
    body = {"model": "tiny", "prompt": "a b c", "max_tokens": 9, "ignore_eos": True, **fields}
    assert site.request("POST", "/v1/completions", body)[0] == 200
    client = site.clients()["anonymous"]
    assert client["output_tokens"] == engine.engine.counts.generation_tokens > 0
    assert client["input_tokens"] >= 1


@pytest.mark.parametrize("n", [10**300, -(10**300), 0, True, "3", 2.5])
@pytest.mark.parametrize("policy", ["vtc", "vtc-predict", "drr"])
def test_numbers_that_are_none_break_no_policy(life: ExitStack, n: Any, policy: str) -> None:
    upstream = life.enter_context(CompletionServer())
    site = life.enter_context(gateway(upstream.url, scheduler={"name": policy}))
    names = ("n", "best_of", "max_completion_tokens", "max_output_tokens")
    answers = [site.complete(2, **{name: n})[0] for name in names]
    refused = 2 if n == 10**300 else 0  # so many answers no engine makes
    assert answers == [400] * refused + [200] * (4 - refused)
    assert site.clients()["anonymous"]["output_tokens"] == 2 * (4 - refused)


def test_a_stream_that_nobody_asked_for_is_counted(life: ExitStack) -> None:
    events = b"".join([event(chunk())] * 5) + event("[DONE]")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    url = life.enter_context(answering(head + events))
    upstream = {"url": url, "models": ["tiny"]}
    site = life.enter_context(gateway(upstreams={"u": upstream}))
    body = {"model": "tiny", "prompt": "a"}
    assert site.request("POST", "/v1/completions", body)[2] == events
    assert site.clients()["anonymous"]["output_tokens"] == 5
    assert site.request("POST", "/v1/embeddings", body)[2] == events  # which are no tokens


# -- what comes back ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "passes"),
    [
        (b"200 OK\r\nSet-Cookie: a=b\r\nConnection: X-Secret\r\nX-Secret: 1\r\nContent-Length: 2",
         True),
        (b"200 OK\r\nKeep-Alive: 1\r\nX-RateLimit-Remaining-Tokens: 7\r\nContent-Length: 2", True),
        (b"200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2", False),
        (b"200 OK\r\nContent-Length: 2\r\nContent-Length: 3", False),
        (b"200 OK\r\nContent-Length: 2\r\nX-Other: a\rSet-Cookie: b", False),
        (b"200 OK\r\nContent-Length: 2\r\nX-Other: a\x00b", False),
        (b"200 OK\r\nContent-Length: 2\r\nX-Other: a\r\n Set-Cookie: b", None),  # unfolded, or not
        (b"200 OK\r\nContent-Length: 2\r\n: nothing", False),
        (b"999 What\r\nContent-Length: 2", False),
        (b"101 Switching Protocols\r\nUpgrade: x\r\nContent-Length: 2", False),
        (b"401 Unauthorized\r\nContent-Length: 2", False),  # it is the gateway's key that is wrong
        (b"42 What\r\nContent-Length: 2", False),
        (b"200 O\rK\r\nContent-Length: 2", False),
        (b"200 OK\r\nContent-Length: 2\r\nX-Long: " + b"x" * 1_000_000, False),
        (b"200 OK\r\nContent-Length: 2\r\n" + b"x: y\r\n" * 100_000, False),
    ],
)  # fmt: skip
def test_an_upstreams_head_is_passed_on_as_one_that_all_read_alike(
    life: ExitStack, head: bytes, passes: bool | None
) -> None:
    url = life.enter_context(answering(b"HTTP/1.1 " + head + b"\r\n\r\n{}"))
    site = life.enter_context(gateway(upstreams={"u": {"url": url, "models": ["tiny"]}}))
    content = b'{"model":"tiny","prompt":"a"}'
    sent = LINE + b"Content-Length: %d\r\n\r\n%b" % (len(content), content)
    answers = spoken(port_of(site.url), sent + END)
    first, *_ = statuses(answers)
    assert first in {True: (200,), False: (502,), None: (200, 502)}[passes]
    lines = answers.partition(b"\r\n\r\n")[0].lower().splitlines()
    names = [line.partition(b":")[0] for line in lines]
    for name in (b"set-cookie", b"x-secret", b"connection", b"keep-alive", b"transfer-encoding"):
        assert name not in names
    assert names.count(b"content-length") == 1
    assert not any(name.startswith(b"x-ratelimit") for name in names)
