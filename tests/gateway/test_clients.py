"""Clients as people have them, unmodified: they get through the gateway what they get without it,
and what is charged is what the upstream counted.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.engines.identity.site import Town
from tests.gateway.dialects import MODEL, Upstream, upstream
from tests.gateway.site import Site, gateway
from tests.processes import PATIENCE_S

Ask = Callable[[Any], Any]
QUESTION: Any = [{"role": "user", "content": "When does the ferry to Ærø leave?"}]
TOOL: Any = {"name": "ferry_times", "description": "Times of ferries."}
SCHEMA: Any = {"type": "object", "properties": {"place": {"type": "string"}}}


@pytest.fixture
def engine() -> Iterator[Upstream]:
    with upstream() as one:
        yield one


@pytest.fixture
def site(engine: Upstream) -> Iterator[Site]:
    with gateway(engine.url) as one:
        yield one


def openai_at(url: str, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def anthropic_at(url: str, key: str = "any") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)


# -- the same as without it, and charged exactly ------------------------------------------------


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    tool: Any = {"type": "function", "function": {**TOOL, "parameters": SCHEMA}}
    return client.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=[tool], max_completion_tokens=50, **fields
    )


def respond(client: openai.OpenAI, **fields: Any) -> Any:
    return client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=50, **fields)


def message(client: anthropic.Anthropic, **fields: Any) -> Any:
    tool: Any = {**TOOL, "input_schema": SCHEMA}
    return client.messages.create(
        model=MODEL, messages=QUESTION, max_tokens=50, tools=[tool], **fields
    )


def stream_messages(client: anthropic.Anthropic) -> Any:
    """By the client's own accumulator, which fails where an event is missing."""
    with client.messages.stream(model=MODEL, messages=QUESTION, max_tokens=50) as stream:
        events = [event.type for event in stream]
        return [*events, stream.get_final_message()]


OPENAI: dict[str, Ask] = {
    "chat": chat,
    "chat, two answers": lambda client: chat(client, n=2),
    "chat, streamed": lambda client: list(chat(client, stream=True)),
    "chat, streamed, two answers": lambda client: list(chat(client, stream=True, n=2)),
    "chat, streamed, usage asked for": lambda client: list(
        chat(client, stream=True, stream_options={"include_usage": True})
    ),
    "responses": respond,
    "responses, streamed": lambda client: list(respond(client, stream=True)),
    "embeddings": lambda client: client.embeddings.create(model=MODEL, input=["a b", "c d"]),
}
ANTHROPIC: dict[str, Ask] = {
    "messages": message,
    "messages, streamed": lambda client: list(message(client, stream=True)),
    "messages, accumulated": stream_messages,
}


def check(engine: Upstream, site: Site, ask: Ask, connect: Callable[[str], Any]) -> None:
    """An answer is what it is without a gateway, and its charge is what the upstream counted."""
    with connect(engine.url) as client:
        direct = ask(client)
    counted, engine.usage.input, engine.usage.cached, engine.usage.output = (
        (engine.usage.input, engine.usage.cached, engine.usage.output), 0, 0, 0
    )  # fmt: skip
    with connect(site.url) as client:
        assert ask(client) == direct
    assert (engine.usage.input, engine.usage.cached, engine.usage.output) == counted
    clients = site.clients()["anonymous"]
    cached = clients["cached_tokens"]
    assert (clients["input_tokens"] + cached, cached, clients["output_tokens"]) == counted
    assert (clients["finished"], clients["aborted"]) == (1, 0)


@pytest.mark.parametrize("name", OPENAI)
def test_openais_client_gets_the_same_and_pays_for_what_was_counted(
    engine: Upstream, site: Site, name: str
) -> None:
    check(engine, site, OPENAI[name], openai_at)


@pytest.mark.parametrize("name", ANTHROPIC)
def test_anthropics_client_gets_the_same_and_pays_for_what_was_counted(
    engine: Upstream, site: Site, name: str
) -> None:
    check(engine, site, ANTHROPIC[name], anthropic_at)


# -- what goes wrong is raised as by the API's own servers ---------------------------------------


def test_an_upstreams_refusal_keeps_its_status_and_words(engine: Upstream, site: Site) -> None:
    with anthropic_at(site.url) as client:
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long") as error:
            message(client, metadata={"user_id": "refused"})
        assert isinstance(error.value.body, dict)
        assert error.value.body["request_id"] == "req_011"
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            message(client, metadata={"user_id": "refused"}, stream=True)
    with openai_at(site.url) as other, pytest.raises(openai.BadRequestError, match="too long"):
        respond(other, user="refused")
    clients = site.clients()["anonymous"]
    assert (clients["service"], clients["aborted"]) == (0, 3)  # no engine did anything


