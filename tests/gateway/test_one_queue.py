"""Queues of gateways before the same upstreams: whose turn it is, and how much room there is."""

import json
import logging
from pathlib import Path

import pytest

from fairlane.cluster.config import Cluster
from fairlane.cluster.memory import MemoryHub
from fairlane.core.sharing import Standing, Waiting
from fairlane.core.types import Outcome, Request
from fairlane.door.sharing import Sharing, tell
from fairlane.gateway.dispatch import Dispatcher
from fairlane.gateway.pool import Pool, Told
from fairlane.gateway.sharing import Shared
from tests.gateway.test_pool import Clock, make_pool

CLUSTER = Cluster(hub="redis://h", pool="p", same_upstreams=True)
NOBODY: dict[str, float] = {}


def shared_pool(window: int = 4) -> Pool:
    pool = make_pool(Clock(), {"one": window})
    pool.sharing = Sharing(pool.books, CLUSTER, pool.unit, {})
    return pool


def arrive(pool: Pool, client: str, count: int) -> None:
    for number in range(count):
        pool.arrive(Request(f"{client}-{number}", client, 10), 10)


def at(level: float) -> Standing:
    return ((level, 1.0),)


def told(
    *, in_flight: int = 0, window: float = 4.0, yields: bool = False, **waiting: float
) -> Told:
    """What another gateway says; waiting: the counters of clients that wait there."""
    here = {client: at(level) for client, level in waiting.items()}
    return Told({"one": (in_flight, window)}, yields, Waiting(here))


def sent(pool: Pool) -> int:
    return len(pool.turns())


def test_what_others_have_in_flight_takes_up_the_window() -> None:
    pool = shared_pool(4)
    arrive(pool, "a", 9)
    pool.hear([told(in_flight=1), told(in_flight=2)], NOBODY)
    assert sent(pool) == 1
    pool.hear([told(in_flight=1)], NOBODY)
    assert sent(pool) == 2
    pool.hear([told(in_flight=9)], NOBODY)
    assert sent(pool) == 0


def test_the_greatest_window_that_anybody_found_is_everybodys() -> None:
    pool = shared_pool(4)
    arrive(pool, "a", 9)
    pool.hear([told(in_flight=3, window=7.0), told(window=0.0)], NOBODY)
    assert sent(pool) == 4


def test_nobody_is_sent_before_whom_somebody_comes_who_waits_elsewhere() -> None:
    pool = shared_pool()
    arrive(pool, "a", 9)
    pool.hear([told(a=500.0, b=0.0)], NOBODY)
    assert sent(pool) == 0
    pool.hear([told()], NOBODY)
    assert sent(pool) == 4


def test_who_is_ahead_by_less_than_a_request_need_not_wait() -> None:
    pool = shared_pool()
    arrive(pool, "a", 9)
    pool.hear([told(a=29.0, b=0.0)], NOBODY)  # a request is 10 + 2 * 10
    assert sent(pool) == 1  # which puts it too far ahead
    pool.hear([told(a=29.0, b=0.0)], NOBODY)
    assert sent(pool) == 0


def test_room_that_all_leave_is_used_after_two_looks_and_only_then() -> None:
    pool = shared_pool()
    arrive(pool, "a", 9)
    for _ in range(9):
        pool.hear([told(a=500.0, b=0.0, in_flight=2)], NOBODY)  # it takes what it can
        assert sent(pool) == 0
    pool.hear([told(a=500.0, b=0.0, in_flight=4)], NOBODY)
    assert sent(pool) == 0
    pool.hear([told(a=500.0, b=0.0, in_flight=2, yields=True)], NOBODY)
    assert sent(pool) == 0
    pool.hear([told(a=500.0, b=0.0, in_flight=2, yields=True)], NOBODY)
    assert sent(pool) == 2


def test_room_that_those_do_not_take_whose_turn_it_is_is_used_in_the_end() -> None:
    pool = shared_pool()
    arrive(pool, "a", 9)
    found = []
    for _ in range(11):
        pool.hear([told(a=500.0, b=0.0, in_flight=2)], NOBODY)
        found.append(sent(pool))
    assert found == [0] * 9 + [2, 0]


def test_who_has_no_upstream_left_is_not_waited_for() -> None:
    pool = shared_pool()
    arrive(pool, "a", 3)
    assert set(pool.tell(NOBODY).waiting.here) == {"a"}
    pool.lanes["one"].accepts = False
    assert not pool.tell(NOBODY).waiting.here


def test_an_unheard_hub_leaves_the_window_to_each() -> None:
    pool = shared_pool()
    arrive(pool, "a", 9)
    pool.hear([told(in_flight=4, b=0.0, a=500.0)], NOBODY)
    assert sent(pool) == 0
    pool.hear(None, NOBODY)
    assert sent(pool) == 4


def test_what_it_tells_is_what_it_has() -> None:
    pool = shared_pool()
    arrive(pool, "a", 6)
    assert pool.tell(NOBODY).lanes == {"one": (0, 4.0)}
    assert sent(pool) == 4
    assert pool.tell(NOBODY).lanes == {"one": (4, 4.0)}
    for number in range(6):
        pool.end(f"a-{number}", Outcome.FINISHED)
    assert pool.tell(NOBODY).lanes == {"one": (0, 0.0)}  # it needs no window


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", tell("s", 0.0, []), '{"queues": 3}', '{"queues": {"m": {}}}',
        '{"queues": {"m": {"era": "", "lanes": {"one": [1]}, "here": {}, "there": {}}}}',
        '{"queues": {"m": {"era": "", "lanes": {}, "yields": 1, "there": {},'
        ' "here": {"a": [[NaN, 1]]}}}}',
    ],
)  # fmt: skip
def test_who_tells_no_queues_is_named_once_and_not_yielded_to(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = shared_pool()
    shared = Shared(CLUSTER, MemoryHub(), "here", {"m": Dispatcher(pool)}, dict, 10)
    with caplog.at_level(logging.WARNING, "fairlane.gateway"):
        assert shared._read({"x": text}) == shared._read({"x": text}) == []
    assert [record.message for record in caplog.records] == [
        "a server of this pool has not same_upstreams, and is not yielded to"
    ]


def test_counters_of_another_era_say_only_who_waits(tmp_path: Path) -> None:
    pool = shared_pool()
    shared = Shared(CLUSTER, MemoryHub(), "here", {"m": Dispatcher(pool)}, dict, 10)
    queue = {"era": "old", "lanes": {}, "yields": False, "here": {"a": [[9, 1]]}, "there": {}}
    [found] = shared._read({"x": json.dumps({"queues": {"m": queue}})})
    assert found["m"].waiting == Waiting({"a": ()}, {})
