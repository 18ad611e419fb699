"""Schedulers before the same capacity: who is lifted to whom, who yields, and for how long."""

from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.core.fair_queue import FairQueue
from fairlane.core.one_queue import Patience
from fairlane.core.sharing import Waiting
from fairlane.core.tree import split_path
from tests.driving import admit_next, counters, enqueue_all, fresh, req

NOTHING: dict[str, float] = {}


def sharing(**options: Any) -> FairQueue:
    policy = fresh("vtc", **options)
    assert isinstance(policy, FairQueue)
    policy.share()
    policy.hear_waiting([], NOTHING)
    return policy


def at(counter: float, weight: float = 1.0) -> tuple[tuple[float, float], ...]:
    return ((counter, weight),)


def test_who_comes_is_lifted_to_the_least_who_waits_anywhere() -> None:
    policy = sharing()
    policy.hear_waiting([Waiting({"b": at(50.0), "c": at(70.0)})], NOTHING)
    enqueue_all(policy, [req(1, "a")])
    assert counters(policy)["a"] == 50.0


def test_who_waits_elsewhere_is_at_the_level_already() -> None:
    policy = sharing()
    enqueue_all(policy, [req(1, "b")])
    policy.hear_waiting([Waiting({"a": at(10.0), "b": at(50.0)})], NOTHING)
    enqueue_all(policy, [req(2, "a")])
    assert counters(policy) == {"a": 10.0, "b": 50.0}


def test_where_nobody_waits_the_level_is_that_of_who_left_last() -> None:
    policy = sharing()
    policy.hear_waiting([Waiting({"b": at(50.0), "c": at(70.0)})], NOTHING)
    policy.hear_waiting([], NOTHING)
    enqueue_all(policy, [req(1, "a")])
    assert counters(policy)["a"] == 70.0


def test_what_is_told_is_without_what_is_heard_as_charges() -> None:
    """So a refund that is not known everywhere yet is not taken for a lift."""
    one, other = sharing(), sharing()
    enqueue_all(one, [req(1, "a", 10), req(2, "a", 10)])
    enqueue_all(other, [req(1, "a", 10), req(2, "a", 10)])
    admit_next(one)
    told = one.tell_waiting(one.take_charges())
    other.hear_waiting([told], NOTHING)
    assert counters(other) == {"a": 0.0}
    other.hear({"a": 10.0})
    one.requeue(1, 0, undo=True)
    assert one.take_charges() == {"a": -10.0}
    one.hear_waiting([other.tell_waiting({"a": 10.0})], {"a": 0.0})
    assert counters(one) == {"a": 0.0}


def test_a_prediction_is_not_told() -> None:
    policy = fresh("vtc-oracle", true_length=lambda request: 5)
    policy.share()
    enqueue_all(policy, [req(1, "a", 10), req(2, "a", 10)])
    admit_next(policy)
    assert counters(policy) == {"a": 20.0}
    assert policy.tell_waiting(policy.take_charges()).here == {"a": at(0.0)}


def test_values_by_other_weights_are_left_alone() -> None:
    policy = sharing(weights={"a": 2.0})
    enqueue_all(policy, [req(1, "a")])
    policy.hear_waiting([Waiting({"a": at(99.0, 1.0)})], NOTHING)
    assert counters(policy) == {"a": 0.0}
    policy.hear_waiting([Waiting({"a": at(99.0, 2.0)})], NOTHING)
    assert counters(policy) == {"a": 99.0}


def test_who_did_not_hear_lifts_those_who_wait_here_alone_once_it_does() -> None:
    policy = sharing()
    policy.hear_waiting(None, NOTHING)
    enqueue_all(policy, [req(1, "a"), req(2, "b")])
    others = [Waiting({"c": at(50.0)}, {"b": at(80.0)})]
    policy.hear_waiting(others, NOTHING)
    assert counters(policy) == {"a": 50.0, "b": 80.0}
    policy.hear_waiting([Waiting({"c": at(60.0)})], NOTHING)
    assert counters(policy) == {"a": 50.0, "b": 80.0}


