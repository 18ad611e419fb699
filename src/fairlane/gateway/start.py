"""From a configuration to a gateway: upstreams are asked what they serve, models get their queues.

Models that are served by the same upstreams share one queue and its windows, since they share the
engines: adapters of one base model, say.
"""

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
from fairlane.gateway.serving import Patience, Serving
from fairlane.gateway.upstream import Upstream
from fairlane.gateway.window import Bounds


@dataclass(frozen=True, slots=True)
class UpstreamPlan:
    """One upstream as it is configured. models: those that it serves; None: it is asked."""

    name: str
    upstream: Upstream
    models: Sequence[str] | None = None
    weight: float = 1.0
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True, slots=True)
class Model:
    """How a model's requests are served."""

    dispatcher: Dispatcher
    serving: Serving


async def models_of(plans: Iterable[UpstreamPlan]) -> dict[str, list[UpstreamPlan]]:
    """The upstreams that serve each model. Raises FairlaneError where one cannot be asked."""
    found: dict[str, list[UpstreamPlan]] = {}
    for plan in plans:
        try:
            names = await plan.upstream.models() if plan.models is None else plan.models
        except UpstreamError as error:
            raise FairlaneError(
                f"upstream {plan.name}: {error}; is it running? Or name what it serves: models"
            ) from error
        for name in names:
            found.setdefault(name, []).append(plan)
    return found


def assemble(
    served: Mapping[str, Sequence[UpstreamPlan]],
    *,
    policy: Callable[[], Policy[Any]],
    cost: LinearCost | QuadraticCost,
    patience: Patience,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Model]:
    """A queue for each set of upstreams, and the models that are served by it."""
    by_upstreams: dict[tuple[str, ...], Model] = {}
    models: dict[str, Model] = {}
    for name, plans in served.items():
        key = tuple(sorted(plan.name for plan in plans))
        if key not in by_upstreams:
            by_upstreams[key] = _model(plans, policy(), cost, patience, clock)
        models[name] = by_upstreams[key]
    return models


def _model(
    plans: Sequence[UpstreamPlan],
    policy: Policy[Any],
    cost: LinearCost | QuadraticCost,
    patience: Patience,
    clock: Callable[[], float],
) -> Model:
    books = Books(policy, Auditor(cost=cost), cost, clock)
    lanes = [Lane(plan.name, plan.bounds, plan.weight) for plan in plans]
    pool = Pool(books, lanes, clock)
    dispatcher = Dispatcher(pool, {plan.name: plan.upstream.load for plan in plans})
    serving = Serving(dispatcher, {plan.name: plan.upstream for plan in plans}, patience)
    return Model(dispatcher, serving)
