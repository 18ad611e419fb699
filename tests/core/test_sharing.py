"""Charges that several schedulers share: what counts, what is forgotten, what the guard gives."""

from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.core.fair_queue import FairQueue
from fairlane.core.tree import split_path
from fairlane.policies.registry import policy_names
from tests.driving import admit_next, counters, enqueue_all, fresh, req


def sharing(*, max_debt: float | None = None, guard: float = 0.0, **options: Any) -> FairQueue:
    policy = fresh("vtc", **options)
    assert isinstance(policy, FairQueue)
    policy.share(max_debt=max_debt, guard=guard)
    return policy


def order(policy: FairQueue, turns: int) -> str:
    """Whose requests are admitted, one after the other; each ends at once."""
    served = ""
    for _ in range(turns):
        request = policy.peek(0)
        assert request is not None
        served += request.client
        policy.admit(request.id, 0)
        policy.finish(request.id, 0)
    return served


def many(client: str, count: int, prompt: int = 10) -> list[Any]:
    return [req((client, n), client, prompt) for n in range(count)]


def test_what_is_taken_is_what_was_charged_since() -> None:
    policy = sharing(weights={"a": 4.0})
    enqueue_all(policy, [req(1, "a", 10), req(2, "b", 30)])
    assert policy.take_charges() == {}
    admit_next(policy), admit_next(policy)
    assert policy.take_charges() == {"a": 10.0, "b": 30.0}  # service, not per weight
    policy.record_tokens({1: 3, 2: 1}, 0)
    policy.record_tokens({1: 1, 2: 1}, 0)
    assert policy.take_charges() == {"a": 8.0, "b": 4.0}
    policy.finish(1, 0)
    assert policy.take_charges() == {}


def test_what_was_charged_before_a_client_left_is_not_lost() -> None:
    policy = sharing()
    enqueue_all(policy, [req(1, "a", 10)])
    admit_next(policy)
    policy.finish(1, 0)
    enqueue_all(policy, [req(2, "a", 5)])
    admit_next(policy)
    assert policy.take_charges() == {"a": 15.0}


def test_lifts_and_new_weights_are_no_charges() -> None:
    policy = sharing()
    enqueue_all(policy, [req(1, "a", 10), req(2, "a", 10)])
    admit_next(policy)
    enqueue_all(policy, [req(3, "b", 1)])  # is lifted to a's 10
    policy.set_weight("a", 8.0)
    assert counters(policy) == {"a": 10.0, "b": 10.0}
    assert policy.take_charges() == {"a": 10.0}


def test_a_refund_is_taken_as_a_negative_charge() -> None:
    policy = sharing()
    enqueue_all(policy, [req(1, "a", 10)])
    admit_next(policy)
    assert policy.take_charges() == {"a": 10.0}
    policy.requeue(1, 0, undo=True)
    assert policy.take_charges() == {"a": -10.0}


def test_what_a_prediction_prepaid_is_not_told() -> None:
    policy = fresh("vtc-oracle", true_length=lambda request: 5)
    policy.share()
    enqueue_all(policy, [req(1, "a", 10)])
    admit_next(policy)
    assert counters(policy) == {"a": 20.0}
    assert policy.take_charges() == {"a": 10.0}
    policy.record_tokens({1: 2}, 0)
    assert policy.take_charges() == {"a": 4.0}
    policy.finish(1, 0)
    assert policy.take_charges() == {}


def test_who_was_served_elsewhere_comes_later_here() -> None:
    policy = sharing()
    enqueue_all(policy, many("a", 9) + many("b", 9))
    policy.hear({"a": 30.0})
    assert order(policy, 8) == "bbbababa"


def test_service_elsewhere_counts_by_weight() -> None:
    policy = sharing(weights={"a": 3.0})
    enqueue_all(policy, many("a", 9) + many("b", 9))
    policy.hear({"a": 30.0})
    assert counters(policy) == {"a": 10.0, "b": 0.0}


def test_who_is_idle_hears_too() -> None:
    policy = sharing()
    enqueue_all(policy, many("a", 1) + many("b", 9))
    policy.finish(("a", 0), 0)
    policy.hear({"a": 30.0})
    enqueue_all(policy, many("a", 9))
    assert counters(policy) == {"a": 30.0, "b": 0.0}


def test_nobody_hears_of_who_is_not_known_here() -> None:
    policy = sharing()
    policy.hear({"a": 1e6})
    enqueue_all(policy, many("a", 1) + many("b", 1))
    assert counters(policy) == {"a": 0.0, "b": 0.0}


def test_a_group_is_charged_for_all_its_members() -> None:
    policy = sharing(path_of=split_path, weights={"x": 2.0, "x/a": 4.0})
    enqueue_all(policy, [req(n, "x/a") for n in range(9)] + [req(-n - 1, "y/b") for n in range(9)])
    policy.hear({"x/a": 40.0, "x/new": 40.0, "z/a": 1.0})
    assert policy.standing("x/a") == (40.0, 10.0)
    assert policy.standing("y/b") == (0.0, 0.0)


def test_what_is_given_back_elsewhere_is_given_back_here() -> None:
    policy = sharing()
    enqueue_all(policy, many("a", 9) + many("b", 9))
    policy.hear({"a": 30.0})
    assert order(policy, 1) == "b"
    policy.hear({"a": -30.0})
    assert order(policy, 3) == "aab"


# -- debts -----------------------------------------------------------------------------------


