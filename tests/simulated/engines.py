"""Simulated engines over real sockets, and what tests ask of them."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fairlane.records import RequestRecord
from fairlane.simulated import SimulatedEngine
from fairlane.simulated.serve import in_thread
from tests.processes import PATIENCE_S, started


class Running(NamedTuple):
    """An engine that serves. ended: a record of each answer that ended, in server time."""

    url: str
    engine: SimulatedEngine
    ended: list[RequestRecord]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """Chunks of a stream, without the [DONE] that must end it."""
        *events, done, rest = self.body.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]


@contextmanager
def running(**options: Any) -> Iterator[Running]:
    """An engine in a thread of its own, a hundred times as fast as real unless told otherwise."""
    ended: list[RequestRecord] = []
    engine = SimulatedEngine(**{"speed": 100.0, "on_end": ended.append, **options})
    with in_thread(engine) as url:
        yield Running(url, engine, ended)


@contextmanager
def in_process(*options: str, port: int = 0) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """The command, in a process of its own, and its address. Port 0: any that is free."""
    words = [sys.executable, "-m", "fairlane", "simulated-engine", "--port", str(port), *options]
    with started(*words) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "ready at http://127.0.0.1:" in said
        yield process, said.split()[-1]


def ask(url: str, path: str, body: Any = None) -> Answer:
    """GET, or POST where there is a body: bytes as they are, anything else as JSON."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, PATIENCE_S)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, content)
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    answer = Answer(response.status, headers, response.read())
    connection.close()
    return answer


def wait_until(is_so: Callable[[], bool]) -> None:
    """Ask until it is so."""
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def metrics(url: str) -> dict[str, float]:
    """GET /metrics, by name; what has more labels than the model and the engine is left out."""
    found = {}
    for line in ask(url, "/metrics").body.decode().splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name, labels = name.split("{")
            if labels.count("=") == 2:
                found[name] = float(value)
    return found
