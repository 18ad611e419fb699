"""The ASGI middleware that says who each request is from, for `vllm serve --middleware`.

It stands outside everything else in the server, --api-key included, so it trusts nothing before
it. A request is told apart by its headers (credentials.py), may use the routes that are for it
(routes.py), within its limits, and is sent on with its caller in a context variable. The engine's
door (frontend.py) reads it there. What cannot be started safely is not started.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fairlane.core.cost import Cost
from fairlane.core.errors import FairlaneError
from fairlane.engines.admission import Admission, Caller, Refused, Turns
from fairlane.engines.tenants import Limits
from fairlane.engines.vllm.access import Access
from fairlane.engines.vllm.answers import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    answer_itself,
    as_headers,
    close_websocket,
    send_json,
    send_refusal,
)
from fairlane.engines.vllm.config import FairlaneConfig
from fairlane.engines.vllm.credentials import key_in_url
from fairlane.engines.vllm.frontend import (
    CALLER,
    EngineDoor,
    api_servers,
    refuse_unguarded_front_ends,
    set_weights,
)
from fairlane.engines.vllm.routes import Audience, audience, exists, route_path
from fairlane.engines.vllm.telemetry import Telemetry

log = logging.getLogger("vllm.fairlane")


class Identity:
    """The middleware; see the module.

    access: who may come in; by default as the file that FAIRLANE_CONFIG names says.
    cached_part: of a token, what a cached one counts against limits; by default by that file's
        prices, or 1 where `access` is given.
    """

    def __init__(
        self,
        app: App,
        access: Access | None = None,
        clock: Callable[[], float] = time.monotonic,
        cached_part: float = 1.0,
    ) -> None:
        self._app = app
        self._clock = clock
        self._broken = ""
        try:
            refuse_unguarded_front_ends()
            if access is None:
                config = FairlaneConfig.from_environment()
                access, cached_part = config.access, _cached_part(config.cost)
            self._access = access
        except FairlaneError as error:
            self._broken = str(error)  # said when the server starts, which it then does not
            self._access = Access()
        self._cached_part = cached_part
        self._tenants = self._access.tenants()
        self._admission = Admission(self._limits_of)
        self._turns = Turns(self._most_running)
        self._engine: Any = None
        self._warned = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._telemetry = Telemetry(self._access, self._admission)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            await self._serve(scope, receive, send)

    # -- start -------------------------------------------------------------------------------

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close in the engine before the server starts, or keep it from starting."""
        first: list[Message] = [await receive()]
        try:
            await self._start(scope)
        except FairlaneError as error:
            log.error("%s", error)
            await send({"type": "lifespan.startup.failed", "message": f"fairlane: {error}"})
            return

        async def again() -> Message:
            return first.pop() if first else await receive()

        await self._app(scope, again, send)

    async def _start(self, scope: Scope) -> None:
        if self._broken:
            raise FairlaneError(self._broken)
        engine = getattr(scope["app"].state, "engine_client", None)
        door = EngineDoor(
            engine, self._admission, self._turns, self._by_adapter, self._clock, self._cached_part
        )
        await set_weights(engine, self._tenants.weights())
        self._admission.share(api_servers(engine))
        self._warn()
        self._warn_of_routes(scope)
        door.close_in()
        self._engine = engine

    # -- requests ----------------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = None
        try:
            self._look_for_changes()
            caller = self._caller(scope)
            if caller is not None and caller.client is not None and _counts(scope):
                self._admission.arrive(caller, self._clock())
        except Refused as refused:
            await self._refuse(scope, receive, send, refused, caller)
            return
        token = CALLER.set(caller)
        try:
            await self._pass(scope, receive, send, caller)
        finally:
            CALLER.reset(token)
            if caller is not None:
                self._admission.served(caller)

    def _caller(self, scope: Scope) -> Caller | None:
        """Who it is; None where nobody is asked. Raises Refused."""
        if self._engine is None:
            raise Refused(503, "not_ready", "The server has not started.")
        for_whom = audience(route_path(scope), self._access.routes)
        if for_whom is Audience.EVERYONE or scope.get("method") == "OPTIONS":
            return None
        if key_in_url(scope["query_string"], self._tenants):
            scope["query_string"] = b"key=removed"  # the access log would show it
            raise Refused(401, "key_in_url", "A key in a URL is in logs: revoke it, use a header.")
        try:
            caller = self._access.rules.identify(scope["headers"], self._tenants)
        except Refused:
            if for_whom is Audience.METRICS:
                return None
            raise
        if for_whom is Audience.OPERATORS and not caller.operator:
            if not exists(scope):
                raise Refused(
                    404, "not_found", "There is no such route; look at its spelling and slashes."
                )
            raise Refused(403, "operators_only", "This route is for operators of the server.")
        return caller

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller | None
    ) -> None:
        path = route_path(scope)
        if scope["type"] == "http" and audience(path) is Audience.METRICS:
            await self._telemetry.metrics(self._app, scope, receive, send, self._engine, caller)
        elif scope["type"] == "http" and path == "/fairlane/tenants" and caller is not None:
            seen = await self._telemetry.tenants(self._engine, caller, self._tenants)
            await answer_itself(partial(_as_json, seen), scope, receive, send)
        elif caller is None:
            await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, self._answering(scope, receive, send, caller))

    def _answering(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> Send:
        """`send` that adds what is left of the limits, and answers for the engine's door."""
        replaced = False

        async def answering(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                headers = self._rate_headers(caller)
                if caller.refused is not None:
                    replaced = True
                    refusing = partial(_refusal, caller.refused, headers)
                    await answer_itself(refusing, scope, receive, send)
                    return
                message["headers"] = [*message.get("headers", ()), *as_headers(headers)]
            if not replaced:
                await send(message)

        return answering

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, refused: Refused, caller: Caller | None
    ) -> None:
        if scope["type"] == "websocket":
            await close_websocket(receive, send, refused)
        else:
            headers = {} if caller is None else self._rate_headers(caller)
            await answer_itself(partial(_refusal, refused, headers), scope, receive, send)

    def _rate_headers(self, caller: Caller) -> dict[str, str]:
        if caller.client is None:
            return {}
        return self._admission.rates.headers(caller.client, self._clock())

    # -- tenants -----------------------------------------------------------------------------

    def _by_adapter(self, adapter: str | None) -> str:
        return self._access.rules.by_adapter(adapter, self._tenants)

    def _limits_of(self, path: str) -> Limits | None:
        known = self._tenants.limits(path)
        return self._access.limits if known is None else known

    def _most_running(self, path: str) -> int | None:
        limits = self._limits_of(path)
        return None if limits is None else self._admission.part(limits.max_running)

    def _look_for_changes(self) -> None:
        """Take up a changed file of tenants: keys and limits at once, weights without waiting."""
        before, tenants = self._tenants, self._access.tenants()
        if tenants is before:
            return
        self._tenants = tenants
        self._warn()
        self._turns.limits_changed()
        self._admission.rates.limits_changed(self._clock())
        weights = dict.fromkeys(before.weights(), 1.0) | tenants.weights()
        task = asyncio.get_running_loop().create_task(self._tell_weights(weights))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _warn(self) -> None:
        """Say what has no effect, once for as long as it has none."""
        before, self._warned = self._warned, self._access.warning
        if self._warned not in ("", before):
            log.warning("%s", self._warned)

    def _warn_of_routes(self, scope: Scope) -> None:
        for path in sorted(self._access.routes):
            asked = {**scope, "path": path, "method": "POST", "headers": [], "query_string": b""}
            if not any(exists({**asked, "type": kind}) for kind in ("http", "websocket")):
                log.warning("[identity] routes: this server has no route %r", path)

    async def _tell_weights(self, weights: Mapping[str, float]) -> None:
        try:
            await set_weights(self._engine, weights)
        except FairlaneError as error:
            log.error("the new weights are not in force: %s", error)


async def _refusal(
    refused: Refused, headers: Mapping[str, str], scope: Scope, receive: Receive, send: Send
) -> None:
    await send_refusal(send, refused, headers)


async def _as_json(value: Any, scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(send, value)


def _cached_part(cost: Cost) -> float:
    """The price of a cached prompt token as a part of another's; 1 where nothing is cheaper."""
    nothing = cost.admission(0)
    full = cost.admission(1000) - nothing
    return min(1.0, (cost.admission(1000, 1000) - nothing) / full) if full > 0 else 1.0


def _counts(scope: Scope) -> bool:
    """Whether a request counts against limits: those that ask for work do."""
    return scope["type"] == "websocket" or scope.get("method") == "POST"
