"""How far two schedulers are apart in whom they have ahead, and half of the way between them."""

from typing import Any

from fairlane.core.fair_queue import FairQueue
from fairlane.core.settling import QUEUE, less, raises
from fairlane.core.sharing import Standing
from fairlane.core.tree import split_path
from tests.driving import admit_next, counters, enqueue_all, fresh, req


def at(*levels: float, weight: float = 1.0) -> Standing:
    return tuple((level, weight) for level in levels)


def test_whom_the_other_has_further_ahead_is_raised_by_half_of_it() -> None:
    here = {"a": at(10.0), "b": at(0.0), "c": at(4.0)}
    there = {"a": at(100.0), "b": at(130.0), "c": at(94.0)}  # ahead of here by 90, 130, 90
    assert raises(here, there) == {"b": 20.0}
    assert raises(there, here) == {"a": 20.0, "c": 20.0}


def test_both_go_half_of_the_way_and_then_agree() -> None:
    here, there = {"a": at(10.0), "b": at(0.0)}, {"a": at(0.0), "b": at(7.0)}
    up, down = raises(here, there), raises(there, here)
    apart = 10.0 + up.get("a", 0.0) - up.get("b", 0.0)
    assert apart == 0.0 + down.get("a", 0.0) - 7.0 - down.get("b", 0.0) == 1.5


def test_only_those_who_wait_at_both_with_one_weight_are_compared() -> None:
    here = {"a": at(10.0), "b": at(0.0), "c": at(0.0), "d": at(0.0, weight=2.0)}
    there = {"a": at(0.0), "b": at(0.0), "d": at(99.0), "e": at(50.0)}
    assert raises(here, there) == {"b": 5.0}
    assert raises({"a": at(10.0)}, {"a": at(99.0)}) == {}


def test_groups_are_compared_with_groups_and_members_among_themselves() -> None:
    here = {"g/a": at(0.0, 5.0), "g/b": at(0.0, 0.0), "h/a": at(8.0, 1.0)}
    there = {"g/a": at(3.0, 0.0), "g/b": at(3.0, 0.0), "h/a": at(0.0, 2.0)}
    assert raises(here, there) == {"g/b": 2.5, "g/": 5.5}


def test_queues_of_a_host_are_compared_with_their_like() -> None:
    one, other = f"org/one{QUEUE}", f"org/two{QUEUE}"
    here = {one + "a": at(0.0), one + "b": at(0.0), other + "a": at(0.0), other + "b": at(0.0)}
    there = {one + "a": at(9.0), one + "b": at(1.0), other + "a": at(70.0), other + "b": at(70.0)}
    assert raises(here, there) == {one + "a": 4.0}


def test_levels_are_counters_without_what_was_charged_to_whom_and_to_groups() -> None:
    told = {"g/a": ((10.0, 1.0), (6.0, 2.0)), "h/a": at(5.0, 5.0)}
    charged = {"g/a": 4.0, "g/gone": 3.0, "h/a": 1.0, "gone/a": 50.0}
    assert less(told, charged) == {"g/a": ((3.0, 1.0), (4.0, 2.0)), "h/a": at(4.0, 4.0)}


def sharing(clients: str, **options: Any) -> FairQueue:
    policy = fresh("vtc", **options)
    assert isinstance(policy, FairQueue)
    policy.share(guard=0.1)
    enqueue_all(policy, [req(n, client, 10) for n, client in enumerate(clients.split())])
    return policy


def next_of(policy: FairQueue) -> str:
    request = policy.peek(0.0)
    assert request is not None
    return request.client


def test_a_raise_changes_the_counter_and_not_the_home_order() -> None:
    policy = sharing("a b b")
    policy.hear({"nobody": 1.0})
    policy.raise_levels({"a": 50.0, "nobody": 3.0})
    assert counters(policy) == {"a": 50.0, "b": 0.0}
    admit_next(policy)
    assert next_of(policy) == "b"
    policy.take_charges()  # of which the guard gets its part
    assert next_of(policy) == "a"


def test_one_raise_is_no_larger_than_a_debt_may_be() -> None:
    policy = fresh("vtc")
    policy.share(max_debt=5.0)
    enqueue_all(policy, [req(1, "a"), req(2, "b")])
    policy.raise_levels({"a": 1e9})
    assert counters(policy) == {"a": 5.0, "b": 0.0}


def test_members_of_a_raised_group_keep_their_order() -> None:
    policy = sharing("g/a g/b h/a", path_of=split_path)
    policy.raise_levels({"g/": 5.0, "g/b": 2.0})
    told = policy.tell_waiting({}).here
    assert told == {"g/a": at(5.0, 0.0), "g/b": at(5.0, 2.0), "h/a": at(0.0, 0.0)}


def test_what_is_told_leaves_out_what_nobody_has_taken_yet() -> None:
    policy = sharing("a a b")
    admit_next(policy)
    assert policy.tell_waiting({}).here["a"] == at(0.0)
    taken = policy.take_charges()
    assert policy.tell_waiting({}).here["a"] == at(10.0)
    assert policy.tell_waiting(taken).here["a"] == at(0.0)