def test_an_error_in_mid_stream_is_raised_after_what_came(engine: Upstream, site: Site) -> None:
    events: list[str] = []
    with anthropic_at(site.url) as client:
        stream = message(client, metadata={"user_id": "failing"}, stream=True)
        with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
            events.extend(event.type for event in stream)
    assert events == ["message_start", "content_block_start", *["content_block_delta"] * 2]
    with openai_at(site.url) as other:
        for ask in (chat, respond):
            with pytest.raises(openai.APIError, match="Overloaded"):
                list(ask(other, stream=True, user="failing"))
    clients = site.clients()["anonymous"]
    assert (clients["finished"], clients["aborted"]) == (0, 3)


def test_an_upstream_that_dies_in_mid_stream_is_an_error_in_every_dialect(
    engine: Upstream, site: Site
) -> None:
    """The gateway's own words, after what came."""
    said = "did not answer to the end"
    with anthropic_at(site.url) as client, pytest.raises(anthropic.APIStatusError, match=said):
        list(message(client, metadata={"user_id": "dying"}, stream=True))
    with openai_at(site.url) as other:
        for ask in (chat, respond):
            with pytest.raises(openai.APIError, match=said):
                list(ask(other, stream=True, user="dying"))


def test_what_the_gateway_refuses_is_raised_by_its_kind(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.add("alice", requests_per_minute=2)
    key = town.keys["alice"]
    with (
        upstream() as engine,
        gateway(engine.url, folder=tmp_path, tenants="tenants.toml") as site,
        openai_at(site.url, key) as one,
        anthropic_at(site.url, key) as other,
        anthropic_at(site.url, "wrong") as stranger,
    ):
        with pytest.raises(anthropic.AuthenticationError, match="not known"):
            message(stranger)
        with pytest.raises(anthropic.NotFoundError, match="'huge' is not served"):
            other.messages.create(model="huge", messages=QUESTION, max_tokens=5)
        assert message(other).stop_reason == "tool_use"
        with pytest.raises(anthropic.RateLimitError, match="requests per minute"):
            message(other)
        with pytest.raises(openai.RateLimitError, match="requests per minute") as error:
            chat(one)
        assert int(error.value.response.headers["retry-after"]) >= 1
        site.server.app.drain()
        with pytest.raises(openai.InternalServerError, match="about to stop"):
            chat(one)
    assert engine.usage.output == 31


# -- curl ---------------------------------------------------------------------------------------


def curl(site: Site, path: str, body: Any, *options: str, given: bytes | None = None) -> bytes:
    """What it prints: the body, then the status in a line of its own."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed; it is in every system's packages")
    content = json.dumps(body).encode() if given is None else given
    words = ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE_S), "--no-buffer"]
    words += ["--write-out", "\n%{http_code}", "--header", "Content-Type: application/json"]
    words += ["--data-binary", "@-", *options, f"{site.url}{path}"]
    ended = subprocess.run(words, input=content, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("options", [[], ["--http1.0"], ["--header", "Transfer-Encoding: chunked"]])
def test_curl_streams_and_closes(engine: Upstream, site: Site, options: list[str]) -> None:
    body = {"model": MODEL, "messages": QUESTION, "stream": True}
    *events, done, status = curl(site, "/v1/chat/completions", body, *options).split(b"\n\n")
    assert (done, status) == (b"data: [DONE]", b"\n200")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert all(chunk["choices"] for chunk in chunks)  # its usage was not asked for
    assert site.clients()["anonymous"]["output_tokens"] == engine.usage.output == 23


def test_curl_asks_before_it_sends_much(engine: Upstream, site: Site) -> None:
    """Of a body of over a megabyte it sends the head first, and waits for a sign to go on."""
    body = {"model": MODEL, "input": "word " * 300_000}
    *_, status = curl(site, "/v1/embeddings", body).split(b"\n")
    assert (status, engine.usage.input) == (b"200", 7)
    assert site.clients()["anonymous"]["input_tokens"] == 7


def test_curl_is_told_what_is_wrong(engine: Upstream, site: Site) -> None:
    *text, status = curl(site, "/v1/chat/completions", None, given=b"{'model':").split(b"\n")
    assert status == b"400"
    assert "not JSON" in json.loads(b"\n".join(text))["error"]["message"]
    assert site.clients() == {}
