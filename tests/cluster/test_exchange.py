"""The loop between schedulers and a hub: all hear all, and a lost hub stops nobody."""

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from fairlane.cluster import levels
from fairlane.cluster.exchange import Exchange
from fairlane.cluster.hub import GRAIN, Hub, HubError, Pull, Push
from fairlane.cluster.member import Member
from fairlane.cluster.memory import HubState, MemoryHub
from fairlane.core.settling import Standings
from fairlane.core.types import Request
from fairlane.policies.registry import create_policy
from tests.cluster.servers import Server
from tests.processes import PATIENCE_S

LOG = "fairlane.cluster"
EVERY_S = 0.01


class Desk:
    """An end that charges what it is told to, and notes what it hears, in grains."""

    def __init__(self) -> None:
        self.charged: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()
        self.dead = False
        self._untold: Counter[str] = Counter()
        self._busy = False

    def charge(self, client: str, grains: int) -> None:
        self.charged[client] += grains
        self._untold[client] += grains

    async def swap(self, heard: Mapping[str, float]) -> Mapping[str, float]:
        assert not self._busy, "one call at a time"
        self._busy = True
        await asyncio.sleep(0)
        self._busy = False
        if self.dead:
            raise ConnectionResetError("the engine died")
        self.heard.update({client: round(service / GRAIN) for client, service in heard.items()})
        told, self._untold = self._untold, Counter()
        return {client: grains * GRAIN for client, grains in told.items()}

    async def settle(self, amounts: Mapping[str, float]) -> Standings:
        return {}


@asynccontextmanager
async def running(*exchanges: Exchange) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(exchange.run()) for exchange in exchanges]
    try:
        yield
    finally:
        for exchange in exchanges:
            exchange.stop()
        await asyncio.gather(*tasks)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.005)


def all_heard(desks: Sequence[Desk]) -> bool:
    """Each the sum of what the others charged."""
    total = Counter[str]()
    for desk in desks:
        total.update(desk.charged)
    wanted = [{c: total[c] - desk.charged[c] for c in total} for desk in desks]
    return all(
        {c: desk.heard[c] for c in total} == want for desk, want in zip(desks, wanted, strict=True)
    )


def answered(*exchanges: Exchange) -> Callable[[], bool]:
    """Whether the hub answered each once more than by now: it has joined, at least."""
    before = [exchange.state.exchanges for exchange in exchanges]
    return lambda: all(
        exchange.state.exchanges > count for exchange, count in zip(exchanges, before, strict=True)
    )


async def charge_at_random(desks: Sequence[Desk]) -> None:
    chance = random.Random(0)
    for _ in range(500):
        chance.choice(desks).charge(chance.choice("abc"), chance.randint(-3, 9))
        if chance.random() < 0.2:
            await asyncio.sleep(0)


def test_schedulers_of_one_host_hear_each_other_without_a_hub() -> None:
    async def run() -> None:
        desks = [Desk(), Desk(), Desk()]
        exchange = Exchange(desks, every_s=EVERY_S)
        async with running(exchange):
            await charge_at_random(desks)
            await until(lambda: all_heard(desks))
        assert not exchange.state.connected

    asyncio.run(run())


def test_schedulers_of_all_hosts_hear_each_other() -> None:
    async def run() -> None:
        hub = HubState()
        desks = [Desk() for _ in range(5)]
        groups = (desks[:2], desks[2:3], desks[3:])
        exchanges = [Exchange(group, MemoryHub(hub), every_s=EVERY_S) for group in groups]
        async with running(*exchanges):
            await until(answered(*exchanges))
            await charge_at_random(desks)
            await until(lambda: all_heard(desks))
            await until(lambda: {exchange.state.members for exchange in exchanges} == {3})
        assert all(exchange.state.connected for exchange in exchanges)

    asyncio.run(run())


def test_what_was_charged_last_is_pushed_before_the_end() -> None:
    async def run() -> None:
        hub, desk, other = HubState(), Desk(), Member("other")
        other.heard(hub.exchange(other.begin({}), 0.0))
        exchange = Exchange([desk], MemoryHub(hub), every_s=60.0)
        async with running(exchange):
            await until(answered(exchange))
            desk.charge("a", 5)
        assert other.heard(hub.exchange(other.begin({}), 0.0)) == {"a": 5 * GRAIN}

    asyncio.run(run())


