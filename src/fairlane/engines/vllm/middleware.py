"""The ASGI middleware that says who each request is from, for `vllm serve --middleware`.

It stands outside everything else in the server, --api-key included, so it trusts nothing before
it. A request is told apart by its headers (credentials.py), may use the routes that are for it
(routes.py), within its limits, and is sent on with its caller in a context variable. The engine's
door (frontend.py) reads it there. Which of several engines serves it, operators alone may say.
What cannot be started safely is not started.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fairlane.cluster.config import Cluster
from fairlane.core.errors import FairlaneError
from fairlane.door.access import Access
from fairlane.door.admission import Caller, Refused
from fairlane.door.answers import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    as_headers,
    close_websocket,
    query_of,
    send_json,
    send_refusal,
)
from fairlane.door.asking import Asking
from fairlane.door.door import Door
from fairlane.door.keeping import Keeper
from fairlane.door.telemetry import Telemetry
from fairlane.door.used import Used
from fairlane.engines.vllm.config import FairlaneConfig
from fairlane.engines.vllm.frontend import (
    CALLER,
    EngineDoor,
    TenantWeights,
    api_servers,
    ask_engine,
    refuse_unguarded_front_ends,
    set_weights,
)
from fairlane.engines.vllm.relay import Relay, server_name
from fairlane.engines.vllm.routes import Audience, audience, exists, route_path
from fairlane.engines.vllm.used import served_model, take_usage
from fairlane.usage.config import Keeping

log = logging.getLogger("vllm.fairlane")
_ANSWER_S = 2.0  # the engine answers between two steps; scrapes must not hang on it
_AS_JSON = frozenset({"/fairlane/tenants", "/fairlane/usage", "/fairlane/me"})
_RANK = b"x-data-parallel-rank"  # picks an engine, and with it a queue
_PLAIN = frozenset({b"accept", b"accept-encoding"})  # without them /metrics answers in plain text


class Identity:
    """The middleware; see the module.

    access: who may come in; by default as the file that FAIRLANE_CONFIG names says.
    cached_part: of a token, what a cached one counts against limits; cluster: with whom charges are
        shared; keeping: where usage is kept. By default as that file says, or 1, nobody and nowhere
        where `access` is given.
    """

    def __init__(
        self,
        app: App,
        access: Access | None = None,
        clock: Callable[[], float] = time.monotonic,
        cached_part: float = 1.0,
        cluster: Cluster | None = None,
        keeping: Keeping = Keeping(),  # noqa: B008 - it does not change
    ) -> None:
        self._app = app
        self._broken = ""
        try:
            refuse_unguarded_front_ends()
            if access is None:
                config = FairlaneConfig.from_environment()
                access, cached_part = config.access, config.cached_part
                cluster, keeping = config.cluster, config.usage
        except FairlaneError as error:
            self._broken = str(error)  # said when the server starts, which it then does not
            access = Access()
        self._cached_part = cached_part
        self._cluster = Cluster() if cluster is None else cluster
        self._keeping = keeping
        self._keeper: Keeper | None = None
        self._relay: Relay | None = None
        self._door = Door(access, clock, log)
        self.asking = Asking(self._cluster, self._door.admission, log)
        self._used = Used(self._door)
        self._engine: Any = None
        self._weights: TenantWeights | None = None  # once there is an engine
        self._telemetry = Telemetry(
            access, self._door.admission, self._ask_schedulers, self._cluster
        )

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
            message = first.pop() if first else await receive()
            if message["type"] == "lifespan.shutdown":
                await self._stop()
            return message

        try:
            await self._app(scope, again, send)
        finally:
            await self._stop()

    async def _start(self, scope: Scope) -> None:
        if self._broken:
            raise FairlaneError(self._broken)
        engine = getattr(scope["app"].state, "engine_client", None)
        door = self._door
        inside = EngineDoor(
            engine, door.admission, door.turns, door.by_adapter, door.clock, self._cached_part
        )
        await set_weights(engine, door.weights())
        name, servers = self.place(scope["app"], engine)
        door.admission.share(servers)
        door.warn()
        self._warn_of_routes(scope)
        relay = Relay(engine, self._cluster, name)
        await relay.start()
        self._relay = relay
        self.asking.start()
        inside.close_in()
        self._weights = TenantWeights(door, engine, log)
        if self._keeping.on:
            take = partial(take_usage, engine, served_model(scope["app"]))
            self._keeper = Keeper(self._keeping, door, take, self._weights.look, log)
            await self._keeper.begin()
            self._used.keeper = self._keeper
            self._telemetry.usage = self._keeper.report
        self._engine = engine

    def place(self, app: Any, engine: Any) -> tuple[str, int]:
        """What others call this server, and how many share each limit of a client."""
        return server_name(app), api_servers(engine)

    async def _stop(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            if self._keeper is not None:
                await self._keeper.end()
            await self.asking.stop()
            await relay.stop()
            await self._telemetry.close()

    # -- requests ----------------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = None
        try:
            if self._weights is not None:
                self._weights.look()
            caller = self._caller(scope)
            if caller is not None and caller.client is not None and _counts(scope):
                await self._door.arrive(caller)
        except Refused as refused:
            await self._refuse(scope, receive, send, refused, caller)
            return
        token = CALLER.set(caller)
        try:
            await self._pass(scope, receive, send, caller)
        finally:
            CALLER.reset(token)
            if caller is not None:
                self._door.admission.served(caller)

    def _caller(self, scope: Scope) -> Caller | None:
        """Who it is; None where nobody is asked. Raises Refused."""
        if self._engine is None:
            raise Refused(503, "not_ready", "The server has not started.")
        for_whom = audience(route_path(scope), self._door.access.routes)
        if for_whom is Audience.EVERYONE or scope.get("method") == "OPTIONS":
            return None
        try:
            caller = self._door.identify(scope)
        except Refused as refused:
            if for_whom is Audience.METRICS and refused.code != "key_in_url":
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
            text = await self._telemetry.metrics(caller) if scope.get("method") == "GET" else b""
            plain = [header for header in scope["headers"] if header[0] not in _PLAIN]
            await self._app({**scope, "headers": plain}, receive, _appending(send, text))
        elif scope["type"] == "http" and path in _AS_JSON and caller is not None:
            await self._tell(path, caller, scope, receive, send)
        elif caller is None:
            await self._app(scope, receive, send)
        else:
            if not caller.operator:
                scope = _without_rank(scope)
            await self._app(scope, receive, self._answering(scope, receive, send, caller))

    async def _tell(
        self, path: str, caller: Caller, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """What a client may see of itself."""
        try:
            if path == "/fairlane/usage":
                seen = await self._used.usage(caller, query_of(scope))
            elif path == "/fairlane/me":
                seen = await self._used.me(caller)
            else:
                seen = await self._telemetry.tenants(caller, self._door.tenants)
        except Refused as refused:
            await self._refuse(scope, receive, send, refused, caller)
            return
        await answer_itself(partial(_as_json, seen), scope, receive, send)

    def _answering(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> Send:
        """`send` that adds what is left of the limits, and answers for the engine's door."""
        replaced = False

        async def answering(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                headers = self._door.rate_headers(caller)
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
            headers = self._door.rate_headers(caller)
            await answer_itself(partial(_refusal, refused, headers), scope, receive, send)

    async def _ask_schedulers(self) -> list[Any]:
        return await ask_engine(self._engine, "fairlane_snapshot", timeout_s=_ANSWER_S)

    # -- tenants -----------------------------------------------------------------------------

    def _warn_of_routes(self, scope: Scope) -> None:
        for path in sorted(self._door.access.routes):
            asked = {**scope, "path": path, "method": "POST", "headers": [], "query_string": b""}
            if not any(exists({**asked, "type": kind}) for kind in ("http", "websocket")):
                log.warning("[identity] routes: this server has no route %r", path)


async def answer_itself(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Let `app` answer in the server's place, through the server's own CORS layer if it has one.

    The middleware stands before that layer (Starlette's), and a browser shows its page no answer
    that lacks the layer's headers.
    """
    for kind, arguments, options in reversed(getattr(scope.get("app"), "user_middleware", ())):
        if any(base.__name__ == "CORSMiddleware" for base in getattr(kind, "__mro__", ())):
            app = kind(app, *arguments, **options)
    await app(scope, receive, send)


async def _refusal(
    refused: Refused, headers: Mapping[str, str], scope: Scope, receive: Receive, send: Send
) -> None:
    await send_refusal(send, refused, headers)


async def _as_json(value: Any, scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(send, value)


def _without_rank(scope: Scope) -> Scope:
    """The request without a word on which engine is to serve it: a client would choose its queue.

    Some who read headers take `_` for `-`.
    """
    headers = [h for h in scope["headers"] if h[0].lower().replace(b"_", b"-") != _RANK]
    return {**scope, "headers": headers}


def _counts(scope: Scope) -> bool:
    """Whether a request counts against limits: those that ask for work do."""
    return scope["type"] == "websocket" or scope.get("method") == "POST"


def _appending(send: Send, text: bytes) -> Send:
    """`send` that puts `text` after the body."""

    async def appending(message: Message) -> None:
        if message["type"] == "http.response.start" and text:
            headers = [h for h in message["headers"] if h[0].lower() != b"content-length"]
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and text and not message.get("more_body"):
            message = {**message, "body": message.get("body", b"") + text}
        await send(message)

    return appending
