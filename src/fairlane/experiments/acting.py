"""Whether every setting of a simulation acts, found out before it starts; and what to say then.

A setting that cannot change anything is refused: whoever gave it believes that it does. What
a setting, a trace or a missing one quietly means is said.
"""

from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy
from fairlane.experiments.clusters import ClusterSettings
from fairlane.experiments.settings import Settings
from fairlane.experiments.traces import notes_on_trace, read_requests
from fairlane.experiments.weights import describe_weights
from fairlane.policies.registry import get_policy
from fairlane.simulator.run import check_lengths
from fairlane.simulator.serving import Charging
from fairlane.workloads.trace import TracedRequest

_BLIND = "no prefix cache is simulated, so prefixes do not count: see --prefix-cache-tokens"


def check_settings(settings: Settings, *, runs: int = 1) -> list[str]:
    """What is to be said before `runs` simulations with consecutive seeds start.

    Raises FairlaneError for what cannot be simulated, and for a setting that would have no effect.
    """
    requests = settings.requests()
    check_lengths(requests, settings.server())
    policy = settings.policy(requests, settings.prefix_cache(requests))
    if settings.charging != Charging.DELIVERY.value and not policy.hears_tokens:
        raise FairlaneError(
            f"charging: scheduler {settings.scheduler} charges no tokens; leave it out"
        )
    if settings.cluster is not None:
        _check_cluster(settings, settings.cluster, requests, policy)
    notes = []
    if not settings.noise and settings.predict_range is None:
        if runs > 1:
            raise FairlaneError("without noise every seed gives the same run: make one")
        if settings.seed:
            notes.append("without noise every seed gives the same run")
    if weights := settings.client_weights(requests):
        notes.append(describe_weights(weights))
    if settings.prefix_cache_tokens is None and (
        "cached_tokens" in get_policy(settings.scheduler).options
    ):
        notes.append(f"{settings.scheduler}: {_BLIND}")
    trace = settings.read_trace()
    if trace is not None:
        notes += notes_on_trace(trace, settings.too_long)
        ends = read_requests(trace.path).requests[-1].arrival_s / settings.rate_scale
        if settings.duration is not None and settings.duration > ends:
            notes.append(f"{trace.path}: ends after {ends:,g} s, before the duration does")
    return notes


def _check_cluster(
    settings: Settings,
    cluster: ClusterSettings,
    requests: list[TracedRequest],
    policy: Policy[Any],
) -> None:
    cluster.check(requests, policy)
    if not cluster.is_central:
        return
    if "cached_tokens" in get_policy(settings.scheduler).options:
        raise FairlaneError(
            f"exchange central: {settings.scheduler} goes by one server's prefix cache, and every "
            "replica has its own; have requests routed"
        )
    if settings.charging != Charging.DELIVERY.value:
        raise FairlaneError("exchange central: the artifact had one server; leave out --charging")
