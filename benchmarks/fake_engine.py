"""An engine that makes bytes and no tokens, so that nearly all that is measured is not its own.

It runs in another process. Every open stream gets the same chunk, all in the same tick, as an
engine's steps bring them; a request that is not streamed is answered at once.
"""

import asyncio
import json
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import cast

import uvloop

PROMPT_LEN = 256
MODEL = "m"
TEXT = {"id": "cmpl-0123456789abcdef", "object": "text_completion", "created": 1, "model": MODEL}
CHAT = {**TEXT, "object": "chat.completion.chunk"}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def whole(value: object, kind: bytes = b"application/json") -> bytes:
    """An answer in one piece."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (kind, len(body)) + body


def event(value: str) -> bytes:
    """One server-sent event as one chunk of a chunked body."""
    data = f"data: {value}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def token(finish: str | None, *, chat: bool, word: str = " hello") -> bytes:
    """A chunk with one token."""
    text = {"delta": {"content": word}} if chat else {"text": word}
    choice = {"index": 0, **text, "logprobs": None, "finish_reason": finish}
    return event(json.dumps({**(CHAT if chat else TEXT), "choices": [choice]}))


def usage(tokens: int) -> dict[str, int]:
    """What it says that a request had."""
    total = PROMPT_LEN + tokens
    return {"prompt_tokens": PROMPT_LEN, "completion_tokens": tokens, "total_tokens": total}


def closing(tokens: int, *, chat: bool) -> bytes:
    """The last token, the counts and the end of the body."""
    last = {**(CHAT if chat else TEXT), "choices": [], "usage": usage(tokens)}
    end = event(json.dumps(last)) + event("[DONE]") + b"0\r\n\r\n"
    return token("length", chat=chat) + end


def answer(tokens: int) -> bytes:
    """A chat's answer that is not streamed."""
    message = {"role": "assistant", "content": "Hello there, friend."}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    value = {**TEXT, "object": "chat.completion", "choices": [choice], "usage": usage(tokens)}
    return whole(value)


MODELS = whole({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "fake"}]})
WORDS = (" hello", " world")  # in turn: LiteLLM ends a stream of one word as a loop of the model
MORE = {chat: [token(None, chat=chat, word=word) for word in WORDS] for chat in (False, True)}
ANSWER = answer(16)


class Streams(asyncio.Protocol):
    """One connection; `live` maps those with an open stream to the tokens they still get."""

    live: dict["Streams", int] = {}  # noqa: RUF012

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.received = b""

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self.live.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """Answer once a whole request is there."""
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        if not separator or len(body) < int(length or 0):
            return
        self.received = b""
        path = head.split(b" ", 2)[1]
        if path == b"/metrics":
            self.transport.write(whole(self.load(), b"text/plain"))
        elif head.startswith(b"GET"):
            self.transport.write(MODELS)
        else:
            self.work(json.loads(body), chat=b"/chat/" in path)

    def work(self, asked: dict[str, int], *, chat: bool) -> None:
        """Open a stream, or answer whole."""
        if not asked.get("stream"):
            self.transport.write(ANSWER)
            return
        self.chat, self.tokens = chat, asked["max_tokens"]
        self.live[self] = self.tokens
        self.transport.write(HEAD)

    def load(self) -> bytes:
        """As vLLM tells it."""
        return b"vllm:num_requests_running %d\nvllm:num_requests_waiting 0\n" % len(self.live)

    def step(self) -> None:
        """One more token."""
        left = self.live[self]
        more = MORE[self.chat][left % len(WORDS)]
        self.transport.write(more if left > 1 else closing(self.tokens, chat=self.chat))
        self.live[self] = left - 1
        if left == 1:
            del self.live[self]


async def serve(started: Connection, rate: float) -> None:
    """Write a token to every stream, `rate` times a second."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Streams, "127.0.0.1", 0, backlog=4096)
    started.send(server.sockets[0].getsockname()[1])
    due = loop.time()
    while True:
        due = max(due + 1 / rate, loop.time())
        await asyncio.sleep(due - loop.time())
        for stream in list(Streams.live):
            stream.step()


def pin(core: int) -> None:
    """Keep this process on one core, where the system can do that and has several."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def run_server(started: Connection, rate: float, core: int | None) -> None:
    """What the other process does; it says its port when it listens."""
    if core is not None:
        pin(core)
    uvloop.run(serve(started, rate))


@contextmanager
def server(rate: float, core: int | None = None) -> Iterator[str]:
    """The address of an engine in another process, kept on this core."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=run_server, args=(theirs, rate, core), daemon=True
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()
