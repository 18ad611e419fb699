"""The hub: everyone hears what others charged, once, late by two periods at most."""

from collections import defaultdict
from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.errors import FairlaneError
from fairlane.core.fair_queue import FairQueue
from fairlane.core.types import Request
from fairlane.policies.registry import create_policy
from fairlane.simulator.exchange import Exchange

CLIENTS = "abc"


class Ear(FairQueue):
    """A queue that notes what it heard, in all and of whom it was last told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, float] = defaultdict(float)
        self.told: list[str] = []

    def hear(self, charges: Mapping[str, float]) -> None:
        for client, charged in charges.items():
            assert charged
            self.heard[client] += charged
        self.told = list(charges)
        super().hear(charges)


class Town:
    """Queues behind an exchange, and what each charged whom."""

    def __init__(self, replicas: int, every_s: float = 0.2) -> None:
        self.queues = [Ear() for _ in range(replicas)]
        self.hub = Exchange(self.queues, every_s, gain=1000.0)
        self.charged: list[dict[str, float]] = [defaultdict(float) for _ in range(replicas)]
        self.live: list[tuple[int, str, int]] = []
        self.next = 0

    def come(self, replica: int, client: str, prompt: int = 10) -> None:
        self.hub.comes(replica, client)
        self.queues[replica].enqueue(Request(self.next, client, prompt), 0)
        self.queues[replica].admit(self.next, 0)
        self.charged[replica][client] += prompt
        self.live.append((replica, client, self.next))
        self.next += 1

    def serve(self, which: int, tokens: int = 1) -> None:
        replica, client, request = self.live[which]
        self.queues[replica].record_tokens({request: tokens}, 0)
        self.charged[replica][client] += 2 * tokens

    def end(self, which: int) -> None:
        replica, client, request = self.live.pop(which)
        self.queues[replica].finish(request, 0)
        self.hub.ends(replica, client)

    def exchange(self) -> None:
        for replica in range(len(self.queues)):
            if self.hub.every_s:
                self.hub.turn(replica)
            else:
                self.hub.at_once(replica)

    def come_everywhere(self) -> None:
        for replica in range(len(self.queues)):
            for client in CLIENTS:
                self.come(replica, client)

    def wander(self, rng: Random, steps: int) -> None:
        for _ in range(steps):
            act = rng.choice(("come", "serve", "end", "exchange"))
            if act == "come" or not self.live:
                self.come(rng.randrange(len(self.queues)), rng.choice(CLIENTS), rng.randint(1, 99))
            elif act == "serve":
                self.serve(rng.randrange(len(self.live)), rng.randint(1, 5))
            elif act == "end":
                self.end(rng.randrange(len(self.live)))
            else:
                self.exchange()


def test_a_call_tells_what_others_sent_until_then() -> None:
    town = Town(2)
    town.come(0, "a")
    town.come(1, "a")
    town.hub.turn(0)
    assert not town.queues[0].heard
    town.hub.turn(1)
    assert [queue.heard["a"] for queue in town.queues] == [0.0, 10.0]
    town.serve(1, 5)
    town.hub.turn(0)
    assert town.queues[0].heard["a"] == 10.0  # what was served since is not sent yet
    town.hub.turn(1)
    town.hub.turn(0)
    assert [queue.heard["a"] for queue in town.queues] == [20.0, 10.0]


def test_at_once_is_at_once() -> None:
    town = Town(3, every_s=0.0)
    for replica in range(3):
        town.come(replica, "a")
        town.hub.at_once(replica)
    assert [queue.heard["a"] for queue in town.queues] == [20.0, 10.0, 0.0]


def test_only_whose_requests_are_there_is_told_of() -> None:
    town = Town(2)
    town.come(0, "a")
    town.come(0, "b")
    town.come(1, "a")
    town.come(1, "c")
    town.exchange()
    town.exchange()
    assert [queue.told for queue in town.queues] == [["a"], ["a"]]


def test_who_comes_back_finds_what_was_charged_meanwhile_and_the_past_is_nobodys() -> None:
    town = Town(2)
    town.come(0, "a")
    town.come(1, "a")
    town.end(1)
    town.exchange()
    town.exchange()
    town.serve(0, 50)
    town.exchange()
    town.exchange()
    assert town.queues[1].heard["a"] == 0.0  # it has no request there
    town.come(1, "a")
    assert town.queues[1].heard["a"] == 110.0
    town.come(1, "b")  # who never was there
    town.serve(0, 1)
    town.come(0, "b", 30)
    assert "b" not in town.queues[1].heard


def test_replicas_with_nothing_under_way_cost_nothing() -> None:
    town = Town(100)
    town.come(7, "a")
    assert list(town.hub.busy) == [7]
    town.end(0)
    town.exchange()
    town.exchange()
    assert not town.hub.busy


@given(seed=st.integers(0, 10_000), replicas=st.integers(1, 4), every_s=st.sampled_from([0.0, 1]))
def test_in_the_end_all_who_were_there_from_the_start_know_of_all(
    seed: int, replicas: int, every_s: float
) -> None:
    town = Town(replicas, every_s)
    town.come_everywhere()
    town.wander(Random(seed), 200)
    town.come_everywhere()  # so that everyone is told of everything
    for _ in range(3):
        town.exchange()
    total = {c: sum(charged[c] for charged in town.charged) for c in CLIENTS}
    for replica, queue in enumerate(town.queues):
        for client in CLIENTS:
            assert queue.heard[client] == total[client] - town.charged[replica][client]


def test_the_debt_that_is_allowed_grows_with_what_is_charged_while_reports_are_late() -> None:
    town = Town(2)
    assert town.hub.max_debt == 2000.0
    assert town.hub.bound(2) == 4000.0
    town.come(0, "a", 100)
    town.come(1, "b", 50)
    town.exchange()
    assert town.hub.most_charged == 150.0
    assert town.hub.max_debt == 2300.0
    assert town.hub.bound(2) == 2300.0 + 2000.0 + 300.0
    assert town.hub.bound(4) == 3 * 2300.0 + 2000.0 + 300.0


def test_who_keeps_no_counters_cannot_share() -> None:
    with pytest.raises(FairlaneError, match="cannot share"):
        Exchange([create_policy("fcfs")], 0.2, gain=1.0)
