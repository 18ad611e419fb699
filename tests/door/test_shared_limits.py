"""Limits over all servers: ten a minute are ten, however many servers there are."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from fairlane.cluster import shared_limits
from fairlane.cluster.hub import Hub, HubError, new_name
from fairlane.cluster.limits import Ask, Verdicts
from fairlane.cluster.memory import MemoryHub
from fairlane.cluster.shared_limits import SharedLimits
from fairlane.core.types import Rejection
from fairlane.door.admission import Admission, Caller, Refused
from fairlane.door.tenants import Limits
from tests.cluster.servers import Server, running
from tests.processes import PATIENCE_S


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running("valkey", tmp_path) as started:
        yield started


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_limits, "BEAT_S", 0.02)


class Clock:
    """Time that stands until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Cut(MemoryHub):
    """A hub that can be lost to all, and counts the requests that it was asked about."""

    lost = False
    asked = 0

    async def limit(self, ask: Ask) -> Verdicts:
        await asyncio.sleep(0)
        if self.lost:
            raise HubError("lost")
        self.asked += len(ask.arrivals)
        return await super().limit(ask)


class Front:
    """One server's door."""

    def __init__(self, hub: Hub, limits: Mapping[str, Limits], clock: Clock) -> None:
        self.clock = clock
        self.shared = SharedLimits(hub, every_s=0.01)
        self.admission = Admission(limits.get)
        self.admission.ask(self.shared)
        self.task = asyncio.create_task(self.shared.run())

    async def send(self, client: str = "a") -> Caller | Rejection:
        """A request that comes in, or why it does not."""
        caller = Caller(client)
        try:
            await self.admission.come_in(caller, self.clock)
        except Refused as refused:
            return refused.rejection or Rejection(refused.code)
        return caller


@asynccontextmanager
async def fronts(
    count: int, hub: Callable[[], Hub], clock: Clock, **limits: Limits
) -> AsyncIterator[list[Front]]:
    """So many servers that all know of each other."""
    by_path = {name.replace("__", "/"): limit for name, limit in limits.items()}
    made = [Front(hub(), by_path, clock) for _ in range(count)]
    try:
        await until(lambda: all(front.shared.servers == count for front in made))
        yield made
    finally:
        for front in made:
            front.shared.stop()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*(front.task for front in made))


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.005)


