"""One server's side of limits that hold over all servers of a pool.

Requests that arrive ask the hub, all that came while it was asked in the next call; tokens, and
requests that wait no more, are told along with them or soon after. While the hub is lost nobody
asks it: each server lets in its part of every limit, and tells the hub later what it took.
"""

import asyncio
import logging
from dataclasses import dataclass

from fairlane.cluster.exchange import pause
from fairlane.cluster.hub import Hub, HubError, new_name
from fairlane.cluster.limits import Arrival, Ask, Verdict
from fairlane.core.buckets import Quota

BEAT_S = 2.0  # how often the hub hears of a server that has no news; a lost one is asked as often
_MOST_TAKEN = 100_000  # limits of which a lost hub is told later


@dataclass(slots=True)
class _Asking:
    """A request that waits for its verdict."""

    arrival: Arrival
    verdict: "asyncio.Future[Verdict]"


class SharedLimits:
    """See the module. `run` it in a task of its own; until the hub answers, it counts as lost.

    hub: left open at the end. every_s: how long what was taken may be untold. log: where its
    host's words go.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        every_s: float = 0.2,
        log: logging.Logger = logging.getLogger("fairlane.cluster"),  # noqa: B008
    ) -> None:
        self.connected = False
        self.servers = 1  # that the hub heard of when it last answered
        self._hub = hub
        self._every_s = every_s
        self._log = log
        self._origin = new_name()
        self._seq = 0
        self._taken: dict[Quota, float] = {}
        self._told: dict[Quota, float] = {}  # by the last call, which may not have arrived
        self._waiting: dict[str, int] = {}
        self._changed: set[str] = set()  # clients whose number the hub may not know
        self._asking: list[_Asking] = []
        self._beat_at = 0.0
        self._lost_at: float | None = None
        self._wake = asyncio.Event()
        self._wake_soon: asyncio.TimerHandle | None = None
        self._stopping = asyncio.Event()

    async def arrive(self, arrival: Arrival) -> Verdict:
        """Whether a request may come in. Raises HubError while the hub is lost.

        Who came in and has a `client` waits, until `left`.
        """
        if not self.connected:
            raise HubError("the hub is lost")
        asking = _Asking(arrival, asyncio.get_running_loop().create_future())
        self._asking.append(asking)
        self._wake.set()
        try:
            return await asking.verdict
        except asyncio.CancelledError:
            # It had come in, and its sender hung up before it heard so.
            if not asking.verdict.cancelled() and asking.verdict.exception() is None:
                self._give_up(asking, asking.verdict.result())
            raise

    def waits(self, client: str) -> None:
        """One more request of a client waits, which the hub was not asked about."""
        self._count(client, 1)
        self._changed.add(client)

    def left(self, client: str) -> None:
        """One request less of a client waits."""
        self._count(client, -1)
        self._changed.add(client)
        self._wake.set()

    def took(self, quota: Quota, amount: float) -> None:
        """What was taken of a limit, or given back, without asking."""
        if quota in self._taken or len(self._taken) < _MOST_TAKEN:
            self._taken[quota] = self._taken.get(quota, 0.0) + amount
        if self._wake_soon is None:
            loop = asyncio.get_running_loop()
            self._wake_soon = loop.call_later(self._every_s, self._wake.set)

    async def run(self) -> None:
        """Ask the hub, until `stop`."""
        try:
            while not self._stopping.is_set():
                await self._call()
                await pause(self._wake if self.connected else self._stopping, BEAT_S)
            for client in list(self._waiting):
                self._waiting[client] = 0
                self._changed.add(client)
            await self._call()
        finally:
            self._lose(HubError("this server stops"))
            self._sleep()

    def stop(self) -> None:
        """Let `run` tell the rest, and end."""
        self._stopping.set()
        self._wake.set()

    async def _call(self) -> None:
        """Tell and ask all that there is."""
        self._sleep()
        asking = [each for each in self._asking if not each.verdict.done()]
        self._asking = []
        ask = self._next_ask([each.arrival for each in asking])
        try:
            answer = await self._hub.limit(ask)
        except HubError as error:
            self._changed |= ask.waiting.keys()
            self._asking += asking
            self._lose(error)
            return
        except asyncio.CancelledError:
            self._asking += asking
            raise
        self._told = {}
        self._find(answer.servers)
        for each, verdict in zip(asking, answer.verdicts, strict=True):
            self._settle(each, verdict)

    def _next_ask(self, arrivals: list[Arrival]) -> Ask:
        if not self._told:  # else it is told again what may not have arrived
            self._seq += 1
            self._told, self._taken = self._taken, {}
        changed, self._changed = self._changed, set()
        now = asyncio.get_running_loop().time()
        if now >= self._beat_at:
            self._beat_at = now + BEAT_S
            changed |= self._waiting.keys()
        waiting = {client: self._waiting.get(client, 0) for client in changed}
        return Ask(self._origin, self._seq, self._told, waiting, arrivals)

    def _settle(self, asking: _Asking, verdict: Verdict) -> None:
        """Count who came in before anything else is told of its client."""
        if verdict.rejection is None and asking.arrival.client:
            self._count(asking.arrival.client, 1)
        if asking.verdict.done():
            self._give_up(asking, verdict)
        else:
            asking.verdict.set_result(verdict)

    def _give_up(self, asking: _Asking, verdict: Verdict) -> None:
        if verdict.rejection is None and asking.arrival.client:
            self.left(asking.arrival.client)

    def _count(self, client: str, more: int) -> None:
        count = self._waiting.pop(client, 0) + more
        if count > 0:
            self._waiting[client] = count

    def _find(self, servers: int) -> None:
        if self._lost_at is not None:
            lost_s = asyncio.get_running_loop().time() - self._lost_at
            self._log.warning("limits hold over all servers again, after %.1f s", lost_s)
        self.connected, self.servers, self._lost_at = True, servers, None
        if self._taken:
            self._wake.set()

    def _lose(self, error: HubError) -> None:
        """Whoever asks is told, and decides by itself."""
        if self._lost_at is None and not self._stopping.is_set():
            self._lost_at = asyncio.get_running_loop().time()
            self._log.warning("this server has its part of limits until its hub is back: %s", error)
        self.connected = False
        asking, self._asking = self._asking, []
        for each in asking:
            if not each.verdict.done():
                each.verdict.set_exception(error)

    def _sleep(self) -> None:
        """Until something is new."""
        self._wake.clear()
        if self._wake_soon is not None:
            self._wake_soon.cancel()
            self._wake_soon = None
