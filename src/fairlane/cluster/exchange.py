"""The loop by which a host's schedulers hear each other, and those of other hosts by way of a hub.

Each round asks every scheduler (an `End`) what it charged, hands that to the others at once, pushes
the sum to the hub, and hands on what the hub tells. So a charge is as old as two rounds and a call
of the hub, at most, when it is heard everywhere.

Now and then each end compares its levels with those of another, drawn at random among all, so that
nobody waits at one for what another has long given (core/settling.py).

Without its hub each host is as fair as it is alone; what it charged meanwhile waits, and is heard
once the hub is back.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from fairlane.cluster import levels
from fairlane.cluster.hub import Hub
from fairlane.cluster.link import Asks, ExchangeState, Link
from fairlane.core.settling import SETTLE_S, Standings, less, raises

TELL_S = 2.0  # how often a member tells of itself
_OTHERS = 2  # whose word is asked for to compare levels with one: it may be one's own


class End(Protocol):
    """A scheduler that takes part. One call at a time; one that raises is out for good."""

    async def swap(self, heard: Mapping[str, float]) -> Mapping[str, float]:
        """Hear what others charged by client; give what was charged here since the last time."""

    async def settle(self, amounts: Mapping[str, float]) -> Standings:
        """Raise levels by so much, by path (`Policy.raise_levels`); then, where everyone stands.

        Who waits here, as `Policy.tell_waiting` gives it of no totals.
        """


class Exchange:
    """See the module. `run` it in a task of its own.

    hub: closed at the end; None where `ends` share with each other alone. tell: what the others
    may know of this host, asked every `tell_s`; see Hub.post. told: is called with what the others
    tell, by origin, at the end of each round in which the hub answered: all ends have heard all
    that it told, and all that they charged is in `totals`. With None it has not answered. They are
    one queue then, and compare no levels. settle_s: how often others do. log: where its host's
    words go.
    """

    def __init__(
        self,
        ends: Sequence[End],
        hub: Hub | None = None,
        *,
        every_s: float = 0.2,
        tell: Callable[[], str] | None = None,
        tell_s: float = TELL_S,
        told: Callable[[Mapping[str, str] | None], None] | None = None,
        settle_s: float = SETTLE_S,
        log: logging.Logger = logging.getLogger("fairlane.cluster"),  # noqa: B008
    ) -> None:
        self.state = ExchangeState()
        self._every_s = every_s
        self._log = log
        self._stopping = asyncio.Event()
        self._unheard: dict[End, dict[str, float]] = {end: {} for end in ends}
        self._told = told
        self._settle_s, self._settle_at = settle_s, 0.0
        self._levels: dict[End, Standings] = {}  # as last looked at
        self._elsewhere: list[Standings] = []  # of schedulers of others, not compared with yet
        self._link = None
        if hub is not None:
            asks = Asks(0.0, None) if told is not None else Asks(settle_s, _OTHERS)
            self._link = Link(hub, self.state, every_s, tell, tell_s, asks, log)

    async def run(self) -> None:
        """Exchange until `stop`, or until there is no end left."""
        clock = asyncio.get_running_loop().time
        try:
            while self._unheard and not self._stopping.is_set():
                began = clock()
                await self._round()
                rest = max(0.0, began + self._every_s - clock())
                await pause(self._stopping, rest)
            if self._link is not None:
                await self._swap()
                await self._link.farewell()
        finally:
            if self._link is not None:
                await self._link.close()

    def stop(self) -> None:
        """Let `run` push what is left, and end."""
        self._stopping.set()

    @property
    def era(self) -> str:
        """The hub's, of which `totals` are; "" while it is not known."""
        return "" if self._link is None else self._link.member.era

    @property
    def totals(self) -> Mapping[str, float]:
        """Service by client that was charged anywhere; see Totals."""
        return {} if self._link is None else self._link.member.totals

    @property
    def levels(self) -> dict[str, Any]:
        """Where clients stand at the ends, for `tell`: under this name, ready for JSON."""
        return levels.written(list(self._levels.values()), self.era)

    async def _round(self) -> None:
        await self._swap()
        if self._link is not None:
            news = await self._link.exchange()
            for unheard in self._unheard.values():
                _add(unheard, news)
        if any(self._unheard.values()):
            await self._swap()
        posts = None if self._link is None else self._link.posts
        if self._told is None:
            self._hear_levels(posts)
            await self._settle()
        elif posts is not None:
            self._told(posts)
        elif not self.state.connected:
            self._told(None)

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
                self._link.member.owe(answer)

    def _hear_levels(self, posts: Mapping[str, str] | None) -> None:
        if posts is not None:
            self._elsewhere = [
                told for text in posts.values() for told in levels.read(text, self.era)
            ]

    async def _settle(self) -> None:
        """Go half of the way to how another scheduler has those who wait at both."""
        now = asyncio.get_running_loop().time()
        alone = len(self._unheard) == 1 and self.state.members < 2
        if now < self._settle_at or alone:
            return
        self._settle_at = now + self._settle_s
        elsewhere, self._elsewhere = self._elsewhere, []  # once: nobody follows a lost hub's word
        before = await self._settled({})
        self._levels = await self._settled(
            {
                end: raises(told, random.choice(others))
                for end, told in before.items()
                if (others := [*elsewhere, *(o for e, o in before.items() if e is not end)])
            }
        )

    async def _settled(self, amounts: Mapping[End, Mapping[str, float]]) -> dict[End, Standings]:
        """Have levels raised, and see where they are."""
        ends = list(self._unheard)
        answers = await asyncio.gather(
            *(end.settle(amounts.get(end, {})) for end in ends), return_exceptions=True
        )
        totals = self.totals
        found: dict[End, Standings] = {}
        for end, answer in zip(ends, answers, strict=True):
            if isinstance(answer, BaseException):
                self._drop(end, answer)
            else:
                unheard = {client: -service for client, service in self._unheard[end].items()}
                found[end] = less(less(answer, totals), unheard)
        return found

    def _drop(self, end: End, error: BaseException) -> None:
        if not isinstance(error, Exception):
            raise error
        del self._unheard[end]
        self._log.error("a scheduler takes part no more: %s", str(error) or type(error).__name__)


def _add(total: dict[str, float], more: Mapping[str, float]) -> None:
    for client, service in more.items():
        total[client] = total.get(client, 0.0) + service


async def pause(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, so long at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
