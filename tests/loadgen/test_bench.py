"""Measurements end to end: suites and traces to records on disk, metrics and warnings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fairlane.core.errors import FairlaneError
from fairlane.experiments.bench import BenchReport, BenchSettings, bench
from fairlane.experiments.plotting import plot_runs, save_page
from fairlane.experiments.settings import Settings
from fairlane.metrics import Table, shares_while_waiting
from fairlane.policies.registry import create_policy
from fairlane.records import read_run
from fairlane.workloads import TracedRequest, get_suite, write_csv
from tests.loadgen.server import CompletionServer, answer_with, chunk, event, stream_of, usage

SERVER = "http://127.0.0.1:1"


def write_trace(folder: Path, requests: list[TracedRequest]) -> str:
    path = folder / "trace.csv"
    write_csv(path, requests)
    return str(path)


def two_to_one(count: int = 90, gap_s: float = 0.002) -> list[TracedRequest]:
    """Client b sends twice as much as client a; all requests are alike."""
    return [TracedRequest(i, "abb"[i % 3], i * gap_s, 16, 16) for i in range(count)]


def measure(folder: Path, server: CompletionServer, **options: Any) -> BenchReport:
    """Send the requests `two_to_one` unless another trace is given."""
    trace = options.pop("trace", None) or write_trace(folder, two_to_one())
    settings = BenchSettings(suite="real", server=server.url, trace=trace, **options)
    return bench(settings, output=folder / "run.jsonl")


def test_suite_is_sent_at_the_times_at_which_it_is_simulated() -> None:
    for suite in ("overload", "on-off-overload", "poisson-short-long", "arena"):
        settings = BenchSettings(suite=suite, server=SERVER)
        assert settings.requests() == get_suite(suite).requests()


def test_rate_scale_multiplies_rates_and_keeps_duration_and_silent_windows() -> None:
    settings = BenchSettings(suite="on-off-overload", server=SERVER)
    once, thrice = settings.requests(), replace(settings, rate_scale=3.0).requests()
    assert len(thrice) == pytest.approx(3 * len(once), rel=0.01)
    assert thrice[-1].arrival_s == pytest.approx(once[-1].arrival_s, abs=2.0)
    for requests in (once, thrice):
        assert {int(r.arrival_s // 60) % 2 for r in requests if r.client == "0"} == {0}


def test_time_scale_stretches_everything() -> None:
    settings = BenchSettings(suite="on-off-overload", server=SERVER)
    assert replace(settings, time_scale=0.1).requests() == [
        replace(r, arrival_s=r.arrival_s * 0.1) for r in settings.requests()
    ]


def test_trace_at_twice_the_rate_takes_half_the_time(tmp_path: Path) -> None:
    trace = write_trace(tmp_path, two_to_one(10, gap_s=1.0))
    settings = BenchSettings(suite="real", server=SERVER, trace=trace, rate_scale=2.0)
    assert [r.arrival_s for r in settings.requests()] == [i / 2 for i in range(10)]
    first = replace(settings, duration=2.0).requests()
    assert [r.arrival_s for r in first] == [0.0, 0.5, 1.0, 1.5, 2.0]


def share_of_a(report: BenchReport) -> float:
    """Client a's share of the service while it had requests waiting."""
    return shares_while_waiting(Table.from_records(report.run.records))["a"].received


def test_vtc_gives_both_clients_the_same_and_fcfs_what_they_ask_for(tmp_path: Path) -> None:
    """All requests are there before the first is served, so that both are backlogged."""
    with CompletionServer(create_policy("vtc"), slots=4, hold=90) as server:
        fair = measure(tmp_path, server)
    with CompletionServer(create_policy("fcfs"), slots=4, hold=90) as server:
        unfair = measure(tmp_path, server)
    assert share_of_a(fair) == pytest.approx(1 / 2, rel=0.1)
    assert share_of_a(unfair) == pytest.approx(1 / 3, rel=0.1)
    assert fair.clients["a"]["share"].median == share_of_a(fair)
    assert fair.clients["a"]["ttft_mean"].median < fair.clients["b"]["ttft_mean"].median


