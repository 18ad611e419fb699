"""VTC by hand: admission, charges, lifts, weights, costs and predictions, case by case."""

from typing import Any

import pytest

from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.core.fair_queue import FairQueue
from fairlane.core.types import Outcome
from fairlane.policies.registry import create_policy
from tests.driving import admit_all, admit_next, counters, enqueue_all, fresh, req


def vtc(name: str = "vtc", **options: Any) -> FairQueue:
    policy = fresh(name, **options)
    assert isinstance(policy, FairQueue)
    return policy


def test_the_client_with_the_least_counter_is_next() -> None:
    policy = vtc()
    enqueue_all(policy, [req(1, "a", 100), req(2, "a", 100), req(3, "b", 30), req(4, "b", 30)])
    # a and b tie at 0: a was known first. Then a 100; b 0, 30, 60.
    assert admit_all(policy) == [1, 3, 4, 2]
    assert counters(policy) == {"a": 200.0, "b": 60.0}


def test_ties_go_to_the_client_that_was_known_first_even_after_idleness() -> None:
    policy = vtc()
    for number, client in enumerate(["z", "m", "a"]):
        policy.enqueue(req(number, client, 10), 0)
        admit_next(policy)
        policy.finish(number, 0)
    enqueue_all(policy, [req("a", "a"), req("m", "m"), req("z", "z")])
    # z has 10; m was lifted to 10 by the empty queue's rule and then charged, and so on
    policy.enqueue(req("new", "new", 10), 0)
    levels = counters(policy)
    assert levels["a"] == 30.0
    assert levels["m"] == levels["z"] == 30.0
    assert admit_all(policy) == ["z", "m", "a", "new"]


def test_output_is_charged_as_it_is_delivered() -> None:
    policy = vtc()
    enqueue_all(policy, [req(1, "a", 10), req(2, "b", 10), req(3, "a"), req(4, "b")])
    assert [admit_next(policy), admit_next(policy)] == [1, 2]
    policy.record_tokens({1: 3, 2: 1}, 1)
    assert counters(policy) == {"a": 16.0, "b": 12.0}
    request = policy.peek(1)
    assert request is not None
    assert request.client == "b"


def test_two_running_requests_of_a_client_are_charged_twice_a_step() -> None:
    policy = vtc()
    enqueue_all(policy, [req(1, "a", 0), req(2, "a", 0)])
    admit_all(policy)
    policy.record_tokens({1: 1, 2: 1}, 1)
    assert counters(policy) == {"a": 4.0}


def test_a_returning_client_is_lifted_to_the_least_backlogged_counter() -> None:
    policy = vtc()
    enqueue_all(policy, [req(1, "a", 500), req(2, "a", 1), req(3, "b", 900), req(4, "b", 1)])
    assert [admit_next(policy), admit_next(policy)] == [1, 3]  # a 500, b 900, both backlogged
    policy.enqueue(req(5, "c", 1), 0)
    assert counters(policy)["c"] == 500.0


def test_a_client_above_the_others_is_not_lowered() -> None:
    policy = vtc()
    policy.enqueue(req(1, "a", 500), 0)
    admit_next(policy)
    policy.record_tokens({1: 100}, 0)
    policy.enqueue(req(2, "b", 1), 0)  # queue empty: lifted to 700, that of a, who left it last
    policy.record_tokens({1: 100}, 0)
    policy.enqueue(req(3, "a", 1), 0)
    assert counters(policy) == {"a": 900.0, "b": 700.0}


def test_on_an_empty_queue_the_lift_is_to_whoever_left_it_last() -> None:
    policy = vtc()
    enqueue_all(policy, [req(1, "a", 300), req(2, "b", 100)])
    admit_all(policy)  # a, then b: b left the queue last
    policy.record_tokens({2: 5}, 0)  # b's counter is read when it is needed: 110
    policy.enqueue(req(3, "c", 1), 0)
    assert counters(policy)["c"] == 110.0


def test_the_last_to_leave_counts_even_when_it_is_idle_or_was_cancelled() -> None:
    policy = vtc()
    policy.enqueue(req(1, "a", 300), 0)
    admit_next(policy)
    policy.finish(1, 0)
    policy.enqueue(req(2, "b", 1), 0)
    assert counters(policy) == {"b": 300.0}
    policy.finish(2, 0, Outcome.ABORTED)
    policy.enqueue(req(3, "c", 1), 0)
    assert counters(policy) == {"c": 300.0}


