"""Whose memory is taken first: cases worked by hand."""

import pytest

from fairlane.core.preemption import default_preemption, held_memory
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


@pytest.mark.parametrize(("policy", "expected"), [("fcfs", "newest"), ("vtc", "fairest")])
def test_only_the_engines_own_order_preempts_as_the_engine_does(policy: str, expected: str) -> None:
    assert default_preemption(policy) == expected