def test_a_lost_hub_is_said_once_and_so_is_its_return(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        hubs = [server.hub() for _ in range(2)]
        here, beside, there = desks = [Desk(), Desk(), Desk()]
        one = Exchange([here, beside], hubs[0], every_s=EVERY_S)
        two = Exchange([there], hubs[1], every_s=EVERY_S)
        async with running(one, two):
            await until(answered(one, two))
            here.charge("a", 3)
            await until(lambda: all_heard(desks))
            server.kill()
            here.charge("a", 4)
            there.charge("b", 5)
            await until(lambda: not (one.state.connected or two.state.connected))
            await until(lambda: beside.heard["a"] == 7)
            await until(lambda: min(one.state.failures, two.state.failures) > 3)
            assert there.heard["a"] == 3
            server.start()
            await until(lambda: one.state.connected and two.state.connected)
            await until(lambda: all_heard(desks))

    with caplog.at_level(logging.INFO, LOG):
        asyncio.run(run())
    said = [record.message for record in caplog.records if record.name == LOG]
    assert sum("until it is back" in line for line in said) == 2
    assert sum("is back after" in line for line in said) == 2
    assert len(said) == 4


def test_a_hub_that_stands_still_holds_nobody_up(server: Server) -> None:
    async def run() -> None:
        here, beside = Desk(), Desk()
        hub = server.hub()
        exchange = Exchange([here, beside], hub, every_s=EVERY_S)
        async with running(exchange):
            await until(answered(exchange))
            server.halt()
            try:
                for _ in range(10):
                    here.charge("a", 1)
                    await until(lambda: all_heard([here, beside]))
            finally:
                server.resume()
            await until(answered(exchange))

    asyncio.run(run())


def test_a_scheduler_that_dies_is_out_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        desks = [Desk(), Desk(), Desk()]
        exchange = Exchange(desks, every_s=EVERY_S)
        task = asyncio.create_task(exchange.run())
        desks[1].dead = True
        await until(lambda: len(caplog.records) == 1)
        desks[0].charge("a", 7)
        await until(lambda: desks[2].heard["a"] == 7)
        for desk in desks:
            desk.dead = True
        async with asyncio.timeout(PATIENCE_S):
            await task

    with caplog.at_level(logging.INFO, LOG):
        asyncio.run(run())
    assert [record.message for record in caplog.records] == [
        "a scheduler takes part no more: the engine died"
    ] * 3


def test_what_hosts_tell_of_themselves_is_there_for_all() -> None:
    async def run() -> None:
        hub = MemoryHub()
        exchanges = [
            Exchange([Desk()], hub, every_s=EVERY_S, tell=tell)
            for tell in ("one".strip, "two".strip)
        ]
        async with running(*exchanges):
            await until(answered(*exchanges))
            assert sorted((await hub.posts()).values()) == ["one", "two"]

    asyncio.run(run())


def test_at_the_end_of_a_round_a_host_knows_all_that_was_told_and_charged(server: Server) -> None:
    async def run() -> None:
        told: list[Mapping[str, str] | None] = []
        totals: list[dict[str, float]] = []
        here, there = Desk(), Desk()
        hubs = [server.hub() for _ in range(2)]

        def hear(posts: Mapping[str, str] | None) -> None:
            told.append(posts)
            totals.append(dict(one.totals))
            assert one.era or posts is None

        one = Exchange([here], hubs[0], every_s=EVERY_S, told=hear)
        two = Exchange([there], hubs[1], every_s=EVERY_S, tell="two".strip, tell_s=EVERY_S)
        async with running(one, two):
            await until(answered(one, two))
            here.charge("a", 3)
            there.charge("a", 5)
            there.charge("b", 1)
            await until(lambda: totals[-1] == {"a": 8 * GRAIN, "b": GRAIN})
            await until(lambda: told[-1] is not None and list(told[-1].values()) == ["two"])
            server.kill()
            await until(lambda: told[-1] is None)
            here.charge("a", 1)
            await until(lambda: totals[-1] == {"a": 9 * GRAIN, "b": GRAIN})

    asyncio.run(run())


def test_who_is_cancelled_leaves_no_call_and_no_connection(server: Server) -> None:
    async def run() -> None:
        hub = server.hub()
        exchange = Exchange([Desk()], hub, every_s=EVERY_S)
        task = asyncio.create_task(exchange.run())
        await until(answered(exchange))
        server.halt()
        await asyncio.sleep(2 * EVERY_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


class Faulty(MemoryHub):
    """A hub that can be cut off."""

    lost = False

    async def exchange(self, push: Push) -> Pull:
        if self.lost:
            raise HubError("lost")
        return await super().exchange(push)


def test_how_much_is_heard_at_once_is_known_but_for_what_a_lost_hub_held_up() -> None:
    async def run() -> None:
        state = HubState()
        hub: Hub = MemoryHub(state)
        cut = Faulty(state)
        here, there = Desk(), Desk()
        one, two = (
            Exchange([desk], each, every_s=EVERY_S) for desk, each in ((here, hub), (there, cut))
        )
        async with running(one, two):
            await until(answered(one, two))
            here.charge("a", 100)
            here.charge("b", -30)
            await until(lambda: all_heard([here, there]))
            seen = two.state.stale
            assert 0 < seen <= 100 * GRAIN
            assert one.state.stale == 0
            cut.lost = True
            await until(lambda: not two.state.connected)
            here.charge("a", 10**6)
            await until(answered(one))
            await until(answered(one))
            cut.lost = False
            await until(lambda: all_heard([here, there]))
            assert two.state.stale <= seen

    asyncio.run(run())


# -- levels ----------------------------------------------------------------------------------


class Queue:
    """An end that is a fair queue, before whom `a` and `b` wait."""

    def __init__(self, a: float, b: float) -> None:
        self.policy = create_policy("vtc")
        self.policy.share()
        for n, client in enumerate("ab"):
            self.policy.enqueue(Request(n, client, 10), 0.0)
        self.policy.raise_levels({"a": a, "b": b})
        self.looks = 0

    async def swap(self, heard: Mapping[str, float]) -> Mapping[str, float]:
        self.policy.hear(heard)
        return self.policy.take_charges()

    async def settle(self, amounts: Mapping[str, float]) -> Standings:
        self.looks += 1
        self.policy.raise_levels(amounts)
        return self.policy.tell_waiting({}).here

    @property
    def ahead(self) -> float:
        """How far `a` is ahead of `b`."""
        (a,), (b,) = self.policy.standing("a"), self.policy.standing("b")
        return a - b


def settling(queues: Sequence[Queue], link: MemoryHub | None) -> Exchange:
    made: list[Exchange] = []

    def tell() -> str:
        return json.dumps({"levels": made[0].levels})

    made.append(
        Exchange(queues, link, every_s=EVERY_S, tell=tell, tell_s=EVERY_S, settle_s=EVERY_S)
    )
    return made[0]


def agree(queues: Sequence[Queue]) -> bool:
    return max(q.ahead for q in queues) - min(q.ahead for q in queues) < 1.0


@pytest.mark.parametrize("hosts", [[4], [1, 1], [2, 1, 1]])
def test_queues_come_to_agree_on_who_is_ahead(hosts: list[int]) -> None:
    """Within what they were before; what is charged meanwhile counts everywhere, and is no lift."""

    async def run() -> None:
        queues = [Queue(*levels) for levels in [(90, 0), (0, 50), (0, 20), (7, 0)][: sum(hosts)]]
        hub, left = HubState(), iter(queues)
        exchanges = [
            settling([next(left) for _ in range(n)], None if len(hosts) == 1 else MemoryHub(hub))
            for n in hosts
        ]
        async with running(*exchanges):
            await until(lambda: agree(queues))
            settled = [queue.ahead for queue in queues]
            assert -50 <= min(settled) < max(settled) + 1 <= 91
            queues[0].policy.admit(0, 0.0)  # `a` is charged 10, and waits no more here
            await until(lambda: all(queue.ahead > 9 + min(settled) for queue in queues[1:]))

    asyncio.run(run())


def test_without_its_hub_nobody_follows_what_was_told_last() -> None:
    async def run() -> None:
        hub = HubState()
        here, there, lossy = Queue(0, 0), Queue(1e6, 0), Faulty(hub)
        exchanges = [settling([here], lossy), settling([there], MemoryHub(hub))]
        async with running(*exchanges):
            await until(lambda: here.ahead > 0)
            lossy.lost = True
            looks = here.looks
            await until(lambda: here.looks > looks + 4)  # of two each: what it had in hand is used
            ahead = here.ahead
            await until(lambda: here.looks > looks + 12)
            assert here.ahead == ahead

    asyncio.run(run())


def test_what_is_told_of_another_era_or_makes_no_sense_raises_nobody() -> None:
    told = {"a": [[5.0, 1.0]], "b": [[0.0, 1.0]]}
    good = {"levels": {"era": "e", "schedulers": [told]}}
    assert levels.read(json.dumps(good), "e") == [{"a": ((5.0, 1.0),), "b": ((0.0, 1.0),)}]
    assert levels.read(json.dumps(good), "another") == []
    for steps in ("x", [[1.0]], [["x", 1.0]], [[float("nan"), 1.0]], [[1.0, 0.0]], 7):
        bad = {"levels": {"era": "e", "schedulers": [{"a": steps}]}}
        assert levels.read(json.dumps(bad), "e") == []
    for text in ("", "[]", "{}", json.dumps({"levels": 3})):
        assert levels.read(text, "e") == []


def test_of_many_clients_all_servers_tell_of_the_same() -> None:
    some = {f"c{n}": ((float(n), 1.0),) for n in range(1000)}
    backwards = dict(reversed(some.items()))
    (one,), (other,) = (levels.written([told], "e")["schedulers"] for told in (some, backwards))
    assert one == other
    assert len(one) == levels.MOST_TOLD