def test_the_artifact_lifts_only_against_other_backlogged_clients() -> None:
    policy = vtc(artifact_lift=True)
    policy.enqueue(req(1, "a", 300), 0)
    admit_next(policy)
    policy.enqueue(req(2, "b", 1), 0)
    assert counters(policy) == {"a": 300.0, "b": 0.0}  # nobody was backlogged
    policy.enqueue(req(3, "c", 1), 0)
    policy.enqueue(req(4, "a", 1), 0)
    assert counters(policy) == {"a": 300.0, "b": 0.0, "c": 0.0}


def test_requests_behind_the_first_do_not_lift() -> None:
    policy = vtc()
    enqueue_all(policy, [req(1, "a", 10), req(2, "b", 500), req(3, "b", 1)])
    assert [admit_next(policy), admit_next(policy)] == [1, 2]
    enqueue_all(policy, [req(4, "b", 1)])  # b is backlogged already, at 500
    enqueue_all(policy, [req(5, "a", 1), req(6, "a", 1)])
    assert counters(policy) == {"a": 500.0, "b": 500.0}


def test_lcf_lets_an_idle_client_save_up() -> None:
    policy = vtc("lcf")
    enqueue_all(policy, [req(n, "a", 100) for n in range(5)])
    admit_all(policy)
    enqueue_all(policy, [req("a", "a", 100), *(req(("b", n), "b", 100) for n in range(5))])
    assert admit_all(policy)[-1] == "a"  # b has 0 and is served alone until it reaches a's 500


def test_weights_divide_what_is_charged() -> None:
    policy = vtc(weights={"b": 2.0})
    enqueue_all(policy, [req((c, n), c, 100) for n in range(6) for c in "ab"])
    order = [admit_next(policy) for _ in range(6)]
    assert [c for c, _ in order] == ["a", "b", "b", "a", "b", "b"]  # type: ignore[misc,has-type]
    policy.record_tokens({("b", 0): 10}, 0)
    assert counters(policy) == {"a": 200.0, "b": 200.0 + 10}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weights\.a must be"):
        vtc(weights={"a": weight})


def test_the_quadratic_cost_charges_each_token_its_own_price() -> None:
    cost = QuadraticCost()
    policy = vtc(cost=cost)
    policy.enqueue(req(1, "a", 256), 0)
    admit_next(policy)
    assert counters(policy) == {"a": cost.admission(256)}
    policy.record_tokens({1: 1}, 0)
    first = counters(policy)["a"]
    policy.record_tokens({1: 1}, 0)
    second = counters(policy)["a"]
    assert first == cost.admission(256) + cost.output(256, 0, 1)
    assert second == first + cost.output(256, 1, 2)
    assert second - first > cost.output(256, 0, 1)


def test_cached_tokens_are_charged_at_their_own_price() -> None:
    policy = vtc(cost=LinearCost(cached_price=0.25))
    policy.enqueue(req(1, "a", 100), 0)
    policy.admit(1, 0, cached_tokens=80)
    assert counters(policy) == {"a": 20 + 0.25 * 80}


def test_a_prediction_is_charged_at_admission_and_tokens_within_it_are_free() -> None:
    policy = vtc("vtc-oracle", true_length=lambda request: 10)
    policy.enqueue(req(1, "a", 100), 0)
    admit_next(policy)
    assert counters(policy) == {"a": 120.0}
    policy.record_tokens({1: 10}, 0)
    assert counters(policy) == {"a": 120.0}


def test_tokens_beyond_a_prediction_are_charged_and_those_short_of_it_refunded() -> None:
    policy = vtc("vtc-oracle", true_length=lambda request: 10)
    enqueue_all(policy, [req(1, "a", 100), req(2, "b", 100), req(3, "a"), req(4, "b")])
    admit_next(policy), admit_next(policy)
    policy.record_tokens({1: 12, 2: 4}, 0)
    assert counters(policy) == {"a": 124.0, "b": 120.0}
    policy.finish(2, 0)
    assert counters(policy) == {"a": 124.0, "b": 108.0}