async def until_awaited(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await is_so():
            await asyncio.sleep(0.005)


async def came_in(*sent: Awaitable[Caller | Rejection]) -> int:
    """Of requests that are sent at once, how many come in."""
    return sum(isinstance(each, Caller) for each in await asyncio.gather(*sent))


@pytest.mark.parametrize("client", ["a", "org/b"])
def test_ten_a_minute_are_ten_and_are_refilled_for_all(client: str) -> None:
    async def run() -> None:
        ten, clock = Limits(requests_per_minute=10), Clock()
        hub = MemoryHub(clock=clock)
        async with fronts(3, lambda: hub, clock, a=ten, org=ten) as servers:
            sent = [server.send(client) for server in servers * 10]
            assert await came_in(*sent) == 10
            assert await servers[1].send(client) == Rejection("requests_per_minute", 6.0)
            clock.now += 12
            assert await came_in(*(server.send(client) for server in servers)) == 2

    asyncio.run(run())


def test_servers_without_a_hub_would_let_in_more() -> None:
    clock = Clock()
    limits = {"a": Limits(requests_per_minute=10)}
    doors = [Admission(limits.get) for _ in range(3)]

    async def send(door: Admission) -> Caller | Rejection:
        with suppress(Refused):
            await door.come_in(caller := Caller("a"), clock)
            return caller
        return Rejection("refused")

    async def run() -> int:
        return await came_in(*(send(door) for door in doors * 10))

    assert asyncio.run(run()) == 30


def test_one_a_minute_is_one_on_a_real_server(server: Server) -> None:
    async def run() -> None:
        hubs = [server.hub() for _ in range(3)]
        name, spare = new_name(), iter(hubs)
        one = Limits(requests_per_minute=1)
        async with fronts(3, lambda: next(spare), Clock(), **{name: one}) as servers:
            assert await came_in(*(front.send(name) for front in servers * 10)) == 1
        for hub in hubs:
            await hub.close()

    asyncio.run(run())


def test_tokens_that_one_server_took_are_owed_at_all() -> None:
    async def run() -> None:
        clock = Clock()
        hub = MemoryHub(clock=clock)
        async with fronts(2, lambda: hub, clock, a=Limits(tokens_per_minute=600)) as (one, two):
            assert isinstance(await one.send(), Caller)
            one.admission.rates.take_tokens("a", 1200, clock())
            owed = Rejection("tokens_per_minute", pytest.approx(60.1))  # type: ignore[arg-type]

            async def is_owed() -> bool:
                return await two.send() == owed

            await until_awaited(is_owed)
            assert two.admission.rates.headers("a", clock())["x-ratelimit-remaining-tokens"] == "0"
            one.admission.rates.give_back_tokens("a", 700, clock())
            assert isinstance(await one.send(), Caller)
            headers = one.admission.rates.headers("a", clock())
            assert headers["x-ratelimit-remaining-tokens"] == "100"
            assert headers["x-ratelimit-limit-tokens"] == "600"

    asyncio.run(run())


def test_waiting_requests_are_counted_over_all_servers() -> None:
    async def run() -> None:
        clock = Clock()
        hub = MemoryHub(clock=clock)
        async with fronts(3, lambda: hub, clock, a=Limits(max_queued=2)) as servers:
            callers = await asyncio.gather(*(front.send() for front in servers))
            inside = [
                (front, caller)
                for front, caller in zip(servers, callers, strict=True)
                if isinstance(caller, Caller)
            ]
            assert len(inside) == 2
            for other in servers:
                assert await other.send() == Rejection("queue_full")
            front, caller = inside[0]
            front.admission.served(caller)
            front.admission.served(caller)

            async def has_room() -> bool:
                return isinstance(await servers[2].send(), Caller)

            await until_awaited(has_room)
            assert await servers[0].send() == Rejection("queue_full")

    asyncio.run(run())


def test_requests_of_a_server_that_died_wait_no_longer() -> None:
    async def run() -> None:
        clock = Clock()
        hub = MemoryHub(clock=clock)
        async with fronts(2, lambda: hub, clock, a=Limits(max_queued=1)) as (one, two):
            assert isinstance(await one.send(), Caller)
            one.task.cancel()
            await asyncio.wait({one.task})
            clock.now += 14
            assert await two.send() == Rejection("queue_full")
            clock.now += 2
            assert isinstance(await two.send(), Caller)

    asyncio.run(run())


def test_a_server_that_stops_leaves_nobody_waiting() -> None:
    async def run() -> None:
        clock = Clock()
        hub = MemoryHub(clock=clock)
        async with fronts(2, lambda: hub, clock, a=Limits(max_queued=1)) as (one, two):
            assert isinstance(await one.send(), Caller)
            one.shared.stop()
            await one.task
            assert isinstance(await two.send(), Caller)

    asyncio.run(run())


def test_without_the_hub_each_has_its_part_and_all_is_told_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        clock = Clock()
        hub = Cut(clock=clock)
        nine = Limits(requests_per_minute=9, max_queued=30)
        async with fronts(3, lambda: hub, clock, a=nine) as servers:
            hub.lost = True
            sent = [front.send() for front in servers * 5]
            assert await came_in(*sent) == 9
            assert not any(front.shared.connected for front in servers)
            hub.lost = False
            await until(lambda: all(front.shared.connected for front in servers))

            async def is_told() -> bool:
                left = await asyncio.gather(*(front.send() for front in servers))
                return left == [Rejection("requests_per_minute", pytest.approx(60 / 9))] * 3  # type: ignore[arg-type]

            await until_awaited(is_told)
            clock.now += 60
            callers = await asyncio.gather(*(front.send() for front in servers * 5))
            assert sum(isinstance(each, Caller) for each in callers) == 9

    with caplog.at_level(logging.INFO, "fairlane.cluster"):
        asyncio.run(run())
    said = [record.message for record in caplog.records]
    assert sum("until its hub is back: lost" in line for line in said) == 3
    assert sum("limits hold over all servers again" in line for line in said) == 3
    assert len(said) == 6


class Deaf(MemoryHub):
    """A hub whose answers can be lost."""

    answers = True

    async def limit(self, ask: Ask) -> Verdicts:
        answer = await super().limit(ask)
        if not self.answers:
            raise HubError("lost")
        return answer


def test_what_was_told_and_not_answered_is_taken_once() -> None:
    async def run() -> None:
        clock = Clock()
        hub = Deaf(clock=clock)
        async with fronts(2, lambda: hub, clock, a=Limits(tokens_per_minute=1000)) as (one, two):
            hub.answers = False
            one.admission.rates.take_tokens("a", 400, clock())
            await until(lambda: not one.shared.connected)
            one.admission.rates.take_tokens("a", 500, clock())
            hub.answers = True
            await until(lambda: one.shared.connected and two.shared.connected)

            async def is_told() -> bool:
                await two.send()
                headers = two.admission.rates.headers("a", clock())
                return headers["x-ratelimit-remaining-tokens"] == "100"

            await until_awaited(is_told)

    asyncio.run(run())


def test_clients_without_limits_ask_nobody() -> None:
    async def run() -> None:
        clock = Clock()
        hub = Cut(clock=clock)
        async with fronts(1, lambda: hub, clock, a=Limits(max_running=1)) as (front,):
            assert await came_in(front.send("a"), front.send("nobody")) == 2
            assert hub.asked == 0

    asyncio.run(run())


def test_who_hangs_up_while_the_hub_is_asked_does_not_wait(server: Server) -> None:
    async def run() -> None:
        hub = server.hub()
        async with fronts(1, lambda: hub, Clock(), a=Limits(max_queued=1)) as (front,):

            async def has_room() -> bool:
                caller = await front.send()
                if isinstance(caller, Caller):
                    front.admission.served(caller)
                return isinstance(caller, Caller)

            for turns in range(12):
                server.halt()
                asking = asyncio.create_task(front.send())
                for _ in range(turns % 4):
                    await asyncio.sleep(0)
                asking.cancel()
                server.resume()
                with suppress(asyncio.CancelledError):
                    caller = await asking
                    assert isinstance(caller, Caller)
                    front.admission.served(caller)

                await until_awaited(has_room)
        await hub.close()

    asyncio.run(run())


def test_a_server_killed_while_requests_arrive_holds_none_of_them_up(server: Server) -> None:
    async def run() -> None:
        hub = server.hub()
        async with fronts(1, lambda: hub, Clock(), a=Limits(requests_per_minute=10**6)) as (front,):
            sent = [asyncio.create_task(front.send()) for _ in range(100)]
            await asyncio.sleep(0)
            server.kill()
            sent += [asyncio.create_task(front.send()) for _ in range(100)]
            async with asyncio.timeout(PATIENCE_S):
                assert await came_in(*sent) == 200
        await hub.close()

    asyncio.run(run())
