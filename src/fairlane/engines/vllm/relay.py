"""Charges between the engines of a vLLM server, and between it and other servers.

The first API server relays: an Exchange (cluster/exchange.py) in its event loop asks each engine's
scheduler between two steps what it charged, and hands it what others did. Several engines of one
server (data parallelism) share without a hub; the server as a whole is one member of its hub.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fairlane.cluster.beside import Beside
from fairlane.cluster.config import Cluster
from fairlane.cluster.exchange import TELL_S, Exchange
from fairlane.cluster.hub import Hub
from fairlane.cluster.levels import standings
from fairlane.core.errors import FairlaneError
from fairlane.core.sharing import Standing
from fairlane.door.sharing import tell, where
from fairlane.engines.vllm.frontend import api_server, ask_engine, ask_one, engines

log = logging.getLogger("vllm.fairlane")
_ANSWER_S = 60.0  # how long an engine may take to answer while it starts


class Relay:
    """See the module; None of it runs before `start`, nor after `stop`.

    name: of this server, as the others see it.
    """

    def __init__(self, engine_client: Any, cluster: Cluster, name: str) -> None:
        self._client = engine_client
        self._cluster = cluster
        self._name = name
        self._started = time.time()
        self._text = ""
        self._running: Beside | None = None
        self._looking: asyncio.Task[None] | None = None
        self._ends = [_End(self, engine) for engine in engines(engine_client)]
        self._exchange: Exchange | None = None
        self._gone = False  # whether an engine is

    async def start(self) -> None:
        """Let the schedulers share, and relay if this is the first API server.

        Raises FairlaneError where a hub is configured, and they cannot.
        """
        if self._cluster.hub is None and len(self._ends) < 2:
            if self._cluster != Cluster():
                log.warning("[cluster] has no effect: there is one scheduler, and no hub")
            return
        if not self._cluster.ranks:
            log.info("%d engines share nothing: [cluster] ranks = false", len(self._ends))
            return
        why_not = await self._let_share()
        if why_not:
            if self._cluster != Cluster():
                raise FairlaneError(f"[cluster] {why_not}")
            log.warning("the engines of this server do not share what they charge: %s", why_not)
            return
        if api_server(self._client) == 0:
            self._begin(self._cluster.connect())

    async def stop(self) -> None:
        """Push what is left, and end."""
        if self._running is not None:
            await self._running.end()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    def told(self) -> tuple[int, dict[str, Any]]:
        """For schedulers: how many share, and how the exchange goes."""
        if self._exchange is None or self._cluster.hub is None:
            return len(self._ends), {}
        state = self._exchange.state
        report = state.report(asyncio.get_running_loop().time())
        return report["members"] * len(self._ends), report

    async def swap(self, engine: Any, heard: Mapping[str, float]) -> dict[str, float]:
        """Let one engine's scheduler hear; what it charged. An engine that is gone ends it all."""
        return await self._ask(engine, "fairlane_swap", dict(heard), *self.told())

    async def settle(self, engine: Any, amounts: Mapping[str, float]) -> dict[str, Standing]:
        """Raise levels of one engine's scheduler; where everyone stands there."""
        return standings(await self._ask(engine, "fairlane_settle", dict(amounts)))

    async def _ask(self, engine: Any, method: str, *given: Any) -> dict[str, Any]:
        try:
            return dict(await ask_one(self._client, engine, method, *given))
        except Exception as error:
            if self._exchange is not None and not self._gone:
                ends = bool(getattr(self._client, "errored", False))  # with it the server ends
                level = logging.INFO if ends else logging.ERROR
                log.log(level, "charges are shared no more: %s", str(error) or type(error).__name__)
                self._exchange.stop()
            self._gone = True
            return {}

    async def _let_share(self) -> str:
        """Why the schedulers cannot, "" where they do from now on."""
        try:
            said = await ask_engine(self._client, "fairlane_share", timeout_s=_ANSWER_S)
        except Exception as error:
            return f"the scheduler does not answer as Fairlane's does ({error})"
        return next((why for why in said if why), "")

    def _begin(self, hub: Hub | None) -> None:
        every_s = self._cluster.every_s
        if hub is None:
            log.info("%d engines share what they charge every %g s", len(self._ends), every_s)
        else:
            log.info("shares with %s", where(self._cluster))
        told = None if hub is None else self._tell
        self._exchange = Exchange(self._ends, hub, every_s=every_s, tell=told, log=log)
        self._running = Beside(self._exchange, "charges are shared no more", log)
        if hub is not None:
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def _tell(self) -> str:
        return self._text or tell(self._name, self._started, [])

    async def _look(self) -> None:
        """Keep what others are told of this server's clients."""
        while True:
            with suppress(Exception):  # such as a step that takes long; the exchange tells the rest
                found = await ask_engine(self._client, "fairlane_part", timeout_s=_ANSWER_S)
                levels = {} if self._exchange is None else self._exchange.levels
                self._text = tell(self._name, self._started, found, levels=levels)
            await asyncio.sleep(TELL_S / 2)


class _End:
    """The scheduler of one engine."""

    def __init__(self, relay: Relay, engine: Any) -> None:
        self._relay = relay
        self._engine = engine

    async def swap(self, heard: Mapping[str, float]) -> Mapping[str, float]:
        """See End."""
        return await self._relay.swap(self._engine, heard)

    async def settle(self, amounts: Mapping[str, float]) -> Mapping[str, Standing]:
        """See End."""
        return await self._relay.settle(self._engine, amounts)


def server_ends(scope: Mapping[str, Any]) -> bool:
    """Whether vLLM's server has begun to end: it then waits for all answers, endless ones too.

    By vLLM's `app.state.server`, which is uvicorn's; without it, nobody can tell.
    """
    server = getattr(getattr(scope.get("app"), "state", None), "server", None)
    listening = getattr(server, "servers", ())
    return bool(getattr(server, "should_exit", False)) or any(
        not one.is_serving() for one in listening
    )


def server_name(app: Any) -> str:
    """What others call this server: the machine, and the port or socket where it listens."""
    args = getattr(getattr(app, "state", None), "args", None)
    where = getattr(args, "uds", None) or getattr(args, "port", None)
    return socket.gethostname() + ("" if where is None else f":{where}")