def test_weights_say_what_clients_are_entitled_to(tmp_path: Path) -> None:
    policy = create_policy("vtc", weights={"a": 3.0, "b": 1.0})
    with CompletionServer(policy, slots=4, hold=90) as server:
        report = measure(tmp_path, server, weights=(3.0, 1.0))
    assert share_of_a(report) == pytest.approx(3 / 4, rel=0.1)
    assert report.clients["a"]["entitlement"].median == pytest.approx(3 / 4, rel=0.02)


def test_file_holds_everything_and_its_manifest_what_it_was_made_with(tmp_path: Path) -> None:
    with CompletionServer() as server:
        report = measure(tmp_path, server, time_scale=0.5)
    run = read_run(tmp_path / "run.jsonl")
    assert run.records == report.run.records
    assert len(run.records) == 90
    manifest = json.loads((tmp_path / "run.manifest.json").read_text())
    expected = {
        "source": "bench", "suite": "real", "server": server.url, "model": "tiny",
        "time_scale": 0.5, "request_count": 90, "unsent": 0, "interrupted": False, "failures": {},
    }  # fmt: skip
    assert {name: manifest[name] for name in expected} == expected
    assert manifest["client"]["intended_rate"] == pytest.approx(90 / (89 * 0.001))
    assert 0 < manifest["client"]["achieved_rate"] <= manifest["client"]["intended_rate"]
    assert {"send_lag_p99_s", "loop_lag_p99_s", "cpu_share"} <= set(manifest["client"])


def test_a_trace_with_a_late_clock_is_sent_from_its_first_arrival_on(tmp_path: Path) -> None:
    late = [replace(r, arrival_s=819_000 + r.arrival_s) for r in two_to_one(12)]
    said: list[str] = []
    with CompletionServer(slots=2, hold=len(late)) as server:  # so that both clients wait
        settings = BenchSettings(
            suite="real", server=server.url, trace=write_trace(tmp_path, late),
            weights=(("b", 2.0),), duration=60,
        )  # fmt: skip
        report = bench(settings, output=tmp_path / "run.jsonl", say=said.append)
    records = read_run(tmp_path / "run.jsonl").records
    arrivals = [r.arrival_s for r in two_to_one(12)]
    assert [r.arrival_s for r in records] == pytest.approx(arrivals, abs=1e-9)
    assert {r.outcome for r in records} == {"finished"}
    manifest = json.loads((tmp_path / "run.manifest.json").read_text())
    assert (manifest["trace_start_s"], manifest["weights"]) == (819_000.0, {"a": 1.0, "b": 2.0})
    assert said == [
        "weights: a=1, b=2",
        f"{settings.trace}: counted from its first arrival, at 819,000.0 s",
    ]
    assert report.clients["b"]["entitlement"].median > report.clients["a"]["entitlement"].median


def test_measured_runs_are_drawn_and_simulated_like_others(tmp_path: Path) -> None:
    trace = write_trace(tmp_path, two_to_one(60, gap_s=0.03))
    with CompletionServer() as server:
        measure(tmp_path, server, trace=trace)
    save_page(plot_runs({"measured": read_run(tmp_path / "run.jsonl")}), tmp_path / "run.svg")
    assert "Service under measured" in (tmp_path / "run.svg").read_text()
    again = BenchSettings(suite="real", server=SERVER, trace=str(tmp_path / "run.jsonl"))
    assert again.requests() == BenchSettings(suite="real", server=SERVER, trace=trace).requests()


