"""Whether upstreams live: one that ceases to answer gets nothing until it answers again."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from fairlane.gateway import fleet
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.run import Running
from tests.gateway.scripted import Reply, scripted
from tests.gateway.site import gateway, serving, until

CHAT = "/v1/chat/completions"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "a"}]}
TOLD = {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}


@pytest.fixture
def life(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.setattr(fleet, "_PROBE_S", 0.02)
    with ExitStack() as stack:
        yield stack


def test_one_that_ceases_to_be_well_gets_nothing_until_it_is(life: ExitStack) -> None:
    """It still takes connections, and answers 500 when it is asked how it is."""
    sick = life.enter_context(scripted({CHAT: Reply(TOLD)}))
    well = life.enter_context(scripted({CHAT: Reply(TOLD)}))
    site = life.enter_context(gateway(sick.url, well.url))
    lanes = site.running.fleet.models["tiny"].pool.lanes
    sick.unwell = 10**9
    until(lambda: not lanes["u0"].accepts)
    for _ in range(6):
        assert site.request("POST", CHAT, ASKED)[0] == 200
    assert (len(sick.seen), len(well.seen)) == (0, 6)
    sick.unwell = 0
    until(lambda: lanes["u0"].accepts)
    for _ in range(2):
        assert site.request("POST", CHAT, ASKED)[0] == 200
    assert len(sick.seen) > 0


def test_two_bad_answers_are_no_illness(life: ExitStack) -> None:
    upstream = life.enter_context(scripted({CHAT: Reply(TOLD)}))
    site = life.enter_context(gateway(upstream.url))
    [lane] = site.running.fleet.models["tiny"].pool.lanes.values()
    asked = upstream.asked
    upstream.unwell = fleet._MISSES - 1
    until(lambda: upstream.asked > asked + 2 * fleet._MISSES)
    assert lane.accepts


def test_what_was_checked_before_it_listens_is_not_asked_again(life: ExitStack) -> None:
    upstream = life.enter_context(scripted({CHAT: Reply(TOLD)}))
    config = GatewayConfig.parse({"upstreams": {"u0": {"url": upstream.url}}}, Path())
    running = Running(config)
    assert asyncio.run(running.check()) == {"tiny": ["u0"]}
    site = life.enter_context(serving(running))
    assert site.request("POST", CHAT, ASKED)[0] == 200
    assert upstream.listed == 1


def test_an_upstream_of_which_nothing_can_be_learned_is_named(
    life: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    """It tells no load, and nothing is streamed: its window stays, and more wait than it gets."""
    reply = Reply(TOLD, held=threading.Event())
    pool = life.enter_context(ThreadPoolExecutor(10))
    upstream = life.enter_context(scripted({CHAT: reply}))
    site = life.enter_context(gateway(upstream.url))
    answers = [pool.submit(site.request, "POST", CHAT, ASKED) for _ in range(10)]
    until(lambda: "so it gets 8 requests at once; set its window" in caplog.text)
    assert reply.held is not None
    reply.held.set()
    assert [answer.result()[0] for answer in answers] == [200] * 10
    assert caplog.text.count("set its window") == 1
