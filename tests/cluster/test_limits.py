"""Limits at the hub: the real server decides as the model does, at times that the tests set."""

from collections.abc import Awaitable, Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairlane.cluster.hub import Hub
from fairlane.cluster.limits import Arrival, Ask, LimitsState, Verdicts
from fairlane.core.buckets import REQUESTS, TOKENS, Quota
from tests.cluster.servers import Server
from tests.cluster.timing import timed

QUOTAS = st.builds(
    Quota, st.sampled_from([REQUESTS, TOKENS]), st.sampled_from(["org", "org/a"]),
    st.sampled_from([1, 2, 7, 60, 0.5, 1 / 3, 1e12]),
)  # fmt: skip
ARRIVALS = st.builds(
    Arrival, st.lists(QUOTAS, max_size=3, unique_by=lambda quota: quota[:2]),
    st.sampled_from(["", "org/a", "b"]), st.integers(1, 3),
)  # fmt: skip
ASKS = st.builds(
    Ask, st.sampled_from("mno"), st.integers(1, 6),
    st.dictionaries(QUOTAS, st.floats(-100, 100), max_size=2),
    st.dictionaries(st.sampled_from(["org/a", "b"]), st.integers(0, 3), max_size=2),
    st.lists(ARRIVALS, max_size=4),
)  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from([0, 0.5, 8, 16, 200, 90_000]), ASKS), max_size=12)


def asks(ask: Ask) -> Callable[[Hub], Awaitable[Verdicts]]:
    return lambda hub: hub.limit(ask)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_it_decides_as_the_model_does(any_server: Server, steps: list[tuple[float, Ask]]) -> None:
    model, now = LimitsState(), 1_700_000_000.25
    with timed(any_server) as hub:
        for seconds, ask in steps:
            now += seconds
            assert hub.at(now, asks(ask)) == model.limit(ask, now)
