"""Rate limits, on a clock that the tests move."""

import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fairlane.core.types import Rejection
from fairlane.door.limits import RateLimits, duration, retry_after
from fairlane.door.tenants import Limits


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


def test_a_lowered_limit_asks_for_a_minute_at_most() -> None:
    now = {"a": Limits(requests_per_minute=6000)}
    limits = RateLimits(now.get)
    for _ in range(5000):
        assert limits.arrive("a", 0.0) is None
    now["a"] = Limits(requests_per_minute=10)
    assert limits.arrive("a", 0.0) == Rejection("requests_per_minute", 6.0)
    headers = limits.headers("a", 0.0)
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] == "1m0s"
    assert limits.arrive("a", 6.0) is None
    assert limits.arrive("a", 6.0) == Rejection("requests_per_minute", 6.0)


def test_a_debt_of_many_minutes_stays_until_its_limit_changes() -> None:
    now = {"a": Limits(tokens_per_minute=600)}
    limits = RateLimits(now.get)
    limits.take_tokens("a", 6600, 0.0)
    rejection = limits.arrive("a", 0.0)
    assert rejection is not None
    assert rejection.retry_after_s == pytest.approx(600.1)
    now["a"] = Limits(tokens_per_minute=60)
    rejection = limits.arrive("a", 0.0)
    assert rejection is not None
    assert rejection.retry_after_s == pytest.approx(1.0)


def test_a_limit_that_was_removed_is_forgotten_with_its_debt() -> None:
    now = {"a": Limits(tokens_per_minute=600)}
    limits = RateLimits(now.get)
    limits.take_tokens("a", 6600, 0.0)
    limit = now.pop("a")
    limits.limits_changed(0.0)
    assert len(limits) == 0
    now["a"] = limit
    limits.limits_changed(0.0)
    assert limits.arrive("a", 0.0) is None


def test_what_was_not_used_is_given_back_and_no_more() -> None:
    limits = rates(org=Limits(tokens_per_minute=1000), org__a=Limits(tokens_per_minute=500))
    limits.take_tokens("org/a", 800, 0.0)
    assert limits.arrive("org/a", 0.0) is not None
    limits.give_back_tokens("org/a", 800, 0.0)
    assert limits.headers("org/a", 0.0)["x-ratelimit-remaining-tokens"] == "500"
    limits.take_tokens("org/a", 100, 0.0)
    limits.give_back_tokens("org/a", 100, 30.0)  # refilled meanwhile
    limits.take_tokens("org/a", 500, 30.0)
    assert limits.arrive("org/a", 30.0) is not None


RATES = st.sampled_from([None, 1, 2, 7, 60, 1000, 6000])


class ChangingLimits(RuleBasedStateMachine):
    """One client in a group, both with limits that change at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.by_path: dict[str, Limits] = {}
        self.limits = RateLimits(self.by_path.get)

    @rule(count=st.integers(1, 200))
    def send(self, count: int) -> None:
        for _ in range(count):
            if self.limits.arrive("org/a", self.now) is not None:
                break

    @rule(tokens=st.integers(1, 100_000))
    def use(self, tokens: int) -> None:
        self.limits.take_tokens("org/a", tokens, self.now)

    @rule(tokens=st.integers(1, 100_000))
    def give_back(self, tokens: int) -> None:
        self.limits.give_back_tokens("org/a", tokens, self.now)

    @rule(seconds=st.floats(0, 200))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(path=st.sampled_from(["org", "org/a"]), requests=RATES, tokens=RATES)
    def change(self, path: str, requests: int | None, tokens: int | None) -> None:
        """All of one's limits change, and so does what others of the same kind may ask for."""
        before = self.by_path.get(path, Limits())
        self.by_path[path] = Limits(requests, tokens)
        self.limits.limits_changed(self.now)
        kinds = [("requests", before.requests_per_minute, requests)]
        kinds.append(("tokens", before.tokens_per_minute, tokens))
        for kind, old, new in kinds:
            bucket = self.limits._buckets.find(kind, path)
            if new is None:
                assert bucket is None
            elif old != new and bucket is not None:
                assert 0 <= bucket.seconds_until(1) <= self.whole(new)
                assert bucket.seconds_until(bucket.capacity) <= self.whole(new)

    @rule(servers=st.sampled_from([1, 3, 8]))
    def share(self, servers: int) -> None:
        if servers == self.limits.servers:
            return
        self.limits.servers = servers
        rejection = self.limits.arrive("org/a", self.now)
        if rejection is not None:
            assert rejection.retry_after_s is not None
            limits = [getattr(each, rejection.reason) for each in self.by_path.values()]
            assert (
                rejection.retry_after_s
                <= max(self.whole(limit) for limit in limits if limit) + 1e-6
            )

    def whole(self, limit: int) -> float:
        """How long all of a server's part takes to come."""
        part = limit / self.limits.servers
        return max(1.0, part) * 60 / part

    @invariant()
    def what_is_told_is_so(self) -> None:
        """Nothing is left where one is turned away, and the time that is named is enough."""
        headers = self.limits.headers("org/a", self.now)
        trial = copy.deepcopy(self.limits)
        rejection = trial.arrive("org/a", self.now)
        if rejection is None:
            assert "0" not in {v for k, v in headers.items() if "remaining" in k}
            return
        kind = rejection.reason.removesuffix("_per_minute")
        assert rejection.retry_after_s is not None
        assert headers[f"x-ratelimit-remaining-{kind}"] == "0"
        assert trial.arrive("org/a", self.now + rejection.retry_after_s + 1e-6) is None
        if kind == "requests":
            limits = [each.requests_per_minute for each in self.by_path.values()]
            assert (
                rejection.retry_after_s
                <= max(self.whole(limit) for limit in limits if limit) + 1e-6
            )


TestChangingLimits = ChangingLimits.TestCase
TestChangingLimits.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


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
