"""What is kept of the past: true, and bounded however many clients come."""

import tracemalloc
from typing import Any

from fairlane.dashboard.history import History


def rows(**rates: float) -> dict[str, dict[str, Any]]:
    """Rows of clients with these rates."""
    return {
        name: {
            "rate": rate, "share": 0.5, "queued": 1 if rate else 0, "running": 2 if rate else 0,
            "ttft_p50": None, "ttft_p99": 0.25 if rate else None, "parent": None,
        }
        for name, rate in rates.items()
    }  # fmt: skip


def test_what_was_seen_is_told_in_order() -> None:
    history = History(points=4, most=3)
    for t in range(6):
        history.add(float(t), rows(a=float(t), b=1.0), now=2.0 * t, bound=None if t < 5 else 9.0)
    whole = history.most_served(1)
    assert whole["t"] == [2.0, 3.0, 4.0, 5.0]
    assert whole["total"] == [3.0, 4.0, 5.0, 6.0]
    assert whole["now"] == [4.0, 6.0, 8.0, 10.0]
    assert whole["bound"] == [None, None, None, 9.0]
    assert whole["clients"] == {"a": [2.0, 3.0, 4.0, 5.0]}
    one = history.of("a")
    assert (one["rate"], one["queued"], one["ttft_p99"]) == (
        [2.0, 3.0, 4.0, 5.0], [1.0] * 4, [0.25] * 4,
    )  # fmt: skip
    assert one["ttft_p50"] == [None] * 4
    assert history.of("nobody")["rate"] == [None] * 4


def test_a_place_goes_to_who_is_active() -> None:
    history = History(points=3, most=2)
    history.add(0.0, rows(a=1.0, b=1.0, c=0.0), None, None)
    history.add(1.0, rows(a=1.0, b=0.0, c=1.0), None, None)
    history.add(2.0, rows(a=1.0, c=1.0, d=1.0), None, None)  # no place for d
    assert history.most_served(9)["clients"].keys() == {"a", "c"}
    assert history.of("c")["rate"] == [None, 1.0, 1.0]
    assert history.of("b")["rate"] == [None] * 3


def test_memory_is_bounded_with_a_thousand_tenants_and_a_flood_of_names() -> None:
    history = History(points=600, most=1000)
    tracemalloc.start()
    try:
        for t in range(4):
            names = {f"c{t}-{i}": 1.0 for i in range(3000)}
            history.add(float(t), rows(**names), None, None)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 20e6
    assert history._data.nbytes < 15e6
    assert len(history.most_served(10**6)["clients"]) == 1000
    assert history.of("c3-0")["rate"][-1] == 1.0
