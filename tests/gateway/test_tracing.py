"""Traces, by a real collector on a socket: whose child each span is, and what a client may say."""

import json
import re
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.door.tracing import TracingConfig
from tests.collector import Collector, Told
from tests.door.town import Town
from tests.engines.identity.site import Engine, running
from tests.gateway.scripted import Reply, scripted
from tests.gateway.site import Site, command, gateway, until
from tests.loadgen.server import CompletionServer, hang_up
from tests.simulated.engines import ask

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
SERVER, CLIENT, INTERNAL = 2, 3, 1
WHOLE = {"model": "tiny", "prompt": "a b", "max_tokens": 1}
ANSWER = {"usage": {"prompt_tokens": 2, "completion_tokens": 2}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans leave soon, and nothing of the machine's own environment counts."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    for name in ("ENDPOINT", "TRACES_ENDPOINT", "PROTOCOL", "TRACES_PROTOCOL", "HEADERS"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)


@pytest.fixture
def collector(life: ExitStack) -> Collector:
    return life.enter_context(Collector())


def by_kind(spans: list[Told]) -> dict[int, Told]:
    return {span.kind: span for span in spans}


@pytest.mark.usefixtures("any_desk")
def test_a_trace_shows_a_requests_way(
    tmp_path: Path, life: ExitStack, collector: Collector
) -> None:
    town = Town(tmp_path)
    key = town.add("acme")
    upstream = life.enter_context(CompletionServer())
    tables: dict[str, Any] = {"tenants": "tenants.toml", "log": {"access": "a.log"}}
    tables["tracing"] = {"endpoint": collector.url}
    with gateway(upstream.url, folder=tmp_path, **tables) as site:
        assert site.complete(3, key)[0] == 200
        assert site.request("GET", "/v1/models", key=key)[0] == 200  # is no work, and has no trace
        spans = collector.wait_for(3)
    server, queue, client = (by_kind(spans)[kind] for kind in (SERVER, INTERNAL, CLIENT))
    assert (server.parent, queue.parent, client.parent) == ("", server.id, server.id)
    assert {span.trace for span in spans} == {server.trace}
    assert {span.service for span in spans} == {"fairlane-gateway"}
    names = [server.name, queue.name, client.name]
    assert names == ["POST /v1/completions", "queue", "text_completion tiny"]
    assert server.begin <= queue.begin <= queue.end <= client.begin <= client.end <= server.end
    usage = {"gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 3}
    assert server.attributes.items() >= {
        **usage, "fairlane.tenant": "acme", "fairlane.outcome": "finished",
        "http.response.status_code": 200, "http.request.method": "POST",
        "gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "tiny", "gen_ai.request.stream": True,
    }.items()  # fmt: skip
    assert client.attributes.items() >= {
        **usage, "fairlane.upstream": "u0", "server.address": "127.0.0.1",
        "gen_ai.request.model": "tiny",
    }.items()  # fmt: skip
    assert 0 < client.events["first token"] <= (client.end - client.begin) / 1e9
    assert not any(span.failed for span in spans)
    sent = {name.lower(): value for name, value in upstream.seen[0].headers.items()}
    assert sent["traceparent"].startswith(f"00-{server.trace}-{client.id}-0")
    logged = [json.loads(line) for line in (tmp_path / "a.log").read_text().splitlines()]
    assert logged[0]["trace_id"] == server.trace


@pytest.mark.usefixtures("any_desk")
def test_what_goes_wrong_is_seen(life: ExitStack, collector: Collector) -> None:
    good = life.enter_context(CompletionServer())
    bad = life.enter_context(CompletionServer(faults={7: hang_up}))
    with gateway(
        bad.url, tracing={"endpoint": collector.url}, gateway={"tries": 2}, window=1
    ) as site:
        assert site.complete(7)[0] == 502
        spans = collector.wait_for(5)
        server = by_kind(spans)[SERVER]
        tries = [span for span in spans if span.kind == CLIENT]
        assert [span.attributes["error.type"] for span in tries] == ["not_served", "upstream_error"]
        assert all(span.failed for span in tries)
        assert server.failed
        assert server.attributes["error.type"] == "upstream_error"
        assert site.complete(1, model="huge")[0] == 404
        refused = collector.wait_for(7)[-2:]
    outer = by_kind(refused)[SERVER]
    assert (outer.attributes["error.type"], outer.failed) == ("model_not_found", False)
    assert good.seen == []


@pytest.mark.parametrize(
    ("clients", "sample", "sent", "joined", "traced"),
    [
        ("join", 1.0, SAMPLED, True, True),
        ("join", 1.0, NOT_SAMPLED, True, True),  # nobody hides by a flag
        ("join", 0.0, SAMPLED, True, False),  # and nobody fills the collector by one
        ("follow", 0.0, SAMPLED, True, True),
        ("follow", 1.0, NOT_SAMPLED, True, False),
        ("ignore", 1.0, NOT_SAMPLED, False, True),
        ("join", 1.0, f"00-{'0' * 32}-{PARENT}-01", False, True),
        ("join", 1.0, f"{SAMPLED}, {SAMPLED}", False, True),
        ("join", 1.0, "\xff" * 20_000, False, True),
        ("join", 1.0, "cc-" + "f" * 10_000, False, True),
    ],
)
def test_a_clients_context_goes_on_as_far_as_it_may(
    collector: Collector, clients: str, sample: float, sent: str, joined: bool, traced: bool
) -> None:
    tracing = {"endpoint": collector.url, "clients": clients, "sample": sample}
    with (
        scripted({"/v1/completions": Reply(ANSWER)}) as engine,
        gateway(engine.url, tracing=tracing) as site,
    ):
        headers = {"traceparent": sent, "tracestate": "v=1"}
        assert site.request("POST", "/v1/completions", WHOLE, **headers)[0] == 200
        found = re.fullmatch(
            r"00-(\w{32})-(\w{16})-0([0-3])", engine.seen[0].headers["traceparent"]
        )
        assert found is not None
        assert (found[1] == TRACE, int(found[3]) % 2) == (joined, traced)
        assert engine.seen[0].headers.get("tracestate") == ("v=1" if joined else None)
        spans = collector.wait_for(3) if traced else []
    assert (len(collector.spans), len(spans)) == ((3, 3) if traced else (0, 0))
    if traced:
        server, client = by_kind(spans)[SERVER], by_kind(spans)[CLIENT]
        assert (server.trace == TRACE, server.parent) == (joined, PARENT if joined else "")
        assert (found[1], found[2]) == (client.trace, client.id)


def test_without_tracing_a_clients_context_passes_untouched() -> None:
    with (
        scripted({"/v1/completions": Reply(ANSWER)}) as engine,
        gateway(engine.url) as site,
    ):
        site.request("POST", "/v1/completions", WHOLE, traceparent=SAMPLED, tracestate="a=b")
        told = engine.seen[0].headers
        assert (told["traceparent"], told["tracestate"]) == (SAMPLED, "a=b")


@pytest.mark.slow
def test_a_dead_collector_hurts_nobody(life: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """One that is gone, and one that takes connections and never answers."""
    collector = Collector()
    collector._server.socket.listen()
    upstream = life.enter_context(CompletionServer())
    for url in ("http://127.0.0.1:9", collector.url):
        with gateway(upstream.url, tracing={"endpoint": url}) as site:
            for _ in range(3):
                assert site.complete(2)[0] == 200
            if url != collector.url:
                until(lambda: "the collector does not take traces" in caplog.text)
    collector._server.server_close()
    assert caplog.text.count("the collector does not take traces") <= 2
    assert "Queue full" not in caplog.text


def test_every_worker_sends_its_own(tmp_path: Path, life: ExitStack, collector: Collector) -> None:
    upstream = life.enter_context(CompletionServer())
    config = tmp_path / "fairlane.toml"
    config.write_text(f'[tracing]\nenvironment = true\n[upstreams.a]\nurl = "{upstream.url}"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")
        patch.setenv("OTEL_SERVICE_NAME", "mine")
        options = ("--config", str(config), "--workers", "2")
        process, url = life.enter_context(command(*options))
    site = Site(None, None, url)  # type: ignore[arg-type]
    threads = [threading.Thread(target=site.complete, args=(3,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = collector.wait_for(24)
    assert len({span.trace for span in spans}) == 8
    assert {span.service for span in spans} == {"mine"}
    assert collector.headers["api-key"] == "secret"
    assert ask(url, "/health").status == 200
    process.terminate()


def test_one_trace_shows_the_gateway_and_vllms_server(
    tmp_path: Path, life: ExitStack, collector: Collector
) -> None:
    """The middleware goes on with the gateway's trace, and hands it on to the engine's own."""
    town = Town(tmp_path)
    key = town.add("alice")
    engine = Engine()
    engine.output_tokens = 4
    config = TracingConfig(endpoint=collector.url)
    with running(town.access(), engine, tracing=config) as server:
        assert server.send(key, {"prompt_tokens": 5}, traceparent=SAMPLED)[0] == 200
        assert server.send(None, {})[0] == 401  # who is nobody has no trace
        [span] = collector.wait_for(1)
    assert (span.trace, span.parent, span.kind) == (TRACE, PARENT, SERVER)
    assert span.attributes.items() >= {
        "fairlane.tenant": "alice", "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 4, "http.response.status_code": 200,
    }.items()  # fmt: skip
    assert span.service == "fairlane-vllm"
    assert "first token" in span.events
    assert engine.headers[0][b"traceparent"].startswith(f"00-{TRACE}-{span.id}-0".encode())


@pytest.mark.parametrize(
    ("table", "environment", "says"),
    [
        ({"sample": 0.5}, {}, "sample: nothing is traced; name an endpoint"),
        ({"environment": False}, {}, "environment: nothing is traced"),
        ({"endpoint": "localhost:4318"}, {}, "endpoint takes an address such as"),
        ({"endpoint": "http://u:p@h"}, {}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"endpoint": "http://h", "sample": 2}, {}, "sample must be"),
        ({"endpoint": "http://h", "clients": "trust"}, {}, "clients must be"),
        ({"environment": True}, {}, "it has no OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"environment": True, "endpoint": "http://h"}, {}, "remove one of them"),
        (
            {"environment": True},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "only http/protobuf is spoken here, not grpc",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    table: dict[str, Any],
    environment: dict[str, str],
    says: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FairlaneError, match=re.escape(says)):
        TracingConfig.parse(table)


def test_where_traces_go() -> None:
    for written in ("http://h:4318", "http://h:4318/", "http://h:4318/v1/traces"):
        assert TracingConfig.parse({"endpoint": written}).url == "http://h:4318/v1/traces"
    assert TracingConfig.parse({"endpoint": "https://h/otlp/"}).url == "https://h/otlp"


def test_an_install_without_it_says_what_is_missing() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from fairlane.door.tracing import TracingConfig\n"
        "TracingConfig.parse({'endpoint': 'http://h'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "FairlaneError: traces need OpenTelemetry, which is not installed: pip" in done.stderr


# -- the field's names for metrics ------------------------------------------------------------


@pytest.mark.usefixtures("any_desk")
def test_metrics_have_the_fields_names_too(life: ExitStack) -> None:
    upstream = life.enter_context(CompletionServer(faults={7: hang_up}))
    with gateway(upstream.url, gateway={"tries": 1}) as site:
        assert site.complete(3)[0] == 200
        assert site.request("POST", "/v1/completions", WHOLE)[0] == 200
        assert site.complete(7)[0] == 502
        for name in ("huge", "x" * 200):  # models that are not served have no labels
            assert site.complete(1, model=name)[0] == 404
        text = site.request("GET", "/metrics")[2].decode()
    told = {
        name: float(value)
        for name, value in (
            line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("gen_ai")
        )
    }
    who = (
        'gen_ai_operation_name="text_completion",gen_ai_provider_name="openai",'
        'gen_ai_request_model="tiny"'
    )
    duration = "gen_ai_server_request_duration_seconds"
    assert told[f'{duration}_count{{error_type="",{who}}}'] == 2
    assert told[f'{duration}_count{{error_type="upstream_error",{who}}}'] == 1
    assert told[f"gen_ai_server_time_to_first_token_seconds_count{{{who}}}"] == 1
    assert told[f"gen_ai_server_time_per_output_token_seconds_count{{{who}}}"] == 1
    used = {"input": 3 + 2, "output": 3 + 1}  # as the engine says of it
    for kind, tokens in used.items():
        assert told[f'gen_ai_client_token_usage_sum{{{who},gen_ai_token_type="{kind}"}}'] == tokens
    bounds = [
        float(found[1])
        for found in re.finditer(rf'{duration}_bucket{{error_type="",[^}}]*le="([^"]+)"}}', text)
    ]
    assert bounds == [*(round(0.01 * 2**k, 2) for k in range(14)), float("inf")]
    assert "huge" not in text
    assert "xxxx" not in text
