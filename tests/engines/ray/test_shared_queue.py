"""The queue before all replicas, without Ray: who is sent where, and what lost messages do."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.audit import Auditor
from fairlane.core.cost import LinearCost
from fairlane.core.types import Outcome
from fairlane.door.books import Books
from fairlane.engines.ray.shared_queue import SILENCE_S, Call, SharedQueue
from fairlane.policies.registry import create_policy

A_MOMENT_S = 0.1  # longer than a replica that turned a call away counts as full
GRACE_S = 3.0  # longer than a call is believed to be on its way


class Town:
    """A queue, the routers before it, and a clock that tests turn."""

    def __init__(self, capacity: dict[str, int], routers: str = "rs", **options: Any) -> None:
        self.now = 0.0
        self.options = options
        self.capacity = {router: dict(capacity) for router in routers}
        self.waiting: dict[str, Call] = {}
        self.running: dict[str, Call] = {}
        self.numbers = Counter[str]()
        self.start()
        self.say()

    def start(self) -> None:
        """A queue that knows nothing."""
        policy = create_policy("vtc", **self.options)
        books = Books(policy, Auditor(cost=LinearCost()), LinearCost(), lambda: self.now)
        self.queue = SharedQueue(books, lambda: self.now)

    def say(self, *routers: str) -> None:
        """Routers tell what they have."""
        for router in routers or self.capacity:
            self.queue.hear(
                router, self.capacity[router],
                [key for key, call in self.waiting.items() if call.router == router],
                [copied(call) for call in self.running.values() if call.router == router],
            )  # fmt: skip

    def enter(self, client: str, router: str = "r") -> str:
        self.numbers[router] += 1
        key = f"{router}{self.numbers[router]}"
        call = self.waiting[key] = Call(key, router, client, f"request-{key}")
        assert self.queue.enter(copied(call)) is None
        return key

    def turns(self) -> list[str]:
        """Keys of those that are sent, now running."""
        given = self.queue.turns()
        for key, replica in given:
            call = self.running[key] = self.waiting.pop(key)
            call.replica = replica
        return [key for key, _ in given]

    def turn_away(self, key: str) -> None:
        call = self.waiting[key] = self.running.pop(key)
        assert self.queue.enter(copied(call)) is None

    def end(self, key: str, tokens: int = 1) -> None:
        call = self.running.pop(key)
        assert call.replica is not None
        assert self.queue.report(call.request, call.replica, tokens, None)
        self.queue.leave(key)

    def give_up(self, key: str) -> None:
        (self.waiting.pop(key, None) or self.running.pop(key))
        self.queue.leave(key, Outcome.ABORTED)


def copied(call: Call) -> Call:
    """As it arrives at the queue's process."""
    return Call(call.key, call.router, call.client, call.request, call.replica)


def test_replicas_are_filled_evenly_and_never_beyond_what_they_take() -> None:
    town = Town({"x": 2, "y": 4})
    for _ in range(9):
        town.enter("alice")
    assert len(town.turns()) == 6
    assert Counter(call.replica for call in town.running.values()) == {"x": 2, "y": 4}
    assert town.queue.counts() == {"waiting": {"r": 3}, "running": {"x": 2, "y": 4}}


@pytest.mark.parametrize(("weights", "share"), [({}, 1.0), ({"a": 4.0}, 4.0)])
def test_service_follows_weights_whichever_router_requests_come_by(
    weights: dict[str, float], share: float
) -> None:
    town = Town({"x": 4, "y": 4}, weights=weights)
    served = Counter[str]()
    for _ in range(32):
        town.enter("a", "r")
    for _ in range(16):
        town.enter("b", "s")
    town.turns()
    for _ in range(4000):
        key = next(iter(town.running))  # the oldest
        call = town.running[key]
        served[call.client] += 7 if call.client == "a" else 3
        town.end(key, 7 if call.client == "a" else 3)
        town.enter(call.client, call.router)
        town.turns()
    assert served["a"] / served["b"] == pytest.approx(share, rel=0.02)


def test_a_call_that_a_replica_turned_away_is_its_clients_next_and_goes_elsewhere() -> None:
    town = Town({"x": 1, "y": 1})
    first, second = town.enter("alice"), town.enter("alice")
    assert town.turns() == [first, second]
    third = town.enter("alice")
    town.end(second)
    where = town.running[first].replica
    town.turn_away(first)
    assert town.turns() == [first]
    assert town.running[first].replica != where
    assert town.turns() == []  # who turned one away is full for a moment
    town.now += A_MOMENT_S
    assert town.turns() == [third]


def test_tokens_count_for_whoever_is_served_and_for_nobody_after_the_end() -> None:
    town = Town({"x": 1})
    key = town.enter("alice")
    town.turns()
    assert town.queue.report(f"request-{key}", "x", 5, 20)
    assert not town.queue.report(f"request-{key}", "y", 5, None)
    town.end(key, 2)
    assert not town.queue.report(f"request-{key}", "x", 5, None)
    alice = town.queue.books.snapshot()["clients"]["alice"]
    assert (alice["input_tokens"], alice["output_tokens"], alice["finished"]) == (20, 7, 1)


