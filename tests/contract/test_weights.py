"""Weights, for every registered policy: they divide the service, or the policy says it has none."""

from collections import Counter
from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy
from fairlane.policies.registry import get_policy, policy_names
from tests.driving import enqueue_all, fresh, req

SLOTS, LENGTH, STEPS = 4, 20, 3_000


def service_of(policy: Policy[Any]) -> Counter[str]:
    """Tokens delivered to two clients that always have a request waiting."""
    running: dict[Any, int] = {}
    delivered: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    made = 0
    for step in range(STEPS):
        for client in "ab":
            while waiting[client] <= SLOTS:
                made += 1
                waiting[client] += 1
                enqueue_all(policy, [req((made, client), client, 5)], step)
        while len(running) < SLOTS:
            request = policy.peek(step)
            assert request is not None
            policy.admit(request.id, step)
            waiting[request.client] -= 1
            running[request.id] = 0
        policy.record_tokens(dict.fromkeys(running, 1), step)
        for request_id in list(running):
            running[request_id] += 1
            delivered[request_id[1]] += 1
            if running[request_id] == LENGTH:
                del running[request_id]
                policy.finish(request_id, step)
    return delivered


def alternating(policy: Policy[Any]) -> float:
    """B's tokens for each of a's."""
    delivered = service_of(policy)
    return delivered["b"] / delivered["a"]


@pytest.mark.parametrize("name", policy_names())
@pytest.mark.parametrize("live", [False, True])
def test_weights_divide_the_service_or_are_refused(name: str, live: bool) -> None:
    options: dict[str, Any] = {"quantum": 100.0} if "quantum" in get_policy(name).options else {}
    if fresh(name).has_weights:
        assert alternating(fresh(name, **options)) == pytest.approx(1.0, rel=0.1)
        if live:
            policy = fresh(name, **options)
            policy.set_weight("b", 3.0)
        else:
            policy = fresh(name, weights={"b": 3.0}, **options)
        assert alternating(policy) == pytest.approx(3.0, rel=0.1)
    elif live:
        with pytest.raises(FairlaneError, match="no weights"):
            fresh(name).set_weight("b", 3.0)
    else:
        with pytest.raises(FairlaneError, match="not weights"):
            fresh(name, weights={"b": 3.0})


@pytest.mark.parametrize("name", [name for name in policy_names() if fresh(name).has_weights])
def test_a_new_weight_holds_for_who_is_waiting_already(name: str) -> None:
    options: dict[str, Any] = {"quantum": 100.0} if "quantum" in get_policy(name).options else {}
    policy = fresh(name, **options)
    enqueue_all(policy, [req((0, client), client, 5) for client in "ab"])
    policy.set_weight("b", 3.0)
    for client in "ab":
        policy.finish((0, client), 0.0)
    assert alternating(policy) == pytest.approx(3.0, rel=0.1)


def test_who_guarantees_what() -> None:
    """VTC's bound, wider by what is predicted or paid ahead; no guarantee for the others."""
    assert fresh("vtc").slack == 0
    assert fresh("vtc-predict").slack is None  # as far as was ever predicted at one time
    assert fresh("vtc-predict", max_advance=500.0).slack == 2000
    assert fresh("dlpm", quantum=300.0).slack == 600
    assert fresh("drr", quantum=300.0).slack == 900
    for name in ("fcfs", "rpm", "round-robin", "lpm", "lcf"):
        assert fresh(name).slack is None
        assert not fresh(name).shares
    for name in ("vtc", "vtc-predict", "vtc-oracle", "drr", "dlpm"):
        assert fresh(name).shares
