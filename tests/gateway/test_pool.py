"""Whose turn it is and where: shares over several upstreams, trouble, and books that stay true."""

from collections import Counter, deque
from typing import Any

import pytest

from fairlane.core.audit import Auditor
from fairlane.core.cost import LinearCost
from fairlane.core.types import Outcome, Request
from fairlane.door.books import Books
from fairlane.gateway.pool import Lane, Pool
from fairlane.gateway.window import Bounds
from fairlane.policies.registry import create_policy


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_pool(clock: Clock, windows: dict[str, int], policy: str = "vtc", **options: Any) -> Pool:
    cost = LinearCost()
    books = Books(create_policy(policy, **options), Auditor(cost=cost), cost, clock)
    return Pool(books, [Lane(name, Bounds.fixed(size)) for name, size in windows.items()], clock)


def serve(pool: Pool, clock: Clock, rounds: int) -> Counter[str]:
    """Tokens by client, while all wait; answers have 10, one a round."""
    running: dict[str, tuple[str, int]] = {}
    delivered: Counter[str] = Counter()
    for _ in range(rounds):
        clock.now += 0.02
        for turn in pool.turns():
            running[turn.id] = (turn.id.split("-")[0], 0)
        for request_id, (client, tokens) in list(running.items()):
            delivered[client] += 1
            running[request_id] = (client, tokens + 1)
            pool.tokens(request_id, tokens + 1)
            if tokens + 1 == 10:
                pool.end(request_id, Outcome.FINISHED)
                del running[request_id]
        pool.tick()
    return delivered


@pytest.mark.parametrize(("policy", "ratio"), [("vtc", 1.0), ("drr", 1.0), ("fcfs", 2.0)])
@pytest.mark.parametrize("windows", [{"one": 8}, {"one": 5, "two": 3}])
def test_twice_the_load_gives_no_larger_share_however_many_upstreams(
    policy: str, ratio: float, windows: dict[str, int]
) -> None:
    clock = Clock()
    options = {"quantum": 30.0} if policy == "drr" else {}
    pool = make_pool(clock, windows, policy, **options)
    for number in range(300):
        for at, client in enumerate("aab"):
            pool.arrive(Request(f"{client}-{number}.{at}", client, 5), 256)
    delivered = serve(pool, clock, 400)
    assert delivered["a"] / delivered["b"] == pytest.approx(ratio, rel=0.1)


def test_the_upstream_with_the_least_work_gets_it_by_its_weight() -> None:
    clock = Clock()
    cost = LinearCost()
    books = Books(create_policy("fcfs"), Auditor(cost=cost), cost, clock)
    pool = Pool(books, [Lane("big", Bounds.fixed(99), 3.0), Lane("small", Bounds.fixed(99))], clock)
    for number in range(40):
        pool.arrive(Request(f"r-{number}", "a", 100, 100), 256)
    where = Counter(turn.lane.name for turn in pool.turns())
    assert where == {"big": 30, "small": 10}


def test_who_hangs_up_while_waiting_is_never_sent_and_not_charged() -> None:
    clock = Clock()
    pool = make_pool(clock, {"one": 1})
    pool.arrive(Request("a-1", "a", 10), 256)
    pool.arrive(Request("b-1", "b", 10), 256)
    assert [turn.id for turn in pool.turns()] == ["a-1"]
    pool.end("b-1", Outcome.ABORTED)
    pool.end("a-1", Outcome.FINISHED)
    assert pool.turns() == []
    assert pool.books.snapshot()["clients"]["b"]["service"] == 0
    assert (pool.waiting, pool.running) == (0, 0)


def test_a_request_that_an_upstream_failed_goes_to_another_before_its_clients_others() -> None:
    clock = Clock()
    pool = make_pool(clock, {"one": 1, "two": 1})
    for number in (1, 2, 3):
        pool.arrive(Request(f"a-{number}", "a", 10), 256)
    first, second = pool.turns()
    pool.failed(first.id)
    pool.end(second.id, Outcome.FINISHED)
    again = pool.turns()
    assert [turn.id for turn in again] == [first.id, "a-3"]
    assert again[0].lane is not first.lane
    service = pool.books.snapshot()["clients"]["a"]["service"]
    assert service == 30  # each prompt once


def test_nothing_goes_to_an_upstream_that_is_down_and_who_waits_is_kept() -> None:
    clock = Clock()
    pool = make_pool(clock, {"one": 2, "two": 2})
    pool.lanes["one"].accepts = False
    for number in range(5):
        pool.arrive(Request(f"a-{number}", "a", 10), 256)
    assert {turn.lane.name for turn in pool.turns()} == {"two"}
    assert pool.waiting == 3
    pool.lanes["one"].accepts = True
    assert [turn.lane.name for turn in pool.turns()] == ["one", "one"]


def test_an_upstream_that_turned_away_is_left_alone_for_as_long_as_it_says() -> None:
    clock = Clock()
    pool = make_pool(clock, {"one": 2})
    pool.arrive(Request("a-1", "a", 10), 256)
    [turn] = pool.turns()
    pool.turned_away(turn.lane, 3.0)
    pool.failed(turn.id)
    clock.now = 2.9
    assert pool.turns() == []
    clock.now = 3.0
    assert [turn.id for turn in pool.turns()] == ["a-1"]


def test_tokens_are_charged_once_however_often_they_are_told() -> None:
    clock = Clock()
    pool = make_pool(clock, {"one": 1})
    pool.arrive(Request("a-1", "a", 10), 256)
    pool.turns()
    for tokens in (1, 1, 3, 2, 7):
        pool.tokens("a-1", tokens)
        pool.tick()
    pool.end("a-1", Outcome.ABORTED)
    pool.end("a-1", Outcome.FINISHED)
    assert pool.books.snapshot()["clients"]["a"]["service"] == 10 + 2 * 7


def test_a_policy_that_raises_fails_the_request_alone() -> None:
    clock = Clock()
    pool = make_pool(clock, {"one": 4})
    pool.arrive(Request("a-1", "a", 10), 256)
    pool.arrive(Request("b-1", "b", 10), 256)
    calls: deque[None] = deque([None])

    class Broken(type(pool.books._policy)):  # type: ignore[misc]
        def peek(self, now: float) -> Any:
            if calls:
                calls.pop()
                raise RuntimeError("a mistake")
            return super().peek(now)

    pool.books._policy.__class__ = Broken
    assert pool.turns() == []
    [failed] = pool.take_failed()
    pool.end(failed, Outcome.ABORTED)
    assert len(pool.turns()) == 1
