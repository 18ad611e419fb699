"""Shares while waiting, entitlements, slowdowns: by hand, and on what was measured."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane import metrics
from fairlane.metrics import Table
from fairlane.records import RequestRecord, read_run


def request(
    client: str, arrival: float, start: float, end: float, cost: int = 30, id: int = 0
) -> RequestRecord:
    """A request worth `cost`: one prompt token fewer than that minus two per output token."""
    return RequestRecord(
        id, client, arrival, cost - 2, 1, ttft_s=start - arrival, latency_s=end - arrival
    )


def shares(*records: RequestRecord, **weights: float) -> dict[str, tuple[float, float]]:
    found = metrics.shares_while_waiting(Table.from_records(records), weights=weights or None)
    return {client: (round(s.received, 9), round(s.entitled, 9)) for client, s in found.items()}


def test_a_client_alone_gets_everything() -> None:
    found = shares(request("a", 0, 10, 40), request("a", 5, 40, 60))
    # it waits from 0 to 40, in which only its own first request is served
    assert found == {"a": (1.0, 1.0)}


def test_share_counts_only_while_the_client_waits() -> None:
    found = shares(
        request("a", 0, 0, 30, cost=30),  # 1 a second until 30
        request("b", 10, 20, 50, cost=60),  # waits 10..20; then 2 a second until 50
        request("a", 15, 40, 60, cost=20),  # waits 15..40
    )
    # b's wait: 10 of a's first request, nothing of its own; alone until 15, then beside a
    assert found["b"] == (0.0, (5 + 5 / 2) / 10)
    # a's wait: 15 of its own and 40 of b's; beside b until 20
    assert found["a"] == (round(15 / 55, 9), round((5 / 2 + 50) / 55, 9))


def test_weights_entitle() -> None:
    records = (
        request("a", 0, 0, 40),
        request("a", 0, 40, 60),
        request("b", 0, 0, 40),
        request("b", 0, 40, 60),
    )
    assert shares(*records) == {"a": (0.5, 0.5), "b": (0.5, 0.5)}
    assert shares(*records, b=3.0) == {"a": (0.5, 0.25), "b": (0.5, 0.75)}


def test_a_client_that_never_waited_has_no_share() -> None:
    found = metrics.shares_while_waiting(
        Table.from_records([request("a", 5, 5, 10), request("b", 0, 5, 10)])
    )
    assert math.isnan(found["a"].received)
    assert math.isnan(found["b"].received)  # waited while nothing was served


def test_waiting_while_nothing_is_served_is_no_share() -> None:
    # three clients' rates that do not add up to exactly 0 once all are gone
    busy = [request(c, 0, 0, end) for c, end in (("a", 0.1), ("b", 0.3), ("c", 0.7))]
    found = metrics.shares_while_waiting(Table.from_records([*busy, request("d", 2, 5, 10)]))
    assert math.isnan(found["d"].received)
    assert math.isnan(found["d"].entitled)


def test_single_tokens_are_served_at_once() -> None:
    # a waits from 0 to 20; in it fall b's single token at 10, and its own at 20
    found = shares(request("a", 0, 20, 20, cost=30), request("b", 0, 10, 10, cost=60))
    assert found["a"] == (round(30 / 90, 9), round((60 / 2 + 30) / 90, 9))


@given(st.data())
def test_parts_stay_parts(data: st.DataObject) -> None:
    times = st.integers(0, 50)
    records = []
    for _ in range(data.draw(st.integers(1, 8))):
        a, b, c = sorted((data.draw(times), data.draw(times), data.draw(times)))
        records.append(request(data.draw(st.sampled_from("abc")), a, b, c))
    weights = {"a": 0.1, "b": 0.7}
    for share in metrics.shares_while_waiting(
        Table.from_records(records), weights=weights
    ).values():
        if not math.isnan(share.received):
            assert -1e-9 <= share.received <= 1 + 1e-9
            assert 0 < share.entitled <= 1 + 1e-9


def test_fair_and_unfair_schedulers_differ_where_both_clients_overload(reference_dir: Path) -> None:
    def received(scheduler: str) -> metrics.Share:
        run = read_run(reference_dir / "measured" / scheduler / "all_results_overload.jsonl")
        return metrics.shares_while_waiting(Table.from_records(run.records))["0"]

    assert received("VTC").received == pytest.approx(received("VTC").entitled, abs=0.01)
    assert received("FCFS").received == pytest.approx(1 / 3, abs=0.01)  # its part of the load
    assert received("FCFS").entitled == pytest.approx(1 / 2, abs=0.01)


def test_slowdown_is_latency_over_latency_alone() -> None:
    ran = [request("a", 0, 1, 10, id=1), request("a", 0, 1, 30, id=2), request("b", 0, 1, 4, id=3)]
    ran.append(RequestRecord(4, "b", 0, 1, 1, outcome="rejected"))
    alone = [request("a", 0, 1, 5, id=1), request("a", 0, 1, 10, id=2), request("b", 0, 1, 4, id=3)]
    found = metrics.slowdown(ran, alone)
    assert found["a"] == pytest.approx((2.5, 2.5, 2.9, 2.99))
    assert found["b"] == (1, 1, 1, 1)


def test_slowdown_of_requests_that_finished_in_one_run_only() -> None:
    found = metrics.slowdown([request("a", 0, 1, 10, id=1)], [RequestRecord(1, "a", 0, 1, 1)])
    assert math.isnan(found["a"].mean)


def test_summary_of_a_client() -> None:
    turned_away = RequestRecord(9, "a", 50, 5, 5, outcome="rejected")
    records = [RequestRecord(1, "a", 0, 10, 11, ttft_s=2, latency_s=12), turned_away]
    (summary,) = metrics.summarise(records, alone=[request("a", 0, 1, 6, id=1)])
    assert (summary.client, summary.requests, summary.aborted) == ("a", 2, 1)
    assert summary.service == 10 + 2 * 11
    assert summary.ttft == (2, 2, 2, 2)
    assert summary.tpot == (1, 1, 1, 1)
    assert summary.latency.mean == 12
    assert summary.slowdown == (2, 2, 2, 2)
    (plain,) = metrics.summarise(records, cost=lambda p, o: np.asarray(p * o))
    assert plain.service == 110
    assert plain.slowdown is None
