"""Whose memory is taken first: cases worked by hand."""

import pytest

from fairlane.core.preemption import (
    default_preemption,
    held_memory,
    may_run_out,
    put_last_who_holds_most,
)
from fairlane.core.tree import split_path


def test_a_clients_oldest_request_does_not_count() -> None:
    running = [("a", 500), ("b", 10), ("a", 30), ("b", 20), ("a", 5)]
    assert held_memory(running, {}) == {"a": (35.0,), "b": (20.0,)}


def test_memory_counts_per_weight() -> None:
    running = [("a", 1), ("b", 1), ("a", 30), ("b", 20)]
    assert held_memory(running, {"a": 3.0}) == {"a": (10.0,), "b": (20.0,)}


def test_what_groups_hold_comes_before_what_their_members_hold() -> None:
    running = [("x/1", 9), ("x/2", 9), ("y/1", 9), ("x/1", 4), ("x/2", 4), ("y/1", 6)]
    held = held_memory(running, {"y": 0.5}, split_path)
    assert held == {"x/1": (8.0, 4.0), "x/2": (8.0, 4.0), "y/1": (12.0, 6.0)}
    assert max(held, key=lambda client: held[client]) == "y/1"


def test_the_newest_of_who_holds_most_comes_last_and_a_request_of_nobodys_first() -> None:
    tokens = {"a1": 90, "b1": 10, "a2": 20, "b2": 30, "gone": 70, "b3": 1}
    running = list(tokens)
    put_last_who_holds_most(
        running, lambda name: None if name == "gone" else name[0], tokens.__getitem__, {}
    )
    assert running == ["gone", "a1", "a2", "b1", "b2", "b3"]


@pytest.mark.parametrize(
    ("free", "missing", "expected"),
    [
        (5, [0, 0, 40], False),  # a block each, and two for 40 tokens: five
        (4, [0, 0, 40], True),
        (7, [0, 0, 160], False),  # twelve, but the budget of 64 tokens fills four beside three
    ],
)
def test_memory_may_run_out_where_a_step_can_take_more(
    free: int, missing: list[int], expected: bool
) -> None:
    assert may_run_out(free, len(missing), missing, budget=64, size=16) is expected


@pytest.mark.parametrize(("policy", "expected"), [("fcfs", "newest"), ("vtc", "fairest")])
def test_only_the_engines_own_order_preempts_as_the_engine_does(policy: str, expected: str) -> None:
    assert default_preemption(policy) == expected
