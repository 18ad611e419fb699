"""Gateways before one pool of memory in simulated time, with requests of their own, and a hub."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairlane.cluster.member import Member
from fairlane.cluster.memory import HubState
from fairlane.core.one_queue import Patience
from fairlane.core.policy import Policy
from fairlane.core.sharing import Waiting
from fairlane.core.types import Request
from fairlane.policies.registry import create_policy

STEP_S = 0.05
MEMORY = 4000  # tokens
U = 2 * MEMORY  # what may be charged to who runs: a token of output costs 2
SLACK = U / 50


@dataclass
class Running:
    """A request in the memory."""

    gateway: "Gateway"
    request: Request
    output: int
    done: int = 0

    @property
    def tokens(self) -> int:
        return self.request.prompt_tokens + self.done


@dataclass
class Gateway:
    """One scheduler: its queue, its clients, its side of the hub."""

    policy: Policy[Any]
    member: Member = field(default_factory=Member)
    patience: Patience = field(default_factory=Patience)
    outputs: dict[object, int] = field(default_factory=dict)
    told: Waiting = field(default_factory=Waiting)


Lengths = tuple[tuple[int, int], tuple[int, int]]
USUAL: Lengths = ((50, 150), (50, 150))


class Pool:
    """See the module.

    clients: of each gateway those that always wait there. yields: whether gateways tell who waits;
    else they share charges alone. every_s: how often each exchanges with the hub. lengths: of
    prompts and outputs.
    """

    def __init__(
        self,
        clients: Sequence[str],
        weights: Mapping[str, float],
        *,
        yields: bool = True,
        every_s: float = 0.2,
        slack: float = SLACK,
        lengths: Mapping[str, Lengths] | None = None,
        seed: int = 0,
    ) -> None:
        self.chance = random.Random(seed)
        self.hub = HubState()
        self.connected = True
        self.now = 0.0
        self.served: Counter[str] = Counter()  # priced
        self.idle = 0.0  # parts of the memory, added up by step
        self.steps = 0
        self.weights = dict(weights)
        self.waits = [set(names) for names in clients]
        self._yields = yields
        self._every = round(every_s / STEP_S)
        self._slack = slack
        self._lengths = lengths or {}
        self._running: list[Running] = []
        self._number = 0
        self.gateways = [self.gateway() for _ in clients]

    def gateway(self) -> Gateway:
        """A new one."""
        policy = create_policy("vtc", weights=self.weights)
        policy.share()
        return Gateway(policy)

    def run(self, seconds: float) -> Counter[str]:
        """What everyone was served in this time."""
        before = self.served.copy()
        for _ in range(round(seconds / STEP_S)):
            self.step()
        return self.served - before

    def step(self) -> None:
        """Come, go, exchange, and a token for everyone who runs."""
        self.now += STEP_S
        self.steps += 1
        order = list(range(len(self.gateways)))
        self.chance.shuffle(order)
        for number in order:
            self._arrive(number)
            if self.connected and (self.steps + number) % self._every == 0:
                self.exchange(number)
        for number in order:
            self._admit(self.gateways[number])
        self._decode()
        self.idle += max(0.0, 1 - self._taken / MEMORY)

    def exchange(self, number: int) -> None:
        """Say and hear what was charged, and who waits."""
        gateway, member = self.gateways[number], self.gateways[number].member
        push = member.begin(gateway.policy.take_charges())
        gateway.policy.hear(member.heard(self.hub.exchange(push, self.now)))
        if self._yields:
            totals = member.totals
            others = [other.told for other in self.gateways if other is not gateway]
            gateway.policy.hear_waiting(others, totals)
            gateway.told = gateway.policy.tell_waiting(totals)

    def lose_hub(self) -> None:
        """Until `connected` is set again, nobody hears of anybody."""
        self.connected = False
        for gateway in self.gateways:
            gateway.policy.hear_waiting(None, {})
            gateway.told = Waiting()

    def set_weight(self, number: int, client: str, weight: float) -> None:
        """One gateway takes up a new weight."""
        self.weights[client] = weight
        self.gateways[number].policy.set_weight(client, weight)

    # -- inside ------------------------------------------------------------------------------

    @property
    def _taken(self) -> int:
        return sum(one.tokens for one in self._running)

    def _arrive(self, number: int) -> None:
        """Those who always wait do, with some requests each."""
        gateway = self.gateways[number]
        states = gateway.policy.snapshot().clients
        for client in sorted(self.waits[number]):
            queued = states[client].queued if client in states else 0
            for _ in range(20 - queued):
                self._number += 1
                prompts, outputs = self._lengths.get(client, USUAL)
                gateway.outputs[self._number] = self.chance.randint(*outputs)
                request = Request(self._number, client, self.chance.randint(*prompts))
                gateway.policy.enqueue(request, self.now)

    def _admit(self, gateway: Gateway) -> None:
        policy, patience = gateway.policy, gateway.patience
        while (head := policy.peek(self.now)) is not None:
            if self._taken + head.prompt_tokens > MEMORY:
                patience.look(0)
                return
            if self._yields and policy.yields(self._slack):
                if not patience.over:
                    patience.look(1)
                    return
                patience.used()
            policy.admit(head.id, self.now)
            self.served[head.client] += head.prompt_tokens
            self._running.append(Running(gateway, head, gateway.outputs.pop(head.id)))

    def _decode(self) -> None:
        for one in list(self._running):
            one.done += 1
            self.served[one.request.client] += 2
            one.gateway.policy.record_tokens({one.request.id: 1}, self.now)
            if one.done == one.output:
                one.gateway.policy.finish(one.request.id, self.now)
                self._running.remove(one)
