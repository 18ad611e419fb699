"""The gateway as an ASGI application: its routes, and the way of a request that asks for work.

1. the door looks whose it is (door/), the desk whether it may come in (limits);
2. its body is read, as much as is allowed, and says which model it asks for (body.py);
3. its prompt is estimated, by what this client's prompts of this model had (estimate.py);
4. it waits in its model's queue, in the policy's order (desk.py, dispatch.py, pool.py);
5. when a window has room it goes to the upstream with the least work (window.py, upstream.py);
6. its answer passes, is counted, and is charged as it flows (relay.py, counting.py);
7. at its end, however it ends, what it was charged is settled by what the engine says of usage;
8. its tokens count against its client's limits, and the next one gets its turn.
"""

from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST

from fairlane.core.types import Outcome, Rejection
from fairlane.dashboard.app import Dashboard
from fairlane.door.admission import Caller, Refused
from fairlane.door.answers import (
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
from fairlane.door.door import Door
from fairlane.door.tracing import UNTRACED, Headers, Trace
from fairlane.door.used import TOLD
from fairlane.door.visits import Visit
from fairlane.gateway.body import BodyError, Route, read_body
from fairlane.gateway.desk import AnyDesk, Served, Ticket, Wish
from fairlane.gateway.relay import Call, Relay
from fairlane.gateway.sessions import Sticky
from fairlane.gateway.upstream import headers_for_upstream

_DRAINING_S = 5.0  # after which whoever was refused may find another gateway
_MOST_HEADERS = 1 << 16  # bytes
EVERYONE = frozenset({"/health", "/ping"})
RESERVED = EVERYONE | {"/v1/models", "/fairlane/tenants", "/fairlane/upstreams", "/metrics"}
RESERVED |= TOLD.keys()


class Gateway:
    """The application; see the module.

    routes: those that are passed on, by path. dashboard: None where there is none. most_body: bytes
    of a request. sticky: which requests had better go to the same upstream. opens, closes: called
    with the server. begins: the trace of a request that asks for work.
    """

    def __init__(
        self,
        door: Door,
        desk: AnyDesk,
        relay: Relay,
        routes: Mapping[str, Route],
        dashboard: Dashboard | None,
        *,
        most_body: int,
        sticky: Sticky,
        opens: Callable[[], Awaitable[None]],
        closes: Callable[[], Awaitable[None]],
        begins: Callable[[Visit, Headers], Trace],
    ) -> None:
        self._door = door
        self._desk = desk
        self._relay = relay
        self._routes = routes
        self._dashboard = dashboard
        self._most_body = most_body
        self._sticky = sticky
        self._opens, self._closes = opens, closes
        self._begins = begins
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
        if self._dashboard is not None:
            self._dashboard.close()

    # -- requests ----------------------------------------------------------------------------

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._opens()
            else:
                await self._closes()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        if path in EVERYONE:
            await self._tell_health(send)
            return
        caller: Caller | None = None
        ticket: Ticket | None = None
        visit, trace = Visit.of(scope), UNTRACED
        try:
            if self._dashboard is not None and self._dashboard.takes(path):
                await self._dashboard(path, scope, receive, send)
                return
            self._desk.take_up_changes()
            caller = self._door.identify(scope)  # which routes there are is for who may come in
            visit.client = caller.client
            route = self._route(scope)
            if route is None:
                send_with = _adding(send, as_headers(await self._left(caller)))
                await self._tell(path, caller, query_of(scope), send_with)
                visit.status = 200
            else:
                trace = self._begins(visit, scope["headers"])
                self._refuse_while_draining()
                _check_size(scope)
                ticket = await self._desk.arrive(self._known(caller))
                await self._work(scope, receive, send, ticket, route, visit, trace)
        except Refused as refused:
            visit.refuse(refused.status, refused.code)
            left = await self._left(caller) if ticket is None else ticket.rate_headers
            await send_refusal(send, refused, left)
        finally:
            if ticket is None:
                visit.end(finished=visit.status == 200)
                self._desk.over(visit)
            trace.end(visit)

    async def _tell_health(self, send: Send) -> None:
        try:
            self._refuse_while_draining()
            await send_json(send, {"status": "ok"})
        except Refused as refused:
            await send_refusal(send, refused)

    def _route(self, scope: Scope) -> Route | None:
        """Where work is asked for; None for what is read. Raises Refused."""
        path = str(scope["path"])
        route = self._routes.get(path)
        if route is None and path not in RESERVED:
            raise Refused(404, "not_found", f"There is no {path[:80]} here.")
        takes = ("GET", "HEAD") if route is None else ("POST",)
        if scope["method"] not in takes:
            raise Refused(405, "method_not_allowed", f"{path} takes {takes[0]}.")
        return route

    async def _work(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        ticket: Ticket,
        route: Route,
        visit: Visit,
        trace: Trace,
    ) -> None:
        """A request that asks an engine for work, to its end. Raises Refused."""
        served = Served()
        try:
            call = await self._call(scope, receive, ticket, route, served, visit, trace)
            await self._relay.serve(call, receive, send)
        except Refused as refused:
            visit.refuse(refused.status, refused.code)
            raise
        finally:
            if served.usage is not None:
                told = served.usage
                trace.used(told.input, told.cached, served.output_tokens or told.output)
            visit.end(finished=served.outcome is Outcome.FINISHED)
            ticket.end(served, visit)

    async def _left(self, caller: Caller | None) -> Mapping[str, str]:
        """What is left of a client's limits, as headers."""
        if caller is None or caller.client is None:
            return {}
        left: Mapping[str, str] = await self._desk.tell("rates", caller)
        return left

    @staticmethod
    def _known(caller: Caller) -> Caller:
        if caller.client is None:
            raise Refused(401, "no_key", "This route needs an API key.")
        return caller

    async def _call(
        self,
        scope: Scope,
        receive: Receive,
        ticket: Ticket,
        route: Route,
        served: Served,
        visit: Visit,
        trace: Trace,
    ) -> Call:
        """What is asked for, once all of it is here."""
        content = await self._body(receive)
        kind = dict(scope["headers"]).get(b"content-type", b"")
        try:
            asked = read_body(route, content, kind)
        except BodyError as error:
            raise Refused(400, "invalid_request", f"The request is refused: {error}.") from None
        visit.model, visit.stream = asked.model, asked.stream
        client = str(visit.client)
        session = self._sticky.session(client, asked, scope["headers"])
        numbers = (asked.characters, asked.tokens, asked.most)
        wish = Wish(asked.model, asked.stream, *numbers, session)
        headers = headers_for_upstream(scope["headers"], asked.kind)
        path = _target(scope)
        return Call(ticket, wish, asked, route, path, headers, client, served, visit, trace)

    def _refuse_while_draining(self) -> None:
        if self._draining:
            soon = Rejection("draining", _DRAINING_S)
            raise Refused(503, "draining", "The gateway is about to stop; ask another.", soon)

    async def _body(self, receive: Receive) -> bytes:
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

    # -- what is told ------------------------------------------------------------------------

    @property
    def _reading(self) -> Mapping[str, Callable[[Caller, Send], Awaitable[None]]]:
        return {
            "/v1/models": self._list_models,
            "/fairlane/tenants": self._tell_tenants,
            "/fairlane/upstreams": self._tell_upstreams,
            "/metrics": self._tell_metrics,
        }

    async def _tell(self, path: str, caller: Caller, query: str, send: Send) -> None:
        if path in TOLD:
            await send_json(send, await self._desk.tell(TOLD[path], caller, query))
        else:
            await self._reading[path](caller, send)

    async def _list_models(self, caller: Caller, send: Send) -> None:
        names = await self._desk.tell("models", caller)
        models = [{"id": name, "object": "model", "owned_by": "fairlane"} for name in names]
        await send_json(send, {"object": "list", "data": models})

    async def _tell_tenants(self, caller: Caller, send: Send) -> None:
        await send_json(send, await self._desk.tell("tenants", caller))

    async def _tell_upstreams(self, caller: Caller, send: Send) -> None:
        await send_json(send, {"upstreams": await self._desk.tell("upstreams", caller)})

    async def _tell_metrics(self, caller: Caller, send: Send) -> None:
        text = await self._desk.tell("metrics", caller)
        start = as_headers({"content-type": CONTENT_TYPE_LATEST})
        await send({"type": "http.response.start", "status": 200, "headers": start})
        await send({"type": "http.response.body", "body": text})


def _check_size(scope: Scope) -> None:
    if sum(len(name) + len(value) for name, value in scope["headers"]) > _MOST_HEADERS:
        raise Refused(431, "headers_too_large", f"Headers may have {_MOST_HEADERS:,} bytes.")


def _adding(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    """`send` that adds headers."""

    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return adding


def _target(scope: Scope) -> str:
    query = query_of(scope)
    return str(scope["path"]) + (f"?{query}" if query else "")
