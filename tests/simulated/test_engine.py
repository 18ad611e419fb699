"""The engine against the simulation, and under load: times, memory, counts."""

import asyncio
import json
import socket
import threading
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.experiments.bench import BenchSettings, bench
from fairlane.policies.registry import create_policy
from fairlane.records import RequestRecord, Run
from fairlane.simulated import SimulatedEngine
from fairlane.simulated.server import make_server
from fairlane.simulator.run import simulate
from fairlane.workloads import TracedRequest, write_csv
from tests.simulated.engines import Running, ask, metrics, running, wait_until

PROFILES = ("h200-llama-2-7b", "a10g-llama-2-7b")
each_profile = pytest.mark.parametrize("profile", PROFILES)


def bursts(count: int, tokens: int = 60) -> list[TracedRequest]:
    """Requests of two clients, several at a time."""
    return [
        TracedRequest(i, "ab"[i % 2], 0.02 * (i // 8), 20 + i % 50, 1 + (7 * i) % tokens)
        for i in range(count)
    ]


def send(one: Running, folder: Path, requests: list[TracedRequest]) -> Run:
    """Send requests by `fairlane bench`; what its clients saw."""
    write_csv(folder / "trace.csv", requests)
    trace = str(folder / "trace.csv")
    return bench(BenchSettings(suite="real", server=one.url, trace=trace)).run


def simulated(
    ended: list[RequestRecord], profile: str, scheduler: str, *, noise: bool = False, **options: Any
) -> Run:
    """The same requests, come at the same server times, simulated."""
    records = sorted(ended, key=lambda record: int(record.id))
    requests = [
        TracedRequest(i, r.client, r.arrival_s, r.prompt_len, r.output_len)
        for i, r in enumerate(records)
    ]
    settings = {"memory_tokens": None, "max_num_seqs": None, **options}
    server = make_server(profile, scheduler=scheduler, noise=noise, **settings)
    return simulate(requests, create_policy(scheduler), server)


def times(records: list[RequestRecord]) -> list[tuple[float | None, float | None]]:
    ordered = sorted(records, key=lambda record: int(record.id))
    return [(record.ttft_s, record.latency_s) for record in ordered]


@each_profile
@pytest.mark.parametrize("scheduler", ["fcfs", "vtc"])
def test_times_are_those_of_a_simulation_to_the_last_bit(
    tmp_path: Path, profile: str, scheduler: str
) -> None:
    """However busy this machine is: late is what comes out of it, not what happens in it."""
    with running(profile=profile, scheduler=scheduler, memory_tokens=4000, noise=False) as one:
        seen = send(one, tmp_path, bursts(80))
    assert {record.outcome for record in seen.records} == {"finished"}
    expected = simulated(one.ended, profile, scheduler, memory_tokens=4000)
    assert times(one.ended) == times(expected.records)


@each_profile
def test_with_noise_the_throughput_is_that_of_a_simulation(tmp_path: Path, profile: str) -> None:
    with running(profile=profile, speed=10.0, memory_tokens=6000) as one:
        send(one, tmp_path, bursts(120, tokens=100))
    expected = simulated(one.ended, profile, "fcfs", noise=True, memory_tokens=6000)

    def throughput(records: list[RequestRecord]) -> float:
        end = max(r.arrival_s + (r.latency_s or 0.0) for r in records)
        begin = min(r.arrival_s for r in records)
        return sum(r.prompt_len + r.output_len for r in records) / (end - begin)

    assert throughput(one.ended) == pytest.approx(throughput(expected.records), rel=0.05)


def test_who_was_late_catches_up_and_says_so() -> None:
    """The event loop is held up when the first of eight ends, for a minute of the server's."""
    pause, ended = threading.Event(), []

    def hold_up(record: RequestRecord) -> None:
        ended.append(record)
        if len(ended) == 1:
            pause.wait(0.6)

    with running(noise=False, mean_output=1000, on_end=hold_up) as one:
        ask(one.url, "/v1/completions", {"prompt": "a", "n": 8, "max_tokens": 4000})
    assert len({record.output_len for record in ended}) == 8
    assert times(ended) == times(simulated(ended, PROFILES[0], "fcfs").records)
    late = one.engine.counts.as_dict()["late_s"]
    assert sum(late.values()) == one.engine.counts.generation_tokens
    assert sum(count for bound, count in late.items() if float(bound) > 0.25) > 0


@each_profile
def test_metrics_count_what_was_delivered(tmp_path: Path, profile: str) -> None:
    requests = bursts(100)
    with running(profile=profile) as one:
        seen = send(one, tmp_path, requests)
        told = metrics(one.url)
    assert told["vllm:generation_tokens_total"] == sum(r.output_len for r in seen.records)
    assert told["vllm:prompt_tokens_total"] == sum(r.prompt_len for r in seen.records)
    assert told["vllm:num_requests_running"] == told["vllm:num_requests_waiting"] == 0
    assert told["vllm:kv_cache_usage_perc"] == 0
    late = told["fairlane_simulated_lateness_seconds_count"]
    assert late == told["vllm:generation_tokens_total"]
    assert one.engine.counts.ended == {"length": 100}


def test_no_more_run_than_may(tmp_path: Path) -> None:
    with running(max_num_seqs=3) as one:
        seen = send(one, tmp_path, bursts(40))
    assert {record.outcome for record in seen.records} == {"finished"}
    assert one.engine.counts.peak_running == 3


def test_memory_runs_out_as_in_vllm_and_all_are_served(tmp_path: Path) -> None:
    with running(memory_tokens=600, noise=False) as one:
        seen = send(one, tmp_path, bursts(40, tokens=300))
        told = metrics(one.url)
    assert {record.outcome for record in seen.records} == {"finished"}
    assert told["vllm:num_preemptions_total"] > 0
    assert times(one.ended) == times(
        simulated(one.ended, PROFILES[0], "fcfs", memory_tokens=600).records
    )


def hang_up_after(url: str, body: dict[str, Any], answered: bool) -> None:
    """Send a request and leave, once the answer has begun or at once."""
    address = urlsplit(url)
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + content)
        while answered and b'"text"' not in connection.recv(65536):
            pass


@each_profile
@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_its_memory(profile: str, stream: bool) -> None:
    """At this speed its two answers would take an hour and more."""
    body = {"prompt": [1] * 100, "max_tokens": 1900, "ignore_eos": True, "stream": stream, "n": 2}
    with running(profile=profile, speed=0.05) as one:
        counts = one.engine.counts
        hang_up_after(one.url, body, answered=stream)
        wait_until(lambda: counts.ended["abort"] == 2)
        told = metrics(one.url)
        assert told["vllm:num_requests_running"] == told["vllm:num_requests_waiting"] == 0
        assert told["vllm:kv_cache_usage_perc"] == 0
        if stream:
            assert {record.outcome for record in one.ended} == {"aborted"}
            assert sum(r.output_len for r in one.ended if r.ttft_s) == counts.generation_tokens


def test_who_hangs_up_makes_room_for_who_waits() -> None:
    with running(max_num_seqs=1, speed=1.0) as one:
        threads = [
            threading.Thread(
                target=hang_up_after,
                args=(one.url, {"prompt": [i + 1], "max_tokens": 4000, "stream": True,
                                "ignore_eos": True}, True),
            )
            for i in range(6)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:  # each goes once it has a token, and then the next can have one
            thread.join()
        wait_until(lambda: one.engine.counts.ended["abort"] == 6)
        assert one.engine.counts.peak_running == 1


def test_an_engine_that_breaks_down_says_so_and_stays_down() -> None:
    with running() as one:

        def broken() -> None:
            raise RuntimeError("no more")

        one.engine.engine._loop.advance = broken  # type: ignore[method-assign]
        answer = ask(one.url, "/v1/completions", {"prompt": "a"})
        assert (answer.status, answer.json["error"]["code"]) == (503, 503)
        assert "no more" in answer.json["error"]["message"]
        assert ask(one.url, "/health").status == 503
        assert ask(one.url, "/v1/completions", {"prompt": "a", "stream": True}).status == 503


def test_streams_under_way_end_with_an_error_event_when_it_is_closed() -> None:
    body = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    answers = []
    with running(speed=0.5) as one:
        thread = threading.Thread(
            target=lambda: answers.append(ask(one.url, "/v1/completions", body))
        )
        thread.start()
        wait_until(lambda: one.engine.counts.generation_tokens > 3)
    thread.join()
    *chunks, error = answers[0].events
    assert len(chunks) >= 3
    assert error["error"]["message"] == "the engine is shutting down"


def test_engines_share_an_event_loop_without_a_server() -> None:
    """As plain ASGI applications, called by a program of one's own."""

    async def ask_directly(engine: SimulatedEngine) -> int:
        body = [{"type": "http.request", "body": b'{"prompt": "a", "max_tokens": 2}'}]
        sent: list[Any] = []

        async def receive() -> Any:
            return body.pop() if body else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await engine({"type": "http", "method": "POST", "path": "/v1/completions"}, receive, send)
        status: int = sent[0]["status"]
        return status

    async def both() -> list[int]:
        engines = SimulatedEngine(speed=100.0), SimulatedEngine("a100-llama-2-13b", 100.0)
        return await asyncio.gather(*map(ask_directly, engines))

    assert asyncio.run(both()) == [200, 200]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "h100"}, "unknown profile 'h100'"),
        ({"speed": 0.0}, "speed must be greater than 0"),
        ({"speed": float("inf")}, "speed must be greater than 0"),
        ({"mean_output": 0.5}, "mean_output must be greater than or equal to 1"),
        ({"max_num_seqs": 0}, "max_num_seqs must be greater than or equal to 1"),
        ({"memory_tokens": 31}, "memory-tokens must be at least 32, not 31"),
        (
            {"profile": "a10g-llama-2-7b", "memory_tokens": 36},
            "at least 37, not 36",
        ),
        ({"profile": "a10g-llama-2-7b", "max_num_seqs": 4}, "admits by memory alone"),
        ({"scheduler": "vtx"}, "unknown scheduler 'vtx'"),
        ({"scheduler": "vtc-oracle"}, "needs true output lengths"),
        ({"scheduler": "dlpm"}, "needs a prefix cache"),
        ({"model": "a\nb"}, "printable"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FairlaneError, match=message):
        SimulatedEngine(**options)


def test_the_longest_request_that_is_taken_is_served_in_the_least_memory() -> None:
    for profile, memory in (("a10g-llama-2-7b", 100), ("h200-llama-2-7b", 64)):
        with running(profile=profile, memory_tokens=memory) as one:
            prompt, total = one.engine.limits.prompt, one.engine.limits.total
            for length in (1, prompt):
                body = {"prompt": [1] * length, "max_tokens": total - length, "ignore_eos": True}
                answer = ask(one.url, "/v1/completions", body)
                assert answer.json["usage"]["total_tokens"] == total
            assert ask(one.url, "/v1/completions", {"prompt": [1] * total}).status == 400


def test_profiles_from_files_are_served(tmp_path: Path) -> None:
    profile = files("fairlane.simulator") / "profiles" / "h200-llama-2-7b.toml"
    path = tmp_path / "mine.toml"
    path.write_text(profile.read_text())
    assert SimulatedEngine(str(path)).model == "mine"
