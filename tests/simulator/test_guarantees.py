"""The theorems on simulated GPUs: the paper's overloads, watched by an auditor."""

from typing import Any

import pytest

from fairlane.core.audit import Audit, Auditor, service_bound
from fairlane.core.cost import Cost, LinearCost, QuadraticCost
from fairlane.core.preemption import PREEMPTIONS
from fairlane.experiments.settings import Settings
from fairlane.policies.registry import create_policy
from fairlane.simulator.profile import get_profile
from fairlane.simulator.run import simulate
from fairlane.simulator.serving import ServerConfig
from fairlane.workloads.suites import get_suite

MEMORY = 10_000  # tokens of the A10G


def audit(
    scheduler: str,
    suite: str,
    *,
    cost: Cost | None = None,
    weights: dict[str, float] | None = None,
) -> Audit:
    """What an auditor saw of a whole run of a suite."""
    options = {} if scheduler == "fcfs" else {"cost": cost, "weights": weights}
    policy = create_policy(scheduler, **options)
    least = min((weights or {"": 1.0}).values())
    bound = service_bound(MEMORY, 1024, cost, longest_output=1024, least_weight=least)
    auditor = Auditor(cost=cost, weights=weights, bound=bound)
    policy.watch(auditor)
    requests = get_suite(suite).requests()
    simulate(requests, policy, ServerConfig(profile=get_profile("a10g-llama-2-7b")))
    return auditor.report()


@pytest.mark.parametrize("suite", ["overload", "overload-multi", "poisson_short_long", "increase"])
@pytest.mark.parametrize("cost", [LinearCost(), QuadraticCost()], ids=["linear", "quadratic"])
def test_vtc_keeps_the_bound(suite: str, cost: Cost) -> None:
    report = audit("vtc", suite, cost=cost)
    assert report.bound is not None
    assert 0 < report.observed <= report.at_most <= report.bound


def test_weighted_vtc_keeps_the_bound_per_weight() -> None:
    weights = {"0": 1.0, "1": 2.0, "2": 3.0, "3": 4.0}
    report = audit("vtc", "overload-weighted", weights=weights)
    assert report.bound is not None
    assert 0 < report.observed <= report.at_most <= report.bound


@pytest.mark.parametrize("suite", ["overload", "poisson_short_long"])
def test_fcfs_does_not(suite: str) -> None:
    report = audit("fcfs", suite)
    assert report.bound is not None
    assert report.observed > 2 * report.bound


def preempting(suite: str, preemption: str | None) -> Any:
    """What the auditor saw where requests take more memory than there is."""
    settings = Settings(
        suite=suite, scheduler="vtc", profile="h200-llama-2-7b", preemption=preemption,
        memory_tokens=20_000, duration=60, rate_scale=10,
    )  # fmt: skip
    return settings.run(audited=True).manifest["audit"]


@pytest.mark.parametrize("preemption", PREEMPTIONS)
@pytest.mark.parametrize("suite", ["overload", "poisson_short_long"])
def test_vtc_keeps_the_bound_in_vllms_loop_while_requests_are_preempted(
    suite: str, preemption: str
) -> None:
    seen = preempting(suite, preemption)
    assert 0 < seen["observed"] <= seen["bound"]


def test_fair_preemption_is_the_default_and_keeps_clients_closer() -> None:
    newest, fairest = (preempting("overload", how)["observed"] for how in ("newest", None))
    assert fairest < newest / 2
