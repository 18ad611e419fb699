"""Several small servers that share their charges, and what an adversary tries on them.

A cluster is N servers of adversary.py, each with a policy of its own; every job says which of them
it goes to. They exchange charges as real ones do: every so many steps each tells a hub what it
charged, and hears the sums of what the others had told before that. So a charge is heard after two
exchanges at the latest. With `every` 0 each charge is heard by all others in the same moment.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, permutations
from typing import Any

from benchmarks.adversary import LIMITS, Job, Server, Wave, random_wave, with_number
from fairlane.core.cost import Cost, LinearCost
from fairlane.core.policy import Policy
from fairlane.core.settling import Standings, raises
from fairlane.core.types import Request, RequestId


class Hub:
    """Adds up what is told. members: policies that share already, or nobody does.

    cut_off: members that neither tell nor hear anything for now.
    """

    def __init__(self, members: Sequence[Policy[Any]]) -> None:
        self.members = members
        self.cut_off: set[int] = set()
        self._told: list[Counter[str]] = [Counter() for _ in members]
        self._heard: list[Counter[str]] = [Counter() for _ in members]
        self._levels: list[Standings] = [{} for _ in members]

    def at_once(self, member: int) -> None:
        """The others hear at once what a member charged."""
        charges = self.members[member].take_charges()
        self._told[member].update(charges)
        for n, other in enumerate(self.members if charges else ()):
            if n != member:
                other.hear(charges)
                self._heard[n].update(charges)

    def exchange(self) -> None:
        """Everyone hears what the others told until now, then tells what is new."""
        there = [n for n in range(len(self.members)) if n not in self.cut_off]
        total: Counter[str] = Counter()
        for told in self._told:
            total.update(told)
        for n in there:
            others = Counter(total)
            others.subtract(self._told[n])
            new = Counter(others)
            new.subtract(self._heard[n])
            self._heard[n] = others
            self.members[n].hear({client: amount for client, amount in new.items() if amount})
        for n in there:
            self._told[n].update(self.members[n].take_charges())

    def settle(self, partner: int) -> None:
        """Everyone compares levels with the member so many places further, by what it last told."""
        before, self._levels = self._levels, [
            policy.tell_waiting(self._told[n] + self._heard[n]).here
            for n, policy in enumerate(self.members)
        ]  # fmt: skip
        for n, policy in enumerate(self.members):
            policy.raise_levels(raises(self._levels[n], before[(n + partner) % len(before)]))


class Ledger:
    """Watches all members, and answers how unequal they were; service is per weight.

    at_all: by how much a client got ahead of another over an interval in which both waited at every
    member (B1). at_one: by how much what a client got at one member got ahead of what another got
    anywhere, while both waited there (B2).
    """

    def __init__(self, members: int, weights: Mapping[str, float] | None = None) -> None:
        self.at_all = self.at_one = 0.0
        self.step = 0
        self.served: list[dict[str, float]] = [{} for _ in range(members)]  # by member and client
        self.total: dict[str, float] = {}  # anywhere
        self._waiting: list[Counter[str]] = [Counter() for _ in range(members)]
        self._weights = dict(weights or {})
        self._least: list[dict[tuple[str, str], float]] = [{} for _ in range(members + 1)]
        self._charged: list[float] = []  # by step

    def charge(self, member: int, client: str, amount: float) -> None:
        """A client got so much service."""
        while len(self._charged) <= self.step:
            self._charged.append(0.0)
        self._charged[self.step] += amount
        share = amount / self._weights.get(client, 1.0)
        self.served[member][client] = self.served[member].get(client, 0.0) + share
        self.total[client] = self.total.get(client, 0.0) + share

    def waits(self, member: int, client: str, more: int) -> None:
        """A client has one request more waiting there, or one less."""
        waiting = self._waiting[member]
        waiting[client] += more
        if not waiting[client]:
            del waiting[client]
            for least in (self._least[member], self._least[-1]):
                for pair in [pair for pair in least if client in pair]:
                    del least[pair]

    def queued(self, member: int, client: str) -> int:
        """How many requests a client has waiting there."""
        return self._waiting[member][client]

    def most_charged(self, steps: int) -> float:
        """The most that all members charged in so many steps in a row, not by weight."""
        sums = [0.0, *accumulate(self._charged)]
        return max(after - sums[max(0, n - steps)] for n, after in enumerate(sums))

    def look(self) -> None:
        """Something happened: compare all who wait."""
        first, *others = self._waiting
        everywhere = [c for c in first if all(c in waiting for waiting in others)]
        self.at_all = max(self.at_all, self._widest(-1, everywhere, self.total))
        for member, waiting in enumerate(self._waiting):
            gap = self._widest(member, waiting, self.served[member])
            self.at_one = max(self.at_one, gap)

    def _widest(self, place: int, waiting: Iterable[str], service: Mapping[str, float]) -> float:
        widest, least = 0.0, self._least[place]
        for ahead, behind in permutations(waiting, 2):
            gap = service.get(ahead, 0.0) - self.total.get(behind, 0.0)
            before = least.get((ahead, behind))
            if before is None or gap < before:
                least[ahead, behind] = gap
            elif gap - before > widest:
                widest = gap - before
        return widest


class Page:
    """Writes one member's events into the ledger. then: called after each."""

    def __init__(
        self, ledger: Ledger, member: int, cost: Cost, then: Callable[[], None] | None
    ) -> None:
        self._ledger, self._member, self._cost, self._then = ledger, member, cost, then
        self._requests: dict[RequestId, Request] = {}
        self._paid: set[RequestId] = set()
        self._waits: set[RequestId] = set()
        self._output: Counter[RequestId] = Counter()

    def enqueue(self, request: Request) -> None:
        """As a Watcher."""
        self._requests[request.id] = request
        self._wait(request)
        self._happened()

    def admit(self, request_id: RequestId, *, cached_tokens: int) -> None:
        """As a Watcher."""
        request = self._requests[request_id]
        if request_id not in self._paid:
            self._paid.add(request_id)
            price = self._cost.admission(request.prompt_tokens, cached_tokens)
            self._ledger.charge(self._member, request.client, price)
        self._happened()  # it waited until this moment
        self._wait_no_more(request_id)

    def record_tokens(self, tokens: Mapping[RequestId, int]) -> None:
        """As a Watcher."""
        for request_id, count in tokens.items():
            request, start = self._requests[request_id], self._output[request_id]
            self._output[request_id] += count
            price = self._cost.output(request.prompt_tokens, start, start + count)
            self._ledger.charge(self._member, request.client, price)
        self._happened()

    def requeue(self, request_id: RequestId, *, undo: bool) -> None:
        """As a Watcher."""
        request = self._requests[request_id]
        if undo and not self._output[request_id]:
            self._paid.discard(request_id)
            self._ledger.charge(
                self._member, request.client, -self._cost.admission(request.prompt_tokens)
            )
        self._wait(request)
        self._happened()

    def finish(self, request_id: RequestId) -> None:
        """As a Watcher."""
        self._wait_no_more(request_id)

    def settle(self, request: Request, *, cached_tokens: int, output_tokens: int | None) -> None:
        """As a Watcher; these servers know lengths."""

    def set_weight(self, name: str, weight: float) -> None:
        """As a Watcher."""

    def _wait(self, request: Request) -> None:
        self._waits.add(request.id)
        self._ledger.waits(self._member, request.client, 1)

    def _wait_no_more(self, request_id: RequestId) -> None:
        if request_id in self._waits:
            self._waits.discard(request_id)
            self._ledger.waits(self._member, self._requests[request_id].client, -1)

    def _happened(self) -> None:
        self._ledger.look()
        if self._then is not None:
            self._then()


