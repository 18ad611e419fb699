"""The routes of the page, on any host of the door.

    GET  /fairlane/                     the page; its files are below /fairlane/static/
    GET  /fairlane/live                 server-sent events: what is seen, once a second
    GET  /fairlane/history?client=PATH  the last minutes of one client
    GET  /fairlane/keys?client=PATH     the ids of its keys
    POST /fairlane/changes              a change of weights, limits or keys (changes.py)

The page itself is for everyone, and says nothing. A key comes in a header, as with every request,
never in a URL or a cookie: no other site can send it. Operators see everyone, a client itself;
everyone sees everyone where that is configured.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fairlane.dashboard.changes import Changes, Who, tenant_at
from fairlane.dashboard.live import PERIOD_S, event
from fairlane.dashboard.pages import HEADERS, Pages
from fairlane.dashboard.rows import COLUMNS
from fairlane.dashboard.sender import check_origin, read_json
from fairlane.dashboard.viewers import Ask, Viewer, Viewers
from fairlane.door.admission import Caller, Refused
from fairlane.door.answers import Receive, Scope, Send, send_json, send_refusal
from fairlane.door.dashboard import DashboardOptions
from fairlane.door.door import Door

_METHODS = {
    "/fairlane/live": "GET",
    "/fairlane/history": "GET",
    "/fairlane/keys": "GET",
    "/fairlane/changes": "POST",
}
_VERSION = 1
_FORWARDED = 200  # characters that are kept of such a header


class Dashboard:
    """The application; see the module.

    ask: the producer of frames (Live.tell), with the caller in place of `whose`. host: its kind;
    server: its name. take_up_changes: of the file of tenants. ends: whether the server of a request
    is about to end, where it cannot call `close`.
    """

    def __init__(
        self,
        door: Door,
        options: DashboardOptions,
        ask: Ask,
        *,
        host: str,
        server: str,
        take_up_changes: Callable[[], None],
        ends: Callable[[Scope], bool] = lambda _: False,
    ) -> None:
        self._door = door
        self._options = options
        self._ask = ask
        self._host, self._server = host, server
        self._take_up_changes = take_up_changes
        self._ends = ends
        self._pages = Pages()
        self._viewers = Viewers(ask, options.viewers)
        self._changes = Changes(door.access, Path(options.audit))
        self.close = self._viewers.close

    def takes(self, path: str) -> bool:
        """Whether it answers this path."""
        return path in self._pages.paths or path in _METHODS

    async def __call__(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a path that it takes; `path`: without the server's root path."""
        try:
            is_page = path in self._pages.paths
            methods = ("GET", "HEAD") if is_page else (_METHODS[path],)
            if scope["method"] not in methods:
                raise Refused(405, "method_not_allowed", f"{path} takes {methods[0]}.")
            if is_page:
                await self._pages.answer(path, scope, send)
                return
            await self._answer(path, scope, receive, send)
        except Refused as refused:
            await send_refusal(send, refused, HEADERS)

    # -- inside ------------------------------------------------------------------------------

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._caller(scope)
        if path == "/fairlane/live":
            await self._live(caller, scope, receive, send)
        elif path == "/fairlane/history":
            whose = self._whose(caller)
            client = _client(scope)
            if whose not in (None, client):
                raise Refused(403, "operators_only", "A client may look at itself alone.")
            told = await self._ask("history", caller, client)
            await send_json(send, {"period_s": PERIOD_S, **told}, headers=HEADERS)
        elif not caller.operator:
            raise Refused(403, "operators_only", "This route is for operators of the server.")
        elif path == "/fairlane/keys":
            client = _client(scope)
            keys = tenant_at(self._door.tenants, client).keys
            told = {"client": client, "keys": [{"id": k.id, "added": k.added} for k in keys]}
            await send_json(send, told, headers=HEADERS)
        else:
            await self._change(caller, scope, receive, send)

    async def _live(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        whose = self._whose(caller)

        def still() -> None:
            now = self._caller(scope)
            if (now.client, now.operator) != (caller.client, caller.operator):
                raise Refused(401, "invalid_api_key", "The key is another's by now.")

        begin = await self._ask("begin", caller)
        viewer = Viewer(caller, whose, still, lambda: self._ends(scope))
        await self._viewers.stream(viewer, self._hello(caller, whose, begin), receive, send)

    async def _change(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._options.changes:
            raise Refused(403, "changes_off", "[dashboard] changes is not true on this server.")
        check_origin(scope, self._options.origin)
        asked = await read_json(scope, receive)
        told = await asyncio.to_thread(self._changes.make, asked, self._who(caller, scope))
        self._take_up_changes()
        await send_json(send, told, headers=HEADERS)

    def _who(self, caller: Caller, scope: Scope) -> Who:
        """Who changes something, for the audit log."""
        headers = dict(scope["headers"])
        address = scope.get("client")
        return Who(
            str(caller.client),
            self._door.key_id(scope),
            "" if address is None else str(address[0]),
            headers.get(b"x-forwarded-for", b"").decode("latin-1")[:_FORWARDED],
        )

    def _hello(self, caller: Caller, whose: str | None, history: bytes) -> bytes:
        role = "operator" if caller.operator else "public" if whose is None else "client"
        told = {
            "version": _VERSION,
            "host": self._host,
            "server": self._server if whose is None else "",
            "role": role,
            "client": None if caller.operator else caller.client,
            "changes": caller.operator and self._options.changes,
            "period_s": PERIOD_S,
            "columns": COLUMNS,
        }
        return event("hello", json.dumps(told)[:-1] + ', "history": ' + history.decode() + "}")

    def _caller(self, scope: Scope) -> Caller:
        """Who looks, by the tenants as they are now. Raises Refused."""
        self._take_up_changes()
        caller = self._door.identify(scope)
        if caller.client is None:
            raise Refused(401, "missing_api_key", "Send an API key as 'Authorization: Bearer KEY'.")
        return caller

    def _whose(self, caller: Caller) -> str | None:
        """Whose rows it may see; None: everyone's."""
        return None if caller.operator or self._door.access.public else caller.client


def _client(scope: Scope) -> str:
    """The client that a query names. Raises Refused."""
    query: Mapping[str, list[Any]] = parse_qs(bytes(scope["query_string"]).decode("latin-1"))
    named = query.get("client", [])
    if len(named) != 1:
        raise Refused(400, "invalid_request", "Name one client: ?client=NAME")
    return str(named[0])
