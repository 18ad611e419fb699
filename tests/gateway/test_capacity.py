"""An engine that has more or less room than before: what it is sent follows, and it stays busy."""

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from statistics import mean
from typing import Any, NamedTuple

import pytest

from fairlane.door.answers import Receive, Scope, Send
from fairlane.simulated import SimulatedEngine
from fairlane.simulated.serve import in_thread
from tests.gateway.crowd import Crowd
from tests.gateway.site import Site, gateway, port_of, until
from tests.simulated.engines import ask, in_process

MEMORY = 2048  # tokens
SHORT, LONG = 20, 200
SLOTS = 8


class Look(NamedTuple):
    """What there was when the gateway looked; means, where several are taken together.

    running, waiting: requests in the engine. memory: part of it that they take.
    """

    running: float
    waiting: float
    memory: float
    window: float


class Watched(SimulatedEngine):
    """An engine that counts how often the gateway has looked at it."""

    looks = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.looks += scope["path"] == "/metrics"
        await super().__call__(scope, receive, send)

    def seen(self, url: str, site: Site, after: int, looks: int = 5) -> Look:
        """The mean of so many looks, after so many others."""
        found = []
        for wait in [after, *[1] * looks]:
            last = self.looks + wait
            until(lambda last=last: self.looks >= last)  # type: ignore[misc]
            told = ask(url, "/simulated").json
            window = site.upstreams()["u0"]["window"]
            found.append([told["running"], told["waiting"], told["memory_used"], window])
        return Look(*map(mean, zip(*found[1:], strict=True)))


def crowd(site: Site, count: int, prompt: Callable[[], int]) -> Crowd:
    """So many clients, with prompts of so many tokens."""

    def asking(tokens: int) -> dict[str, Any]:
        ids = [1] * prompt()
        return {"model": "tiny", "prompt": ids, "max_tokens": tokens, "ignore_eos": True}

    return Crowd(site, {"anyone": (None, count)}, body=asking)


@pytest.mark.slow
def test_the_window_follows_the_memory_that_prompts_leave() -> None:
    """Some forty requests with short prompts fit into it, nine or so with long ones."""
    engine = Watched(model="tiny", speed=1.0, max_num_seqs=64, memory_tokens=MEMORY, noise=False)
    prompts = [SHORT]
    with (
        in_thread(engine) as url,
        gateway(url) as site,
        crowd(site, 80, lambda: prompts[-1]),
    ):
        few, many = (8, 16), (30, 60)
        for prompt, looks, (least, most) in ((SHORT, 12, many), (LONG, 7, few), (SHORT, 14, many)):
            prompts.append(prompt)
            seen = engine.seen(url, site, after=looks)
            assert seen.memory > 0.7
            assert seen.waiting < 8
            assert least <= seen.window <= most


@pytest.mark.slow
def test_a_window_that_does_not_follow_leaves_the_order_to_the_engine() -> None:
    """The control of the test above: what waits inside, waits where nobody orders it."""
    engine = Watched(model="tiny", speed=1.0, max_num_seqs=64, memory_tokens=MEMORY, noise=False)
    with (
        in_thread(engine) as url,
        gateway(url, window=64) as site,
        crowd(site, 80, lambda: LONG),
    ):
        assert engine.seen(url, site, after=3, looks=3).waiting > 30


class Replica(NamedTuple):
    """An engine in a process of its own."""

    process: "subprocess.Popen[str]"
    url: str

    def told(self, name: str) -> int:
        """A count of its own."""
        return int(ask(self.url, "/simulated").json[name])

    def running(self) -> float:
        """How many requests run in it, the mean of looks some hundred tokens apart."""
        found = []
        for _ in range(10):
            goal = self.told("generation_tokens") + 100
            until(lambda goal=goal: self.told("generation_tokens") >= goal)  # type: ignore[misc]
            found.append(self.told("running"))
        return mean(found)


@pytest.mark.slow
def test_replicas_stay_full_while_one_dies_and_comes_back() -> None:
    options = ("--model", "tiny", "--speed", "2", "--max-num-seqs", str(SLOTS))
    full = 0.75 * SLOTS  # a busy machine leaves some empty for a moment
    with ExitStack() as life:
        one, two = (Replica(*life.enter_context(in_process(*options))) for _ in range(2))
        site = life.enter_context(gateway(one.url, two.url))
        life.enter_context(crowd(site, 60, lambda: SHORT))
        until(lambda: one.told("running") == two.told("running") == SLOTS)
        assert min(one.running(), two.running()) >= full
        one.process.kill()
        until(lambda: not site.upstreams()["u0"]["up"])
        assert two.running() >= full
        assert site.upstreams()["u1"]["window"] <= 2 * SLOTS  # the other's are not piled on it
        life.enter_context(in_process(*options, port=port_of(one.url)))
        before = two.told("generation_tokens")
        until(lambda: one.told("running") == SLOTS)
        assert min(one.running(), two.running()) >= full
        assert two.told("generation_tokens") - before < 40_000  # it was not long