def test_who_is_further_ahead_than_max_debt_is_forgiven_the_rest() -> None:
    """Those behind are raised, so that third clients keep their distances as far as may be."""
    policy = sharing(max_debt=50.0)
    enqueue_all(policy, many("a", 9) + many("b", 9) + many("c", 9))
    policy.hear({"a": 10_000.0, "b": 20.0})
    assert counters(policy) == {"a": 10_000.0, "b": 9950.0, "c": 9930.0}


def test_no_gap_between_neighbours_exceeds_max_debt() -> None:
    policy = sharing(max_debt=50.0)
    enqueue_all(policy, many("a", 9) + many("b", 9) + many("c", 9))
    policy.hear({"a": 200.0, "b": 100.0})
    assert counters(policy) == {"a": 200.0, "b": 150.0, "c": 100.0}


def test_who_comes_back_with_a_debt_is_forgiven_at_once() -> None:
    policy = sharing(max_debt=50.0)
    enqueue_all(policy, many("a", 1) + many("b", 9))
    policy.finish(("a", 0), 0)
    policy.hear({"a": 1000.0})
    enqueue_all(policy, many("a", 9))
    assert counters(policy) == {"a": 1000.0, "b": 950.0}


def test_what_was_forgiven_is_no_charge() -> None:
    policy = sharing(max_debt=50.0)
    enqueue_all(policy, many("a", 9) + many("b", 9))
    policy.hear({"a": 1000.0})
    assert policy.take_charges() == {}


def test_debts_are_limited_in_groups_too() -> None:
    policy = sharing(max_debt=50.0, path_of=split_path)
    enqueue_all(policy, [req(name, name) for name in ("x/a", "x/b", "y")])
    policy.hear({"x/a": 1000.0})
    assert policy.standing("x/a") == (1000.0, 1000.0)
    assert policy.standing("x/b") == (1000.0, 950.0)
    assert policy.standing("y") == (950.0,)


# -- the guard -------------------------------------------------------------------------------


def served_beside(guard: float, turns: int = 1000) -> float:
    """The part of this scheduler's turns that a client gets who has far more elsewhere."""
    policy = sharing(guard=guard)
    enqueue_all(policy, many("a", turns) + many("b", turns))
    served = ""
    for _ in range(turns):
        policy.hear({"a": 1000.0})
        served += order(policy, 1)
        policy.take_charges()
    return served.count("a") / turns


@pytest.mark.parametrize("guard", [0.05, 0.1, 0.25])
def test_the_guard_gives_its_part_to_who_is_served_elsewhere(guard: float) -> None:
    assert served_beside(guard) == pytest.approx(guard, rel=0.05)


def test_without_a_guard_who_is_served_elsewhere_waits_for_ever() -> None:
    assert served_beside(0.0) == 0.0


def test_the_guard_gives_no_more_than_a_scheduler_that_stands_alone() -> None:
    assert served_beside(0.9) == pytest.approx(0.5, abs=0.01)


def test_what_the_guard_gives_is_paid_in_full() -> None:
    """Outputs count too: a long one leaves the account empty for long."""
    policy = sharing(guard=0.1)
    enqueue_all(policy, many("a", 20) + many("b", 500))
    policy.hear({"a": 1e6})
    assert order(policy, 100) == "b" * 100
    policy.take_charges()  # 1,000 were charged: 100 are saved up
    request = policy.peek(0)
    assert request is not None
    assert request.client == "a"
    policy.admit(request.id, 0)
    policy.record_tokens({request.id: 95}, 0)  # with its prompt 200: 100 too much
    policy.take_charges()  # and 20 are earned by it
    assert order(policy, 80) == "b" * 80
    policy.take_charges()
    assert order(policy, 2) == "bb"
    policy.take_charges()
    assert order(policy, 1) == "a"


def test_an_admission_that_is_undone_costs_the_guard_nothing() -> None:
    policy = sharing(guard=0.5)
    enqueue_all(policy, many("a", 2) + many("b", 9))
    policy.hear({"a": 1e6})
    assert order(policy, 2) == "bb"
    policy.take_charges()
    request = policy.peek(0)
    assert request is not None
    assert request.client == "a"
    policy.admit(request.id, 0)
    policy.requeue(request.id, 0, undo=True)
    assert order(policy, 2) == "ab"


def test_the_guard_saves_up_no_more_than_its_limit() -> None:
    policy = fresh("vtc")
    policy.share(guard=0.5, most_credit=25.0)
    assert isinstance(policy, FairQueue)
    enqueue_all(policy, many("a", 99) + many("b", 99))
    policy.hear({"a": 1e6})
    order(policy, 50)
    policy.take_charges()
    assert order(policy, 5) == "aaabb"


# -- who shares ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", policy_names())
def test_a_policy_says_whether_it_shares(name: str) -> None:
    options = {"rate_limit": 10} if name == "rpm" else {}
    policy = fresh(name, **options)
    if policy.can_share:
        policy.share()
        policy.hear(policy.take_charges())
    else:
        with pytest.raises(FairlaneError, match="cannot share"):
            policy.share()


def test_nobody_begins_to_share_in_the_middle() -> None:
    policy = fresh("vtc")
    enqueue_all(policy, [req(1, "a")])
    with pytest.raises(FairlaneError, match="before its first request"):
        policy.share()
    with pytest.raises(FairlaneError, match="call share"):
        policy.take_charges()
