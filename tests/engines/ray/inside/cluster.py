"""A small Ray cluster on this machine, and clients that keep a deployment busy."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve

from fairlane.engines.ray import queue_state, report_tokens
from tests.processes import wait_until

TOKEN_S = 0.02


@contextmanager
def running(port: int) -> Iterator[None]:
    """A cluster with Serve on that port; it is over when the block ends."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


@serve.deployment(num_replicas=2, max_ongoing_requests=4, ray_actor_options={"num_cpus": 0.1})
class Model:
    """Takes its time for each token."""

    def __init__(self, reports: bool = True) -> None:
        self._reports = reports

    async def __call__(self, request: Any = None, *, tenant: str = "", tokens: int = 1) -> Any:
        from starlette.responses import StreamingResponse

        if request is not None:
            wanted = int(request.query_params["tokens"])
            return StreamingResponse(self._stream(wanted), media_type="text/plain")
        await asyncio.sleep(tokens * TOKEN_S)
        if self._reports:
            await report_tokens(tokens)
        return tokens

    async def _stream(self, tokens: int) -> Any:
        for _ in range(tokens):
            await asyncio.sleep(TOKEN_S)
            await report_tokens(1)
            yield "token "


class Clients:
    """A process that sends requests to an app, each client keeping so many in flight."""

    def __init__(self, app: str) -> None:
        self._handle = serve.get_app_handle(app)
        self._served = Counter[str]()
        self._errors: list[str] = []
        self._on = True

    async def flood(self, client: str, in_flight: int) -> None:
        """Until `stop`, and until all are answered."""
        sizes = random.Random(client)

        async def one_after_another() -> None:
            while self._on:
                try:
                    sent = self._handle.remote(tenant=client, tokens=sizes.randint(5, 15))
                    tokens = await sent
                    self._served[client] += tokens
                except Exception as error:
                    self._errors.append(repr(error))

        await asyncio.gather(*(one_after_another() for _ in range(in_flight)))

    async def seen(self) -> tuple[Counter[str], list[str]]:
        """Tokens served by client, and what went wrong."""
        return self._served, self._errors

    async def stop(self) -> None:
        """Send no more."""
        self._on = False


class Flood:
    """Clients a and b, with 32 and 16 requests in flight, from as many processes as wanted."""

    def __init__(self, app: str, processes: int) -> None:
        self._processes = [
            ray.remote(Clients).options(num_cpus=0).remote(app) for _ in range(processes)
        ]
        self._floods = [
            self._processes[0].flood.remote("a", 32), self._processes[-1].flood.remote("b", 16)
        ]  # fmt: skip

    def served(self) -> Counter[str]:
        """Tokens so far."""
        total = Counter[str]()
        for served, _ in self._seen():
            total += served
        return total

    def errors(self) -> list[str]:
        """What went wrong so far."""
        return [error for _, errors in self._seen() for error in errors]

    def _seen(self) -> list[tuple[Counter[str], list[str]]]:
        return list(ray.get([one.seen.remote() for one in self._processes]))

    def next(self, tokens: int) -> Counter[str]:
        """Who gets how many of the next so many tokens."""
        begin = self.served()
        end = wait_until(self.served, lambda now: now.total() - begin.total() >= tokens, "served")
        return end - begin

    def share(self, tokens: int = 2500) -> float:
        """What a gets of the next tokens, for each that b gets."""
        self.next(400)  # all places are taken by now
        found = self.next(tokens)
        return found["a"] / found["b"]

    def end(self) -> list[str]:
        """Stop, and let every request be answered; what went wrong."""
        ray.get([one.stop.remote() for one in self._processes])
        ray.get(self._floods)
        errors = self.errors()
        for one in self._processes:
            ray.kill(one)
        return errors


@contextmanager
def flooded(app: str, processes: int) -> Iterator[Flood]:
    """An app that is kept busy, and answers every request."""
    flood = Flood(app, processes)
    yield flood
    assert flood.end() == []


def state(app: str, deployment: str = "Model") -> dict[str, Any]:
    """What its fair queue says."""
    return asyncio.run(queue_state(deployment, app))


def wait_for_state(app: str, is_so: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
    """Until its fair queue says so."""
    return wait_until(lambda: state(app), is_so, what)
