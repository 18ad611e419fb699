"""The upstreams of a gateway: what they serve, by which queues, and whether they live.

Models that the same upstreams serve share one queue and its windows, since they share the engines:
adapters of one base model, say. All of it may change while it runs. What waits stays in its queue;
what an upstream has it brings to its end, also one that is taken away.

Whether an upstream lives is seen in two ways: a connection that cannot be made tells at once, and
each is asked for its health now and then. One that does not answer gets nothing until it does.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairlane.core.audit import Auditor
from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy
from fairlane.door.books import Books
from fairlane.gateway.dispatch import Dispatcher
from fairlane.gateway.http_client import UpstreamError
from fairlane.gateway.pool import Lane, Pool
from fairlane.gateway.upstream import Address, Upstream
from fairlane.gateway.window import Bounds
from fairlane.usage.tally import Grown

log = logging.getLogger("fairlane.gateway")
_PROBE_S = 1.0
_HEALTH_EVERY = 5  # probes, of an upstream that seems well
_MISSES = 3  # in a row, until it counts as down


@dataclass(frozen=True, slots=True)
class UpstreamPlan:
    """One upstream as it is configured. models: those that it serves; None: it is asked."""

    name: str
    address: Address
    models: Sequence[str] | None = None
    weight: float = 1.0
    bounds: Bounds = field(default_factory=Bounds)


class Fleet:
    """See the module.

    weights: those of clients and groups now. opened: is told of each new queue. name_of: from a
    client to whom auditors compare. changed: is told of the upstreams, by name, whenever they are
    others. models: the queue of each; upstreams: by name.
    """

    def __init__(
        self,
        policy: Callable[[], Policy[Any]],
        cost: LinearCost | QuadraticCost,
        weights: Callable[[], Mapping[str, float]],
        opened: Callable[[Pool], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        name_of: Callable[[str], str] = str,
    ) -> None:
        self._policy, self._cost, self._clock = policy, cost, clock
        self._opened = opened
        self._name_of = name_of
        self._weights = weights
        self.changed: Callable[[Mapping[str, Address]], None] = lambda _: None
        self.models: dict[str, Dispatcher] = {}
        self.upstreams: dict[str, Upstream] = {}
        self._plans: dict[str, UpstreamPlan] = {}
        self._serves: dict[str, Sequence[str]] = {}  # the models of each upstream
        self._told: dict[str, Sequence[str]] = {}  # what `ask` heard, for the change that follows
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._leaving: list[Dispatcher] = []  # queues that are none any more, and have requests

    @property
    def addresses(self) -> dict[str, Address]:
        """Of each upstream."""
        return {name: plan.address for name, plan in self._plans.items()}

    async def ask(self, plans: Iterable[UpstreamPlan]) -> dict[str, list[str]]:
        """The names of the upstreams of each model, before any is taken up; `change` asks no more.

        Raises FairlaneError where one cannot be asked.
        """
        for plan in plans:
            upstream = _upstream(plan)
            try:
                self._told[plan.name] = await _models(plan, upstream)
            finally:
                await upstream.close()
        return _by_model(self._told)

    async def change(self, plans: Iterable[UpstreamPlan]) -> None:
        """From now on these are the upstreams.

        Raises FairlaneError where a new one cannot be asked what it serves; nothing has changed
        then.
        """
        wanted = {plan.name: plan for plan in plans}
        fresh = {name: plan for name, plan in wanted.items() if self._is_new(plan)}
        opened: dict[str, Upstream] = {}
        serves, self._told = self._told, {}
        try:
            for name, plan in fresh.items():
                opened[name] = _upstream(plan)
            known = {**self.upstreams, **opened}
            for plan in wanted.values():
                if plan.name not in serves and self._asks(plan):
                    serves[plan.name] = await _models(plan, known[plan.name])
        except FairlaneError:
            for upstream in opened.values():
                await upstream.close()
            raise
        old = [self.upstreams[name] for name in self._plans if name in fresh or name not in wanted]
        for name in self._plans.keys() - (wanted.keys() - fresh.keys()):
            self._forget(name)
        self._plans = wanted
        self._serves.update(serves)
        self.upstreams.update(opened)
        self._share_out()
        for name in fresh:
            self._watchers[name] = asyncio.create_task(self._watch(name))
        self.changed(self.addresses)
        for upstream in old:
            upstream.retire()

    async def close(self) -> None:
        """End what runs in the background, and close all connections."""
        for task in self._watchers.values():
            task.cancel()
        for dispatcher in self.dispatchers:
            await dispatcher.close()
        for upstream in self.upstreams.values():
            await upstream.close()

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """Each queue once."""
        return list(dict.fromkeys(self.models.values()))

    async def take_usage(self) -> list[Grown]:
        """What every queue served since this was last asked; see Books.take_usage."""
        every = [*self.dispatchers, *self._leaving]
        self._leaving = [one for one in self._leaving if one.pool.waiting + one.pool.running]
        return [dispatcher.pool.books.take_usage() for dispatcher in every]

    def change_policy(self, policy: Callable[[], Policy[Any]]) -> None:
        """From now on such a policy decides in each queue."""
        self._policy = policy
        for dispatcher in self.dispatchers:
            dispatcher.pool.books.change_policy(policy(), self._auditor(), self._weights())
            dispatcher.pump()

    # -- inside ------------------------------------------------------------------------------

    def _is_new(self, plan: UpstreamPlan) -> bool:
        """Whether it is another server than before, of which nothing has been learned yet."""
        old = self._plans.get(plan.name)
        return old is None or old.address != plan.address

    def _asks(self, plan: UpstreamPlan) -> bool:
        """Whether what it serves may be something else than before."""
        return self._is_new(plan) or self._plans[plan.name].models != plan.models

    def _forget(self, name: str) -> None:
        self._serves.pop(name)
        self.upstreams.pop(name)
        self._watchers.pop(name).cancel()
        for dispatcher in self.dispatchers:
            dispatcher.remove(name)

    def _share_out(self) -> None:
        """Give each model its queue, and each queue its upstreams; queues that are there stay."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for model, names in _by_model(self._serves).items():
            groups.setdefault(tuple(sorted(names)), []).append(model)
        before, after = dict(self.models), dict[str, Dispatcher]()
        for group, models in groups.items():
            there = [before[m] for m in models if m in before]
            free = [one for one in there if one not in after.values()]
            dispatcher = free[0] if free else self._queue()
            for name in dispatcher.pool.lanes.keys() - set(group):
                dispatcher.remove(name)
            for name in group:
                plan = self._plans[name]
                dispatcher.add(name, plan.bounds, plan.weight, self.upstreams[name].load)
            after.update(dict.fromkeys(models, dispatcher))
        self.models.clear()
        self.models.update(after)
        for dispatcher in set(before.values()) - set(after.values()):
            dispatcher.refuse("no_upstream")
            if dispatcher.pool.books.counts_usage:
                self._leaving.append(dispatcher)

    def _auditor(self) -> Auditor:
        return Auditor(cost=self._cost, name_of=self._name_of)

    def _queue(self) -> Dispatcher:
        books = Books(self._policy(), self._auditor(), self._cost, self._clock)
        books.set_weights(self._weights())
        pool = Pool(books, (), self._clock)
        self._opened(pool)
        return Dispatcher(pool)

    async def _watch(self, name: str) -> None:
        """Look whether the upstream lives: often while it does not, else now and then."""
        upstream = self.upstreams[name]
        misses = probes = 0
        while True:
            await asyncio.sleep(_PROBE_S)
            probes += 1
            lanes = self._lanes(name)
            down = [lane for _, lane in lanes if not lane.accepts]
            if not down and probes % _HEALTH_EVERY:
                continue
            misses = 0 if await upstream.lives() else misses + 1
            if down and not misses:
                log.warning("upstream %s is back", name)
                for dispatcher, lane in lanes:
                    lane.accepts = True
                    dispatcher.pump()
            elif misses == _MISSES and not down:
                for dispatcher, lane in lanes:
                    dispatcher.unreachable(lane)

    def _lanes(self, name: str) -> list[tuple[Dispatcher, Lane]]:
        return [(d, d.pool.lanes[name]) for d in self.dispatchers if name in d.pool.lanes]


def _upstream(plan: UpstreamPlan) -> Upstream:
    """A client of it. Raises FairlaneError where its certificates cannot be read."""
    try:
        return Upstream(plan.address)
    except OSError as error:
        raise FairlaneError(f"upstream {plan.name}: {error}") from error


def _by_model(serves: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """The names of the upstreams of each model, from the models of each upstream."""
    found: dict[str, list[str]] = {}
    for name, models in serves.items():
        for model in models:
            found.setdefault(model, []).append(name)
    return found


async def _models(plan: UpstreamPlan, upstream: Upstream) -> Sequence[str]:
    """The models that an upstream serves. Raises FairlaneError where it cannot be asked."""
    if plan.models is not None:
        return plan.models
    try:
        return await upstream.models()
    except UpstreamError as error:
        raise FairlaneError(
            f"upstream {plan.name}: {error}; is it running? Or name what it serves: models"
        ) from error
