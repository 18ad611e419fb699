"""What books tell of usage, take after take, is all that they count, and once."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.audit import Auditor
from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.core.fair_queue import FairQueue
from fairlane.core.types import Outcome
from fairlane.door import accounts as module
from fairlane.door.accounts import FORGOTTEN
from fairlane.door.books import Books
from fairlane.policies.rpm import rpm
from fairlane.usage.rows import FIELDS
from fairlane.usage.tally import Grown
from tests.driving import req

CLIENTS, MODELS = ("a", "b", "c"), ("small", "large")
EVENTS = st.tuples(
    st.sampled_from(
        ["arrive", "admit", "deliver", "settle", "put back", "finish", "next turn", "take"]
    ),
    st.integers(0, 5),
    st.integers(0, 50),
)


def happen(books: Books, what: str, request_id: str, number: int) -> None:
    """One event of a request, where it may have one."""
    live = request_id in books
    if what == "arrive" and not live:
        client = CLIENTS[number % len(CLIENTS)]
        books.arrive(req(request_id, client, number), MODELS[number % len(MODELS)])
    elif what == "admit" and books.peek() is not None:
        books.admit(str(books.peek()), number)
    elif what == "deliver" and live:
        books.delivered({request_id: number + 1})
    elif what == "settle" and live:
        books.settle(request_id, number, cached_tokens=number // 2, output_tokens=number // 3)
    elif what == "put back" and live:
        books.put_back(request_id)
    elif what == "finish":
        books.finish(request_id, Outcome.FINISHED)
    elif what == "next turn":
        books.next_turn(request_id, number)


def added(taken: list[Grown]) -> dict[str, dict[str, float]]:
    """By client, over models and takes."""
    sums: dict[str, dict[str, float]] = {}
    for grown in taken:
        for (client, _), numbers in grown.used.items():
            row = sums.setdefault(client, dict.fromkeys(FIELDS, 0.0))
            for name, number in zip(FIELDS, numbers, strict=True):
                row[name] += number
    return sums


def told(books: Books) -> dict[str, dict[str, float]]:
    """The same of a snapshot."""
    found = {}
    for client, row in books.snapshot()["clients"].items():
        queued = row["arrivals"] - sum(row["rejected"].values())
        found[client] = {name: row[name] for name in FIELDS if name != "requests"}
        found[client]["requests"] = queued
    return found


@pytest.mark.parametrize("cost", [LinearCost(1, 2, 0.25), QuadraticCost(cached_price=0.125)])
@given(events=st.lists(EVENTS, max_size=60))
def test_all_takes_together_are_what_is_counted(
    cost: LinearCost | QuadraticCost, events: list[tuple[str, int, int]]
) -> None:
    now = iter(range(1_000_000))
    policy: Any = rpm(rate_limit=4, window_s=20.0)
    books = Books(policy, Auditor(cost=cost), cost, lambda: float(next(now)))
    books.take_usage()
    taken = []
    for what, number, size in events:
        if what == "take":
            taken.append(books.take_usage())
        else:
            happen(books, what, f"r{number}", size)
    taken.append(books.take_usage())
    expected, sums = told(books), added(taken)
    assert {c for c, row in expected.items() if any(row.values())} == {
        c for c, row in sums.items() if any(row.values())
    }
    for client, row in sums.items():
        assert row == pytest.approx(expected[client], abs=1e-6)
    refused: Counter[str] = Counter()
    for grown in taken:
        for (client, _, _), count in grown.refused.items():
            refused[client] += count
    counted = {c: sum(r["rejected"].values()) for c, r in books.snapshot()["clients"].items()}
    assert refused == {client: count for client, count in counted.items() if count}
    again = books.take_usage()
    assert not any(any(numbers) for numbers in again.used.values())
    assert not again.refused


def fresh() -> Books:
    cost = LinearCost()
    return Books(FairQueue(cost=cost), Auditor(cost=cost), cost, lambda: 0.0)


def test_a_long_answer_counts_as_it_flows_under_its_model() -> None:
    books = fresh()
    books.take_usage()
    for name in ("small", "large"):
        books.arrive(req(name, "a", 10), name)
        books.admit(name, 4)
    for _ in range(3):
        books.delivered({"small": 5})
        grown = books.take_usage()
        assert grown.used["a", "small"][3] == 5
    assert ("a", "large") not in grown.used


def test_whoever_does_not_take_makes_nothing_grow() -> None:
    books = fresh()
    for number in range(100):
        books.arrive(req(str(number), f"c{number}", 10), "m")
        books.finish(str(number), Outcome.ABORTED)
    assert books.take_usage() == Grown()
    books.arrive(req("x", "a", 10), "m")
    assert books.take_usage().used == {("a", "m"): [1, 0, 0, 0, 0.0, 0.0]}


def test_what_is_not_taken_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ACCOUNTS", 50)
    books = fresh()
    books.take_usage()
    for number in range(500):
        books.arrive(req(str(number), f"c{number}", 10), "m")
        books.finish(str(number), Outcome.FINISHED)
    grown = books.take_usage()
    assert len(grown.used) <= 51
    assert sum(numbers[0] for numbers in grown.used.values()) == 500
    assert (FORGOTTEN, "m") in grown.used
