"""The simulated engine as an ASGI application: OpenAI's API as vLLM serves it.

Any ASGI server runs it (serve.py runs it by uvicorn), in a program of its own or within another.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.core.options import ABOVE_ZERO, AT_LEAST_ONE
from fairlane.policies.registry import get_policy
from fairlane.records import RequestRecord
from fairlane.simulated import asked as read
from fairlane.simulated import metrics
from fairlane.simulated.asked import Asked, BadRequest
from fairlane.simulated.realtime import Counts, RealTimeEngine
from fairlane.simulated.replies import Reply, Streamed, Whole, error_body, ignored_header
from fairlane.simulated.server import make_server
from fairlane.simulated.words import draw, pieces, token_id
from fairlane.simulator.run import make_loop

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]

_LONGEST_BODY = 1 << 24  # bytes
_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


class SimulatedEngine:
    """An OpenAI-compatible engine whose tokens come as a latency profile says.

    profile: a name of `fairlane profiles`, or a TOML file. speed: how many times faster than real
    time. memory_tokens: size of the KV cache, max_num_seqs: requests that run at once, both the
    profile's by default. scheduler: who is served next. model: the name to serve, the profile's by
    default. mean_output: mean length of answers that end by themselves, tokens. seed: of these
    lengths, of the words and of the noise. noise: steps take more and less, as measured. on_end: is
    called with a record of each answer that ended, in server time (`RealTimeEngine`).

    `engine` has exact counts. Raises FairlaneError for settings that do not work.
    """

    def __init__(
        self,
        profile: str = "h200-llama-2-7b",
        speed: float = 10.0,
        *,
        memory_tokens: int | None = None,
        max_num_seqs: int | None = None,
        scheduler: str = "fcfs",
        model: str | None = None,
        mean_output: float = 200.0,
        seed: int = 0,
        noise: bool = True,
        on_end: Callable[[RequestRecord], None] | None = None,
    ) -> None:
        ABOVE_ZERO.check("speed", speed)
        AT_LEAST_ONE.check("mean_output", mean_output)
        server = make_server(profile, memory_tokens, max_num_seqs, scheduler, noise)
        self.profile = server.profile.name
        self.scheduler = scheduler
        self.model = model or self.profile
        if not self.model.isprintable():
            raise FairlaneError(f"a model's name is of printable characters, not {self.model!r}")
        self.limits = server.longest
        policy = get_policy(scheduler).create()
        self.engine = RealTimeEngine(
            lambda listener: make_loop((), policy, server, seed, listener=listener),
            speed=speed,
            reply_delay_s=server.reply_delay_s,
            on_end=on_end,
        )
        self._mean_output = mean_output
        self._seed = seed
        self._created = int(time.time())
        self._routes: dict[tuple[str, str], Callable[[Receive, Send], Awaitable[None]]] = {
            ("POST", "/v1/completions"): self._complete,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/tokenize"): self._tokenize,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/version"): self._version,
            ("GET", "/simulated"): self._state,
        }

    @property
    def counts(self) -> Counts:
        """What has happened so far, exactly."""
        return self.engine.counts

    def close(self) -> None:
        """End all that is under way, with an error, and answer 503 from then on."""
        self.engine.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of the ASGI server."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            try:
                await self._route(scope)(receive, send)
            except BadRequest as error:
                await _send_error(send, error)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def _route(self, scope: Scope) -> Callable[[Receive, Send], Awaitable[None]]:
        method, path = scope["method"], scope["path"]
        found = self._routes.get((method, path))
        if found is not None:
            return found
        if any(path == known for _, known in self._routes):
            raise BadRequest("Method Not Allowed", status=405, kind="MethodNotAllowed")
        raise BadRequest("Not Found", status=404, kind="NotFoundError")

    # -- generation --------------------------------------------------------------------------

    async def _complete(self, receive: Receive, send: Send) -> None:
        body = read.read_json(await _body(receive))
        await self._answer(read.read_completion(body, self.model, self.limits), receive, send)

    async def _chat(self, receive: Receive, send: Send) -> None:
        body = read.read_json(await _body(receive))
        await self._answer(read.read_chat(body, self.model, self.limits), receive, send)

    async def _answer(self, asked: Asked, receive: Receive, send: Send) -> None:
        if self.engine.broken is not None:
            raise BadRequest(self.engine.broken, status=503, kind="ServiceUnavailable")
        reply = (Streamed if asked.stream else Whole)(asked, self.model)
        positions = self._submit(asked, reply)
        watcher = asyncio.create_task(self._watch(receive, reply, positions))
        try:
            await reply.in_queue()
            headers = []
            if ignored := ignored_header(asked.ignored):
                headers.append((b"x-simulated-ignores", ignored.encode()))
            if isinstance(reply, Streamed):
                await _send_stream(send, reply, headers)
            elif isinstance(reply, Whole):
                await _send_json(send, await reply.body(), headers=headers)
        finally:
            watcher.cancel()
            self._abort(positions)

    def _submit(self, asked: Asked, reply: Reply) -> list[int]:
        """Hand all sequences of a request to the engine; their positions."""
        positions = []
        for prompt, most in zip(asked.prompts, asked.limits, strict=True):
            for i in range(asked.n):
                question = b"%d %b %b" % (i, str(asked.seed).encode(), prompt.content)
                length, start = draw(self._seed, question, self._mean_output)
                length = most if asked.ignore_eos else min(most, max(length, asked.min_tokens))
                reason = "length" if length == most else "stop"
                reply.add(start, prompt.tokens, length, reason)
        for choice in reply.choices:
            client = asked.user or "anonymous"
            positions.append(
                self.engine.submit(choice, client, choice.prompt, choice.length, choice.reason)
            )
        return positions

    def _abort(self, positions: list[int]) -> None:
        for position in positions:
            self.engine.abort(position)

    async def _watch(self, receive: Receive, reply: Reply, positions: list[int]) -> None:
        """Wait for the client to hang up, and stop its sequences at once."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._abort(positions)
        reply.fail(BadRequest("client disconnected", status=499, kind="ClientDisconnected"))

    # -- the rest ----------------------------------------------------------------------------

    async def _tokenize(self, receive: Receive, send: Send) -> None:
        body = read.read_json(await _body(receive))
        read.check_model(body.get("model"), self.model)
        if "messages" in body:
            count = read.read_messages(body, self.model).tokens
            tokens = list(range(count))
        elif isinstance(text := body.get("prompt"), str):
            tokens = [token_id(piece) for piece in pieces(text)]
        else:
            raise BadRequest("give prompt, a text, or messages", "prompt")
        await _send_json(
            send,
            {
                "count": len(tokens),
                "max_model_len": self.limits.total,
                "tokens": tokens,
                "token_strs": None,
            },
        )

    async def _models(self, receive: Receive, send: Send) -> None:
        card = {
            "id": self.model,
            "object": "model",
            "created": self._created,
            "owned_by": "fairlane",
            "root": self.model,
            "parent": None,
            "max_model_len": self.limits.total,
            "permission": [],
        }
        await _send_json(send, {"object": "list", "data": [card]})

    async def _health(self, receive: Receive, send: Send) -> None:
        if self.engine.broken is not None:
            raise BadRequest(self.engine.broken, status=503, kind="ServiceUnavailable")
        await _send(send, 200, [], b"")

    async def _version(self, receive: Receive, send: Send) -> None:
        await _send_json(send, {"version": version("fairlane"), "engine": "fairlane-simulated"})

    async def _metrics(self, receive: Receive, send: Send) -> None:
        content = metrics.render(self.engine, self.model)
        await _send(send, 200, [(b"content-type", metrics.CONTENT_TYPE.encode())], content)

    async def _state(self, receive: Receive, send: Send) -> None:
        engine = self.engine
        state = {
            "profile": self.profile,
            "scheduler": self.scheduler,
            "model": self.model,
            "speed": engine.speed,
            "server_time_s": engine.now(),
            **engine.load()._asdict(),
            **engine.counts.as_dict(),
            "broken": engine.broken,
        }
        await _send_json(send, state)


async def _live(receive: Receive, send: Send) -> None:
    """The server starts and ends."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _body(receive: Receive) -> bytes:
    """A request's body. Raises BadRequest for one that is too long, as soon as it is."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("client disconnected", status=499, kind="ClientDisconnected")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _LONGEST_BODY:
            raise BadRequest(
                f"the body is longer than {_LONGEST_BODY:,} bytes", status=413, kind="TooLarge"
            )
        if not message.get("more_body"):
            return b"".join(parts)


async def _send_stream(send: Send, reply: Streamed, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [_EVENTS, (b"cache-control", b"no-cache"), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    over = False
    with suppress(OSError):  # some ASGI servers say so that the client is gone
        while not over:
            data, over = await reply.chunks()
            await send({"type": "http.response.body", "body": data, "more_body": not over})


async def _send_json(
    send: Send, value: Any, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    content = json.dumps(value, separators=(",", ":")).encode()
    await _send(send, status, [_JSON, *(headers or [])], content)


async def _send_error(send: Send, error: BadRequest) -> None:
    after = [] if error.retry_after is None else [(b"retry-after", error.retry_after.encode())]
    with suppress(OSError):
        await _send_json(send, error_body(error), error.status, after)


async def _send(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes
) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
