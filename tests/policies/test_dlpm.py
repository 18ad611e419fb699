"""Deficit longest prefix match: hand-worked picks, and its bound on a server with a cache."""

import pytest

from fairlane.core.audit import Auditor
from fairlane.core.cost import LinearCost
from fairlane.core.errors import FairlaneError
from fairlane.core.types import Request, RequestId
from fairlane.experiments.settings import Settings
from fairlane.policies.dlpm import LongestPrefixMatch, dlpm, lpm
from fairlane.simulator.prefix_cache import PrefixCache
from fairlane.simulator.run import simulate
from tests.driving import admit_all, admit_next, enqueue_all, req


def with_cache(cached: dict[RequestId, int], quantum: float) -> LongestPrefixMatch:
    """A policy whose host holds so many prompt tokens of each request."""

    def cached_tokens(request: Request) -> int:
        return cached.get(request.id, 0)

    return dlpm(cached_tokens=cached_tokens, quantum=quantum)


def test_the_longest_cached_prefix_goes_first_and_ties_go_by_arrival() -> None:
    policy = with_cache({2: 50, 3: 80, 4: 80}, quantum=1000)
    enqueue_all(policy, [req(n, "a", 100) for n in (1, 2, 3, 4)])
    assert admit_all(policy) == [3, 4, 2, 1]


def test_a_client_without_balance_waits_for_the_others() -> None:
    """Quantum 100: a's first request takes 100, so b is served before a's next, cached or not."""
    policy = with_cache({2: 90}, quantum=100)
    enqueue_all(policy, [req(1, "a", 100), req(2, "a", 100), req(3, "b", 100)])
    # All balances are 0: one payment makes both positive, and a's cached request is first.
    assert admit_next(policy) == 2
    policy.record_tokens({2: 45}, 0.0)  # 100 at admission, 90 for output: in debt
    policy.finish(2, 0.0)
    assert admit_next(policy) == 3
    assert admit_next(policy) == 1


def test_only_uncached_input_is_drawn() -> None:
    policy = dlpm(quantum=1000)
    enqueue_all(policy, [req(1, "a", 400)])
    policy.admit(1, 0.0, cached_tokens=300)
    policy.record_tokens({1: 7}, 0.0)
    [state] = policy.snapshot().clients.values()
    assert state.counter == -(1000 - 100 - 2 * 7)


def test_payments_are_by_weight_and_skip_empty_rounds() -> None:
    """A debt of 950 at quantum 100 takes ten payments at once, not ten calls."""
    policy = dlpm(quantum=100, weights={"b": 2.0})
    enqueue_all(policy, [req(1, "a", 1050), req(2, "a", 1)])
    assert admit_all(policy) == [1, 2]
    clients = policy.snapshot().clients
    assert clients["a"].counter == -(100 - 1050 + 10 * 100 - 1)


def test_unused_balance_is_not_saved_and_debt_is_kept() -> None:
    policy = dlpm(quantum=100)
    for request_id, prompt in ((1, 10), (2, 500)):  # leaves 90, then a debt
        enqueue_all(policy, [req(request_id, "a", prompt)])
        assert admit_next(policy) == request_id
        policy.finish(request_id, 0.0)
    enqueue_all(policy, [req(3, "a", 1)])
    assert policy.snapshot().clients["a"].counter == 400


def test_lpm_starves_whoever_is_not_cached() -> None:
    policy = lpm(cached_tokens=lambda request: 50 if request.client == "a" else 0)
    enqueue_all(policy, [req(0, "b", 100), *(req(n, "a", 100) for n in range(1, 50))])
    assert admit_all(policy)[-1] == 0


@pytest.mark.parametrize("quantum", [0.0, -1.0, float("nan")])
def test_a_quantum_must_be_positive(quantum: float) -> None:
    with pytest.raises(FairlaneError, match="quantum must be"):
        dlpm(quantum=quantum)


def served(scheduler: str, quantum: float | None = None) -> tuple[float, float]:
    """(total time, largest service difference, uncached input priced) with a small cache."""
    settings = Settings(
        suite="shared-prefix", scheduler=scheduler, quantum=quantum, duration=240, noise=False
    )
    requests = settings.requests()
    cache = PrefixCache(requests, 2048)
    policy = settings.policy(requests, cache)
    auditor = Auditor(cost=LinearCost(cached_price=0.0))
    policy.watch(auditor)
    run = simulate(requests, policy, settings.server(), cache=cache)
    return run.total_time_s, auditor.report().observed


def test_dlpm_is_faster_than_vtc_and_fairer_than_lpm() -> None:
    """The bound is 2 (U' + Q), U' = w_p L_in + w_q M, with M = the server's 10,000 tokens."""
    quantum = 4000.0
    (vtc_time, _), (lpm_time, lpm_difference) = served("vtc"), served("lpm")
    time, difference = served("dlpm", quantum)
    bound = 2 * (1154 + 2 * 10_000 + quantum)
    assert difference <= bound
    assert time < 0.85 * vtc_time
    assert time < 1.1 * lpm_time
    assert difference < 0.5 * lpm_difference
