"""Runs a gateway: everything is checked, then it listens; told to stop, it serves who is here.

The first SIGTERM or Ctrl-C drains: who comes is answered 503, who is here is served to the end. A
second one ends it at once. An upstream that cannot be reached gets nothing until it answers again;
who waits for it is kept.
"""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

from fairlane.addresses import listen, url_of
from fairlane.core.errors import FairlaneError
from fairlane.door.door import Door
from fairlane.gateway.app import Gateway
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.start import Model, UpstreamPlan, assemble, models_of
from fairlane.gateway.status import pools_of
from fairlane.http_server import HttpServer

log = logging.getLogger("fairlane.gateway")
_PROBE_S = 1.0
_GARBAGE = 10_000  # objects more than before, until the collector looks


class Running:
    """A gateway from its configuration to its end."""

    def __init__(self, config: GatewayConfig) -> None:
        if not config.upstreams:
            raise FairlaneError("no upstream; name one by --upstream or under [upstreams]")
        self._config = config
        self._plans: Sequence[UpstreamPlan] = config.upstreams
        self._served: dict[str, list[UpstreamPlan]] = {}  # once it is known
        self.models: dict[str, Model] = {}
        self._door = Door(config.access)
        self.app = Gateway(
            self._door, self.models, policy=config.scheduler.name, cached_part=config.cached_part,
            most_body=config.gateway.max_body_bytes, opens=self._open, closes=self._close,
        )  # fmt: skip
        self._probing: asyncio.Task[None] | None = None

    async def check(self) -> dict[str, list[str]]:
        """The names of the upstreams of each model. Raises FairlaneError where one has none."""
        try:
            self._served = await models_of(self._plans)
        finally:
            await self._close_upstreams()
        return {model: [plan.name for plan in plans] for model, plans in self._served.items()}

    async def _open(self) -> None:
        config = self._config
        served = self._served or await models_of(self._plans)
        self.models.update(
            assemble(
                served, policy=config.policy, cost=config.cost, patience=config.gateway.patience
            )
        )
        weights = {**config.weights, **config.access.tenants().weights()}
        for _, pool in pools_of(self.models):
            pool.books.set_weights(weights)
        self._probing = asyncio.create_task(self._probe())

    async def _close(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
        for model in self.models.values():
            await model.dispatcher.close()
        await self._close_upstreams()

    async def _close_upstreams(self) -> None:
        for plan in self._plans:
            await plan.upstream.close()

    async def _probe(self) -> None:
        """Look whether upstreams that failed are back."""
        while True:
            await asyncio.sleep(_PROBE_S)
            for plan in self._plans:
                down = [
                    model.dispatcher
                    for model in self.models.values()
                    if (lane := model.dispatcher.pool.lanes.get(plan.name)) and not lane.accepts
                ]
                if down and await plan.upstream.lives():
                    log.warning("upstream %s is back", plan.name)
                    for dispatcher in down:
                        dispatcher.pool.lanes[plan.name].accepts = True
                        dispatcher.pump()

    @property
    def live(self) -> int:
        """How many requests wait or run."""
        return sum(pool.waiting + pool.running for _, pool in pools_of(self.models))


class DrainingServer(HttpServer):
    """Drains first; see the module."""

    def __init__(self, running: Running, ready: Callable[[], None]) -> None:
        super().__init__(running.app, ready, lifespan="on", timeout_keep_alive=75)
        self._running = running

    def end(self, number: int, frame: FrameType | None = None) -> None:
        """A signal to stop: drain, or at the second one end."""
        if self.ended_by is not None:
            super().end(number, frame)
            return
        self.ended_by = signal.Signals(number)
        self._running.app.drain()
        live = self._running.live
        log.warning("draining: %d requests are under way; a second signal ends at once", live)

    async def on_tick(self, counter: int) -> bool:
        """Uvicorn asks ten times a second whether it should stop."""
        if self.ended_by is not None and not self._running.live:
            self.should_exit = True
        return await super().on_tick(counter)


def serve(config: GatewayConfig, host: str, port: int) -> signal.Signals | None:
    """Serve until told to stop; says by which signal.

    Raises FairlaneError for what cannot be, before it listens.
    """
    running = Running(config)
    found = asyncio.run(running.check())
    listening = listen(host, port)

    def ready() -> None:
        gc.freeze()  # what is here now stays: the collector need not look at it
        for model, upstreams in found.items():
            log.warning("model %s: %s", model, ", ".join(upstreams))
        log.warning("ready at %s", url_of(listening))

    _take_many_connections()
    # Requests leave hardly any cycles behind, and looking for them took a tenth of the time.
    gc.set_threshold(_GARBAGE, 20, 20)
    server = DrainingServer(running, ready)
    server.run(sockets=[listening])
    return server.ended_by


def _take_many_connections() -> None:
    """Open as many files as the system allows: each client is one, and each request another."""
    with suppress(ImportError, ValueError, OSError):  # not every system has such limits
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
