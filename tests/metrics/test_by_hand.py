"""Small runs whose metrics follow from a sheet of paper."""

import math

import numpy as np
import pytest

from fairlane import metrics
from fairlane.core.errors import FairlaneError
from fairlane.metrics import Table
from fairlane.records import RequestRecord, Run

# "a" gets 30 units of cost from 10 to 40 s: 1 per second. "b" gets 120 from 20 to 40 s: 6 per
# second, and has a second request turned away.
A = RequestRecord(1, "a", arrival_s=0, prompt_len=10, output_len=10, ttft_s=10, latency_s=40)
B = RequestRecord(2, "b", arrival_s=15, prompt_len=40, output_len=40, ttft_s=5, latency_s=25)
TURNED_AWAY = RequestRecord(3, "b", 100, prompt_len=5, output_len=5, outcome="rejected")
TABLE = Table.from_records([TURNED_AWAY, B, A])


def at(*x: float) -> np.ndarray:
    return np.array(x, dtype=np.float64)


def test_service_is_what_falls_into_the_window() -> None:
    service = metrics.service(TABLE, at(0, 30, 70))  # windows -30..30, 0..60, 40..100
    assert service * 60 == pytest.approx(np.array([[20, 60], [30, 120], [0, 0]]))
    short = metrics.service(TABLE, at(15), window=10)  # 10..20
    assert short == pytest.approx(np.array([[1, 0]]))


def test_throughput_counts_output_tokens() -> None:
    assert metrics.throughput(TABLE, at(30)) * 60 == pytest.approx(np.array([[10, 40]]))


def test_demand_counts_arrivals_the_rejected_too() -> None:
    assert metrics.demand(TABLE, at(0, 30, 75)) * 60 == pytest.approx(
        np.array([[30, 120], [30, 120], [0, 15]])
    )


def test_response_time_belongs_to_the_first_token() -> None:
    response_time = metrics.response_time(TABLE, at(0, 45))
    assert response_time[0].tolist() == [10.0, 5.0]
    assert math.isnan(response_time[1, 0])  # a's came at 10 s, before 15..75
    assert response_time[1, 1] == 5.0


def test_accumulated_difference_grows_with_unequal_service() -> None:
    difference = metrics.accumulated_difference(TABLE, at(10, 20, 30, 40, 500))
    assert difference.tolist() == pytest.approx([0, 10, 40, 90, 90])
    # from 30 s on: 10 against 60
    assert metrics.accumulated_difference(TABLE, at(10), begin=30).tolist() == pytest.approx([50])
    # nothing ends after 41 s
    assert metrics.accumulated_difference(TABLE, at(40), skip=41).tolist() == [0.0]


def test_lacks_are_capped_by_what_was_asked() -> None:
    # at 30: served 0.5 and 2 a second, asked 0.5 and 2: nobody lacks anything
    assert metrics.largest_difference(TABLE, at(30)).tolist() == pytest.approx([0])
    # at 60 (30..90): a was served 10/60, b 60/60, neither asked: a "lacks" min(50, -10) / 60 ...
    assert metrics.largest_difference(TABLE, at(60)).tolist() == pytest.approx([-10 / 60])
    # ... and by its distance min(50, 10) / 60; b is the best served
    assert metrics.summed_difference(TABLE, at(60)).tolist() == pytest.approx([10 / 60])


def test_a_single_token_is_delivered_at_its_instant() -> None:
    table = Table.from_records(
        [RequestRecord(1, "a", 0, prompt_len=8, output_len=1, ttft_s=5, latency_s=5)]
    )
    assert metrics.accumulated(table, at(4.9, 5, 60)).tolist() == [[0.0], [10.0], [10.0]]
    assert metrics.service(table, at(36)).tolist() == [[0.0]]
    assert math.isnan(metrics.time_per_output_token(table).mean)


def test_ticks_leave_the_end_out() -> None:
    assert metrics.ticks(100, 4).tolist() == [0, 25, 50, 75]
    assert metrics.ticks(100, 4, skip_zero=True).tolist() == [25, 50, 75]


def test_latencies_leave_out_what_did_not_finish() -> None:
    assert metrics.first_token_latency(TABLE) == pytest.approx((7.5, 7.5, 9.5, 9.95))
    assert metrics.request_latency(TABLE, "b") == (25, 25, 25, 25)
    assert metrics.time_per_output_token(TABLE, "a").mean == pytest.approx(30 / 9)


def test_clients_are_sorted_as_strings() -> None:
    records = [RequestRecord(i, str(i), 0, 1, 1) for i in (2, 10, 1)]
    assert Table.from_records(records).clients == ("1", "10", "2")


def test_shown_clients_are_the_middle_two_and_the_heaviest_two() -> None:
    counts = {"a": 5, "b": 1, "c": 3, "d": 3, "e": 9, "f": 2}
    records = [RequestRecord(0, c, 0, 1, 1) for c, n in counts.items() for _ in range(n)]
    # ranked: b f c d a e
    assert metrics.shown_clients(Table.from_records(records)) == ["c", "d", "a", "e"]
    assert metrics.shown_clients(Table.from_records(records[:1])) == ["a"]


def test_headline_of_a_small_run() -> None:
    headline = metrics.headline(Run({}, [A, B, TURNED_AWAY], total_time_s=50.0))
    assert headline["total_time"] == 50.0
    assert headline["throughput"] == pytest.approx((20 + 80) / 50)
    assert headline["mean_first_token_latency"] == pytest.approx(7.5)
    assert headline["mean_request_latency"] == pytest.approx(32.5)
    # sampled every 5 s until the last arrival at 100 s
    assert headline["max_accumulated_service_difference"] == pytest.approx(90)
    assert headline["aborted"] == 1


def test_a_run_without_requests_has_no_metrics() -> None:
    with pytest.raises(FairlaneError, match="holds no requests"):
        metrics.headline(Run({}, []))


def test_tokens_of_cancelled_requests_count_as_delivered() -> None:
    cancelled = RequestRecord(1, "a", 0, 10, 10, ttft_s=10, latency_s=40, outcome="aborted")
    table = Table.from_records([cancelled])
    assert metrics.accumulated(table, at(40)).tolist() == [[30.0]]
    assert table.aborted.tolist() == [True]
    assert math.isnan(metrics.request_latency(table).mean)
