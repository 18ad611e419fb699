"""What vLLM can do with a request is charged for what was delivered, once, on a real server."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import CONTENDED, Server, guarded, write_model

from fairlane.door.tenants import Role, Tenant, hash_key, new_key
from fairlane.engines.vllm.adapters import write_adapter
from tests.collector import Collector, Told
from tests.processes import wait_until

KEYS = {name: new_key() for name in ("alice", "bob", "root")}
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3,
         "prompt_lookup_min": 1}  # fmt: skip
PATIENCE = 500
SCHEMA = {
    "type": "object",
    "properties": {"fair": {"type": "boolean"}, "waits": {"enum": ["long", "short"]}},
    "required": ["fair", "waits"],
    "additionalProperties": False,
}


def tenants() -> list[Tenant]:
    roles = {"root": Role.OPERATOR}
    return [
        Tenant(name, keys=(hash_key(key),), role=roles.get(name, Role.CLIENT))
        for name, key in KEYS.items()
    ]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    """One that speculates, and tells of each request."""
    model = write_model(tmp_path_factory.mktemp("model"))
    options: tuple[str, ...] = ("--speculative-config", json.dumps(NGRAM))
    options += ("--otlp-traces-endpoint", f"{collector.url}/v1/traces")
    tables = (
        f'[log]\naccess = "a.log"\n[tracing]\nendpoint = "{collector.url}"\nclients = "follow"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        folder = tmp_path_factory.mktemp("server")
        with guarded(model, folder, tenants(), options, tables) as made:
            yield made


def charged(server: Server, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], Counter[str]]:
    """The answer to alice's request, and by how much her account grew."""
    before = Counter(figures(server))
    status, _, answer = server.request("POST", path, {"model": "tiny", **body}, key=KEYS["alice"])
    assert status == 200, answer
    wait_until(lambda: figures(server), lambda f: not f["queued"] + f["running"], "it is over")
    grown = Counter(figures(server))
    grown.subtract(before)
    assert grown["finished"] == grown["arrivals"]
    tokens = grown["input_tokens"] + 0.1 * grown["cached_tokens"] + 2 * grown["output_tokens"]
    assert grown["service"] == pytest.approx(tokens, rel=1e-5)  # prices are multiples of 2**-20
    return json.loads(answer), grown


def figures(server: Server) -> Counter[str]:
    found = server.clients(KEYS["root"]).get("alice", {})
    return Counter({k: v for k, v in found.items() if isinstance(v, int | float)})


def test_one_trace_and_one_line_tell_of_a_request(server: Server, collector: Collector) -> None:
    """The middleware's span says whose request it is, and vLLM's own is its child."""
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    body = {"model": "tiny", "prompt": "w1 w2 w3", "max_tokens": 5, "ignore_eos": True}
    headers = {"traceparent": f"00-{trace}-{parent}-01"}
    status, _, _ = server.request("POST", "/v1/completions", body, headers, KEYS["alice"])
    assert status == 200

    def spans() -> dict[str, Told]:
        found = [span for span in list(collector.spans) if span.trace == trace]
        return {span.name: span for span in found}

    found = wait_until(
        spans, lambda s: {"POST /v1/completions", "llm_request"} <= s.keys(), "spans"
    )
    outer, inner = found["POST /v1/completions"], found["llm_request"]
    assert (outer.parent, inner.parent) == (parent, outer.id)
    assert outer.attributes["fairlane.tenant"] == "alice"
    assert outer.attributes["gen_ai.usage.output_tokens"] == 5
    assert inner.attributes["gen_ai.usage.completion_tokens"] == 5
    log = server.log.parent / "a.log"
    line = wait_until(lambda: lines_of(log, trace), lambda found: len(found) == 1, "a line")[0]
    assert line.items() >= {
        "tenant": "alice", "model": "tiny", "status": 200, "outcome": "finished",
        "prompt_tokens": 3, "output_tokens": 5, "service": 3 + 2 * 5,
    }.items()  # fmt: skip
    assert 0 < line["first_token_s"] <= line["duration_s"]


def lines_of(log: Path, trace: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [line for line in lines if line["trace_id"] == trace]


def test_structured_output_is_charged_as_it_is_delivered(server: Server) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}
    body = {"messages": [{"role": "user", "content": "w1 w2"}], "response_format": shape}
    answer, grown = charged(
        server, "/v1/chat/completions", {**body, "max_tokens": 100, "temperature": 0}
    )
    assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"fair", "waits"}
    assert grown["arrivals"] == 1
    assert grown["output_tokens"] == answer["usage"]["completion_tokens"]
    assert grown["input_tokens"] == answer["usage"]["prompt_tokens"]


