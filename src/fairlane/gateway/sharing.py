"""What gateways of one pool share by a hub: what each of their queues charges, and who waits.

Queues that serve the same models belong together: their clients' names carry the names of these
models on the way, so that what one model costs is never charged for another.

Gateways with upstreams of their own are as the replicas of an engine: charges are shared, and that
is all. Before the same upstreams (`same_upstreams`) they are one queue (core/one_queue.py): in each
round every gateway also tells who waits, and how many requests each upstream has of it, by the
upstreams' names.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fairlane.cluster.beside import Beside
from fairlane.cluster.config import Cluster
from fairlane.cluster.exchange import TELL_S, Exchange
from fairlane.cluster.hub import Hub
from fairlane.cluster.levels import finite, standings
from fairlane.core.errors import FairlaneError
from fairlane.core.settling import QUEUE, Standings
from fairlane.core.sharing import Standing, Waiting
from fairlane.door.sharing import Sharing, tell, where
from fairlane.gateway.dispatch import Dispatcher
from fairlane.gateway.pool import Pool, Told

log = logging.getLogger("fairlane.gateway")


class Shared:
    """See the module.

    hub: closed at the end. name: of this gateway, as the others see it. models: its queues, as they
    are at any time. weights: of clients and groups now. top: how many clients others hear of.
    """

    def __init__(
        self,
        cluster: Cluster,
        hub: Hub,
        name: str,
        models: Mapping[str, Dispatcher],
        weights: Callable[[], Mapping[str, float]],
        top: int,
    ) -> None:
        self._cluster = cluster
        self._name, self._top = name, top
        self._started = time.time()
        self._models = models
        self._new_weights = weights
        self._weights = dict(weights())
        self._strangers: set[str] = set()  # who tell nothing of their queues, and that was said
        self._text = tell(name, self._started, [], queues={})
        self._parts: list[Mapping[str, Any]] = []
        self._refresh_at = 0.0
        self._unsaid: dict[str, float] = {}  # charges that were taken between two swaps
        one = cluster.same_upstreams
        self.exchange = Exchange(
            [self], hub, every_s=cluster.every_s, tell=lambda: self._text,
            tell_s=cluster.every_s if one else TELL_S, told=self._told if one else None, log=log,
        )  # fmt: skip
        self._running: Beside | None = None

    def opened(self, pool: Pool) -> None:
        """A queue of this gateway takes part. Raises FairlaneError where its policy cannot."""
        pool.sharing = Sharing(pool.books, self._cluster, pool.unit, self._weights)

    def start(self) -> None:
        """Begin to exchange."""
        log.warning("shares with %s", where(self._cluster))
        self._running = Beside(self.exchange, "charges are shared no more", log)

    async def stop(self) -> None:
        """Say what is left, and end."""
        if self._running is not None:
            await self._running.end()

    async def swap(self, heard: Mapping[str, float]) -> Mapping[str, float]:
        """See End: what others charged to each queue's clients, and what was charged here."""
        self._refresh()
        self._take(_by_queue(heard))
        charges, self._unsaid = self._unsaid, {}
        return charges

    async def settle(self, amounts: Mapping[str, float]) -> Standings:
        """See End: levels of all queues."""
        by_queue = _by_queue(amounts)
        found: dict[str, Standing] = {}
        for queue, dispatcher in self._queues:
            if dispatcher.pool.sharing is not None:
                told = dispatcher.pool.books.settle_levels(by_queue.get(queue, {}))
                found |= {queue + QUEUE + client: standing for client, standing in told.items()}
        return found

    def report(self, pool: Pool) -> dict[str, Any]:
        """For telemetry: how the exchange goes, and what one queue has of it."""
        state = self.exchange.state
        found = state.report(asyncio.get_running_loop().time())
        found |= {"pool": self._cluster.pool, "every_s": self._cluster.every_s}
        return found if pool.sharing is None else found | pool.sharing.report(state.stale)

    # -- inside ------------------------------------------------------------------------------

    @property
    def _queues(self) -> Iterator[tuple[str, Dispatcher]]:
        """Each queue once, with its name: those of the models that it serves."""
        models: dict[Dispatcher, list[str]] = {}
        for model, dispatcher in self._models.items():
            models.setdefault(dispatcher, []).append(model)
        return ((",".join(sorted(names)), dispatcher) for dispatcher, names in models.items())

    def _take(self, heard: Mapping[str, Mapping[str, float]]) -> None:
        """Hear, by queue and client, and take what was charged."""
        members = max(1, self.exchange.state.members)
        for queue, dispatcher in self._queues:
            pool = dispatcher.pool
            if pool.sharing is not None:
                charges = pool.sharing.swap(heard.get(queue, {}), members)
                for client, service in charges.items():
                    name = queue + QUEUE + client
                    self._unsaid[name] = self._unsaid.get(name, 0.0) + service

    def _refresh(self) -> None:
        """Now and then: how much may be under way, the weights, and what others are told."""
        now = asyncio.get_running_loop().time()
        if now < self._refresh_at:
            return
        self._refresh_at = now + TELL_S / 2
        self._weights.clear()
        self._weights |= self._new_weights()
        pools = [dispatcher.pool for _, dispatcher in self._queues]
        for pool in pools:
            if pool.sharing is not None:
                pool.sharing.set_unit(pool.unit)
        self._parts = [pool.books.part(self._top) for pool in pools]
        if not self._cluster.same_upstreams:
            levels = self.exchange.levels
            self._text = tell(self._name, self._started, self._parts, levels=levels)

    def _told(self, posts: Mapping[str, str] | None) -> None:
        """What the others tell of their queues; then what is told of those here."""
        self._take({})  # so that counters hold what is in the totals, and nothing else
        others = None if posts is None else self._read(posts)
        told = {}
        for queue, dispatcher in self._queues:
            same = None if others is None else [one[queue] for one in others if queue in one]
            totals = _Totals(queue, self.exchange.totals, self._unsaid)
            dispatcher.pool.hear(same, totals)
            dispatcher.pump()
            told[queue] = _written(dispatcher.pool.tell(totals), self.exchange.era)
        self._text = tell(self._name, self._started, self._parts, queues=told)

    def _read(self, posts: Mapping[str, str]) -> list[dict[str, Told]]:
        """What others told of their queues; who never does is named once."""
        found = []
        for origin, text in posts.items():
            queues = _read(text, self.exchange.era)
            if queues is not None:
                found.append(queues)
            elif origin not in self._strangers:
                self._strangers.add(origin)
                log.warning("a server of this pool has not same_upstreams, and is not yielded to")
        return found


