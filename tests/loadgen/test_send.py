"""The open loop over real sockets: send times, counts, and every way in which an answer can end."""

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from aiohttp import web

from fairlane.loadgen.clients import identities
from fairlane.loadgen.prompts import token_prompts
from fairlane.loadgen.send import LOOP_SAMPLE_S, OpenLoop, Progress, Sent
from fairlane.loadgen.server import Server, ServerError, open_session
from fairlane.policies.registry import create_policy
from fairlane.records import RequestRecord
from fairlane.workloads import TracedRequest
from tests.loadgen.server import (
    CompletionServer,
    Fault,
    answer_with,
    chunk,
    event,
    hang_up,
    never_answer,
    open_stream,
    stream_of,
    usage,
)
from tests.processes import PATIENCE_S

TOKENS = 3


def requests(count: int, *, gap_s: float = 0.0, outputs: int = TOKENS) -> list[TracedRequest]:
    """Requests that two clients send in turn; their output lengths are all different."""
    return [
        TracedRequest(i, str(i % 2), i * gap_s, prompt_len=5 + i, output_len=outputs + i)
        for i in range(count)
    ]


def open_loop(
    server: CompletionServer,
    workload: list[TracedRequest],
    timeout_s: float = 60.0,
    drain_s: float = 60.0,
    progress: Callable[[Progress], None] | None = None,
) -> OpenLoop:
    return OpenLoop(
        Server.at(server.url),
        workload,
        identities((r.client for r in workload), model="tiny"),
        token_prompts(0),
        timeout_s=timeout_s,
        drain_s=drain_s,
        progress=progress,
    )


def send(
    server: CompletionServer,
    workload: list[TracedRequest],
    *,
    timeout_s: float = PATIENCE_S,
    drain_s: float = PATIENCE_S,
    progress: Callable[[Progress], None] | None = None,
    meanwhile: Callable[[OpenLoop], None] | None = None,
) -> tuple[Sent, OpenLoop]:
    """Send a workload; `meanwhile` runs in another thread."""
    loop = open_loop(server, workload, timeout_s, drain_s, progress)

    async def run() -> Sent:
        async with open_session() as http:
            other = asyncio.to_thread(meanwhile, loop) if meanwhile else asyncio.sleep(0)
            sent, _ = await asyncio.gather(loop.run(http), other)
            return sent

    return asyncio.run(run()), loop


def only(server: CompletionServer, *, timeout_s: float = PATIENCE_S) -> RequestRecord:
    """The record of a single request."""
    [record] = send(server, requests(1), timeout_s=timeout_s)[0].records
    return record


def test_records_equal_what_the_server_delivered() -> None:
    workload = requests(40, gap_s=0.005)
    with CompletionServer(slots=3) as server:
        sent, _ = send(server, workload)
    assert [r.id for r in sent.records] == list(range(40))
    assert {r.outcome for r in sent.records} == {"finished"}
    assert server.delivered == {(r.client, r.output_len): r.output_len for r in workload}
    for record, asked in zip(sent.records, workload, strict=True):
        assert (record.client, record.arrival_s) == (asked.client, asked.arrival_s)
        assert (record.prompt_len, record.output_len) == (asked.prompt_len, asked.output_len)
        times = record.token_times_s
        assert times is not None
        assert len(times) == asked.output_len
        assert (times[0], times[-1]) == (record.ttft_s, record.latency_s)
        assert all(before <= after for before, after in pairwise([0.0, *times]))
    assert not sent.failures
    assert (sent.unsent, sent.uncounted, sent.interrupted) == (0, 0, False)


def test_request_carries_exact_lengths_its_client_and_its_model() -> None:
    with CompletionServer() as server:
        send(server, requests(4))
    bodies = sorted((seen.body for seen in server.seen), key=lambda body: body["max_tokens"])
    # the server puts the prompt's length in its place
    assert [body["prompt"] for body in bodies] == [5, 6, 7, 8]
    assert [body["max_tokens"] for body in bodies] == [3, 4, 5, 6]
    assert [(body["user"], body["model"]) for body in bodies] == [("0", "tiny"), ("1", "tiny")] * 2