def test_a_choice_among_words_is_charged_as_it_is_delivered(server: Server) -> None:
    body = {"prompt": "w1", "max_tokens": 9, "structured_outputs": {"choice": ["w7", "w9"]}}
    answer, grown = charged(server, "/v1/completions", body)
    assert answer["choices"][0]["text"] in ("w7", "w9")
    assert grown["output_tokens"] == answer["usage"]["completion_tokens"] == 2  # and its end


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ({"prompt": "w1 w2 w3", "temperature": 0}, True),  # it repeats itself
        (  # no word twice, so that what follows one in the prompt hardly ever comes
            {"prompt": [5 + i for i in range(400)], "temperature": 1, "presence_penalty": 2},
            False,
        ),
    ],
)
def test_speculative_tokens_are_charged_once_when_they_are_delivered(
    server: Server, body: dict[str, Any], right: bool
) -> None:
    before = speculation(server)
    _, grown = charged(server, "/v1/completions", {**body, "max_tokens": 100, "ignore_eos": True})
    after = speculation(server)
    drafted, accepted = (after[kind] - before[kind] for kind in ("draft", "accepted"))
    assert drafted > 50
    assert accepted > 0.9 * drafted if right else accepted < 0.1 * drafted
    assert right or drafted - accepted > 50
    assert grown["output_tokens"] == 100
    assert grown["input_tokens"] == (3 if right else 400)


def speculation(server: Server) -> dict[str, float]:
    """Tokens that were drafted and accepted, by vLLM's own count."""
    found = {}
    for line in server.request("GET", "/metrics")[2].splitlines():
        for kind in ("draft", "accepted"):
            if line.startswith(f"vllm:spec_decode_num_{kind}_tokens_total"):
                found[kind] = float(line.rpartition(" ")[2])
    return found


def test_each_sample_is_charged_and_so_is_its_prompt(server: Server) -> None:
    answer, grown = charged(server, "/v1/completions", {"prompt": "w1 w2", "max_tokens": 7, "n": 3})
    assert len(answer["choices"]) == 3
    assert grown["arrivals"] == 3
    assert grown["output_tokens"] == answer["usage"]["completion_tokens"]
    assert grown["input_tokens"] == 3 * 2


def test_what_the_prefix_cache_holds_is_charged_as_cached(server: Server) -> None:
    body = {"prompt": [104 - i for i in range(100)], "max_tokens": 4}
    _, first = charged(server, "/v1/completions", body)
    _, again = charged(server, "/v1/completions", body)
    assert (first["input_tokens"], first["cached_tokens"]) == (100, 0)
    assert (again["input_tokens"], again["cached_tokens"]) == (4, 96)  # three blocks of 32


def test_each_step_of_each_beam_is_charged_as_the_request_that_it_is(server: Server) -> None:
    """Every token of every beam, after the first, is a new request of vLLM to its engine."""
    body = {"prompt": "w1 w2", "max_tokens": 10, "n": 2, "use_beam_search": True}
    answer, grown = charged(server, "/v1/completions", {**body, "ignore_eos": True})
    assert len(answer["choices"]) == 2
    assert grown["arrivals"] == grown["output_tokens"] == 1 + 9 * 2
    assert grown["input_tokens"] + grown["cached_tokens"] == 2 + 2 * sum(range(3, 12))


def test_two_adapters_take_turns_where_one_fits(tmp_path: Path) -> None:
    """Alice sends twice as much; vLLM alone would serve bob when she has nothing left."""
    model = write_model(tmp_path / "model", **CONTENDED)
    adapter = write_adapter(model, 8)
    options = ("--enable-lora", "--max-loras", "1", "--max-cpu-loras", "2", "--max-lora-rank", "8",
               "--lora-modules", f"alice={adapter}", f"bob={adapter}")  # fmt: skip
    patience = f"[scheduler]\nadapter_patience = {PATIENCE}\n"
    with guarded(model, tmp_path, tenants(), options, patience) as server:
        served = adapters_served(server, {"alice": 32, "bob": 16}, tokens=5000)
    assert served["alice"] / served["bob"] == pytest.approx(1.0, rel=0.2)


def adapters_served(server: Server, workers: dict[str, int], tokens: int) -> Counter[str]:
    """Tokens of each client while all have requests waiting."""
    over = threading.Event()

    def work(name: str) -> None:
        body = {"model": name, "prompt": "w1 w2", "max_tokens": 16, "ignore_eos": True}
        while not over.is_set():
            assert server.request("POST", "/v1/completions", body, key=KEYS[name])[0] == 200

    def delivered() -> Counter[str]:
        clients = server.clients(KEYS["root"])
        return Counter({name: clients.get(name, {}).get("output_tokens", 0) for name in workers})

    threads = [threading.Thread(target=work, args=(n,)) for n in workers for _ in range(workers[n])]
    for thread in threads:
        thread.start()
    try:
        before = wait_until(delivered, lambda now: min(now.values()) > 0, "both are served")
        after = wait_until(delivered, lambda now: (now - before).total() >= tokens, "enough is")
        return after - before
    finally:
        over.set()
        for thread in threads:
            thread.join()