def test_a_fractional_prediction_is_passed_in_the_middle_of_a_token() -> None:
    policy = vtc("vtc-oracle", true_length=lambda request: 3, predict_range=1.0,
                 uniform=lambda low, high: 2.5)  # fmt: skip
    policy.enqueue(req(1, "a", 0), 0)
    admit_next(policy)
    levels = [counters(policy)["a"]]
    for _ in range(4):
        policy.record_tokens({1: 1}, 0)
        levels.append(counters(policy)["a"])
    assert levels == [5.0, 5.0, 5.0, 6.0, 8.0]


def test_the_blurred_oracle_asks_for_the_papers_range() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    policy = vtc("vtc-oracle", true_length=lambda request: 100, predict_range=0.5, uniform=uniform)
    policy.enqueue(req(1, "a", 0), 0)
    admit_next(policy)
    assert asked == [(50.0, 150.0)]
    assert counters(policy) == {"a": 300.0}


def test_the_moving_average_learns_from_finished_requests_only() -> None:
    policy = vtc("vtc-predict")
    for number, (tokens, outcome) in enumerate(
        [(10, Outcome.FINISHED), (500, Outcome.ABORTED), (20, Outcome.FINISHED)]
    ):
        policy.enqueue(req(number, "a", 0), 0)
        admit_next(policy)
        policy.record_tokens({number: tokens}, 0)
        policy.finish(number, 0, outcome)
    enqueue_all(policy, [req("x", "a", 0)])
    before = counters(policy)["a"]
    assert before == 2 * (10 + 500 + 20)
    admit_next(policy)
    assert counters(policy)["a"] == before + 2 * 12  # (4 * 10 + 20) / 5


@pytest.mark.parametrize("name", ["vtc", "vtc-predict", "vtc-oracle", "lcf"])
def test_a_preempted_request_never_pays_its_prompt_twice(name: str) -> None:
    policy = vtc(name)
    policy.enqueue(req(1, "a", 100), 0)
    admit_next(policy)
    policy.record_tokens({1: 3}, 0)
    policy.requeue(1, 0)
    admit_next(policy)
    policy.record_tokens({1: 2}, 0)
    policy.finish(1, 0)
    policy.enqueue(req(2, "a", 1), 0)
    assert counters(policy) == {"a": 110.0}


@pytest.mark.parametrize("name", ["vtc", "vtc-predict", "vtc-oracle", "lcf"])
def test_an_admission_that_did_not_take_place_is_given_back(name: str) -> None:
    policy = vtc(name)
    enqueue_all(policy, [req(1, "a", 100), req(2, "b", 100), req(3, "a", 100)])
    before = counters(policy)
    assert admit_next(policy) == 1
    policy.requeue(1, 0, undo=True)
    assert counters(policy) == before
    assert admit_next(policy) == 1


def test_tokens_that_arrive_before_an_undo_are_kept() -> None:
    policy = vtc()
    policy.enqueue(req(1, "a", 100), 0)
    admit_next(policy)
    policy.record_tokens({1: 1}, 0)
    policy.requeue(1, 0, undo=True)
    assert counters(policy) == {"a": 102.0}


def test_the_artifacts_second_charge_repeats_the_latest_token() -> None:
    cost = QuadraticCost()
    policy = vtc(cost=cost)
    policy.enqueue(req(1, "a", 10), 0)
    admit_next(policy)
    policy.charge_again([1, "unknown"])  # nothing delivered yet
    policy.record_tokens({1: 3}, 0)
    policy.charge_again([1])
    assert counters(policy)["a"] == (
        cost.admission(10) + cost.output(10, 0, 3) + cost.output(10, 2, 3)
    )


def test_a_cancelled_request_was_never_charged() -> None:
    policy = vtc()
    enqueue_all(policy, [req(1, "a", 100), req(2, "a", 100)])
    policy.finish(1, 0, Outcome.ABORTED)
    assert counters(policy) == {"a": 0.0}
    assert policy.peek(0) == req(2, "a", 100)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("vtc_fair", "vtc"), ("vtc_len_predict", "vtc-predict"), ("lcf_fair", "lcf")],
)
def test_the_artifacts_names_work(alias: str, name: str) -> None:
    assert type(create_policy(alias)) is type(create_policy(name))
