"""Upstreams that come, change and go while the gateway runs; nobody's request is lost."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from fairlane.core.types import Outcome, Request
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.dispatch import Dispatcher, NotQueued
from fairlane.gateway.run import Running
from tests.gateway.site import Site, serving, until
from tests.gateway.test_pool import Clock, make_pool
from tests.loadgen.server import CompletionServer
from tests.processes import PATIENCE_S


class Configured:
    """A gateway whose configuration is a file."""

    def __init__(self, life: ExitStack, folder: Path, more: str = "", **upstreams: str) -> None:
        self.file = folder / "fairlane.toml"
        self.write(more, **upstreams)
        running = Running(GatewayConfig.read(self.file), self.file)
        self.site: Site = life.enter_context(serving(running))

    def write(self, more: str = "", **upstreams: str) -> None:
        """Each with its address and what else is said of it."""
        tables = [f'[upstreams.{n}]\nurl = "{u}"\n{more}\n' for n, u in upstreams.items()]
        self.file.write_text("".join(tables))

    def upstreams(self) -> dict[str, dict[str, object]]:
        """What is told of each."""
        told = json.loads(self.site.request("GET", "/fairlane/upstreams")[2])["upstreams"]
        return {one["upstream"]: one for one in told}


def test_one_that_is_added_serves_who_waits(life: ExitStack, tmp_path: Path) -> None:
    first = life.enter_context(CompletionServer(hold=10**9, slots=1))
    second = life.enter_context(CompletionServer())
    gateway = Configured(life, tmp_path, "window = 1", one=first.url)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(gateway.site.complete, 3) for _ in range(8)]
        first.wait_for(1)
        gateway.write("window = 1", one=first.url, two=second.url)
        until(lambda: len(second.seen) == 7)
        first.release()
        assert [answer.result()[0] for answer in answers] == [200] * 8
    assert set(gateway.upstreams()) == {"one", "two"}


def test_one_that_is_taken_away_ends_what_it_has_and_gets_nothing_more(
    life: ExitStack, tmp_path: Path
) -> None:
    first = life.enter_context(CompletionServer(hold=10**9))
    second = life.enter_context(CompletionServer())
    gateway = Configured(life, tmp_path, one=first.url)
    with ThreadPoolExecutor(1) as pool:
        here = pool.submit(gateway.site.complete, 3)
        first.wait_for(1)
        gateway.write(two=second.url)
        until(lambda: set(gateway.upstreams()) == {"two"})
        assert gateway.site.complete(3)[0] == 200
        assert (len(first.seen), len(second.seen)) == (1, 1)
        assert not here.done()
        first.release()
        assert here.result()[0] == 200
    assert gateway.site.clients()["anonymous"]["finished"] == 2


def test_what_it_learned_stays_unless_the_server_is_another(
    life: ExitStack, tmp_path: Path
) -> None:
    first = life.enter_context(CompletionServer())
    second = life.enter_context(CompletionServer())
    gateway = Configured(life, tmp_path, one=first.url)
    [lane] = gateway.site.running.fleet.models["tiny"].pool.lanes.values()
    gateway.write("weight = 3.0\ngreatest_window = 5", one=first.url)
    until(lambda: lane.weight == 3.0)
    assert gateway.site.running.fleet.models["tiny"].pool.lanes["one"] is lane
    assert gateway.site.complete(3)[0] == 200
    until(lambda: gateway.upstreams()["one"]["window"] == 5)
    gateway.write(one=second.url)
    until(lambda: gateway.site.running.fleet.models["tiny"].pool.lanes["one"] is not lane)
    assert gateway.site.complete(3)[0] == 200
    assert (len(first.seen), len(second.seen)) == (1, 1)


def test_models_come_and_go_with_their_upstreams(life: ExitStack, tmp_path: Path) -> None:
    tiny = life.enter_context(CompletionServer())
    huge = life.enter_context(CompletionServer(models={"data": [{"id": "huge"}]}))
    gateway = Configured(life, tmp_path, one=tiny.url)
    gateway.write(one=tiny.url, two=huge.url)
    until(lambda: gateway.site.complete(2, model="huge")[0] == 200)
    assert gateway.site.complete(2)[0] == 200
    gateway.write(one=tiny.url)
    until(lambda: gateway.site.complete(2, model="huge")[0] == 404)
    assert gateway.site.complete(2)[0] == 200


def test_who_waits_for_a_model_that_goes_is_told(life: ExitStack, tmp_path: Path) -> None:
    tiny = life.enter_context(CompletionServer())
    huge = life.enter_context(CompletionServer(hold=10**9, models={"data": [{"id": "huge"}]}))
    gateway = Configured(life, tmp_path, one=tiny.url)
    gateway.write("window = 1", one=tiny.url, two=huge.url)
    until(lambda: "two" in gateway.upstreams())
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(gateway.site.complete, 2, model="huge") for _ in range(2)]
        until(lambda: gateway.site.running.live == 2)
        huge.wait_for(1)
        gateway.write(one=tiny.url)
        until(lambda: any(answer.done() for answer in answers))
        huge.release()
        told = sorted((answer.result() for answer in answers), key=lambda one: one[0])
    assert [status for status, _, _ in told] == [200, 503]
    assert json.loads(told[1][2])["error"]["code"] == "no_upstream"


def test_whose_turn_came_just_as_the_queue_went_is_told() -> None:
    """It finds its upstream gone and would wait anew, in a queue to which nothing comes."""

    async def run() -> None:
        queue = Dispatcher(make_pool(Clock(), {"two": 1}))
        queue.arrive(Request("r1", "a", 3), 5)
        assert (await queue.turn("r1")).name == "two"
        queue.remove("two")
        queue.refuse("no_upstream")
        queue.again("r1")
        queue.arrive(Request("r2", "a", 3), 5)
        async with asyncio.timeout(PATIENCE_S):
            for request_id in ("r1", "r2"):
                with pytest.raises(NotQueued, match="no_upstream"):
                    await queue.turn(request_id)
                queue.end(request_id, Outcome.ABORTED)
        await queue.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[upstreams.one]\nurl = 7\n", "url must be"),
        ("[[[", "not valid TOML"),
        ("", "no upstream is left"),
        ("[upstreams.one]\nurl = 'http://127.0.0.1:9'\n", "is it running?"),
    ],
)
def test_what_is_wrong_changes_nothing_and_is_said_once(
    life: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, said: str
) -> None:
    upstream = life.enter_context(CompletionServer())
    gateway = Configured(life, tmp_path, one=upstream.url)
    gateway.file.write_text(text)
    until(lambda: said in caplog.text)
    assert gateway.site.complete(3)[0] == 200
    gateway.write("weight = 2.0", one=upstream.url)
    until(lambda: "is taken up" in caplog.text)
    assert caplog.text.count("stay as they were") == 1


def test_what_needs_a_restart_is_said(
    life: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = life.enter_context(CompletionServer())
    gateway = Configured(life, tmp_path, one=upstream.url)
    gateway.write("weight = 2.0\n[gateway]\ntries = 1\n[scheduler]\nname = 'drr'", one=upstream.url)
    until(lambda: "changes of gateway, scheduler need a restart" in caplog.text)
