"""A cluster made out of settings, run, and watched: everywhere at once and at each replica."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fairlane.core.audit import Auditor
from fairlane.core.policy import Policy
from fairlane.experiments.clusters import GUARD, ROUTER
from fairlane.records import Run
from fairlane.simulator.cluster import CentralCluster, Cluster, RoutedCluster
from fairlane.simulator.exchange import Exchange
from fairlane.simulator.prefix_cache import PrefixCache
from fairlane.simulator.routers import Reach, make_router
from fairlane.simulator.run import simulate_cluster
from fairlane.simulator.serving import AnyServer
from fairlane.workloads.trace import TracedRequest

if TYPE_CHECKING:
    from fairlane.experiments.settings import Settings


@dataclass(slots=True)
class _Audits:
    """everywhere: of clients that wait at every replica; here: at each. Empty where unasked."""

    everywhere: Auditor | None
    here: list[Auditor]


def run_cluster(
    settings: "Settings", requests: list[TracedRequest], server: AnyServer, *, audited: bool
) -> Run:
    """Simulate the cluster of `settings`; the manifest says what auditors saw, if they are asked.

    Its `audit` has, as of one server, `observed` and `bound`; the most that all were `charged`
    within the time that a report may be old; and what was `observed_here`, at each replica.
    """
    cluster_settings = settings.cluster
    assert cluster_settings is not None, "it is one server otherwise"
    caches = _caches(settings, requests, cluster_settings.replicas)
    count = 1 if cluster_settings.is_central else cluster_settings.replicas
    policies = [settings.policy(requests, caches[r] if caches else None) for r in range(count)]
    audits = _watch(settings, requests, policies) if audited else _Audits(None, [])
    exchange = _exchange(settings, requests, policies)
    cluster: Cluster
    if cluster_settings.is_central:
        cluster = CentralCluster(requests, policies[0], cluster_settings.replicas)
    else:
        router = make_router(cluster_settings.router or ROUTER, settings.seed)
        reach = Reach(cluster_settings.replicas, dict(cluster_settings.reach), settings.seed)
        cluster = RoutedCluster(requests, policies, router, reach, exchange)
    run = simulate_cluster(cluster, server, seed=settings.seed, caches=caches)
    if audits.everywhere is not None:
        whole = settings.bound(requests) * cluster_settings.replicas
        run.manifest["audit"] = {
            "observed": audits.everywhere.report().observed,
            "bound": whole if exchange is None else exchange.bound(_clients(requests)),
            "charged": None if exchange is None else exchange.most_charged,
            "observed_here": [auditor.report().observed for auditor in audits.here],
        }
    return run


def _exchange(
    settings: "Settings", requests: list[TracedRequest], policies: list[Policy[Any]]
) -> Exchange | None:
    cluster = settings.cluster
    assert cluster is not None
    every_s = cluster.every_s(policies[0])
    if every_s is None:
        return None
    least = min(settings.client_weights(requests).values(), default=1.0)
    return Exchange(
        policies,
        every_s,
        gain=settings.bound(requests) / 2 * least,
        least_weight=least,
        max_debt=cluster.max_debt,
        guard=GUARD if cluster.guard is None else cluster.guard,
    )


def _watch(
    settings: "Settings", requests: list[TracedRequest], policies: list[Policy[Any]]
) -> _Audits:
    everywhere = settings.auditor(requests, places=len(policies))
    here = [settings.auditor(requests) for _ in policies] if len(policies) > 1 else []
    for replica, policy in enumerate(policies):
        policy.watch(everywhere.at(replica))
        if here:
            policy.watch(here[replica])
    return _Audits(everywhere, here)


def _caches(
    settings: "Settings", requests: list[TracedRequest], replicas: int
) -> list[PrefixCache]:
    """One for each replica, all empty; none where none is asked for."""
    first = settings.prefix_cache(requests)
    if first is None or settings.prefix_cache_tokens is None:
        return []
    others = (PrefixCache(requests, settings.prefix_cache_tokens) for _ in range(replicas - 1))
    return [first, *others]


def _clients(requests: list[TracedRequest]) -> int:
    return len({request.client for request in requests})