def _by_queue(amounts: Mapping[str, float]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, amount in amounts.items():
        queue, _, client = name.partition(QUEUE)
        found.setdefault(queue, {})[client] = amount
    return found


class _Totals(Mapping[str, float]):
    """Of one queue's clients, of what all queues were charged anywhere. unsaid: added to that."""

    def __init__(
        self, queue: str, totals: Mapping[str, float], unsaid: Mapping[str, float]
    ) -> None:
        self._prefix = queue + QUEUE
        self._totals, self._unsaid = totals, unsaid

    def __getitem__(self, client: str) -> float:
        name = self._prefix + client
        return self._totals.get(name, 0.0) + self._unsaid.get(name, 0.0)

    def __iter__(self) -> Iterator[str]:
        names = {**dict.fromkeys(self._totals), **self._unsaid}
        return (n[len(self._prefix) :] for n in names if n.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _written(told: Told, era: str) -> dict[str, Any]:
    """What is told of a queue, ready for JSON; counters mean something in this era alone."""
    waiting = told.waiting
    return {
        "era": era, "lanes": told.lanes, "yields": told.yields,
        "here": waiting.here, "there": waiting.there,
    }  # fmt: skip


def _read(text: str, era: str) -> dict[str, Told] | None:
    """What a gateway told of its queues, by name; None, of what tells nothing of them."""
    try:
        queues = json.loads(text)["queues"]
        return {queue: _told(found, era) for queue, found in queues.items()}
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return None


def _told(found: Mapping[str, Any], era: str) -> Told:
    here, there = standings(found["here"]), standings(found["there"])
    if found["era"] != era:
        here, there = dict.fromkeys(here, ()), {}
    lanes = {name: (int(count), finite(size)) for name, (count, size) in found["lanes"].items()}
    return Told(lanes, bool(found["yields"]), Waiting(here, there))


def connected(cluster: Cluster) -> Hub | None:
    """The hub of a configuration, None without [cluster]. Raises FairlaneError."""
    hub = cluster.connect()
    if hub is None and cluster != Cluster():
        raise FairlaneError("[cluster] hub is missing: with whom a gateway shares")
    return hub