def test_requests_leave_at_their_times_while_the_server_stalls() -> None:
    """The server answers nobody until all have come: a client that waited would wait for ever."""
    workload = requests(150, gap_s=0.005)
    with CompletionServer(hold=150) as server:
        begin = time.monotonic()
        sent, loop = send(server, workload)
    assert len(sent.records) == 150
    assert {r.outcome for r in sent.records} == {"finished"}
    due = sorted(r.arrival_s for r in workload)
    came = sorted(seen.at - begin for seen in server.seen)
    assert all(at >= when for at, when in zip(came, due, strict=True))  # nothing leaves early
    lags = loop.health.send_lags_s
    assert len(lags) == 150
    assert min(lags) >= 0
    # What a busy machine takes from the client, it takes from its clock too, once while requests
    # are due and once more while they leave together; a loop that waits for anything lags more.
    assert max(lags) <= 2 * max(loop.health.loop_lags_s) + LOOP_SAMPLE_S
    last = max(r.arrival_s for r in workload)
    # nobody was answered before the last had been sent, and latency counts from the intended time
    assert all((r.ttft_s or 0) + r.arrival_s >= last for r in sent.records)


def test_intended_and_achieved_rates_are_reported_as_they_are() -> None:
    seen: list[Progress] = []
    with CompletionServer(hold=120) as server:
        sent, loop = send(server, requests(120, gap_s=0.02), progress=seen.append)
    assert len(seen) >= 2
    for progress in seen:
        assert progress.total == 120
        assert progress.due == min(120, int(progress.elapsed_s / 0.02) + 1)
        assert progress.sent <= progress.due
        assert progress.sent == sum(progress[4:8])  # running and ended
    assert seen[1].sent > 0.8 * seen[1].due
    end = loop.progress()
    assert (end.sent, end.finished, end.running) == (120, 120, 0)
    assert end.tokens == sum(r.output_len for r in sent.records)
    assert sent.last_sent_s >= 119 * 0.02


def test_rejections_keep_reason_and_time_to_wait() -> None:
    limited = create_policy("rpm", rate_limit=5)
    with CompletionServer(limited, hold=16) as server:  # all come in the same minute
        sent, _ = send(server, requests(16))
    rejected = [r for r in sent.records if r.outcome == "rejected"]
    assert len(rejected) == 6  # of each client's 8, 5 pass
    assert server.policy.snapshot().clients == {}
    for record in rejected:
        assert record.reason.startswith("429 ")
        assert "; retry after " in record.reason
        assert (record.ttft_s, record.latency_s, record.token_times_s) == (None, None, None)
    assert sum(r.output_len for r in sent.records if r.outcome == "finished") == sum(
        server.delivered.values()
    )
    [(reason, count)] = sent.failures.items()
    assert (reason.split()[:2], count) == (["rejected:", "429"], 6)


RETRY = {"Retry-After": "12"}
LIMITED = {"error": {"message": "too many", "type": "x", "code": "rate_limit_exceeded"}}
BROKEN = {"error": {"message": "engine is dead", "type": "InternalServerError", "code": 500}}
FIRST = event(chunk())
OPEN_ENDED = event(chunk(finish=""))
LAST = event(chunk(finish="length"))
COUNTS = event(usage(5, 2))
DONE = event("[DONE]")


