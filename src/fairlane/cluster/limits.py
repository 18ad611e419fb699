"""Limits that hold over all servers of a pool: what they ask a hub, and the model of its answers.

The hub holds one bucket for each limit (core/buckets.py) and, of each client whose waiting requests
are limited, how many wait at each server. One call says what a server took since the last one, how
many wait there now, and which requests arrive; the answer lets each in or says why not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fairlane.core.buckets import Bucket, Buckets, Quota, arrive
from fairlane.core.types import Rejection

QUEUE_FULL = "queue_full"
ALIVE_S = 15.0  # who was heard of so lately counts
DAY_S = 86_400.0  # who was silent for so long is forgotten


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that arrives: the rates that limit it, and its client where its queue is limited.

    most_waiting: how many requests of `client` may wait; without a meaning where that is "".
    """

    quotas: Sequence[Quota]
    client: str = ""
    most_waiting: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """One call of a server.

    seq: of `taken`, 1, 2, ...; what is sent again with the same is taken once. taken: of each
    limit since the last call; below 0 what was given back. waiting: of clients whose number may
    have changed, how many requests wait here.
    """

    origin: str
    seq: int
    taken: Mapping[Quota, float] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    arrivals: Sequence[Arrival] = ()


class Verdict(NamedTuple):
    """Why a request may not come in, or None; what is left of its quotas, in their order."""

    rejection: Rejection | None
    left: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The answer: on each arrival, in order. servers: that were heard of in the last ALIVE_S."""

    servers: int
    verdicts: Sequence[Verdict]


@dataclass(slots=True)
class _Server:
    seq: int = 0
    seen: float = 0.0


class LimitsState:
    """What a hub knows of limits: pure, `now` in seconds, never decreasing."""

    def __init__(self) -> None:
        self._buckets = Buckets()
        self._servers: dict[str, _Server] = {}
        self._waiting: dict[str, dict[str, tuple[int, float]]] = {}  # count and time, by origin

    def limit(self, ask: Ask, now: float) -> Verdicts:
        """Take up what a server says, and answer it."""
        self._servers = {o: s for o, s in self._servers.items() if now - s.seen <= DAY_S}
        server = self._servers.setdefault(ask.origin, _Server())
        server.seen = now
        if ask.seq > server.seq:
            server.seq = ask.seq
            for quota, amount in ask.taken.items():
                self._buckets.get(*quota, now).take(amount)
        for client, count in ask.waiting.items():
            self._waits(client, ask.origin, count, now)
        verdicts = [self._arrive(arrival, ask.origin, now) for arrival in ask.arrivals]
        servers = sum(now - each.seen < ALIVE_S for each in self._servers.values())
        return Verdicts(servers, verdicts)

    def _arrive(self, arrival: Arrival, origin: str, now: float) -> Verdict:
        buckets = [(quota.kind, self._buckets.get(*quota, now)) for quota in arrival.quotas]
        counts = self._counts(arrival.client, now)
        if arrival.client and sum(counts.values()) >= arrival.most_waiting:
            return _verdict(Rejection(QUEUE_FULL), buckets)
        rejection = arrive(buckets)
        if rejection is None and arrival.client:
            self._waits(arrival.client, origin, counts.get(origin, 0) + 1, now)
        return _verdict(rejection, buckets)

    def _counts(self, client: str, now: float) -> dict[str, int]:
        """How many wait at each server that is alive; of others nothing is kept."""
        told = self._waiting.get(client, {})
        for origin in [origin for origin, (_, at) in told.items() if now - at >= ALIVE_S]:
            del told[origin]
        return {origin: count for origin, (count, _) in told.items()}

    def _waits(self, client: str, origin: str, count: int, now: float) -> None:
        told = self._waiting.setdefault(client, {})
        told.pop(origin, None)
        if count:
            told[origin] = (count, now)
        if not self._counts(client, now):
            del self._waiting[client]


def _verdict(rejection: Rejection | None, buckets: Sequence[tuple[str, Bucket]]) -> Verdict:
    return Verdict(rejection, tuple(bucket.left for _, bucket in buckets))
