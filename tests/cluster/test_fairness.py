"""Two fair queues that share by a hub: a client that is everywhere gets no more for it."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from fairlane.cluster.member import Member
from fairlane.cluster.memory import HubState
from fairlane.core.policy import Policy
from fairlane.core.types import Request
from fairlane.policies.registry import create_policy
from tests.cluster.servers import Server

ROUNDS = 300
PER_ROUND = 4  # requests that each replica serves between two exchanges


class Replica:
    """A fair queue in which requests of all its clients wait all the time."""

    def __init__(self, name: str, clients: str) -> None:
        self.policy: Policy[Any] = create_policy("vtc")
        self.policy.share()
        self.member = Member(name)
        self.served: Counter[str] = Counter()
        self._name = name
        self._count = 0
        for client in clients:
            self._send(client)

    def serve(self) -> None:
        """Whoever is next, from prompt to last token."""
        request = self.policy.peek(0.0)
        assert request is not None
        self._send(request.client)
        self.policy.admit(request.id, 0.0)
        self.policy.record_tokens({request.id: 20}, 0.0)
        self.policy.finish(request.id, 0.0)
        self.served[request.client] += 1

    def _send(self, client: str) -> None:
        self._count += 1
        self.policy.enqueue(Request(f"{self._name}{self._count}", client, 10), 0.0)


def replicas() -> tuple[Replica, Replica]:
    return Replica("one", "ab"), Replica("two", "a")


def ratio(both: tuple[Replica, Replica]) -> float:
    """What a was served, as a multiple of b's."""
    served = both[0].served + both[1].served
    return served["a"] / served["b"]


def test_by_itself_each_is_fair_and_together_they_are_not() -> None:
    both = replicas()
    for _ in range(ROUNDS * PER_ROUND):
        for replica in both:
            replica.serve()
    assert ratio(both) == pytest.approx(3, rel=0.02)


def test_together_by_the_model_of_a_hub() -> None:
    hub, both = HubState(), replicas()
    for _ in range(ROUNDS):
        for replica in both:
            for _ in range(PER_ROUND):
                replica.serve()
            push = replica.member.begin(replica.policy.take_charges())
            replica.policy.hear(replica.member.heard(hub.exchange(push, 0.0)))
    assert ratio(both) == pytest.approx(1, rel=0.02)


def test_together_by_a_real_server(server: Server) -> None:
    async def run() -> None:
        hub, both = (
            server.hub(),
            replicas(),
        )
        for _ in range(ROUNDS):
            for replica in both:
                for _ in range(PER_ROUND):
                    replica.serve()
                push = replica.member.begin(replica.policy.take_charges())
                replica.policy.hear(replica.member.heard(await hub.exchange(push)))
        await hub.close()
        assert ratio(both) == pytest.approx(1, rel=0.02)

    asyncio.run(run())
