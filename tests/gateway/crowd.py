"""Clients that keep a server busy, each with so many requests under way."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

OUTPUT = 32  # tokens of a request, on average


class Asked(Protocol):
    """A server that such clients ask."""

    def request(
        self, method: str, path: str, body: Any = None, *, key: str | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers, body."""


def asking(tokens: int) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "w1 w2 w3", "max_tokens": tokens, "ignore_eos": True}


class Crowd:
    """Clients that send their next request as soon as one is answered, so many of each.

    Requests differ in length: equal ones would end together, and clients take turns by batches.
    """

    def __init__(
        self,
        server: Asked,
        workers: Mapping[str, tuple[str | None, int]],
        *,
        streams: bool = False,
        body: Callable[[int], dict[str, Any]] = asking,
    ) -> None:
        """workers: of each client its key and how many requests it has under way.

        streams: whether answers are streamed. body: asks for so many tokens.
        """
        self.served: Counter[str] = Counter()  # tokens
        self._body = body
        self._server = server
        options = {"stream": True, "stream_options": {"include_usage": True}}
        self._options: dict[str, Any] = options if streams else {}
        self._over = threading.Event()
        self._workers = [
            (name, key, number) for name, (key, count) in workers.items() for number in range(count)
        ]
        self._pool = ThreadPoolExecutor(len(self._workers))
        self._working: list[Future[None]] = []

    def _work(self, name: str, key: str | None, number: int) -> None:
        lengths = random.Random(f"{name} {number}")
        while not self._over.is_set():
            tokens = lengths.randrange(8, 2 * OUTPUT - 7)
            status, _, answer = self._server.request(
                "POST", "/v1/completions", self._body(tokens) | self._options, key=key
            )
            assert status == 200, answer
            text = answer if isinstance(answer, str) else answer.decode()
            last = text.split("data: ")[-2] if self._options else text
            self.served[name] += json.loads(last)["usage"]["completion_tokens"]

    def __enter__(self) -> "Crowd":
        self._working = [self._pool.submit(self._work, *worker) for worker in self._workers]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()

    def until(self, tokens: int) -> Counter[str]:
        """Wait for so many tokens more; whose they were. Raises what a client met."""
        return all_until([self], tokens)

    def check(self) -> None:
        """Raise what a client met."""
        for worker in self._working:
            if worker.done():
                worker.result()


def all_until(crowds: Sequence[Crowd], tokens: int) -> Counter[str]:
    """Wait until these were served so many tokens more, together; whose they were."""

    def served() -> Counter[str]:
        return sum((crowd.served for crowd in crowds), Counter())

    before = served()
    while (served() - before).total() < tokens:
        for crowd in crowds:
            crowd.check()
        time.sleep(0.01)
    return served() - before
