"""Gates: the edges of the rate limiter's window."""

import pytest

from fairlane.core.limits import RequestRate
from fairlane.core.types import Rejection
from tests.driving import req


def offer(gate: RequestRate, client: str, now: float) -> Rejection | None:
    """A request at the gate, as a policy would hand it in."""
    request = req(now, client)
    rejection = gate.check(request, now)
    if rejection is None:
        gate.accepted(request, now)
    return rejection


def test_arrivals_exactly_a_window_old_still_count() -> None:
    gate = RequestRate(2)
    assert offer(gate, "a", 0.0) is None
    assert offer(gate, "a", 10.0) is None
    assert offer(gate, "a", 60.0) is not None  # 60 s old counts
    assert offer(gate, "a", 60.0001) is None  # the first has left the window
    assert offer(gate, "a", 70.0) is not None


def test_rejected_arrivals_do_not_count() -> None:
    gate = RequestRate(1)
    assert offer(gate, "a", 0.0) is None
    for second in range(1, 60):
        assert offer(gate, "a", float(second)) is not None
    assert offer(gate, "a", 60.5) is None


def test_clients_have_windows_of_their_own() -> None:
    gate = RequestRate(1)
    assert offer(gate, "a", 0.0) is None
    assert offer(gate, "b", 0.0) is None
    assert offer(gate, "a", 1.0) is not None


@pytest.mark.parametrize("arrival", [0.0, 0.1, 12345.678])
def test_a_client_that_waits_as_long_as_told_is_let_in(arrival: float) -> None:
    gate = RequestRate(1)
    offer(gate, "a", arrival)
    rejection = offer(gate, "a", arrival + 17.3)
    assert rejection is not None
    assert rejection.reason == "rate_limit"
    assert rejection.retry_after_s is not None
    assert rejection.retry_after_s == pytest.approx(60 - 17.3, abs=0.01)
    assert offer(gate, "a", arrival + 17.3 + rejection.retry_after_s) is None


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rate_limit must be greater than or equal to 1"):
        RequestRate(0)


def test_the_limiter_remembers_no_client_beyond_the_window() -> None:
    """However many names turn up once, only those of the past minute take memory."""
    gate = RequestRate(5)
    for second in range(10_000):
        offer(gate, f"client {second}", float(second))
    assert len(gate._by_client) == len(gate._accepted) == 61