@pytest.mark.parametrize(
    ("fault", "outcome", "reason", "tokens"),
    [
        (answer_with(429, LIMITED, RETRY), "rejected",
         "429 rate_limit_exceeded: too many; retry after 12", 0),
        (answer_with(429, "busy"), "rejected", "429: busy", 0),
        (answer_with(500, BROKEN), "aborted", "500 InternalServerError: engine is dead", 0),
        (answer_with(502, "<html>Bad\nGateway</html>"), "aborted", "502: <html>Bad Gateway</html>",
         0),
        (answer_with(401, {"error": "who?"}), "aborted", "401: who?", 0),
        (answer_with(400, {"object": "error", "message": "bad", "code": 400}), "aborted",
         "400: bad", 0),
        (answer_with(503, ""), "aborted", "503: Service Unavailable", 0),
        (answer_with(204, ""), "aborted", "204: No Content", 0),
        (answer_with(307, "", {"Location": "/v2/completions"}), "aborted",
         "307: sends on to /v2/completions: give --server that address", 0),
        (answer_with(200, {"choices": [{"text": "a b c"}]}), "aborted",
         "no stream: a completion in one piece, whose tokens have no times", 0),
        (answer_with(200, BROKEN), "aborted", "200 InternalServerError: engine is dead", 0),
        (answer_with(200, "<html>Log in</html>"), "aborted", "no stream: <html>Log in</html>", 0),
        (answer_with(200, ""), "aborted",
         "stream broken off: no finish reason after 0 of 3 tokens", 0),
        (hang_up, "aborted", "disconnected: Server disconnected", 0),
        (stream_of(FIRST, FIRST, cut=True), "aborted", "disconnected: in the stream", 2),
        (stream_of(FIRST), "aborted", "stream broken off: no finish reason after 1 of 3 tokens", 1),
        (stream_of(OPEN_ENDED, OPEN_ENDED, cut=True), "aborted", "disconnected: in the stream", 2),
        (stream_of(OPEN_ENDED, OPEN_ENDED, DONE), "aborted",
         "stream broken off: no finish reason after 2 of 3 tokens", 2),
        (stream_of(OPEN_ENDED, OPEN_ENDED, OPEN_ENDED, DONE), "finished", "", 3),
        (stream_of(FIRST, event(chunk(finish="abort")), DONE), "aborted",
         "given up by the server: finish reason abort after 2 of 3 tokens", 2),
        (stream_of(FIRST, b'error: {"code": 500, "message": "full"}\n\n', DONE), "aborted",
         "error in the stream 500: full", 1),
        (stream_of(FIRST, b"data: {oops\n\n"), "aborted", "malformed stream: not JSON: {oops", 1),
        (stream_of(FIRST, event(BROKEN)), "aborted",
         "error in the stream InternalServerError: engine is dead", 1),
        (stream_of(event(chunk(text="", finish="stop")), DONE), "aborted",
         "no token: the answer finished without one", 0),
        (stream_of(FIRST, LAST, COUNTS, DONE), "finished", "", 2),
        (stream_of(*(bytes([b]) for b in FIRST + LAST + COUNTS + DONE)), "finished", "", 2),
        (stream_of(FIRST, LAST, COUNTS, DONE, cut=True), "finished", "", 2),
        (stream_of(FIRST, LAST), "finished", "", 2),
        (stream_of(FIRST, LAST, cut=True), "finished", "", 2),
        (stream_of(FIRST, LAST, event(BROKEN)), "finished", "", 2),
        (stream_of(FIRST, LAST, event({"usage": usage(5, 2)["usage"]})), "finished", "", 2),
        (stream_of(b"data:\n\n", FIRST, LAST, COUNTS, DONE), "finished", "", 2),
        (stream_of(b"\xef\xbb\xbf" + FIRST, LAST, DONE[:-1]), "finished", "", 2),
        (stream_of((FIRST + LAST + COUNTS).replace(b"\n", b"\r")), "finished", "", 2),
    ],
)  # fmt: skip
def test_every_end_of_an_answer_is_recorded(
    fault: Fault, outcome: str, reason: str, tokens: int
) -> None:
    with CompletionServer(faults={TOKENS: fault}) as server:
        record = only(server)
    assert (record.outcome, record.reason) == (outcome, reason)
    assert len(record.token_times_s or ()) == tokens
    assert record.output_len == (tokens or TOKENS)
    assert record.asked == (5, TOKENS)
    assert (record.ttft_s is None) == (tokens == 0)
    assert len(server.seen) == 1  # nothing is sent twice


