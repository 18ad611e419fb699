"""A hub on a real server whose time the tests set."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from redis.asyncio import Redis

from fairlane.cluster import redis
from fairlane.cluster.hub import new_name
from fairlane.cluster.redis import RedisHub
from tests.cluster.servers import PASSWORD, Server

T = TypeVar("T")
_TIME = ("redis.call('TIME')", "{redis.call('GET', 'now'), '0'}")
_LASTS = (  # nothing expires by the server's own clock
    ("math.min(full_in, 1e15)", "1e12"),
    ("redis.call('EXPIRE', key, math.ceil(alive_s))", ""),
)


class Timed:
    """A hub whose scripts read the time in a key."""

    def __init__(self, server: Server, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._hub = server.hub(new_name())
        self._client: Any = Redis.from_url(server.url, password=PASSWORD)

    def at(self, now: float, ask: Callable[[RedisHub], Awaitable[T]]) -> T:
        """What the hub does at a time, in seconds."""

        async def run() -> T:
            await self._client.set("now", repr(now))
            return await ask(self._hub)

        return self._runner.run(run())

    def close(self) -> None:
        self._runner.run(self._hub.close())
        self._runner.run(self._client.aclose())


@contextmanager
def timed(server: Server) -> Iterator[Timed]:
    """A fresh one."""
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setattr(redis, "_LIMIT", _patched(redis._LIMIT, _TIME, *_LASTS))
        patch.setattr(redis, "_EXCHANGE", _patched(redis._EXCHANGE, _TIME))
        hub = Timed(server, runner)
        try:
            yield hub
        finally:
            hub.close()


def _patched(script: str, *changes: tuple[str, str]) -> str:
    for its, ours in changes:
        assert script.count(its) == 1
        script = script.replace(its, ours)
    return script
