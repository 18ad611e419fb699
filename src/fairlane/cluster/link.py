"""A host's side of its hub, for the loop that exchanges (exchange.py): one call at a time.

A hub that is lost is asked again, less and less often; what was charged meanwhile waits.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from fairlane.cluster.hub import Hub, HubError, Pull, Push
from fairlane.cluster.member import Member

LONGEST_WAIT_S = 5.0  # until a lost hub is asked again
LEAST_LIFE_S = 2.0  # of what it told
_LIVES = 5  # times that it could have told anew
FAREWELL_S = 2.0  # for the last push
_FADES = 0.99  # of `stale`, by exchange: half of it is gone after 69


@dataclass(slots=True)
class ExchangeState:
    """How the exchange goes.

    connected: whether the hub answered when it was last asked; False without one. members: origins
    that the hub heard of lately, this one included. exchanges, failures: calls of the hub. last_at:
    when it last answered, by the loop's clock. stale: the most service that others charged between
    two answers, lately; what comes at once after the hub was lost is not counted.
    """

    connected: bool = False
    members: int = 0
    exchanges: int = 0
    failures: int = 0
    last_at: float | None = None
    stale: float = 0.0

    def report(self, now: float) -> dict[str, Any]:
        """For telemetry. now: by the loop's clock."""
        return {
            "connected": self.connected,
            "members": max(1, self.members),
            "exchanges": self.exchanges,
            "failures": self.failures,
            "age_s": None if self.last_at is None else now - self.last_at,
            "stale": self.stale,
        }


class Asks(NamedTuple):
    """How often it is asked what others tell, and of how many at most."""

    every_s: float
    most: int | None


class _Answer(NamedTuple):
    """What one call of the hub brought: sums, and what others told."""

    pull: Pull
    posts: dict[str, str] | None


class Link:
    """A host's side of its hub: what it has to say, and whether the hub is there.

    posts: what others told of themselves, if the hub answered in this round, and was asked.
    """

    def __init__(
        self, hub: Hub, state: ExchangeState, every_s: float,
        tell: Callable[[], str] | None, tell_s: float, asks: Asks, log: logging.Logger,
    ) -> None:  # fmt: skip
        self.member = Member()
        self.posts: dict[str, str] | None = None
        self._hub = hub
        self._asks = asks
        self._tell_s = tell_s
        self._state = state
        self._every_s = every_s
        self._tell = tell
        self._log = log
        self._asking: asyncio.Task[_Answer] | None = None  # one call at a time
        self._tell_at = self._ask_at = 0.0
        self._lost_at: float | None = None
        self._ask_again_at = 0.0
        self._wait_s = every_s

    async def exchange(self) -> dict[str, float]:
        """Say and hear; nothing is heard where the hub is lost, or takes longer than a round."""
        now = asyncio.get_running_loop().time()
        self.posts = None
        if self._asking is None:
            if now < self._ask_again_at:
                return {}
            self._asking = asyncio.create_task(self._call(self.member.begin({}), now))
        await asyncio.wait({self._asking}, timeout=self._every_s)
        if not self._asking.done():
            return {}
        asked, self._asking = self._asking, None
        return self._take(asked)

    async def farewell(self) -> None:
        """Push what is left, if the hub is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                while self._state.connected and self.member.owes:
                    await self.exchange()

    async def close(self) -> None:
        """Give up the call that may be under way, and the hub."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._hub.close()

    async def _call(self, push: Push, now: float) -> "_Answer":
        pull = await self._hub.exchange(push)
        if self._tell is not None and now >= self._tell_at:
            lives_s = max(LEAST_LIFE_S, _LIVES * self._tell_s)
            await self._hub.post(self.member.origin, self._tell(), lives_s)
            self._tell_at = now + self._tell_s
        posts = None
        if now >= self._ask_at:
            self._ask_at = now + self._asks.every_s
            posts = dict(await self._hub.posts(self._asks.most))
            posts.pop(self.member.origin, None)
        return _Answer(pull, posts)

    def _take(self, asked: "asyncio.Task[_Answer]") -> dict[str, float]:
        """What the call brought."""
        state, now = self._state, asyncio.get_running_loop().time()
        try:
            pull, self.posts = asked.result()
        except HubError as error:
            self._lose(error, now)
            return {}
        news = self.member.heard(pull)
        if self._lost_at is None:
            state.stale = max(_FADES * state.stale, sum(s for s in news.values() if s > 0))
        else:
            self._log.warning("the hub is back after %.1f s", now - self._lost_at)
        self._lost_at, self._wait_s, self._ask_again_at = None, self._every_s, now
        state.connected, state.members, state.last_at = True, pull.members, now
        state.exchanges += 1
        return news

    def _lose(self, error: HubError, now: float) -> None:
        if self._lost_at is None:
            self._lost_at = now
            self._log.warning(
                "no hub, so this server is fair by itself until it is back: %s", error
            )
        self._state.connected = False
        self._state.failures += 1
        self._ask_again_at = now + self._wait_s
        self._wait_s = min(LONGEST_WAIT_S, 2 * self._wait_s)
