"""Accounts of clients: totals that stay true, however many clients there were."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.audit import Auditor
from fairlane.core.cost import Cost, LinearCost, QuadraticCost
from fairlane.core.fair_queue import FairQueue
from fairlane.core.types import Outcome, RequestId
from fairlane.door import accounts as module
from fairlane.door.accounts import FORGOTTEN
from fairlane.door.books import Books
from fairlane.policies.registry import create_policy
from tests.driving import req


def fresh(cost: Cost) -> Books:
    now = iter(range(1_000_000))
    return Books(FairQueue(cost=cost), Auditor(cost=cost), cost, lambda: float(next(now)))


def serve(books: Books, request_id: str, client: str, prompt: int, output: int) -> None:
    assert books.arrive(req(request_id, client, prompt)) is None
    books.admit(request_id, 0)
    for _ in range(output):
        books.delivered({request_id: 1})
    books.finish(request_id, Outcome.FINISHED)


@pytest.mark.parametrize("cost", [LinearCost(), QuadraticCost()])
def test_service_is_the_price_of_what_was_delivered(cost: LinearCost | QuadraticCost) -> None:
    books = fresh(cost)
    serve(books, "1", "a", 100, 30)
    books.arrive(req("2", "a", 50))
    books.admit("2", 0)
    books.delivered({"2": 7, "1": 5})  # "1" is over
    row = books.snapshot()["clients"]["a"]
    assert row["service"] == pytest.approx(cost(100, 30) + cost(50, 7), abs=1e-4)
    assert (row["input_tokens"], row["output_tokens"]) == (150, 37)
    assert (row["arrivals"], row["running"], row["finished"]) == (2, 1, 1)


@pytest.mark.parametrize("cost", [LinearCost(1, 2, 0.25), QuadraticCost(cached_price=0.125)])
@pytest.mark.parametrize("moment", ["waiting", "running", "put back", "last"])
def test_what_is_settled_is_as_if_it_had_been_right(cost: Cost, moment: str) -> None:
    """Totals, counters and differences, while it runs and when it is over."""
    seen = []
    for wrong in (False, True):
        books = Books(FairQueue(cost=cost), Auditor(cost=cost), cost, lambda: 0.0)

        def settle_if(now: str, output: int | None, books: Books = books, on: bool = wrong) -> None:
            if on and now == moment:
                books.settle("1", 100, cached_tokens=40, output_tokens=output)

        prompt = 30 if wrong else 100
        for request_id, client, length in (("1", "a", prompt), ("2", "a", 5), ("3", "b", 5)):
            assert books.arrive(req(request_id, client, length)) is None
        settle_if("waiting", None)
        books.admit("1", 0 if wrong and moment != "waiting" else 40)
        books.delivered({"1": 5 if wrong and moment != "waiting" else 3})
        settle_if("running", 3)
        books.put_back("1")
        settle_if("put back", 3)
        books.admit("1", 0)
        books.delivered({"1": 1})
        settle_if("last", 4)
        books.settle("unknown", 7)
        running = books.snapshot()
        books.finish("1", Outcome.FINISHED)
        books.settle("1", 7, output_tokens=0)  # it is over
        seen.append((running["clients"], books.snapshot()["clients"]))
    assert seen[1] == seen[0]
    row = seen[1][1]["a"]
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"]) == (60, 40, 4)
    assert row["service"] == cost.admission(100, 40) + cost.output(100, 0, 4)


def test_the_auditor_counts_what_was_settled() -> None:
    books = fresh(LinearCost())
    for number in range(2):
        books.arrive(req(f"a{number}", "a", 10))
        books.arrive(req(f"b{number}", "b", 10))
    books.admit("a0", 0)
    books.delivered({"a0": 2})
    books.settle("a0", 100, output_tokens=7)
    assert books.snapshot()["observed_difference"] == 100 + 2 * 7
    books.admit("b0", 0)
    books.settle("b0", 300)
    assert books.snapshot()["observed_difference"] == 300
    assert books.snapshot()["policy_errors"] == 0


def test_the_oldest_wait_is_of_who_still_waits() -> None:
    now = 0.0
    books = Books(FairQueue(), Auditor(), LinearCost(), lambda: now)
    for number, client in enumerate("aab"):
        books.arrive(req(str(number), client, 10))
        now += 10.0

    def oldest() -> list[float | None]:
        clients = books.snapshot()["clients"]
        return [clients[name]["oldest_s"] for name in "ab"]

    assert oldest() == [30.0, 10.0]
    books.admit("0", 0)
    books.admit("2", 0)
    assert oldest() == [20.0, None]
    books.put_back("2")
    assert oldest() == [20.0, 10.0]


def test_passing_over_a_request_leaves_no_trace() -> None:
    books = Books(FairQueue(), Auditor(), LinearCost(), lambda: 0.0)
    books.arrive(req("1", "a", 100))
    before = books.snapshot()
    assert books.set_aside("1")
    assert books.peek() is None
    books.take_back("1")
    assert books.snapshot() == before
    assert books.peek() == "1"


def test_the_observed_difference_is_between_clients_that_wait() -> None:
    books = fresh(LinearCost())
    for number in range(2):
        books.arrive(req(f"a{number}", "a", 10))
        books.arrive(req(f"b{number}", "b", 10))
    books.admit("a0", 0)
    for _ in range(20):
        books.delivered({"a0": 1})
    snapshot = books.snapshot()
    assert snapshot["observed_difference"] == 10 + 2 * 20
    assert set(snapshot["between"]) == {"a", "b"}


def test_clients_beyond_the_limit_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ACCOUNTS", 50)
    books = fresh(LinearCost())
    books.arrive(req("live", "stays", 1))
    for number in range(500):
        serve(books, f"{number}", f"client-{number}", 10, 3)
    clients = books.snapshot()["clients"]
    assert len(clients) <= 52
    assert "stays" in clients
    assert FORGOTTEN in clients
    assert sum(row["output_tokens"] for row in clients.values()) == 1500
    assert sum(row["arrivals"] for row in clients.values()) == 501


def test_the_difference_is_that_of_an_auditor_that_hears_everything_at_once() -> None:
    """Requests that end, and come again by the same name, between two reports to the auditor."""
    books, auditor = fresh(LinearCost()), Auditor()
    policy = FairQueue()
    policy.watch(auditor)
    for books_id in ("a0", "a1", "a2", "b0", "b1"):
        request = req(books_id, books_id[0], 10)
        books.arrive(request)
        policy.enqueue(request, 0)
    for output in (5, 3):
        books.admit("a0", 0)
        policy.admit("a0", 0)
        books.delivered({"a0": output})
        policy.record_tokens({"a0": output}, 0)
        books.finish("a0", Outcome.FINISHED)
        policy.finish("a0", 0)
        books.arrive(req("a0", "a", 10))
        policy.enqueue(req("a0", "a", 10), 0)
    assert books.snapshot()["observed_difference"] == auditor.report().observed == 36.0
    books.finish("b0", Outcome.ABORTED)
    books.finish("b1", Outcome.ABORTED)  # b waits no more: what follows does not count
    books.admit("a0", 0)
    books.delivered({"a0": 50})
    assert books.snapshot()["observed_difference"] == 36.0


def test_an_auditor_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Auditor):
        def admit(self, request_id: RequestId, *, cached_tokens: int = 0) -> None:
            raise RuntimeError("lost count")

    now = iter(range(1_000_000))
    books = Books(FairQueue(), Broken(), LinearCost(), lambda: float(next(now)))
    serve(books, "1", "a", 10, 3)
    serve(books, "2", "b", 10, 3)
    snapshot = books.snapshot()
    assert snapshot["clients"]["b"]["output_tokens"] == 3
    assert snapshot["policy_errors"] == 0
    assert len(caplog.records) == 1


# -- another policy takes over ----------------------------------------------------------------

EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50), st.integers(0, 4)))


@given(
    events=EVENTS,
    names=st.tuples(*[st.sampled_from(["fcfs", "vtc", "round-robin", "drr", "lcf"])] * 2),
)
def test_another_policy_takes_over_all_who_wait_and_run(
    events: list[tuple[str, int, int]], names: tuple[str, str]
) -> None:
    """Whoever waited is served, nobody twice; totals go on as if nothing had happened."""
    books = Books(create_policy(names[0]), Auditor(), LinearCost(), lambda: 0.0)
    waiting, running = set(), []
    for number, (client, prompt, tokens) in enumerate(events):
        assert books.arrive(req(f"r{number}", client, prompt)) is None
        waiting.add(f"r{number}")
        if tokens and (head := books.peek()) is not None:
            books.admit(head, 0)
            waiting.discard(head)
            running.append(head)
            books.delivered({head: tokens})
    before = totals(books)
    books.change_policy(create_policy(names[1]), Auditor(), {})
    assert totals(books) == before
    served = []
    while (head := books.peek()) is not None:
        books.admit(head, 0)
        served.append(head)
    assert (set(served), len(served)) == (waiting, len(waiting))
    for request_id in [*running, *served]:
        books.finish(request_id, Outcome.FINISHED)
    after = books.snapshot()
    assert (after["policy_errors"], books.failed) == (0, [])
    rows = after["clients"].values()
    assert sum(row["finished"] for row in rows) == len(events)
    assert sum(row["input_tokens"] for row in rows) == sum(prompt for _, prompt, _ in events)


def totals(books: Books) -> dict[str, Any]:
    """All that is told of clients, but for what the policy tells, and what grows by itself."""
    clients = books.snapshot()["clients"]
    left_out = ("counter", "weight", "oldest_s")
    return {
        name: {key: value for key, value in row.items() if key not in left_out}
        for name, row in clients.items()
    }


def test_who_was_ahead_in_order_of_arrival_is_not_under_vtc() -> None:
    books = Books(create_policy("fcfs"), Auditor(), LinearCost(), lambda: 0.0)
    for number in range(9):
        books.arrive(req(f"flood{number}", "flood", 10))
    books.arrive(req("light", "light", 10))
    books.admit("flood0", 0)
    books.delivered({"flood0": 3})
    assert books.peek() == "flood1"
    books.change_policy(create_policy("vtc"), Auditor(), {"flood": 2.0})
    assert books.peek() == "light"
    row = books.snapshot()["clients"]["flood"]
    assert (row["counter"], row["weight"]) == ((10 + 2 * 3) / 2, 2.0)


def test_whom_another_policy_turns_away_fails() -> None:
    books = Books(create_policy("fcfs"), Auditor(), LinearCost(), lambda: 0.0)
    for number in range(4):
        books.arrive(req(f"r{number}", "a", 10))
    books.change_policy(create_policy("rpm", rate_limit=3), Auditor(), {})
    assert books.failed == ["r3"]
