"""A server with the middleware in front of a small ASGI application, over real sockets.

The application hands every POST to an engine client of vLLM's shape, together with all that a
sender may forge, and answers with the client that the engine was told.
"""

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from types import SimpleNamespace
from typing import Any

import uvicorn

from fairlane.cluster.config import Cluster
from fairlane.core.cost import LinearCost
from fairlane.door.access import Access
from fairlane.door.answers import Message, Receive, Scope, Send
from fairlane.door.config import Configuration
from fairlane.engines.vllm.clients import CLIENT_KEY, client_of
from fairlane.engines.vllm.middleware import Identity
from fairlane.usage.tally import Tally
from tests.door.town import Town
from tests.processes import PATIENCE_S
from tests.talking import ask


class Engine:
    """An engine client with the methods that the door stands in front of."""

    def __init__(self) -> None:
        self.engine_core = self
        self.output_processor = SimpleNamespace(
            process_outputs=lambda *_, **__: None, abort_requests=self._forget
        )
        self.clients: list[str | None] = []  # of requests, as the scheduler would read them
        self.headers: list[dict[bytes, bytes]] = []  # that the application was given with a POST
        self.weights: dict[str, float] = {}
        self.snapshot: dict[str, Any] = {"policy": "vtc", "shares": True, "weighted": True}
        self.snapshot["clients"] = {}
        self.tally = Tally(1000, "rest")  # what the schedulers have to tell of usage
        self.broken = False
        self.forgotten: list[str] = []
        self.output_tokens = 1
        self.client_count = 1  # API servers
        self.client_index = 0  # which of them this is
        self.held: asyncio.Event | None = None  # until it is set, requests are queued
        self.reading: asyncio.Event | None = None  # until it is set, prompts are being read
        self.turns_away = False  # whoever is queued, as a policy does that rejects
        self.cached_tokens = 0  # of each prompt
        self._ended: dict[str, asyncio.Event] = {}
        self._work_of: dict[str, asyncio.Task[None]] = {}
        self.begun: set[str] = set()  # of which prompts were read
        self.asked: list[str] = []  # whether they were

    async def add_request_async(self, request: Any) -> None:
        self.clients.append(client_of(request))
        ended = self._ended[request.request_id] = asyncio.Event()
        work = asyncio.get_running_loop().create_task(self._work(request.request_id, ended))
        self._work_of[request.request_id] = work

    async def _work(self, request_id: str, ended: asyncio.Event) -> None:
        if self.held is not None:
            await self.held.wait()
        if not self.turns_away:
            self.begun.add(request_id)
            if self.reading is not None:
                await self.reading.wait()
        output = SimpleNamespace(
            request_id=request_id,
            new_token_ids=[0] * (0 if self.turns_away else self.output_tokens),
            finish_reason="abort" if self.turns_away else "stop",
            prefill_stats=SimpleNamespace(num_cached_tokens=self.cached_tokens),
        )
        self.output_processor.process_outputs([output], None)
        ended.set()

    async def finished(self, request_id: str) -> None:
        await self._ended[request_id].wait()

    async def abort_requests_async(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            self._work_of[request_id].cancel()
        self._forget(list(request_ids), True)

    def _forget(self, request_ids: list[str], internal: bool) -> list[str]:
        self.forgotten += request_ids
        return request_ids

    async def call_utility_async(self, method: str, *args: Any) -> Any:
        if self.broken:
            raise RuntimeError(f"no method {method}")
        if method == "fairlane_set_weights":
            self.weights.update(args[0])
            return None
        if method == "fairlane_share":
            return ""
        if method == "fairlane_take_usage":
            return json.loads(json.dumps(self.tally.take().rows()))
        if method in ("fairlane_swap", "fairlane_settle", "fairlane_part"):
            return {}
        if method == "fairlane_unread":
            self.asked += args[0]
            return [request_id for request_id in args[0] if request_id not in self.begun]
        return json.loads(json.dumps(self.snapshot))


class Application:
    """Every POST makes requests for the engine, as many as its body says."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._made = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            status, answer = await self._answer(scope, await _body(receive), receive)
            body = answer.encode()
            headers = [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, body: bytes, receive: Receive) -> tuple[int, str]:
        if scope["method"] != "POST":
            return 200, "stock_metric 1\n" if scope["path"].startswith("/metrics") else "fine"
        self._engine.headers.append(dict(scope["headers"]))
        sent = json.loads(body or b"{}")
        before = len(self._engine.clients)
        requests = [self._request(sent) for _ in range(sent.get("n", 1))]
        try:
            for request in requests:
                await asyncio.create_task(self._engine.engine_core.add_request_async(request))
            await self._finish([request.request_id for request in requests], receive)
        except ValueError as error:
            return 500, str(error)
        return 200, json.dumps(self._engine.clients[before:])

    async def _finish(self, request_ids: list[str], receive: Receive) -> None:
        """Until the engine is done with them, or their sender hangs up: then they are aborted."""

        async def wait() -> None:
            for request_id in request_ids:
                await self._engine.finished(request_id)

        done, gone = asyncio.create_task(wait()), asyncio.ensure_future(receive())
        await asyncio.wait([done, gone], return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            await self._engine.engine_core.abort_requests_async(request_ids)
        done.cancel()
        gone.cancel()

    def _request(self, sent: dict[str, Any]) -> Any:
        self._made += 1
        sampling = SimpleNamespace(extra_args=sent.get("vllm_xargs"))
        pooling = SimpleNamespace(extra_kwargs=sent.get("vllm_xargs"))
        pools = sent.get("pool", False)
        adapter = sent.get("model")
        return SimpleNamespace(
            request_id=f"request-{self._made}",
            sampling_params=None if pools else sampling,
            pooling_params=pooling if pools else None,
            prompt_token_ids=[0] * sent.get("prompt_tokens", 1),
            lora_request=None if adapter is None else SimpleNamespace(lora_name=adapter),
        )


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message: Message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


class Match(Enum):
    """As Starlette's, but for partial ones."""

    NONE = False
    FULL = True


class Route:
    """A route of the application, asked as Starlette's are: by exactly this path, any method."""

    def __init__(self, path: str) -> None:
        self._path = path

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match(scope["path"] == self._path and scope["type"] == "http"), {}


_PORTS = itertools.count(1)
CONTROL = ("/v1/load_lora_adapter", "/abort_requests", "/inference/v1/abort_requests", "/sleep")


class Server:
    """A running server, and a client to talk to it."""

    def __init__(
        self,
        access: Access,
        engine: Engine,
        cluster: Cluster | None = None,
        **more: Any,
    ) -> None:
        self.routes = [Route(path) for path in (*CONTROL, "/v1/completions", "/something/new")]
        self.user_middleware: list[tuple[type, tuple[object, ...], dict[str, object]]] = []
        self.engine = engine
        self.now = 1000.0
        config = Configuration(
            cost=LinearCost(cached_price=1 / 8), access=access, cluster=cluster or Cluster(),
            **more,
        )  # fmt: skip
        self.identity = Identity(Application(engine), config, lambda: self.now)
        # of vLLM's options; the port is another than it listens on
        args = SimpleNamespace(port=next(_PORTS), model="folder/m", served_model_name=["m", "n"])
        self.state = SimpleNamespace(engine_client=engine, args=args)
        self.port = 0
        self.exit_status: object = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As Starlette: the application puts itself into the scope, then asks its middleware."""
        scope["app"] = self
        await self.identity(scope, receive, send)

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str | bytes] | None = None,
        body: Any = None,
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers in lower case, body."""
        status, found, text = ask(self.port, method, path, headers, body)
        return status, found, text.decode()

    def send(
        self, key: str | None, body: Any = None, path: str = "/v1/completions", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """A POST with an API key."""
        named: dict[str, str | bytes] = {k.replace("_", "-"): v for k, v in headers.items()}
        if key is not None:
            named["Authorization"] = f"Bearer {key}"
        status, found, text = self.request("POST", path, named, body or {})
        return status, found, json.loads(text) if text.startswith(("{", "[")) else text


@contextmanager
def running(
    access: Access,
    engine: Engine | None = None,
    cluster: Cluster | None = None,
    **more: Any,
) -> Iterator[Server]:
    """Start a server; it is stopped when the block ends. more: of its configuration."""
    server = Server(access, engine or Engine(), cluster, **more)
    config = uvicorn.Config(
        server,
        "127.0.0.1",
        0,
        log_level="critical",
        lifespan="on",
        timeout_graceful_shutdown=1,
        http="h11",  # httptools refuses some bad headers itself; what passes it is tested here
    )
    process = uvicorn.Server(config)
    started = threading.Event()

    async def serve() -> None:
        config.load()
        process.lifespan = config.lifespan_class(config)
        try:
            await process.startup()
        except SystemExit as end:
            server.exit_status = end.code
            return
        finally:
            started.set()
        await process.main_loop()
        await process.shutdown()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        if server.exit_status is None:
            server.port = process.servers[0].sockets[0].getsockname()[1]
        yield server
    finally:
        process.should_exit = True
        thread.join(PATIENCE_S)


__all__ = ["CLIENT_KEY", "Engine", "Server", "Town", "running"]
