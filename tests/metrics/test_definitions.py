"""The array metrics equal plain loops over the same definitions, on any run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane import metrics
from fairlane.core.cost import QuadraticCost
from fairlane.metrics import Table
from fairlane.records import RequestRecord, read_run
from tests.metrics import obvious

X = np.array([0.0, 10.0, 28.5, 57.0, 300.0])


@st.composite
def requests(draw: st.DrawFn) -> RequestRecord:
    seconds = st.floats(0, 120).map(lambda s: round(s, 3))
    finished = draw(st.booleans())
    ttft = draw(seconds)
    return RequestRecord(
        id=0,
        client=draw(st.sampled_from(["0", "1", "10", "2"])),
        arrival_s=draw(seconds),
        prompt_len=draw(st.integers(1, 1000)),
        output_len=draw(st.integers(1, 1000)),
        ttft_s=ttft if finished else None,
        latency_s=ttft + draw(seconds) + 0.001 if finished else None,
        outcome="finished" if finished else "aborted",
    )


runs = st.lists(requests(), min_size=1, max_size=12)


def assert_as_obvious(records: list[RequestRecord], x: np.ndarray) -> None:
    table = Table.from_records(records)
    clients = obvious.by_client(records)
    assert table.clients == tuple(of_client[0].client for of_client in clients)

    def per_client(function: Callable[..., float | None]) -> np.ndarray:
        return np.array([[function(c, at) for c in clients] for at in x], dtype=np.float64)

    def close(ours: np.ndarray, theirs: np.ndarray | list[float]) -> None:
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-6)

    h = QuadraticCost()
    close(metrics.service(table, x), per_client(obvious.service))
    close(metrics.demand(table, x), per_client(obvious.demand))
    close(metrics.response_time(table, x), per_client(obvious.response_time))
    close(
        metrics.throughput(table, x),
        per_client(lambda c, at: obvious.service(c, at, lambda _p, o: o)),
    )
    close(metrics.accumulated(table, x), per_client(obvious.accumulated))
    for begin, skip in ((0.0, 0.0), (30.0, 0.0), (0.0, 120.0)):
        close(
            metrics.accumulated_difference(table, x, begin=begin, skip=skip),
            [obvious.accumulated_difference(records, at, begin, skip) for at in x],
        )
    close(
        metrics.largest_difference(table, x), [obvious.largest_difference(records, at) for at in x]
    )
    for cost in (obvious.linear, h):
        close(
            metrics.summed_difference(table, x, cost=cost),
            [obvious.summed_difference(records, at, cost) for at in x],
        )


@given(records=runs)
def test_on_any_run(records: list[RequestRecord]) -> None:
    assert_as_obvious(records, X)


@pytest.mark.parametrize("name", ["VTC/all_results_proportional", "LShare/rpm10/all_results_real"])
def test_on_measured_runs(reference_dir: Path, name: str) -> None:
    run = read_run(reference_dir / "measured" / f"{name}.jsonl")
    assert_as_obvious(run.records, np.array([15.0, 330.0]))


@given(records=runs)
def test_windows_that_tile_time_hold_all_service(records: list[RequestRecord]) -> None:
    table = Table.from_records(records)
    edges = np.arange(0.0, 421.0, 60.0)  # the last of these requests ends before 360.001 s
    total = metrics.delivered_between(table, edges[:-1], edges[1:]).sum()
    paid = sum(obvious.linear(r.prompt_len, r.output_len) for r in records if r.ttft_s is not None)
    assert total == pytest.approx(paid)


@given(records=runs)
def test_aborted_requests_are_left_out_with_their_clients(records: list[RequestRecord]) -> None:
    kept = [r for r in records if r.outcome == "finished"]
    left = Table.from_records(records).without_aborted()
    if not kept:
        assert left.clients == ()
        assert metrics.revision_table(left, 1.0).max == 0.0
        assert metrics.accumulated_difference(left, X).tolist() == [0.0] * len(X)
        return
    direct = Table.from_records(kept)
    assert left.clients == direct.clients
    np.testing.assert_array_equal(metrics.service(left, X), metrics.service(direct, X))
    np.testing.assert_array_equal(metrics.demand(left, X), metrics.demand(direct, X))
