"""Service is compared over the time that two clients wait, and only then."""

import pytest

from fairlane.metrics import Table, backlogged_difference
from fairlane.records import RequestRecord


def request(client: str, arrival: float, first: float, end: float, output: int) -> RequestRecord:
    return RequestRecord(f"{client}{arrival}", client, arrival, 0, output, first, end)


def difference(*requests: RequestRecord) -> float:
    return backlogged_difference(Table.from_records(requests))


def test_counts_only_while_both_wait() -> None:
    # each waits for its second request while its first is served: a in [0, 10], b in [5, 12]
    waiting = (request("a", 0.0, 10.0, 10.0, 0), request("b", 5.0, 7.0, 7.0, 0))
    served = (request("a", 0.0, 0.0, 10.0, 50), request("b", 0.0, 0.0, 20.0, 20))
    # both wait in [5, 12]∩[0, 10]: a gets 10 a second, b gets 2 a second
    assert difference(*waiting, *served) == pytest.approx((10 - 2) * 5)


def test_the_largest_of_all_intervals_counts_whoever_is_ahead() -> None:
    waiting = (request("a", 0.0, 10.0, 10.0, 0), request("b", 0.0, 10.0, 10.0, 0))
    # a gets 40 in [0, 4], then b gets 60 in [4, 10]: b gains 60 on a in the second interval
    served = (request("a", 0.0, 0.0, 4.0, 20), request("b", 0.0, 4.0, 6.0, 30))
    assert difference(*waiting, *served) == pytest.approx(60)


def test_clients_that_never_wait_together_are_not_compared() -> None:
    assert difference(request("a", 0.0, 1.0, 2.0, 5), request("b", 3.0, 4.0, 9.0, 500)) == 0.0
    assert difference(request("a", 0.0, 1.0, 2.0, 5)) == 0.0