def test_broken_requests_are_replayed_and_simulated_as_they_were_asked_for(tmp_path: Path) -> None:
    """Cut after 3 of 16 tokens, ended early, counted otherwise, refused."""
    asked = [TracedRequest(i, "ab"[i % 2], i * 0.01, 16, 16 + i) for i in range(5)]
    trace = write_trace(tmp_path, asked)
    stop = event(chunk(finish="stop"))
    faults = {
        16: stream_of(*[event(chunk())] * 3, cut=True),
        17: stream_of(event(chunk()), stop, event(usage(16, 2))),
        18: stream_of(event(chunk()), stop, event(usage(0, 18))),
        19: answer_with(429, "no"),
    }
    with CompletionServer(faults=faults) as server:
        report = measure(tmp_path, server, trace=trace)
    assert [r.output_len for r in report.run.records] == [3, 2, 18, 19, 20]
    result = str(tmp_path / "run.jsonl")
    assert BenchSettings(suite="real", server=SERVER, trace=result).requests() == asked
    assert Settings(suite="real", scheduler="fcfs", trace=result).requests() == asked


def test_keys_reach_the_server_and_no_file(tmp_path: Path) -> None:
    clients = tmp_path / "clients.toml"
    clients.write_text('[clients.a]\nkey = "sk-a"\n[clients.b]\nheaders = { X-Tenant = "bob" }\n')
    with CompletionServer() as server:
        measure(tmp_path, server, clients=str(clients))
    sent = {(s.headers.get("Authorization"), s.headers.get("X-Tenant")) for s in server.seen}
    assert sent == {("Bearer sk-a", None), (None, "bob")}
    for name in ("run.jsonl", "run.manifest.json"):
        assert "sk-a" not in (tmp_path / name).read_text()


def test_each_client_may_have_its_model(tmp_path: Path) -> None:
    with CompletionServer() as server:
        measure(tmp_path, server, client_model="adapter-{client}")
    asked = {(seen.body["user"], seen.body["model"]) for seen in server.seen}
    assert asked == {("a", "adapter-a"), ("b", "adapter-b")}


def test_words_make_prompts_of_the_exact_length(tmp_path: Path) -> None:
    with CompletionServer(tokens_added=1) as server:
        report = measure(tmp_path, server, prompts="words")
    assert {r.prompt_len for r in report.run.records} == {16}
    assert not [warning for warning in report.warnings if "prompt" in warning]


def test_all_rejected_is_a_result(tmp_path: Path) -> None:
    with CompletionServer(faults={16: answer_with(429, {"error": "no"})}) as server:
        report = measure(tmp_path, server)
    assert report.sent.failures == {"rejected: 429": 90}
    assert report.finished == 0
    assert report.metrics["aborted"].median == 90
    assert [c["service"].median for c in report.clients.values()] == [0, 0]
    assert len(read_run(tmp_path / "run.jsonl").records) == 90


SHORT = stream_of(event(chunk(finish="stop")), event(usage(16, 1)))
LONGER = stream_of(event(chunk(finish="length")), event(usage(17, 16)))
UNCOUNTED = stream_of(*[event(chunk())] * 15, event(chunk(finish="length")))
FEWER = stream_of(*[event(chunk())] * 15, event(chunk(finish="length")), event(usage(16, 15)))
NONE = stream_of(*[event(chunk())] * 15, event(chunk(finish="length")), event(usage(16, 0)))
NOT_FIRST = stream_of(
    event(chunk(text="")), *[event(chunk())] * 15, event(chunk(finish="length")),
    event(usage(16, 16)), event("[DONE]"),
)  # fmt: skip
STRICT = answer_with(400, {"error": {"message": "unknown fields: ignore_eos, min_tokens"}})
TEXT_ONLY = answer_with(400, {"error": "cannot unmarshal array into field .prompt of type string"})


@pytest.mark.parametrize(
    ("fault", "warning"),
    [
        (SHORT, "90 of 90 answers have another length than asked for: is ignore_eos"),
        (LONGER, "counts other prompt lengths than asked for in 90 of 90"),
        (LONGER, "the server sends 16 tokens a chunk"),
        (UNCOUNTED, "90 of 90 answers came without usage"),
        (NONE, "90 of 90 answers came without usage"),
        (FEWER, "counts fewer tokens than chunks came with text in 90 of 90 answers"),
        (STRICT, "complains of min_tokens in 90 answers: --omit min_tokens leaves it out"),
        (STRICT, "complains of ignore_eos in 90 answers: --omit ignore_eos leaves it out"),
        (TEXT_ONLY, "complains of prompt in 90 answers: --prompts words sends text"),
    ],
)
def test_numbers_that_are_not_what_they_seem_are_warned_of(
    tmp_path: Path, fault: Any, warning: str
) -> None:
    with CompletionServer(faults={16: fault}) as server:
        report = measure(tmp_path, server)
    assert any(warning in said for said in report.warnings)


