"""The front door's counts: requests that wait, and turns to be inside the engine."""

import asyncio

import pytest

from fairlane.door.admission import Admission, Caller, Refused, Turns
from fairlane.door.tenants import Limits


def test_waiting_requests_are_limited_until_they_are_served_or_gone() -> None:
    door = Admission({"a": Limits(max_queued=2)}.get)
    first, second, third = Caller("a"), Caller("a"), Caller("a")
    door.arrive(first, 0.0)
    door.arrive(second, 0.0)
    with pytest.raises(Refused, match="limit of waiting requests") as refused:
        door.arrive(third, 0.0)
    assert refused.value.status == 429
    door.served(first)
    door.served(first)  # its first token, and then its end
    door.arrive(third, 0.0)
    with pytest.raises(Refused):
        door.arrive(Caller("a"), 0.0)
    assert door.rejected == {("a", "queue_full"): 2}
    for caller in (second, third):
        door.served(caller)
    assert door.waiting == {}


def test_turns_are_taken_in_order() -> None:
    async def run() -> list[int]:
        turns, order = Turns({"a": 1}.get), []

        async def work(i: int) -> None:
            await turns.enter("a")
            order.append(i)
            await asyncio.sleep(0)
            assert turns.inside("a") == 1
            turns.leave("a")

        await asyncio.gather(*(work(i) for i in range(50)))
        assert turns.inside("a") == 0
        return order

    assert asyncio.run(run()) == list(range(50))


def test_who_gives_up_waiting_takes_no_turn() -> None:
    async def run() -> None:
        turns = Turns({"a": 1}.get)
        await turns.enter("a")
        waiting = [asyncio.create_task(turns.enter("a")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        turns.leave("a")
        waiting[1].cancel()  # in the moment in which its turn comes
        await asyncio.gather(waiting[1], return_exceptions=True)
        await asyncio.wait_for(waiting[2], 5)
        assert turns.inside("a") == 1
        turns.leave("a")
        assert turns.inside("a") == 0
        await asyncio.wait_for(turns.enter("a"), 5)

    asyncio.run(run())


def test_clients_without_a_limit_and_others_do_not_wait() -> None:
    async def run() -> None:
        turns = Turns({"a": 1}.get)
        await turns.enter("a")
        for _ in range(100):
            await asyncio.wait_for(turns.enter("b"), 5)
        assert turns.inside("b") == 100

    asyncio.run(run())


def test_a_higher_limit_lets_in_who_waits() -> None:
    async def run() -> None:
        limit = {"a": 1}
        turns = Turns(limit.get)
        await turns.enter("a")
        waiting = asyncio.create_task(turns.enter("a"))
        await asyncio.sleep(0)
        assert not waiting.done()
        limit["a"] = 2
        turns.limits_changed()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(run())
