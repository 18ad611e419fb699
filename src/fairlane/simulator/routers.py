"""Who sends a request to which replica: what stands before a cluster.

A router sees a request when it arrives, which replicas it may go to, and how many tokens each has
under way. It is pure but for its seed: the same requests go the same way.

Where clients meet is what a router decides for fairness. Round robin, random and least-tokens bring
everyone everywhere; skewed, sticky and prefix do not, nor does a `Reach` that keeps a client to a
part of the replicas.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from random import Random
from typing import Protocol
from zlib import crc32

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.workloads.trace import TracedRequest

_ROUNDING = 1e-9  # 0.29 of 100 are 29


class Router(Protocol):
    """Chooses a replica for a request."""

    def __call__(self, request: TracedRequest, among: Sequence[int], tokens: Sequence[int]) -> int:
        """One of `among`. tokens: by replica, of its requests that have not ended."""


def round_robin(seed: int) -> Router:
    """One replica after the other, whoever sends."""
    turns: Counter[Sequence[int]] = Counter()

    def route(request: TracedRequest, among: Sequence[int], tokens: Sequence[int]) -> int:
        turns[among] += 1
        return among[(turns[among] - 1) % len(among)]

    return route


def at_random(seed: int) -> Router:
    """All replicas are equally likely."""
    draw = Random(seed).randrange

    def route(request: TracedRequest, among: Sequence[int], tokens: Sequence[int]) -> int:
        return among[draw(len(among))]

    return route


def least_tokens(seed: int) -> Router:
    """The replica with the fewest tokens under way, prompts and what is to come; else the first."""

    def route(request: TracedRequest, among: Sequence[int], tokens: Sequence[int]) -> int:
        return min(among, key=tokens.__getitem__)

    return route


def skewed(seed: int) -> Router:
    """Every client prefers a replica of its own: 1, 1/2, 1/3 and so on as likely from there on."""
    draw = Random(seed).choices

    def route(request: TracedRequest, among: Sequence[int], tokens: Sequence[int]) -> int:
        (step,) = draw(range(len(among)), cum_weights=harmonic(len(among)))
        return among[(_place(seed, request.client, len(among)) + step) % len(among)]

    made: dict[int, list[float]] = {}

    def harmonic(count: int) -> list[float]:
        if count not in made:
            made[count] = list(accumulate(1 / (i + 1) for i in range(count)))
        return made[count]

    return route


def sticky(seed: int) -> Router:
    """Every client has one replica."""

    def route(request: TracedRequest, among: Sequence[int], tokens: Sequence[int]) -> int:
        return among[_place(seed, request.client, len(among))]

    return route


def by_prefix(seed: int) -> Router:
    """Prompts that share a prefix have one replica; one without a prefix goes anywhere."""

    def route(request: TracedRequest, among: Sequence[int], tokens: Sequence[int]) -> int:
        name = request.prefix or f"request {request.id}"
        return among[_place(seed, name, len(among))]

    return route


ROUTERS: dict[str, Callable[[int], Router]] = {
    "round-robin": round_robin,
    "random": at_random,
    "least-tokens": least_tokens,
    "skewed": skewed,
    "sticky": sticky,
    "prefix": by_prefix,
}


def make_router(name: str, seed: int) -> Router:
    """The router of that name. Raises UnknownNameError."""
    if name not in ROUTERS:
        raise UnknownNameError("router", name, ROUTERS)
    return ROUTERS[name](seed)


class Reach:
    """Which replicas a client's requests may go to: all, or a block of some of them."""

    def __init__(self, replicas: int, parts: Mapping[str, float], seed: int) -> None:
        """parts: by client, the part of all replicas that it is kept to; at least one is left."""
        self._all = range(replicas)
        self._blocks: dict[str, range] = {}
        for client, part in parts.items():
            size = max(1, int(part * replicas + _ROUNDING))
            begin = size * _place(seed, client, replicas // size)
            self._blocks[client] = range(begin, begin + size)

    def of(self, client: str) -> range:
        """The replicas of a client."""
        return self._blocks.get(client, self._all)


def check_prefixes(requests: Sequence[TracedRequest]) -> None:
    """Raise FairlaneError where no request names a prefix, so that none can be routed by it."""
    if not any(request.prefix for request in requests):
        raise FairlaneError(
            "router prefix: no request says that its prompt begins with a shared prefix; the suite "
            "shared-prefix has some"
        )


def _place(seed: int, name: str, count: int) -> int:
    """A number below `count` that belongs to a name, the same on every machine."""
    return crc32(f"{seed}/{name}".encode()) % count
