"""Those who look: one stream each, of frames that are shared.

A viewer gets the next frame when it has taken the last one. Who reads slowly misses frames in
between, and gets all rows with the next; nothing is kept for it. Each stream asks again with every
frame whether its key still opens it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fairlane.dashboard.live import Told
from fairlane.dashboard.pages import HEADERS
from fairlane.door.admission import Caller, Refused
from fairlane.door.answers import Receive, Send, as_headers

_SILENCE_S = 10.0  # then a comment keeps the stream alive
_OF_ONE = 8  # streams of one client
_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would hold it back
    **HEADERS,
}
Ask = Callable[..., Awaitable[Any]]
"""From what is asked, by whom, and more: see Live.tell. Raises Refused."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks. whose: its own path alone; None: it sees everyone.

    still: raises Refused once it may look no more; ends: whether the server is about to end.
    """

    caller: Caller
    whose: str | None
    still: Callable[[], None]
    ends: Callable[[], bool]

    @property
    def kind(self) -> str:
        """By what it is counted: operators are never kept out by others."""
        return "operators" if self.caller.operator else "others"


class Viewers:
    """See the module. most: operators at once, and as many others."""

    def __init__(self, ask: Ask, most: int) -> None:
        self._ask = ask
        self._most = most
        self._looking: dict[str, int] = {}  # streams, by kind and by client
        self._asked: dict[tuple[str | None, int | None], asyncio.Task[Told]] = {}
        self._over = asyncio.Event()

    def close(self) -> None:
        """End all streams."""
        self._over.set()

    async def stream(self, viewer: Viewer, hello: bytes, receive: Receive, send: Send) -> None:
        """Show it all, until it hangs up or may look no more. Raises Refused before it begins."""
        names = [viewer.kind] if viewer.whose is None else [viewer.kind, f"/{viewer.whose}"]
        for name in names:
            most = self._most if name == viewer.kind else min(self._most, _OF_ONE)
            if self._looking.get(name, 0) >= most:
                raise Refused(503, "too_many_viewers", "Too many are looking; try again later.")
        for name in names:
            self._looking[name] = self._looking.get(name, 0) + 1
        over: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(_hang_up(receive)),
            asyncio.ensure_future(self._over.wait()),
        ]
        try:
            await send(
                {"type": "http.response.start", "status": 200, "headers": as_headers(_HEADERS)}
            )
            await _part(send, hello)
            await self._frames(viewer, over, send)
            await send({"type": "http.response.body", "body": b""})
        finally:
            for task in over:
                task.cancel()
            for name in names:
                self._looking[name] -= 1
                if not self._looking[name]:
                    del self._looking[name]

    async def _frames(self, viewer: Viewer, over: list[asyncio.Future[Any]], send: Send) -> None:
        last: int | None = None
        while not viewer.ends():
            frame = self._frame(viewer, last)
            await asyncio.wait(
                {frame, *over}, timeout=_SILENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            if any(task.done() for task in over):
                return
            try:
                viewer.still()
                if frame.done():
                    last, data = frame.result()
            except Refused:
                return
            await _part(send, data if frame.done() else b":\n\n")

    def _frame(self, viewer: Viewer, last: int | None) -> "asyncio.Task[Told]":
        """The frame after `last`: asked once for all who had that one."""
        key = (viewer.whose, last)
        task = self._asked.get(key)
        if task is None:
            asked = self._ask("frame", viewer.caller, last)
            task = self._asked[key] = asyncio.ensure_future(asked)
            task.add_done_callback(lambda _: self._asked.pop(key))
        return task


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _part(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
