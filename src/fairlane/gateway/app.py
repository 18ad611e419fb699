"""The gateway as an ASGI application: routes, the front door, and a pool for each model.

A request's way, in eight steps:

1. the door looks who it is and whether it may come in (credentials, limits);
2. its body is read, as much as is allowed, and says which model it asks for (body.py);
3. its prompt is estimated, by what this client's prompts of this model had been;
4. it waits in its model's queue, in the policy's order (pool.py, dispatch.py);
5. when a window has room it goes to the upstream with the least work (window.py, upstream.py);
6. its answer passes, is counted, and is charged as it flows (counting.py, serving.py);
7. at its end, however it ends, what it was charged is settled by what the engine says of usage;
8. its tokens count against its client's limits, and the next one gets its turn.
"""

import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from fairlane.core.types import Rejection, Request
from fairlane.door.admission import Caller, Refused
from fairlane.door.answers import (
    Message,
    Receive,
    Scope,
    Send,
    as_headers,
    close_websocket,
    send_json,
    send_refusal,
)
from fairlane.door.door import Door
from fairlane.door.telemetry import Telemetry
from fairlane.gateway.body import ROUTES, BodyError, Dialect, read_body
from fairlane.gateway.estimate import Estimates
from fairlane.gateway.serving import Call
from fairlane.gateway.start import Model
from fairlane.gateway.status import metrics, pools_of, upstreams
from fairlane.gateway.upstream import headers_for_upstream

log = logging.getLogger("fairlane.gateway")
_DRAINING_S = 5.0  # after which whoever was refused may find another gateway
_MOST_HEADERS = 1 << 16  # bytes
EVERYONE = frozenset({"/health", "/ping"})


