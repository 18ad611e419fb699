"""What sockets, processes and people do to it: it says so, others are unhurt, charges hold."""

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from fairlane.gateway import dispatch, relay
from tests.gateway.raw import EVENTS, HEAD, LAST, STREAM, Line, RawUpstream, good, part, whole
from tests.gateway.site import Site, command, data_of, gateway, port_of, until
from tests.processes import PATIENCE_S, memory
from tests.simulated.engines import ask, in_process

BUSY = {
    status: whole(status, b'{"error": {"message": "full"}}', "Retry-After: 1")
    for status in ("429 Too Many Requests", "503 Service Unavailable")
}


def charged(site: Site) -> tuple[int, int]:
    """Tokens of prompts and of answers, once all is settled."""
    client = site.clients()["anonymous"]
    return client["input_tokens"] + client["cached_tokens"], client["output_tokens"]


# -- what comes is not what should -------------------------------------------------------------


async def byte_by_byte(line: Line) -> None:
    for byte in HEAD + b"".join(map(part, EVENTS)) + LAST:
        await line.write(bytes([byte]))


async def not_http(line: Line) -> None:
    await line.write(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")


async def cut_after_the_head(line: Line) -> None:
    await line.write(HEAD)
    line.reset()


async def cut_in_the_first_event(line: Line) -> None:
    await line.write(HEAD, part(EVENTS[0][:20]))
    line.reset()


async def cut_in_mid_stream(line: Line) -> None:
    await line.write(HEAD, part(EVENTS[0]), part(EVENTS[1][:20]))
    line.reset()


async def cut_in_a_whole_answer(line: Line) -> None:
    await line.write(whole("200 OK", b"x" * 1000)[:-500])
    line.reset()


async def silent_after_the_head(line: Line) -> None:
    await line.write(HEAD)
    await line.hang()


def test_a_stream_that_comes_byte_by_byte_is_passed_and_counted() -> None:
    with RawUpstream(byte_by_byte) as upstream, gateway(upstream.url) as site:
        status, _, stream = site.complete(2)
        assert (status, stream) == (200, STREAM)
        assert charged(site) == (5, 2)


NOTHING_CAME = (not_http, cut_after_the_head, cut_in_the_first_event, cut_in_a_whole_answer)


@pytest.mark.parametrize("fault", NOTHING_CAME)
def test_an_answer_of_which_nothing_came_is_asked_for_elsewhere(fault: Any) -> None:
    with RawUpstream(fault) as bad, RawUpstream(good) as other, gateway(bad.url, other.url) as site:
        for _ in range(4):
            status, _, stream = site.complete(2)
            assert (status, stream) == (200, STREAM)
        assert bad.lines
        assert charged(site) == (4 * 5, 4 * 2)  # once each


@pytest.mark.parametrize("fault", NOTHING_CAME)
def test_where_there_is_no_elsewhere_it_is_an_error_that_costs_nothing(fault: Any) -> None:
    with RawUpstream(fault) as bad, gateway(bad.url) as site:
        status, _, text = site.complete(2)
        assert (status, json.loads(text)["error"]["code"]) == (502, "upstream_error")
        assert len(bad.lines) == 3
        assert charged(site) == (0, 0)


def test_a_cut_in_mid_stream_is_told_after_what_came() -> None:
    with RawUpstream(cut_in_mid_stream) as bad, gateway(bad.url) as site:
        status, _, stream = site.complete(2)
        first, error = data_of(stream)
        assert (status, first) == (200, data_of(EVENTS[0])[0])
        assert "did not answer to the end" in error["error"]["message"]
        assert (len(bad.lines), charged(site)[1]) == (1, 1)


@pytest.mark.parametrize("streamed", [True, False])
def test_silence_after_the_head_is_given_up_and_asked_once(streamed: bool) -> None:
    with RawUpstream(silent_after_the_head) as upstream:
        upstreams = {"u0": {"url": upstream.url, "silence_s": 0.3}}
        with gateway(upstream.url, upstreams=upstreams) as site:
            status, _, text = site.complete(2, stream=streamed)
            assert status == 504
            assert "silent for 0.3 s" in json.loads(text)["error"]["message"]
            assert len(upstream.lines) == 1


@pytest.mark.parametrize("status", BUSY)
def test_an_engine_that_is_full_is_left_alone_as_long_as_it_says(status: str) -> None:
    async def full(line: Line) -> None:
        await line.write(BUSY[status])

    with RawUpstream(full, good) as upstream, gateway(upstream.url) as site:
        found, _, stream = site.complete(2)
        assert (found, stream) == (200, STREAM)
        assert upstream.at[1] - upstream.at[0] >= 1.0
        assert site.upstreams()["u0"]["window"] < 8
        assert charged(site) == (5, 2)


def test_who_is_turned_away_by_one_engine_is_served_by_another_at_once() -> None:
    async def full(line: Line) -> None:
        await line.write(whole("503 Service Unavailable", b"", "Retry-After: 3600"))

    with (
        RawUpstream(full) as busy,
        RawUpstream(good) as other,
        gateway(busy.url, other.url) as site,
    ):
        for _ in range(4):
            assert site.complete(2)[2] == STREAM
        assert (len(busy.lines), len(other.lines)) == (1, 4)


# -- engines that die, stop, and come back ------------------------------------------------------

TOKENS = 200
FIELDS: dict[str, Any] = {"prompt": [1, 2, 3], "ignore_eos": True}
ENGINE = ("--model", "tiny", "--speed", "2")


class Crowd:
    """Streams of TOKENS tokens each, at once."""

    def __init__(self, site: Site, count: int) -> None:
        self._pool = ThreadPoolExecutor(count)
        self._answers = [self._pool.submit(site.complete, TOKENS, **FIELDS) for _ in range(count)]

    def results(self) -> tuple[int, list[Any]]:
        """How many were served to their end, and the events of the others."""
        streams = [data_of(answer.result(PATIENCE_S)[2]) for answer in self._answers]
        self._pool.shutdown()
        good = [stream for stream in streams if stream[-1] == "[DONE]"]
        assert all(len(stream) == TOKENS + 1 for stream in good)
        return len(good), [stream for stream in streams if stream[-1] != "[DONE]"]


def generated(url: str) -> int:
    """Tokens that an engine has counted."""
    return int(ask(url, "/simulated").json["generation_tokens"])


def test_the_streams_of_a_killed_engine_end_and_who_waits_is_served_by_another() -> None:
    with ExitStack() as life:
        doomed, first = life.enter_context(in_process(*ENGINE))
        _, second = life.enter_context(in_process(*ENGINE))
        site = life.enter_context(gateway(first, second, window=2))
        crowd = Crowd(site, 8)
        until(lambda: [one["flowing"] for one in site.upstreams().values()] == [2, 2])
        doomed.kill()
        served, broken = crowd.results()
        assert (served, len(broken)) == (6, 2)
        for *_, error in broken:
            assert "did not answer to the end" in error["error"]["message"]
        came = sum(len(stream) - 1 for stream in broken)
        assert 0 < came < 2 * TOKENS
        assert charged(site) == (8 * 3, 6 * TOKENS + came)
        assert generated(second) == 6 * TOKENS
        assert not site.upstreams()["u0"]["up"]

        life.enter_context(in_process(*ENGINE, port=port_of(first)))
        until(lambda: site.upstreams()["u0"]["up"])
        assert Crowd(site, 4).results() == (4, [])
        assert (generated(first), generated(second)) == (2 * TOKENS, 8 * TOKENS)
        assert charged(site) == (12 * 3, 10 * TOKENS + came)


def test_a_stopped_engine_gets_nothing_more_until_it_goes_on() -> None:
    """It is there, takes connections, and says nothing: as where a process hangs."""
    with ExitStack() as life:
        hung, first = life.enter_context(in_process(*ENGINE))
        _, second = life.enter_context(in_process(*ENGINE))
        tables = {"u0": {"url": first, "silence_s": 2.0, "window": 2}}
        tables["u1"] = {"url": second, "window": 2}
        site = life.enter_context(gateway(first, second, upstreams=tables))
        crowd = Crowd(site, 8)
        until(lambda: [one["flowing"] for one in site.upstreams().values()] == [2, 2])
        hung.send_signal(signal.SIGSTOP)
        served, broken = crowd.results()
        assert (served, len(broken)) == (6, 2)
        assert all("silent for 2 s" in stream[-1]["error"]["message"] for stream in broken)
        assert not site.upstreams()["u0"]["up"]
        assert Crowd(site, 4).results() == (4, [])  # it swallows nobody
        hung.send_signal(signal.SIGCONT)
        until(lambda: site.upstreams()["u0"]["up"])
        before = generated(first)
        assert Crowd(site, 4).results() == (4, [])
        assert generated(first) == before + 2 * TOKENS


def test_an_engine_that_cannot_be_asked_for_its_load_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As often as before: only who never tells is asked ever more seldom."""
    monkeypatch.setattr(dispatch, "SCRAPE_S", 0.001)
    with RawUpstream(silent_after_the_head) as upstream, gateway(upstream.url) as site:
        upstream.cuts_looks = True
        with sending(site.url, as_http(BODY)):
            until(lambda: upstream.looks > 30)


# -- clients that are slow ----------------------------------------------------------------------


@contextmanager
def sending(site_url: str, content: bytes) -> Iterator[socket.socket]:
    """A connection on which a request, or a part of one, was sent."""
    with socket.create_connection(("127.0.0.1", port_of(site_url)), PATIENCE_S) as connection:
        connection.sendall(content)
        yield connection


def as_http(body: bytes) -> bytes:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


BODY = json.dumps({"model": "tiny", "max_tokens": 2, "stream": True, **FIELDS}).encode()


async def endless(line: Line) -> None:
    """More than fits into all sockets on the way."""
    piece = part(EVENTS[0] * 1000)
    await line.write(HEAD)
    while True:
        await line.write(piece)


def test_who_reads_nothing_for_long_does_not_keep_others_from_a_fixed_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "_STALLED_S", 0.2)
    with (
        RawUpstream(endless, endless, good) as upstream,
        gateway(upstream.url, window=2) as site,
        sending(site.url, as_http(BODY)),
        sending(site.url, as_http(BODY)),
    ):
        until(lambda: len(upstream.lines) == 2)
        assert site.complete(2)[2] == STREAM
        client = site.clients()["anonymous"]
        assert (client["aborted"], client["finished"]) == (2, 1)


def test_who_reads_nothing_makes_the_engine_wait_and_nobody_else() -> None:
    """Each would be sent gigabytes; what fits into sockets is all that is ever taken."""
    slow = 12  # more than it gets at once to begin with
    with ExitStack() as life:
        upstream = life.enter_context(RawUpstream(*[endless] * slow, good))
        process, url = life.enter_context(command("--upstream", upstream.url))
        before = memory(process.pid)
        for _ in range(slow):
            life.enter_context(sending(url, as_http(BODY)))
        until(lambda: len(upstream.lines) == slow)

        def stands_still() -> bool:
            seen = sum(line.written for line in upstream.lines[:slow])
            for _ in range(20):
                answer = ask(url, "/v1/completions", BODY)
                assert (answer.status, answer.body) == (200, STREAM)
            assert seen < slow * (40 << 20)
            return seen == sum(line.written for line in upstream.lines[:slow])

        until(stands_still)
        assert memory(process.pid) - before < slow * (8 << 20)
    assert all(line.writer.is_closing() for line in upstream.lines)


def test_who_sends_a_request_slowly_or_never_holds_up_nobody() -> None:
    with (
        RawUpstream(good) as upstream,
        gateway(upstream.url, window=1) as site,
        ExitStack() as life,
    ):
        whole_request = as_http(BODY)
        begun = [
            life.enter_context(sending(site.url, whole_request[:length]))
            for length in (10, 60, len(whole_request) - 1, len(whole_request) - 20)
        ]
        for count in range(3):
            assert site.complete(2)[2] == STREAM
            assert len(upstream.lines) == count + 1
        for at in range(len(whole_request) - 20, len(whole_request)):
            begun[-1].sendall(whole_request[at : at + 1])
        answer = http.client.HTTPResponse(begun[-1])
        answer.begin()
        assert (answer.status, answer.read()) == (200, STREAM)
        for connection in begun:
            connection.close()
        assert site.complete(2)[2] == STREAM
        assert site.clients()["anonymous"]["arrivals"] == 5