def test_it_yields_to_who_waits_elsewhere_with_less_but_for_some_slack() -> None:
    policy = sharing()
    assert not policy.yields(0)
    enqueue_all(policy, [req(1, "a")])
    policy.hear_waiting([Waiting({"a": at(30.0), "b": at(20.0)})], NOTHING)
    assert policy.yields(0)
    assert policy.yields(9.9)
    assert not policy.yields(10.0)
    policy.hear({"b": 15.0})
    assert not policy.yields(0)
    policy.hear({"b": -15.0})
    assert policy.yields(0)
    policy.hear_waiting([Waiting({"a": at(30.0)})], {"b": 0.0})
    assert not policy.yields(0)


def test_slack_counts_by_the_weight_of_who_is_next() -> None:
    policy = sharing(weights={"a": 0.5})
    enqueue_all(policy, [req(1, "a")])
    policy.hear_waiting([Waiting({"a": at(30.0, 0.5), "b": at(20.0)})], NOTHING)
    assert policy.yields(4.9)
    assert not policy.yields(5.0)


def test_groups_wait_elsewhere_while_a_member_does() -> None:
    policy = sharing(path_of=split_path, weights={"x": 2.0})
    enqueue_all(policy, [req(1, "x/a"), req(2, "y/b")])
    told = Waiting({"x/c": ((40.0, 2.0), (5.0, 1.0)), "x/d": ((40.0, 2.0), (3.0, 1.0))})
    policy.hear_waiting([told], NOTHING)
    assert policy.standing("x/a") == (40.0, 0.0)
    assert not policy.yields(0)  # y is next, with 0
    policy.hear({"y/b": 100.0})
    assert not policy.yields(0)  # x/a, before x/c and x/d
    policy.hear({"x/a": 10.0, "y/b": 100.0})
    assert policy.standing("x/a") == (45.0, 10.0)
    assert policy.yields(6.0)  # x/d is before x/a by 7
    policy.hear_waiting([Waiting({"x/c": told.here["x/c"]})], NOTHING)
    assert policy.yields(4.0)
    assert not policy.yields(5.0)
    policy.finish(1, 0)
    assert policy.yields(0)  # the group waits elsewhere, with 45, and y has 200
    policy.hear_waiting([], NOTHING)
    assert not policy.yields(0)


def test_what_groups_were_charged_anywhere_is_not_told_either() -> None:
    policy = sharing(path_of=split_path)
    enqueue_all(policy, [req(1, "x/a", 10), req(2, "x/a", 10), req(3, "x", 7), req(4, "x", 7)])
    admit_next(policy), admit_next(policy)
    told = policy.tell_waiting(policy.take_charges())
    assert told.here == {"x/a": ((0.0, 1.0), (0.0, 1.0)), "x": at(0.0)}


def test_nobody_is_kept_who_waits_nowhere_and_has_nothing() -> None:
    policy = sharing()
    policy.hear_waiting([Waiting({str(n): at(1.0) for n in range(100)})], NOTHING)
    assert len(policy.tell_waiting(NOTHING).there) == 100
    policy.hear_waiting([], NOTHING)
    assert not policy._tree.root.children
    assert counters(policy) == {}


def test_without_sharing_there_is_nothing_to_tell() -> None:
    with pytest.raises(FairlaneError, match="call share"):
        fresh("vtc").tell_waiting(NOTHING)
    with pytest.raises(FairlaneError, match="does not share"):
        fresh("fcfs").hear_waiting([], NOTHING)


def test_room_that_stays_is_used_after_two_looks() -> None:
    patience, over = Patience(), []
    for room in (3, 2):
        over.append(patience.over)
        patience.look(room)
    for _ in range(3):
        over.append(patience.over)
        patience.used()
    assert over == [0, 0, 2, 1, 0]
    patience.look(5)
    patience.look(0)
    patience.look(5)
    assert not patience.over
