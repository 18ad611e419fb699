"""Hands out turns: what stands between a pool, which has no clock, and requests that await.

One ticker reports tokens and moves windows while anything lives; one scraper an upstream asks for
its load, more often while its window grows. Idle, neither runs.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fairlane.core.types import Outcome, Request
from fairlane.gateway.http_client import UpstreamError
from fairlane.gateway.pool import Lane, Pool
from fairlane.gateway.signals import Load
from fairlane.gateway.window import Bounds

AskLoad = Callable[[], Awaitable[Load | None]]
log = logging.getLogger("fairlane.gateway")
TICK_S = 0.02
SCRAPE_S = 1.0
GROWING_S = 0.25


class NotQueued(Exception):
    """The policy turned a request away, or made a mistake with it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Dispatcher:
    """See the module."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._loads: dict[str, AskLoad] = {}
        self._turns: dict[str, asyncio.Future[Lane]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._blind: set[str] = set()  # upstreams of which that was said
        self._refuses = ""  # why nobody gets a turn any more

    def add(self, name: str, bounds: Bounds, weight: float, load: AskLoad) -> None:
        """From now on an upstream serves the pool, like this. load: asks how loaded it is."""
        lane = self.pool.lanes.get(name)
        if lane is None:
            lane = self.pool.lanes[name] = Lane(name, bounds, weight)
        lane.weight = weight
        lane.window.bounds = bounds
        self._loads[name] = load
        if self._busy:
            self._begin()

    def remove(self, name: str) -> None:
        """An upstream gets nothing more; what it has it may bring to its end."""
        self.pool.lanes.pop(name, None)
        self._loads.pop(name, None)

    def refuse(self, reason: str) -> None:
        """Whoever waits waits in vain, and so does whoever comes, or comes back, after this."""
        self._refuses = reason
        for future in self._turns.values():
            if not future.done():
                future.set_exception(NotQueued(reason))

    def arrive(
        self,
        request: Request,
        output: int,
        *,
        model: str = "",
        session: str | None = None,
        whole: bool = False,
    ) -> None:
        """A request begins to wait; see Pool.arrive. Raises NotQueued."""
        reason = self.pool.arrive(request, output, model=model, session=session, whole=whole)
        if reason is not None:
            raise NotQueued(reason)
        self._await(str(request.id))

    async def turn(self, request_id: str) -> Lane:
        """The lane that a request is to be sent to, once it is its turn. Raises NotQueued.

        Cancelled, the request still waits: `end` it.
        """
        turn = self._turns[request_id]
        return turn.result() if turn.done() else await asyncio.shield(turn)

    def unreachable(self, lane: Lane) -> None:
        """Nothing goes to the lane until it answers again; whoever finds that says so."""
        if lane.accepts:
            log.warning("upstream %s cannot be reached", lane.name)
        lane.accepts = False

    def again(self, request_id: str) -> None:
        """The lane did not answer: the request waits anew, before its client's others."""
        self.pool.failed(request_id)
        self._await(request_id)

    def end(self, request_id: str, outcome: Outcome) -> None:
        """A request ended, or waits no more."""
        self._turns.pop(request_id, None)
        self.pool.end(request_id, outcome)
        self.pump()

    def pump(self) -> None:
        """Send whom there is room for."""
        for turn in self.pool.turns():
            self._turns[turn.id].set_result(turn.lane)
        for request_id in self.pool.take_failed():
            future = self._turns.get(request_id)
            if future is not None and not future.done():
                future.set_exception(NotQueued("policy_error"))

    async def close(self) -> None:
        """End the ticker and the scrapers."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    # -- inside ------------------------------------------------------------------------------

    def _await(self, request_id: str) -> None:
        turn = self._turns[request_id] = asyncio.get_running_loop().create_future()
        if self._refuses:
            turn.set_exception(NotQueued(self._refuses))
        else:
            self._begin()

    def _begin(self) -> None:
        self.pump()
        self._keep("", self._tick)
        for name in self._loads:
            self._keep(name, self._scrape, name)

    def _keep(self, name: str, work: Callable[..., Coroutine[Any, Any, None]], *of: str) -> None:
        """See to it that the work is being done; each ends by itself when all is idle."""
        task = self._tasks.get(name)
        if task is None or task.done():
            self._tasks[name] = asyncio.create_task(work(*of))
            self._tasks[name].add_done_callback(_tell)

    async def _tick(self) -> None:
        while self._busy:
            await asyncio.sleep(TICK_S)
            self.pump()
            self.pool.tick()
            self.pump()
            self._tell_blind()

    def _tell_blind(self) -> None:
        """Say once of which upstream nothing can be learned."""
        for lane in self.pool.lanes.values():
            if lane.window.blind and lane.name not in self._blind:
                self._blind.add(lane.name)
                log.warning(
                    "upstream %s tells no load, and no answer is streamed: nobody can see how much "
                    "it takes, so it gets %d requests at once; set its window",
                    lane.name, lane.window.size,
                )  # fmt: skip

    async def _scrape(self, name: str) -> None:
        """Ask for the load, as long as it is told; an upstream that never tells is asked seldom."""
        pause = SCRAPE_S
        while self._busy and name in self._loads:
            try:
                load = await self._loads[name]()
            except UpstreamError:
                await asyncio.sleep(SCRAPE_S)  # it may be back at any time
                continue
            if name not in self.pool.lanes:
                return
            if load is not None:
                self.pool.told(name, load)
                pause = GROWING_S if self.pool.lanes[name].window.grows else SCRAPE_S
            else:
                pause = min(2 * max(pause, SCRAPE_S), 60.0)
            await asyncio.sleep(pause)

    @property
    def _busy(self) -> bool:
        return self.pool.waiting + self.pool.running > 0


def _tell(task: asyncio.Task[None]) -> None:
    """Say what ended a task that should not have."""
    if not task.cancelled() and task.exception() is not None:
        log.error("a mistake of the gateway's own", exc_info=task.exception())