def hold_open(*parts: bytes) -> Fault:
    """These bytes, and then nothing for as long as the server runs."""

    async def fault(server: CompletionServer, request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        await response.write(b"".join(parts))
        await server.closing.wait()
        return response

    return fault


@pytest.mark.parametrize("end", [DONE, COUNTS, COUNTS + DONE])
def test_answer_ends_with_its_end_though_the_connection_is_held_open(end: bytes) -> None:
    with CompletionServer(faults={TOKENS: hold_open(FIRST, LAST, end)}) as server:
        sent, _ = send(server, requests(1), timeout_s=PATIENCE_S)
    [record] = sent.records
    assert (record.outcome, len(record.token_times_s or ())) == ("finished", 2)
    assert sent.total_time_s < PATIENCE_S


def test_time_after_the_last_chunk_is_nobodys() -> None:
    """Neither `[DONE]` nor a count ends it, so that its connection is waited for."""
    faults: dict[int, Fault] = {TOKENS: hold_open(FIRST, LAST)}
    with CompletionServer(faults=faults) as server:
        sent, _ = send(server, requests(1), timeout_s=0.5)
    [record] = sent.records
    assert record.outcome == "finished"
    assert sent.total_time_s == pytest.approx(record.latency_s, abs=1e-6)


def test_connection_is_used_again_after_an_answer() -> None:
    """Its last bytes may come after `[DONE]`, and are waited for."""
    ports = []

    async def fault(server: CompletionServer, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        return await stream_of(FIRST, LAST, COUNTS, DONE)(server, request)

    async def twice() -> None:
        async with open_session() as http:
            for _ in range(2):
                await open_loop(server, requests(1)).run(http)

    with CompletionServer(faults={TOKENS: fault}) as server:
        asyncio.run(twice())
    assert len(ports) == 2
    assert len(set(ports)) == 1


def test_first_token_is_timed_by_its_own_chunk() -> None:
    """A role comes at once, the first token later."""
    pause_s = 0.2

    async def fault(server: CompletionServer, request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        await response.write(event({"choices": [{"delta": {"role": "assistant"}}]}))
        await response.write(event(chunk(text="")))
        await asyncio.sleep(pause_s)
        await response.write(FIRST + LAST + COUNTS + DONE)
        return response

    with CompletionServer(faults={TOKENS: fault}) as server:
        record = only(server)
    assert (record.outcome, len(record.token_times_s or ())) == ("finished", 2)
    assert (record.ttft_s or 0) >= pause_s


def test_record_tells_what_came_and_what_was_asked_for() -> None:
    faults = {
        TOKENS: stream_of(FIRST, event(usage(9, 2)), cut=True),
        TOKENS + 1: answer_with(500, ""),
        TOKENS + 2: stream_of(FIRST, event(chunk(finish="stop")), event(usage(9, 2))),
    }
    with CompletionServer(faults=faults) as server:
        sent, _ = send(server, requests(4, gap_s=0.001))
    assert [(r.prompt_len, r.output_len) for r in sent.records] == [(9, 2), (6, 4), (9, 2), (8, 6)]
    assert [r.asked for r in sent.records] == [(5, 3), (6, 4), (7, 5), (8, 6)]
    whole = sent.records[3]
    assert (whole.asked_prompt_len, whole.asked_output_len) == (None, None)


def test_first_of_each_failure_is_told_and_fields_are_counted() -> None:
    def refuse(field: str) -> Fault:
        return answer_with(400, {"error": {"message": f"unknown field '{field}'", "type": "x"}})

    faults = {TOKENS: refuse("min_tokens"), TOKENS + 1: refuse("ignore_eos"), TOKENS + 2: hang_up}
    with CompletionServer(faults=faults) as server:
        sent, _ = send(server, requests(3))
    assert sent.failures == {"aborted: 400 x": 2, "aborted: disconnected": 1}
    assert sent.said["aborted: 400 x"].startswith("unknown field ")
    assert sent.complaints == {"min_tokens": 1, "ignore_eos": 1}


def test_one_bad_answer_leaves_the_others_alone() -> None:
    faults: dict[int, Fault] = {TOKENS + 3: hang_up, TOKENS + 8: stream_of(FIRST, cut=True)}
    with CompletionServer(faults=faults) as server:
        sent, _ = send(server, requests(12))
    assert [r.id for r in sent.records if r.outcome != "finished"] == [3, 8]
    assert sent.failures == {"aborted: disconnected": 2}


def test_request_that_is_never_answered_times_out() -> None:
    with CompletionServer(faults={TOKENS: never_answer}) as server:
        record = only(server, timeout_s=0.3)
    assert (record.outcome, record.reason) == ("aborted", "timeout: not finished after 0.3 s")


def test_server_that_goes_away_is_recorded_as_such() -> None:
    with CompletionServer() as server:
        pass
    record = only(server)
    assert record.outcome == "aborted"
    assert record.reason.startswith("cannot connect: ")


def test_interrupt_keeps_the_rest_back_and_lets_what_runs_end() -> None:
    workload = [*requests(4), TracedRequest(9, "0", 3600.0, 5, 99)]

    def interrupt(loop: OpenLoop) -> None:
        server.wait_for(4)
        loop.interrupt()
        server.release()

    with CompletionServer(hold=99) as server:
        sent, _ = send(server, workload, meanwhile=interrupt)
    assert [r.outcome for r in sent.records] == ["finished"] * 4
    assert (sent.unsent, sent.interrupted) == (1, True)


def test_second_interrupt_gives_up_what_runs() -> None:
    def interrupt(loop: OpenLoop) -> None:
        server.wait_for(4)
        loop.interrupt()
        loop.interrupt()

    with CompletionServer(hold=99) as server:
        sent, _ = send(server, requests(4), meanwhile=interrupt)
    assert [(r.outcome, r.reason) for r in sent.records] == [("aborted", "interrupted")] * 4


def test_interrupted_requests_run_on_no_longer_than_allowed() -> None:
    def interrupt(loop: OpenLoop) -> None:
        server.wait_for(4)
        loop.interrupt()

    with CompletionServer(hold=99) as server:
        sent, _ = send(server, requests(4), drain_s=0.2, meanwhile=interrupt)
    assert [(r.outcome, r.reason) for r in sent.records] == [("aborted", "interrupted")] * 4


def test_lag_of_the_client_is_noticed() -> None:
    """Something that keeps the event loop busy for a while, as too much load would."""

    def block(progress: Progress) -> None:
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            pass

    with CompletionServer() as server:
        _, loop = send(server, requests(130, gap_s=0.01), progress=block)
    report = loop.health.report()
    assert report["loop_lag_max_s"] > 0.3
    assert report["send_lag_max_s"] > 0.3


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"data": []}, "lists no models; name one"),
        ({"x": 1}, "lists no models; name one"),
        (
            {"error": {"message": "no key", "code": "auth"}},
            r"lists no models \(200: auth: no key\)",
        ),
    ],
)
def test_server_without_models_must_be_told_which(models: dict[str, object], message: str) -> None:
    async def ask(wanted: str | None) -> str:
        async with open_session() as http:
            return await Server.at(server.url).model(http, {}, wanted)

    with CompletionServer(models=models) as server:
        with pytest.raises(ServerError, match=message):
            asyncio.run(ask(None))
        assert asyncio.run(ask("mine")) == "mine"


def test_server_that_sends_on_is_not_followed() -> None:
    """Keys would go elsewhere, and each request would take two."""

    async def ask() -> None:
        async with open_session() as http:
            await Server.at(f"{server.url}/moved").model(http, {}, "mine")

    with CompletionServer() as server, pytest.raises(ServerError, match="sends on to http://h/v1"):
        asyncio.run(ask())


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_address_may_name_the_version(url: str) -> None:
    assert Server.at(url).completions == "http://h:1/v1/completions"


@pytest.mark.parametrize("url", ["h:1", "ftp://h", "http://", "http://h:x", "http://h/?a=b"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="takes an address such as"):
        Server.at(url)


def test_address_must_not_hold_a_password() -> None:
    with pytest.raises(ValueError, match="holds a password"):
        Server.at("http://me:secret@h")