def measured_warnings(report: BenchReport) -> list[str]:
    """The warnings but for those of this machine, which may be busy."""
    return [said for said in report.warnings if "bottleneck" not in said]


def test_chunk_without_a_token_is_nothing_to_warn_of(tmp_path: Path) -> None:
    with CompletionServer(faults={16: NOT_FIRST}) as server:
        report = measure(tmp_path, server)
    assert not measured_warnings(report)
    assert {len(r.token_times_s or ()) for r in report.run.records} == {16}


async def strict(server: CompletionServer, request: web.Request) -> web.StreamResponse:
    """Takes what OpenAI takes, and names the first field that it does not."""
    unknown = [name for name in ("min_tokens", "ignore_eos") if name in await request.json()]
    if unknown:
        error = {"message": f"Unrecognized request argument supplied: {unknown[0]}", "code": None}
        return web.json_response({"error": error}, status=400)
    return await SHORT(server, request)


def test_strict_server_is_measured_without_what_it_does_not_take(tmp_path: Path) -> None:
    with CompletionServer(faults={16: strict}) as server:
        assert measure(tmp_path, server).finished == 0
        report = measure(tmp_path, server, omit=("min_tokens",))
        assert any("--omit ignore_eos leaves it out" in said for said in report.warnings)
        report = measure(tmp_path, server, omit=("min_tokens", "ignore_eos"))
    assert report.finished == 90
    assert measured_warnings(report) == [
        "90 of 90 answers have another length than asked for: "
        "nothing forces it without ignore_eos and min_tokens"
    ]


def test_user_is_left_out_unless_a_file_gives_one(tmp_path: Path) -> None:
    clients = tmp_path / "clients.toml"
    clients.write_text('[clients.a]\nkey = "k"\n[clients.b]\n')
    with CompletionServer(faults={16: SHORT}) as server:
        measure(tmp_path, server, clients=str(clients), omit=("user",))
        assert not any("user" in seen.body for seen in server.seen)
        clients.write_text('[clients.a]\nuser = "alice"\n[clients.b]\n')
        with pytest.raises(FairlaneError, match="gives client a a user, which --omit user"):
            measure(tmp_path, server, clients=str(clients), omit=("user",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": "overlod"}, "did you mean overload"),
        ({"suite": "real"}, "needs a trace"),
        ({"rate_scale": 0.0}, "rate_scale must be greater than 0, not 0.0"),
        ({"drain_s": float("nan")}, "drain_s must be a finite number, not nan"),
        ({"seed": -1}, "seed must be greater than or equal to 0, not -1"),
        ({"prompts": None}, "prompts must be a valid string, not None"),
        ({"prompts": "poems"}, "known: tokens, words"),
        ({"omit": ("min_token",)}, "did you mean min_tokens"),
        ({"omit": ("max_tokens",)}, "unknown field to omit 'max_tokens'"),
        ({"weights": (1.0,)}, "1 weights for 2 clients"),
        ({"clients": "none.toml"}, "none.toml: cannot be read"),
        ({"duration": 0.1}, "nothing to send"),
        ({}, "cannot be reached"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FairlaneError, match=message):
        bench(BenchSettings(**{"suite": "overload", "server": SERVER, **options}))


@pytest.mark.parametrize("name", ["run.csv", "folder.jsonl", "file/run.jsonl"])
def test_output_that_cannot_be_written_is_told_before_anything_is_sent(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "file").write_text("")
    with CompletionServer() as server:
        settings = BenchSettings(suite="overload", server=server.url, time_scale=0.001)
        with pytest.raises(FairlaneError, match=name):
            bench(settings, output=tmp_path / name)
    assert not server.seen
