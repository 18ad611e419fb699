"""Rate limits, on a clock that the tests move."""

import pytest

from fairlane.core.types import Rejection
from fairlane.engines.limits import RateLimits, duration, retry_after
from fairlane.engines.tenants import Limits


def rates(**limits: Limits) -> RateLimits:
    by_path = {name.replace("__", "/"): limit for name, limit in limits.items()}
    return RateLimits(by_path.get)


def test_a_minutes_worth_may_come_at_once_and_then_evenly() -> None:
    limits = rates(a=Limits(requests_per_minute=60))
    assert [limits.arrive("a", 0.0) for _ in range(60)] == [None] * 60
    assert limits.arrive("a", 0.0) == Rejection("requests_per_minute", 1.0)
    assert limits.arrive("a", 1.0) is None
    assert limits.arrive("a", 1.5) == Rejection("requests_per_minute", 0.5)


def test_retry_after_is_long_enough_and_no_longer() -> None:
    limits = rates(a=Limits(requests_per_minute=7))
    while limits.arrive("a", 100.0) is None:
        pass
    rejection = limits.arrive("a", 100.0)
    assert rejection is not None
    assert rejection.retry_after_s is not None
    assert limits.arrive("a", 100.0 + rejection.retry_after_s - 0.01) is not None
    assert limits.arrive("a", 100.0 + rejection.retry_after_s) is None


def test_what_is_turned_away_is_not_counted() -> None:
    limits = rates(a=Limits(requests_per_minute=1))
    assert limits.arrive("a", 0.0) is None
    for second in range(1, 60):
        assert limits.arrive("a", float(second)) is not None
    assert limits.arrive("a", 60.0) is None


def test_tokens_may_leave_a_debt_that_is_worked_off_first() -> None:
    limits = rates(a=Limits(tokens_per_minute=600))
    assert limits.arrive("a", 0.0) is None
    limits.take_tokens("a", 1200, 0.0)
    rejection = limits.arrive("a", 0.0)
    assert rejection is not None
    assert rejection.reason == "tokens_per_minute"
    assert rejection.retry_after_s == pytest.approx(60.1)
    assert limits.arrive("a", 60.0) is not None
    assert limits.arrive("a", 60.2) is None


def test_a_limit_of_one_client_is_not_anothers() -> None:
    limits = rates(a=Limits(requests_per_minute=1), b=Limits(requests_per_minute=1))
    assert limits.arrive("a", 0.0) is None
    assert limits.arrive("a", 0.0) is not None
    assert limits.arrive("b", 0.0) is None
    assert limits.arrive("nobody", 0.0) is None
    assert limits.headers("nobody", 0.0) == {}


def test_members_share_the_limit_of_their_group() -> None:
    limits = rates(org=Limits(requests_per_minute=2), org__a=Limits(requests_per_minute=2))
    assert limits.arrive("org/a", 0.0) is None
    assert limits.arrive("org/b", 0.0) is None
    assert limits.arrive("org/a", 0.0) == Rejection("requests_per_minute", 30.0)
    assert limits.headers("org/a", 0.0)["x-ratelimit-remaining-requests"] == "0"


def test_a_new_limit_holds_at_once_and_what_was_used_stays_used() -> None:
    now = {"a": Limits(requests_per_minute=10)}
    limits = RateLimits(lambda path: now.get(path))
    for _ in range(8):
        assert limits.arrive("a", 0.0) is None
    now["a"] = Limits(requests_per_minute=4)
    assert limits.arrive("a", 0.0) is not None
    now["a"] = Limits(requests_per_minute=9)
    assert limits.arrive("a", 0.0) is None
    assert limits.arrive("a", 0.0) is not None
    del now["a"]
    assert limits.arrive("a", 0.0) is None


def test_headers_are_openais() -> None:
    limits = rates(a=Limits(requests_per_minute=60, tokens_per_minute=6000))
    limits.arrive("a", 0.0)
    limits.take_tokens("a", 750, 0.0)
    assert limits.headers("a", 0.0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5250",
        "x-ratelimit-reset-tokens": "7.5s",
    }


def test_memory_is_bounded_by_who_used_something_lately() -> None:
    limits = RateLimits(lambda path: Limits(requests_per_minute=1))
    for i in range(100_000):
        assert limits.arrive(f"client {i}", i * 0.1) is None
    assert len(limits) < 3_000


def test_a_clock_that_stands_or_jumps_back_gives_nothing_away() -> None:
    limits = rates(a=Limits(requests_per_minute=1))
    assert limits.arrive("a", 100.0) is None
    assert limits.arrive("a", 40.0) is not None
    assert limits.arrive("a", 100.0) is not None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.1201, "121ms"),
        (1, "1s"),
        (7.5, "7.5s"),
        (59.999, "1m0s"),
        (360, "6m0s"),
        (3600.2, "1h0m1s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_retry_after_is_whole_seconds() -> None:
    assert retry_after(Rejection("x", 0.2)) == "1"
    assert retry_after(Rejection("x", 2.001)) == "3"
    assert retry_after(Rejection("x")) == "1"


def test_servers_that_share_a_limit_let_in_no_more_than_it_together() -> None:
    everyone = {"a": Limits(requests_per_minute=600, tokens_per_minute=60)}
    servers = [RateLimits(everyone.get, servers=4) for _ in range(4)]
    let_in = [0, 0]
    for minute in range(2):  # what comes at once, and then in a minute
        for tick in range(6000):
            now = minute * 60 * (tick + 1) / 6000
            let_in[minute] += sum(server.arrive("a", now) is None for server in servers)
    assert let_in == [600, 600]
    assert servers[0].headers("a", 60.0)["x-ratelimit-limit-requests"] == "150"
    servers[0].take_tokens("a", 30, 60.0)  # a minute's part is 15
    rejection = servers[0].arrive("a", 60.0)
    assert rejection is not None
    assert rejection.retry_after_s == pytest.approx((15 + 1) * 4)


def test_a_part_of_less_than_one_request_is_still_one_after_a_while() -> None:
    limits = RateLimits({"a": Limits(requests_per_minute=2)}.get, servers=4)
    assert limits.arrive("a", 0.0) is None
    assert limits.arrive("a", 0.0) == Rejection("requests_per_minute", 120.0)
    assert limits.arrive("a", 119.0) is not None
    assert limits.arrive("a", 120.0) is None
