"""The loop by which a host's schedulers hear each other, and those of other hosts by way of a hub.

Each round asks every scheduler (an `End`) what it charged, hands that to the others at once, pushes
the sum to the hub, and hands on what the hub tells. So a charge is as old as two rounds and a call
of the hub, at most, when it is heard everywhere.

Without its hub each host is as fair as it is alone; what it charged meanwhile waits, and is heard
once the hub is back.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from fairlane.cluster.hub import Hub, HubError, Pull, Push
from fairlane.cluster.member import Member

LONGEST_WAIT_S = 5.0  # until a lost hub is asked again
TELL_S = 2.0  # how often a member tells of itself
TOLD_LIVES_S = 10.0
FAREWELL_S = 2.0  # for the last push
_FADES = 0.99  # of `stale`, by exchange: half of it is gone after 69


class End(Protocol):
    """A scheduler that takes part. One call at a time; one that raises is out for good."""

    async def swap(self, heard: Mapping[str, float]) -> Mapping[str, float]:
        """Hear what others charged by client; give what was charged here since the last time."""


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


class Exchange:
    """See the module. `run` it in a task of its own.

    hub: closed at the end; None where `ends` share with each other alone. tell: what the others
    may know of this host, asked every TELL_S; see Hub.post. log: where its host's words go.
    """

    def __init__(
        self,
        ends: Sequence[End],
        hub: Hub | None = None,
        *,
        every_s: float = 0.2,
        tell: Callable[[], str] | None = None,
        log: logging.Logger = logging.getLogger("fairlane.cluster"),  # noqa: B008
    ) -> None:
        self.state = ExchangeState()
        self._every_s = every_s
        self._log = log
        self._stopping = asyncio.Event()
        self._unheard: dict[End, dict[str, float]] = {end: {} for end in ends}
        self._link = None if hub is None else _Link(hub, self.state, every_s, tell, log)

    async def run(self) -> None:
        """Exchange until `stop`, or until there is no end left."""
        clock = asyncio.get_running_loop().time
        try:
            while self._unheard and not self._stopping.is_set():
                began = clock()
                await self._round()
                pause = max(0.0, began + self._every_s - clock())
                await _wait(self._stopping, pause)
            if self._link is not None:
                await self._swap()
                await self._link.farewell()
        finally:
            if self._link is not None:
                await self._link.close()

    def stop(self) -> None:
        """Let `run` push what is left, and end."""
        self._stopping.set()

    async def _round(self) -> None:
        await self._swap()
        if self._link is not None:
            news = await self._link.exchange()
            for unheard in self._unheard.values():
                _add(unheard, news)
        if any(self._unheard.values()):
            await self._swap()

    async def _swap(self) -> None:
        """All ends at once: what each charged goes to the others and to the hub."""
        ends = list(self._unheard)
        heard = [self._unheard[end] for end in ends]
        self._unheard = {end: {} for end in ends}
        swaps = (end.swap(news) for end, news in zip(ends, heard, strict=True))
        answers = await asyncio.gather(*swaps, return_exceptions=True)
        for end, answer in zip(ends, answers, strict=True):
            if isinstance(answer, BaseException):
                self._drop(end, answer)
                continue
            for other, unheard in self._unheard.items():
                if other is not end:
                    _add(unheard, answer)
            if self._link is not None:
                _add(self._link.unsaid, answer)

    def _drop(self, end: End, error: BaseException) -> None:
        if not isinstance(error, Exception):
            raise error
        del self._unheard[end]
        self._log.error("a scheduler takes part no more: %s", str(error) or type(error).__name__)


class _Link:
    """A host's side of its hub: what it has to say, and whether the hub is there.

    unsaid: service by client that was charged here since it last began a push.
    """

    def __init__(
        self, hub: Hub, state: ExchangeState, every_s: float,
        tell: Callable[[], str] | None, log: logging.Logger,
    ) -> None:  # fmt: skip
        self.unsaid: dict[str, float] = {}
        self._hub = hub
        self._member = Member()
        self._state = state
        self._every_s = every_s
        self._tell = tell
        self._log = log
        self._asking: asyncio.Task[Pull] | None = None  # one call at a time
        self._tell_at = 0.0
        self._lost_at: float | None = None
        self._ask_again_at = 0.0
        self._wait_s = every_s

    async def exchange(self) -> dict[str, float]:
        """Say and hear; nothing is heard where the hub is lost, or takes longer than a round."""
        now = asyncio.get_running_loop().time()
        push = self._member.begin(self.unsaid)
        self.unsaid = {}
        if self._asking is None:
            if now < self._ask_again_at:
                return {}
            self._asking = asyncio.create_task(self._call(push, now))
        await asyncio.wait({self._asking}, timeout=self._every_s)
        if not self._asking.done():
            return {}
        asked, self._asking = self._asking, None
        return self._take(asked)

    async def farewell(self) -> None:
        """Push what is left, if the hub is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                while self._state.connected and (self.unsaid or self._member.owes):
                    await self.exchange()

    async def close(self) -> None:
        """Give up the call that may be under way, and the hub."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        await self._hub.close()

    async def _call(self, push: Push, now: float) -> Pull:
        pull = await self._hub.exchange(push)
        if self._tell is not None and now >= self._tell_at:
            await self._hub.post(self._member.origin, self._tell(), TOLD_LIVES_S)
            self._tell_at = now + TELL_S
        return pull

    def _take(self, asked: "asyncio.Task[Pull]") -> dict[str, float]:
        """What the call brought."""
        state, now = self._state, asyncio.get_running_loop().time()
        try:
            pull = asked.result()
        except HubError as error:
            self._lose(error, now)
            return {}
        news = self._member.heard(pull)
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


def _add(total: dict[str, float], more: Mapping[str, float]) -> None:
    for client, service in more.items():
        total[client] = total.get(client, 0.0) + service


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """For an event, so long at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
