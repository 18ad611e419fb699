"""A gateway in one process: a desk and its upstreams, and the application that serves HTTP.

Told to stop, it drains: who comes is answered 503, who is here is served to the end.
"""

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import FrameType

from fairlane.cluster.hub import new_name
from fairlane.core.errors import FairlaneError
from fairlane.dashboard.app import Dashboard
from fairlane.door.access_log import AccessLog
from fairlane.door.asking import Asking
from fairlane.door.door import Door
from fairlane.door.keeping import Keeper
from fairlane.door.tracing import tracing_of
from fairlane.gateway.app import Gateway
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.desk import AnyDesk, Desk
from fairlane.gateway.fleet import Fleet
from fairlane.gateway.pool import Pool
from fairlane.gateway.relay import Relay
from fairlane.gateway.reload import Reload
from fairlane.gateway.sharing import Shared, connected
from fairlane.gateway.status import pools_of
from fairlane.gateway.upstream import Upstream
from fairlane.http_server import HttpServer

log = logging.getLogger("fairlane.gateway")
_LOOK_S = 1.0
_GARBAGE = 10_000  # objects more than before, until the collector looks
KEEP_ALIVE_S = 75  # of a connection on which nothing comes


class Running:
    """A gateway from its configuration to its end; the desk, without the HTTP.

    file: where the configuration was read; what changes there is taken up. name: what other
    gateways call it. clock: seconds since 1970, for usage and quotas.
    """

    def __init__(
        self,
        config: GatewayConfig,
        file: Path | None = None,
        name: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not config.upstreams:
            raise FairlaneError("no upstream; name one by --upstream or under [upstreams]")
        self.config = config
        self._reload = None if file is None else Reload(file, config.named)
        self.door = Door(config.access)
        self.fleet = Fleet(
            config.policy, config.cost, self._weights, self._opened, name_of=config.name_of
        )
        hub = connected(config.cluster)
        self.name = name or f"{socket.gethostname()}:{new_name()[:4]}"
        self.shared = None if hub is None else Shared(
            config.cluster, hub, self.name, self.fleet.models, self._weights, config.access.top,
        )  # fmt: skip
        self._access_log = AccessLog(config.access_log, log) if config.access_log else None
        self.desk = Desk(
            self.door, self.fleet.models, policy=config.scheduler.name,
            max_wait_s=config.gateway.max_wait_s, cached_part=config.cached_part,
            cluster=config.cluster, shared=self.shared,
            listeners=[] if self._access_log is None else [self._access_log],
        )  # fmt: skip
        self.asking = Asking(config.cluster, self.door.admission, log)
        self.keeper = None if not config.usage.on else Keeper(
            config.usage, self.door, self.fleet.take_usage, self.desk.take_up_changes, log, clock
        )  # fmt: skip
        if self.keeper is not None:
            self.desk.keeps(self.keeper)
        self._looking: asyncio.Task[None] | None = None

    async def check(self) -> dict[str, list[str]]:
        """The names of the upstreams of each model. Raises FairlaneError where one has none."""
        if self.keeper is not None:
            await self.keeper.check()
        return await self.fleet.ask(self.config.upstreams)

    async def open(self) -> None:
        """Begin, in the loop that it is to run in. Raises FairlaneError."""
        self.door.warn()
        if self._access_log is not None:
            self._access_log.start()
        await self.fleet.change(self.config.upstreams)
        self.asking.start()
        if self.shared is not None:
            self.shared.start()
        if self.keeper is not None:
            await self.keeper.begin()
        if self._reload is not None:
            self._looking = asyncio.create_task(self._look(self._reload))

    async def close(self) -> None:
        """End all that runs in the background."""
        if self._looking is not None:
            self._looking.cancel()
        await self.fleet.close()
        if self.keeper is not None:
            await self.keeper.end()
        await self.asking.stop()
        if self.shared is not None:
            await self.shared.stop()
        await self.desk.close()
        if self._access_log is not None:
            self._access_log.close()

    def change_scheduler(self, name: str) -> None:
        """From now on another scheduler decides, with its defaults, over who waits here, too.

        Raises FairlaneError for one that cannot.
        """
        if self.shared is not None:
            raise FairlaneError("gateways that share charges keep their scheduler: restart them")
        self.config = self.config.with_scheduler(name)
        self.fleet.change_policy(self.config.policy)
        self.desk.policy = self.config.scheduler.name

    @property
    def live(self) -> int:
        """How many requests wait or run."""
        return sum(pool.waiting + pool.running for _, pool in pools_of(self.fleet.models))

    def say_draining(self) -> None:
        """Say what a signal to stop waits for."""
        log.warning("draining: %d requests are under way; a second signal ends at once", self.live)

    def _opened(self, pool: Pool) -> None:
        if self.keeper is not None:
            pool.books.take_usage()  # from now on it counts
        if self.shared is not None:
            self.shared.opened(pool)

    def _weights(self) -> Mapping[str, float]:
        return {**self.config.weights, **self.door.weights()}

    async def _look(self, reload: Reload) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await reload.look(self.fleet)


def collect_seldom() -> None:
    """Look for garbage seldom, and not at what is here now.

    Requests leave hardly any cycles behind, and looking for them took a tenth of the time.
    """
    gc.freeze()
    gc.set_threshold(_GARBAGE, 20, 20)


def application(
    config: GatewayConfig,
    door: Door,
    desk: AnyDesk,
    upstreams: Mapping[str, Upstream],
    opens: Callable[[], Awaitable[None]],
    closes: Callable[[], Awaitable[None]],
    name: str,
) -> Gateway:
    """What serves HTTP; the desk may be in another process. name: what it is called."""
    section = config.gateway
    dashboard = None if not config.dashboard.on else Dashboard(
        door, config.dashboard, desk.tell, host="gateway", server=name,
        take_up_changes=desk.take_up_changes,
    )  # fmt: skip
    tracing = tracing_of(config.tracing, "fairlane-gateway", log)

    async def close() -> None:
        await closes()
        await tracing.close()

    return Gateway(
        door, desk, Relay(upstreams, section.patience), config.routes, dashboard,
        most_body=section.max_body_bytes, sticky=section.stickiness, opens=opens, closes=close,
        begins=tracing.begin,
    )  # fmt: skip


class DrainingServer(HttpServer):
    """Drains first; see the module."""

    def __init__(self, running: Running, ready: Callable[[], None]) -> None:
        self._running = running
        self.app = self.application(running)
        super().__init__(self.app, ready, lifespan="on", timeout_keep_alive=KEEP_ALIVE_S)

    @staticmethod
    def application(running: Running) -> Gateway:
        """What it serves."""
        return application(
            running.config, running.door, running.desk, running.fleet.upstreams,
            running.open, running.close, running.name,
        )  # fmt: skip

    def end(self, number: int, frame: FrameType | None = None) -> None:
        """A signal to stop: drain, or at the second one end."""
        if self.ended_by is not None:
            super().end(number, frame)
            return
        self.ended_by = signal.Signals(number)
        self.app.drain()
        self._running.say_draining()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what has no end of its own, and then wait for the rest."""
        self.app.drain()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Uvicorn asks ten times a second whether it should stop."""
        if self.ended_by is not None and not self._running.live:
            self.should_exit = True
        return await super().on_tick(counter)
