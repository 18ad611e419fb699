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

from fairlane.core.errors import FairlaneError
from fairlane.dashboard.app import Dashboard
from fairlane.dashboard.live import Live
from fairlane.door.access_log import AccessLog
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
from fairlane.door.config import Configuration
from fairlane.door.door import Door
from fairlane.door.keeping import Keeper
from fairlane.door.telemetry import Telemetry
from fairlane.door.tracing import NoTracing, tracing_of
from fairlane.door.used import TOLD, Used
from fairlane.door.visits import Visit
from fairlane.door.watched import Watched
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
from fairlane.engines.vllm.relay import Relay, server_ends, server_name
from fairlane.engines.vllm.routes import Audience, audience, exists, route_path
from fairlane.engines.vllm.used import served_model, take_usage

log = logging.getLogger("vllm.fairlane")
ANSWER_S = 2.0  # the engine answers between two steps; scrapes must not hang on it
_ITS_OWN = TOLD.keys() | {"/fairlane/tenants"}
_RANK = b"x-data-parallel-rank"  # picks an engine, and with it a queue
_PLAIN = frozenset({b"accept", b"accept-encoding"})  # without them /metrics answers in plain text


class Identity:
    """The middleware; see the module. config: by default what FAIRLANE_CONFIG names."""

    def __init__(
        self,
        app: App,
        config: Configuration | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._broken = ""
        try:
            refuse_unguarded_front_ends()
            config = FairlaneConfig.from_environment() if config is None else config
        except FairlaneError as error:
            self._broken = str(error)  # said when the server starts, which it then does not
            config = Configuration()
        self._config = config
        self._dashboard: Dashboard | None = None
        self._relay: Relay | None = None
        self._door = Door(config.access, clock, log)
        self.asking = Asking(config.cluster, self._door.admission, log)
        self._keeper: Keeper | None = None
        self._used = Used(self._door)
        self._engine: Any = None
        self._weights: TenantWeights | None = None  # once there is an engine
        self._telemetry = Telemetry(
            config.access, self._door.admission, self._ask_schedulers, config.cluster
        )
        self._producer = Live(self._look, self._door)
        self._access_log: AccessLog | None = None
        self._tracing = NoTracing()

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
            engine, door.admission, door.turns, door.by_adapter, door.clock,
            self._config.cached_part, self._config.cost,
        )  # fmt: skip
        if self._config.access_log:
            self._access_log = AccessLog(self._config.access_log, log)
            self._access_log.start()
        self._tracing = tracing_of(self._config.tracing, "fairlane-vllm", log)
        await set_weights(engine, door.weights())
        name, servers = self.place(scope["app"], engine)
        door.admission.share(servers)
        door.warn()
        self._warn_of_routes(scope)
        relay = Relay(engine, self._config.cluster, name)
        await relay.start()
        self._relay = relay
        self.asking.start()
        inside.close_in()
        self._weights = weights = TenantWeights(door, engine, log)
        if self._config.usage.on:
            take = partial(take_usage, engine, served_model(scope["app"]))
            self._keeper = Keeper(self._config.usage, door, take, weights.look, log)
            await self._keeper.begin()
            self._used.keeper = self._keeper
            self._telemetry.usage = self._keeper.report
        self._engine = engine
        if self._config.dashboard.on:
            self._dashboard = Dashboard(
                door, self._config.dashboard, self._tell, host="vllm", server=name,
                take_up_changes=weights.look, ends=server_ends,
            )  # fmt: skip

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
            await self._producer.stop()
            await self._telemetry.close()
        await self._tracing.close()
        access_log, self._access_log = self._access_log, None
        if access_log is not None:
            access_log.close()

    # -- requests ----------------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope)
        if self._dashboard is not None and scope["type"] == "http" and self._dashboard.takes(path):
            await self._dashboard(path, scope, receive, send)
            return
        watched = Watched(send, Visit.of(scope))
        if self._access_log is None and not self._config.tracing.on:
            await self._answer(scope, receive, send, watched)
            return
        visit = watched.visit
        try:
            await self._answer(scope, receive, watched.send, watched)
            visit.hung_up = scope["type"] == "http" and not watched.complete
        finally:
            visit.end(finished=watched.good)
            watched.trace.used(visit.input_tokens, visit.cached_tokens, visit.output_tokens)
            watched.trace.end(visit)
            if self._access_log is not None and (visit.client is not None or visit.code):
                self._access_log(visit)  # others ask how the server is

    async def _answer(self, scope: Scope, receive: Receive, send: Send, watched: Watched) -> None:
        visit = watched.visit
        caller: Caller | None = None
        try:
            if self._weights is not None:
                self._weights.look()
            caller = self._caller(scope)
            if caller is not None:
                caller.visit, visit.client = visit, caller.client
            if caller is not None and _counts(scope):
                if scope["type"] == "http":
                    watched.trace = self._tracing.begin(visit, scope["headers"])
                    scope = {**scope, "headers": watched.trace.passing(scope["headers"])}
                if caller.client is not None:
                    await self._door.arrive(caller)
        except Refused as refused:
            visit.refuse(refused.status, refused.code)
            await self._refuse(scope, receive, send, refused, caller)
            return
        token = CALLER.set(caller)
        try:
            await self._pass(scope, receive, send, caller)
        finally:
            CALLER.reset(token)
            if caller is not None:
                self._door.admission.served(caller)
                visit.client = caller.client
                if caller.refused is not None:
                    visit.refuse(caller.refused.status, caller.refused.code)

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
        elif scope["type"] == "http" and path in _ITS_OWN and caller is not None:
            await answer_itself(await self._told(path, caller, scope), scope, receive, send)
        elif caller is None:
            await self._app(scope, receive, send)
        else:
            if not caller.operator:
                scope = _without_rank(scope)
            headers = partial(self._door.rate_headers, caller)
            answering = answer_refusals(scope, receive, send, lambda: caller.refused, headers)
            await self._app(scope, receive, answering)

    async def _told(self, path: str, caller: Caller, scope: Scope) -> App:
        """What answers a question about tenants or usage."""
        if path == "/fairlane/tenants":
            seen = await self._telemetry.tenants(caller, self._door.tenants)
            return partial(_as_json, seen)
        try:
            return partial(_as_json, await self._used.tell(TOLD[path], caller, query_of(scope)))
        except Refused as refused:
            return partial(_refusal, refused, self._door.rate_headers(caller))

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, refused: Refused, caller: Caller | None
    ) -> None:
        if scope["type"] == "websocket":
            await close_websocket(receive, send, refused)
        else:
            headers = self._door.rate_headers(caller)
            await answer_itself(partial(_refusal, refused, headers), scope, receive, send)

    async def _look(self) -> dict[str, Any]:
        """All that the page shows."""
        if self._weights is not None:
            self._weights.look()
        return await self._telemetry.tenants(Caller(None, operator=True), self._door.tenants)

    async def _tell(self, what: str, caller: Caller, *more: Any) -> Any:
        """What whoever looks may see of the page."""
        sees_all = caller.operator or self._door.access.public
        return await self._producer.tell(what, None if sees_all else caller.client, *more)

    async def _ask_schedulers(self) -> list[Any]:
        return await ask_engine(self._engine, "fairlane_snapshot", timeout_s=ANSWER_S)

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


def answer_refusals(
    scope: Scope,
    receive: Receive,
    send: Send,
    refused: Callable[[], Refused | None],
    headers: Callable[[], Mapping[str, str]],
) -> Send:
    """`send` that answers in the server's place once a request is refused, and adds headers.

    Both are asked when an answer begins.
    """
    replaced = False

    async def answering(message: Message) -> None:
        nonlocal replaced
        if message["type"] == "http.response.start":
            more, why = headers(), refused()
            if why is not None:
                replaced = True
                await answer_itself(partial(_refusal, why, more), scope, receive, send)
                return
            message["headers"] = [*message.get("headers", ()), *as_headers(more)]
        if not replaced:
            await send(message)

    return answering


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