class Cluster:
    """Servers that take steps together.

    every: steps between exchanges; 0 for one after every event, None for none at all.
    settles: steps between two comparisons of levels; None for none at all.
    """

    def __init__(
        self,
        policies: Sequence[Policy[Any]],
        memory: int,
        *,
        every: int | None,
        cost: Cost | None = None,
        weights: Mapping[str, float] | None = None,
        preempts: bool = False,
        settles: int | None = None,
    ) -> None:
        self.policies = policies
        self.servers = [Server(policy, memory, preempts=preempts) for policy in policies]
        self.ledger = Ledger(len(policies), weights)
        self.hub = Hub(policies)
        self.step = 0
        self._every = every
        self._settles = settles
        self._jobs = 0
        for n, policy in enumerate(policies):
            then = partial(self.hub.at_once, n) if every == 0 else None
            policy.watch(Page(self.ledger, n, cost or LinearCost(), then))

    def take(self, member: int, job: Job) -> None:
        """A job arrives at one of the servers."""
        self.servers[member].take(self._jobs, job)
        self._jobs += 1

    def turn(self) -> None:
        """One step of all."""
        self.ledger.step = self.step
        if self._every and self.step % self._every == 0:
            self.hub.exchange()
        if self._settles and self.step % self._settles == 0 and len(self.servers) > 1:
            self.hub.settle(1 + self.step // self._settles % (len(self.servers) - 1))
        for server in self.servers:
            server.turn()
        self.step += 1

    def run(self, jobs: Sequence[tuple[int, Job]], steps: int | None = None) -> Ledger:
        """Serve jobs, each with its server, to the end or for so many steps."""
        left = sorted(jobs, key=lambda placed: placed[1].arrival)
        left.reverse()
        while left or any(server.jobs for server in self.servers):
            if steps is not None and self.step >= steps:
                break
            while left and left[-1][1].arrival <= self.step:
                self.take(*left.pop())
            self.turn()
        return self.ledger

    @property
    def oldest(self) -> int:
        """The steps of charges that may not have been heard yet; see `Ledger.most_charged`."""
        return 2 * self._every if self._every else 0


@dataclass(frozen=True, slots=True)
class PlacedWave:
    """A wave that goes to each of some servers."""

    wave: Wave
    members: frozenset[int]

    def jobs(self) -> list[tuple[int, Job]]:
        """The jobs and where they go, the first to arrive first."""
        jobs = [(member, job) for member in sorted(self.members) for job in self.wave.jobs()]
        return sorted(jobs, key=lambda placed: placed[1].arrival)


def random_placed(draw: random.Random, members: int, clients: int = 3) -> list[PlacedWave]:
    """Two waves for each client, anywhere."""
    return [
        PlacedWave(members=_places(draw, members), wave=random_wave(draw, f"c{n % clients}"))
        for n in range(2 * clients)
    ]


def mutate_placed(
    waves: Sequence[PlacedWave], draw: random.Random, members: int
) -> list[PlacedWave]:
    """The same waves with one to three things changed."""
    changed = list(waves)
    for _ in range(draw.randint(1, 3)):
        index = draw.randrange(len(changed))
        if draw.random() < 0.25:
            changed[index] = replace(changed[index], members=_places(draw, members))
        else:
            wave = changed[index].wave
            field, (low, high) = draw.choice(list(LIMITS.items()))
            scaled = int(getattr(wave, field) * draw.uniform(0.7, 1.4))
            new = draw.choice([draw.randint(low, high), scaled, low, high])
            changed[index] = replace(changed[index], wave=with_number(wave, field, new))
    return changed


def _places(draw: random.Random, members: int) -> frozenset[int]:
    if draw.random() < 0.4:
        return frozenset(range(members))
    return frozenset(draw.sample(range(members), draw.randint(1, members)))