def test_calls_that_one_request_makes_at_once_are_told_apart() -> None:
    town = Town({"x": 2})
    for key in ("r1", "r2"):
        town.waiting[key] = call = Call(key, "r", "alice", "the same")
        town.queue.enter(copied(call))
    assert town.turns() == ["r1", "r2"]
    town.end("r1")
    town.end("r2")
    assert town.queue.counts() == {"waiting": {}, "running": {}}


def test_a_router_that_is_not_heard_of_loses_its_calls_and_its_places() -> None:
    town = Town({"x": 1})
    lost, mine = town.enter("alice", "s"), town.enter("bob", "r")
    assert town.turns() == [lost]
    town.now += SILENCE_S / 2
    town.say("r")
    town.now += SILENCE_S / 2 + 1
    town.say("r")
    assert town.queue.forget_silent() == [lost]
    assert town.turns() == [mine]
    town.now += SILENCE_S + 1
    assert town.queue.forget_silent() == [mine]
    assert town.queue.idle


def test_a_call_that_its_router_has_no_more_is_ended_once_it_had_its_time() -> None:
    town = Town({"x": 1})
    lost, mine = town.enter("alice"), town.enter("bob")
    assert town.turns() == [lost]
    del town.running[lost]
    town.say()
    assert town.turns() == []  # it may be on its way
    town.now += GRACE_S
    town.say()
    assert town.turns() == [mine]


def test_a_queue_that_was_restarted_learns_what_runs_and_charges_it() -> None:
    town = Town({"x": 2})
    running = [town.enter("alice", "r"), town.enter("bob", "s")]
    assert town.turns() == running
    town.start()
    again = town.enter("carol", "r")
    assert town.turns() == []  # no router has told it anything
    town.say()
    assert town.turns() == []
    town.end(running[0], 5)
    assert town.turns() == [again]
    assert town.queue.books.snapshot()["clients"]["alice"]["output_tokens"] == 5


def test_who_is_next_but_whose_router_does_not_know_the_free_replica_holds_nobody_up() -> None:
    town = Town({"x": 1})
    first = town.enter("alice", "s")
    assert town.turns() == [first]
    town.capacity["r"] = {"x": 1, "new": 1}
    town.say("r")
    behind, ahead = town.enter("alice", "s"), town.enter("bob", "r")
    assert town.turns() == [ahead]
    assert town.running[ahead].replica == "new"
    town.end(ahead)
    town.capacity["s"] = {"x": 1, "new": 1}
    town.say("s")
    assert town.turns() == [behind]


def test_a_replica_that_left_is_sent_nothing() -> None:
    town = Town({"x": 1, "y": 1})
    for router in "rs":
        town.capacity[router] = {"x": 1}
    town.say()
    keys = [town.enter("alice") for _ in range(2)]
    assert town.turns() == keys[:1]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "turn away", "end", "give up", "say", "restart", "moment"]),
        st.integers(0, 10**6),
    ),
    max_size=80,
)


def happen(town: Town, what: str, which: int) -> None:
    running, everyone = list(town.running), [*town.waiting, *town.running]
    match what:
        case "enter":
            town.enter("abc"[which % 3], "rs"[which % 2])
        case "turn away" if running:
            town.turn_away(running[which % len(running)])
        case "end" if running:
            town.end(running[which % len(running)])
        case "give up" if everyone:
            town.give_up(everyone[which % len(everyone)])
        case "say":
            town.say("rs"[which % 2])
        case "restart":
            town.start()
            town.say()
            for call in town.waiting.values():
                town.queue.enter(copied(call))
        case "moment":
            town.now += A_MOMENT_S


@given(events=EVENTS, capacities=st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_whatever_happens_nothing_idles_nothing_is_overrun_and_nothing_is_left(
    events: list[tuple[str, int]], capacities: list[int]
) -> None:
    capacity = {f"replica-{i}": places for i, places in enumerate(capacities)}
    town = Town(capacity)
    for what, which in events:
        happen(town, what, which)
        town.turns()
        busy = Counter(call.replica for call in town.running.values())
        assert all(busy[name] <= places for name, places in capacity.items())
        assert town.queue.counts()["running"] == dict(busy)
        assert sum(town.queue.counts()["waiting"].values()) == len(town.waiting)
    town.now += A_MOMENT_S
    town.turns()
    assert len(town.running) == min(sum(capacities), len(town.running) + len(town.waiting))
    while town.running:
        town.end(next(iter(town.running)))
        town.turns()
    assert town.queue.counts() == {"waiting": {}, "running": {}}
    assert not town.queue.books.errors
