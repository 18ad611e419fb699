"""Limits at the hub: the real server decides as the model does, at times that the tests set."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from fairlane.cluster import redis
from fairlane.cluster.hub import new_name
from fairlane.cluster.limits import Arrival, Ask, LimitsState, Verdicts
from fairlane.cluster.redis import RedisHub
from fairlane.core.buckets import REQUESTS, TOKENS, Quota
from tests.cluster.servers import PASSWORD, Server

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


class Timed:
    """A hub whose server reads the time in a key, and lets nothing expire by its own clock."""

    def __init__(self, server: Server, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._hub = RedisHub(server.url, pool=new_name(), password=PASSWORD)
        self._client: Any = Redis.from_url(server.url, password=PASSWORD)

    def limit(self, ask: Ask, now: float) -> Verdicts:
        async def run() -> Verdicts:
            await self._client.set("now", repr(now))
            return await self._hub.limit(ask)

        return self._runner.run(run())

    def close(self) -> None:
        self._runner.run(self._hub.close())
        self._runner.run(self._client.aclose())


@contextmanager
def timed(server: Server) -> Iterator[Timed]:
    script = redis._LIMIT
    for its, ours in (
        ("redis.call('TIME')", "{redis.call('GET', 'now'), '0'}"),
        ("math.min(full_in, 1e15)", "1e12"),
        ("redis.call('EXPIRE', key, math.ceil(alive_s))", ""),
    ):
        assert script.count(its) == 1
        script = script.replace(its, ours)
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setattr(redis, "_LIMIT", script)
        hub = Timed(server, runner)
        try:
            yield hub
        finally:
            hub.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_it_decides_as_the_model_does(any_server: Server, steps: list[tuple[float, Ask]]) -> None:
    model, now = LimitsState(), 1_700_000_000.25
    with timed(any_server) as hub:
        for seconds, ask in steps:
            now += seconds
            assert hub.limit(ask, now) == model.limit(ask, now)
