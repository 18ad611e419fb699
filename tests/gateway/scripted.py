"""An upstream that answers as a test says, byte for byte, and keeps what it was sent."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fairlane.door.answers import Receive, Scope, Send
from fairlane.http_server import HttpServer, in_thread


@dataclass
class Reply:
    """status, content type, and the body in parts. held: until it is set, nothing is answered."""

    content: Any = None
    kind: str = "application/json"
    status: int = 200
    held: threading.Event | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> Sequence[bytes]:
        """The body."""
        if isinstance(self.content, bytes):
            return [self.content]
        if isinstance(self.content, list):
            return self.content
        return [json.dumps(self.content).encode()]


@dataclass
class Sent:
    """What came. gone: whether its sender hung up before the answer."""

    path: str
    headers: dict[str, str]
    body: bytes
    gone: bool = False


class Scripted:
    """The application. replies: by path."""

    def __init__(self, replies: dict[str, Reply], models: Sequence[str]) -> None:
        self.replies = replies
        self.models = models
        self.seen: list[Sent] = []
        self.url = ""
        self.unwell = 0  # for so many times that it is asked how it is
        self.asked = 0  # how it is
        self.listed = 0  # what it serves

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["method"] == "GET":
            status = 200 if scope["path"] == "/v1/models" else 404
            self.listed += status == 200
            if scope["path"] == "/health":
                status = 500 if self.unwell > 0 else 200
                self.unwell -= 1
                self.asked += 1
            await _answer(send, Reply({"data": [{"id": m} for m in self.models]}, status=status))
            return
        parts = []
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        headers = {k.decode(): v.decode("utf-8") for k, v in scope["headers"]}
        sent = Sent(scope["path"], headers, b"".join(parts))
        self.seen.append(sent)
        reply = self.replies[scope["path"]]
        if reply.held is not None:
            gone = asyncio.ensure_future(receive())
            free = asyncio.ensure_future(asyncio.to_thread(reply.held.wait))
            await asyncio.wait({gone, free}, return_when=asyncio.FIRST_COMPLETED)
            sent.gone = gone.done()
            gone.cancel()
        await _answer(send, reply)


async def _answer(send: Send, reply: Reply) -> None:
    headers = {"content-type": reply.kind, **reply.headers}
    told = [(k.encode(), v.encode()) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": told})
    for part in reply.parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@contextmanager
def scripted(replies: dict[str, Reply], models: Sequence[str] = ("tiny",)) -> Iterator[Scripted]:
    """Serve them."""
    app = Scripted(replies, models)
    with in_thread(lambda ready: HttpServer(app, ready, lifespan="off")) as url:
        app.url = url
        try:
            yield app
        finally:
            for reply in replies.values():
                if reply.held is not None:
                    reply.held.set()
