"""The policies beside VTC, by hand: first come first served, rate limits, turns, deficits."""

import pytest

from fairlane.core.types import Rejection
from fairlane.policies.registry import create_policy
from tests.driving import admit_all, admit_next, counters, enqueue_all, req


def test_fcfs_serves_in_order_of_arrival() -> None:
    policy = create_policy("fcfs")
    enqueue_all(policy, [req(1, "a", 9), req(2, "a", 9), req(3, "b", 1), req(4, "a", 9)])
    assert admit_all(policy) == [1, 2, 3, 4]


def test_fcfs_puts_a_preempted_request_before_all_others() -> None:
    policy = create_policy("fcfs")
    enqueue_all(policy, [req(1, "a"), req(2, "b"), req(3, "c")])
    assert [admit_next(policy), admit_next(policy)] == [1, 2]
    policy.requeue(2, 0)
    assert admit_all(policy) == [2, 3]


def test_rpm_counts_accepted_requests_of_the_past_minute_and_then_serves_in_order() -> None:
    policy = create_policy("rpm", rate_limit=2)
    answers = [
        policy.enqueue(req(number, client), now)
        for number, (client, now) in enumerate(
            [("a", 0.0), ("a", 30.0), ("b", 31.0), ("a", 60.0), ("a", 60.5), ("a", 90.0)]
        )
    ]
    accepted = [number for number, answer in enumerate(answers) if answer is None]
    assert accepted == [0, 1, 2, 4]
    assert isinstance(answers[3], Rejection)
    assert admit_all(policy) == accepted
    policy.enqueue(req(3, "b"), 95.0)  # the id of a rejected request is free


def test_rpm_in_compressed_time_has_shorter_minutes() -> None:
    policy = create_policy("rpm", rate_limit=2, window_s=5.0)
    times = [0.0, 1.0, 2.0, 5.5, 5.9, 6.5]
    answers = [policy.enqueue(req(n, "a"), now) for n, now in enumerate(times)]
    assert [n for n, answer in enumerate(answers) if answer is None] == [0, 1, 3, 5]


def test_round_robin_takes_one_request_of_each_client_in_turn() -> None:
    policy = create_policy("round-robin")
    enqueue_all(policy, [req((c, n), c, 1 if c == "a" else 999) for c in "abc" for n in range(3)])
    assert admit_all(policy) == [(c, n) for n in range(3) for c in "abc"]


def test_round_robin_seats_a_returning_client_at_the_back() -> None:
    policy = create_policy("round-robin")
    enqueue_all(policy, [req("a1", "a"), req("b1", "b"), req("b2", "b")])
    assert admit_next(policy) == "a1"
    policy.enqueue(req("a2", "a"), 0)
    assert admit_all(policy) == ["b1", "a2", "b2"]


def test_drr_serves_a_client_until_its_balance_is_spent() -> None:
    policy = create_policy("drr", quantum=100)
    enqueue_all(policy, [req((c, n), c, 60) for c in "ab" for n in range(4)])
    # each turn pays 100 to a client that has nothing left: two requests of 60 leave -20
    assert admit_all(policy) == [
        ("a", 0), ("a", 1), ("b", 0), ("b", 1), ("a", 2), ("a", 3), ("b", 2), ("b", 3),
    ]  # fmt: skip


def test_drr_makes_a_client_wait_until_the_debt_of_its_output_is_paid() -> None:
    policy = create_policy("drr", quantum=100)
    enqueue_all(policy, [req((c, n), c, 60) for c in "ab" for n in range(6)])
    assert admit_next(policy) == ("a", 0)
    policy.record_tokens({("a", 0): 135}, 1)  # 100 - 60 - 270 = -230
    assert counters(policy)["a"] == 230.0
    # Rounds pay 100 each: b 100, 40, -20 | a -130 | b 80, 20, -40 | a -30 | b 60, 0 | a 70, 10, -50
    served = [admit_next(policy) for _ in range(8)]
    assert [c for c, _ in served] == ["b"] * 5 + ["a"] * 2 + ["b"]  # type: ignore[misc,has-type]


def test_drr_does_not_wait_when_every_balance_is_negative() -> None:
    policy = create_policy("drr", quantum=100)
    enqueue_all(policy, [req(1, "a", 60), req(2, "a", 60)])
    assert admit_next(policy) == 1
    policy.record_tokens({1: 10_000}, 1)
    assert admit_next(policy) == 2


def test_drr_keeps_the_debt_but_not_the_savings_of_a_client_without_requests() -> None:
    policy = create_policy("drr", quantum=100)
    enqueue_all(policy, [req("a1", "a", 10), req("b1", "b", 150)])
    assert admit_all(policy) == ["a1", "b1"]
    policy.finish("a1", 0)
    policy.finish("b1", 0)
    enqueue_all(policy, [req("a2", "a", 10), req("b2", "b", 10)])
    assert counters(policy) == {"a": 0.0, "b": 50.0}


def test_drr_saves_nothing_that_is_given_back_to_a_client_that_does_not_wait() -> None:
    policy = create_policy("drr", quantum=100.0)
    enqueue_all(policy, [req(1, "a", 1000), req(2, "b", 10), req(3, "b", 10)])
    policy.admit(1, 0)
    policy.settle(1, 0, prompt_tokens=10)
    assert counters(policy)["a"] == 0


def test_drr_weights_multiply_the_quantum() -> None:
    policy = create_policy("drr", quantum=100, weights={"b": 2.0})
    enqueue_all(policy, [req((c, n), c, 100) for c in "ab" for n in range(6)])
    assert [c for c, _ in admit_all(policy)[:6]] == ["a", "b", "b", "a", "b", "b"]  # type: ignore[misc,has-type]


@pytest.mark.parametrize("quantum", [0, -1, float("nan")])
def test_drr_refuses_a_quantum_that_pays_nothing(quantum: float) -> None:
    with pytest.raises(ValueError, match="quantum"):
        create_policy("drr", quantum=quantum)