class Gateway:
    """The application; see the module.

    models: by name. policy: the scheduler's name. most_body: bytes of a request. cached_part: of a
    token, what one of the engine's prefix cache counts against limits. opens, closes: called with
    the server.
    """

    def __init__(
        self,
        door: Door,
        models: Mapping[str, Model],
        *,
        policy: str,
        cached_part: float = 1.0,
        most_body: int,
        opens: Callable[[], Any] | None = None,
        closes: Callable[[], Any] | None = None,
    ) -> None:
        self._door = door
        self._models = models
        self._policy = policy
        self._cached_part = cached_part
        self._most_body = most_body
        self._opens, self._closes = opens, closes
        self._telemetry = Telemetry(door.access, door.admission, self._snapshots)
        self._estimates = Estimates()
        self._ids = itertools.count(1)
        self._draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await close_websocket(receive, send, Refused(404, "not_found", "No WebSockets here."))

    def drain(self) -> None:
        """From now on whoever comes is refused; who is here is served to the end."""
        self._draining = True

    # -- requests ----------------------------------------------------------------------------

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._door.warn()
                if self._opens is not None:
                    await self._opens()
            elif self._closes is not None:
                await self._closes()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = None
        try:
            self._take_up_changes()
            path = str(scope["path"])
            if path in EVERYONE:
                self._refuse_while_draining()
                await send_json(send, {"status": "ok"})
                return
            caller = self._door.identify(scope)  # which routes there are is for who may come in
            dialect = ROUTES.get(path)
            if dialect is None and path not in self._reading:
                raise Refused(404, "not_found", f"There is no {path[:80]} here.")
            takes = ("GET", "HEAD") if dialect is None else ("POST",)
            if scope["method"] not in takes:
                raise Refused(405, "method_not_allowed", f"{path} takes {takes[0]}.")
            if dialect is None:
                await self._reading[path](caller, self._telling_limits(send, caller))
            else:
                await self._work(scope, receive, send, caller, dialect)
        except Refused as refused:
            await send_refusal(send, refused, self._door.rate_headers(caller))
        finally:
            if caller is not None:
                self._door.admission.served(caller)

    def _telling_limits(self, send: Send, caller: Caller) -> Send:
        """`send` that adds what is left of the caller's limits."""

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                left = as_headers(self._door.rate_headers(caller))
                message = {**message, "headers": [*message["headers"], *left]}
            await send(message)

        return telling

    async def _work(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, dialect: Dialect
    ) -> None:
        """A request that asks an engine for work."""
        self._refuse_while_draining()
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _MOST_HEADERS:
            raise Refused(431, "headers_too_large", f"Headers may have {_MOST_HEADERS:,} bytes.")
        if caller.client is None:
            raise Refused(401, "no_key", "This route needs an API key.")
        self._door.arrive(caller)
        content = await self._body(scope, receive)
        try:
            asked = read_body(dialect, content)
        except BodyError as error:
            raise Refused(400, "invalid_request", f"The request is refused: {error}.") from None
        model = self._models.get(asked.model)
        if model is None:
            raise Refused(404, "model_not_found", f"The model {asked.model!r} is not served here.")
        client = caller.client
        tokens = asked.tokens + self._estimates.tokens(client, asked.model, asked.characters)
        most = None if asked.max_tokens is None else asked.max_tokens * asked.samples
        call = Call(
            Request(f"r{next(self._ids)}", client, tokens, most), asked, dialect,
            str(scope["method"]), _target(scope), headers_for_upstream(scope["headers"]),
            more_headers=lambda: as_headers(self._door.rate_headers(caller)),
            flows=lambda: self._door.admission.served(caller),
        )  # fmt: skip
        try:
            await model.serving.serve(call, self._door.turns, receive, send)
        finally:
            self._settle(call)

    def _refuse_while_draining(self) -> None:
        if self._draining:
            soon = Rejection("draining", _DRAINING_S)
            raise Refused(503, "draining", "The gateway is about to stop; ask another.", soon)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body, refused as soon as it is too large."""
        parts: list[bytes] = []
        size = 0
        while True:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(499, "client_closed", "The client hung up.")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._most_body:
                raise Refused(413, "too_large", f"A body may have {self._most_body:,} bytes.")
            if not message.get("more_body"):
                return b"".join(parts)

    def _settle(self, call: Call) -> None:
        """Its tokens count against its client's limits; its prompt teaches how long prompts are."""
        client, served = call.request.client, call.served
        if served.usage is not None:
            asked, told = call.asked, served.usage.input - call.asked.tokens
            self._estimates.learn(client, asked.model, asked.characters, told)
        final = served.in_all(call.request.prompt_tokens)
        free = round(final.cached * (1 - self._cached_part))  # of the prefix cache's, by the prices
        tokens = final.input - free + final.output
        self._door.admission.rates.take_tokens(client, tokens, self._door.clock())

    # -- what is told ------------------------------------------------------------------------

    @property
    def _reading(self) -> Mapping[str, Callable[[Caller, Send], Any]]:
        return {
            "/v1/models": self._list_models,
            "/fairlane/tenants": self._tell_tenants,
            "/fairlane/upstreams": self._tell_upstreams,
            "/metrics": self._tell_metrics,
        }

    async def _list_models(self, caller: Caller, send: Send) -> None:
        models = [{"id": name, "object": "model", "owned_by": "fairlane"} for name in self._models]
        await send_json(send, {"object": "list", "data": models})

    async def _tell_tenants(self, caller: Caller, send: Send) -> None:
        await send_json(send, await self._telemetry.tenants(caller, self._door.tenants))

    async def _tell_upstreams(self, caller: Caller, send: Send) -> None:
        if not caller.operator and not self._door.access.public:
            raise Refused(403, "operators_only", "This route is for operators.")
        await send_json(send, {"upstreams": upstreams(self._models)})

    async def _tell_metrics(self, caller: Caller, send: Send) -> None:
        text = await self._telemetry.metrics(caller)
        if not text:
            raise Refused(403, "operators_only", "This route is for operators.")
        text += metrics(self._models)
        start = as_headers({"content-type": CONTENT_TYPE_LATEST})
        await send({"type": "http.response.start", "status": 200, "headers": start})
        await send({"type": "http.response.body", "body": text})

    async def _snapshots(self) -> list[dict[str, Any] | None]:
        snapshots = [pool.books.snapshot() for _, pool in pools_of(self._models)]
        return [{"policy": self._policy, **snapshot} for snapshot in snapshots]

    def _take_up_changes(self) -> None:
        weights = self._door.look_for_changes()
        if weights is not None:
            for _, pool in pools_of(self._models):
                pool.books.set_weights(weights)


def _target(scope: Scope) -> str:
    query = bytes(scope.get("query_string", b""))
    return str(scope["path"]) + (f"?{query.decode('latin-1')}" if query else "")
