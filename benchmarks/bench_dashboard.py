"""What the page's frames cost, as a Markdown table: by how many look at so many tenants.

A server whose every tenant waits and is served, so that every row changes with every frame; who
looks is an operator on a connection of its own, in another process that reads and throws away. CPU
is user and system time of the server's process between two frames: asking the schedulers, making
the frame, sending it. "times one viewer" compares within a run. The first row has nobody on a
connection, while the producer lingers.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.synchronize import Event
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from benchmarks import chosen, parser
from fairlane.core.audit import Auditor
from fairlane.core.cost import LinearCost
from fairlane.core.types import Request
from fairlane.dashboard.app import Dashboard
from fairlane.dashboard.live import Live
from fairlane.door.access import Access
from fairlane.door.admission import Caller
from fairlane.door.answers import Receive, Scope, Send
from fairlane.door.books import Books
from fairlane.door.dashboard import DashboardOptions
from fairlane.door.door import Door
from fairlane.door.telemetry import Telemetry
from fairlane.http_server import HttpServer, in_thread
from fairlane.policies.registry import get_policy


class Served:
    """A server with a page, and tenants who all wait and are served."""

    def __init__(self, tenants: int) -> None:
        self._door = Door(Access())
        self._books = Books(get_policy("vtc").create(), Auditor(), LinearCost(), time.monotonic)
        self._running = []
        for i in range(3 * tenants):
            self._books.arrive(Request(f"r{i}", f"tenant-{i % tenants:05}", 100, 10**9))
            if i < tenants:
                self._books.admit(f"r{i}", 0)
                self._running.append(f"r{i}")
        telemetry = Telemetry(self._door.access, self._door.admission, self._snapshots)

        async def look() -> dict[str, Any]:
            return await telemetry.tenants(Caller(None, operator=True), self._door.tenants)

        self.live = Live(look, self._door)
        self._page = Dashboard(
            self._door, DashboardOptions(viewers=10_000), self._tell, host="gateway",
            server="bench", take_up_changes=lambda: None,
        )  # fmt: skip
        self.close = self._page.close
        self.spent: list[float] = []  # CPU seconds by now, at the begin of each frame

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        await self._page(scope["path"], scope, receive, send)

    async def _tell(self, what: str, caller: Caller, *more: Any) -> Any:
        return await self.live.tell(what, None, *more)

    async def _snapshots(self) -> list[dict[str, Any] | None]:
        self.spent.append(time.process_time())
        self._books.delivered(dict.fromkeys(self._running, 1))
        now = time.monotonic()
        for i in range(len(self._running)):
            self._door.admission.first_tokens.saw(f"tenant-{i:05}", 0.1 + i % 50 / 100, now)
        return [{"policy": "vtc", **self._books.snapshot()}]


async def _look(port: int, count: int, ready: Event) -> None:
    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /fairlane/live HTTP/1.1\r\nHost: bench\r\n\r\n")
        while await reader.read(1 << 20):
            started.release()

    started = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(one()) for _ in range(count)]
    for _ in tasks:
        await started.acquire()
    ready.set()
    await asyncio.gather(*tasks)


def _viewers(port: int, count: int, ready: Event) -> None:
    asyncio.run(_look(port, count, ready))


@contextmanager
def looking(port: int, count: int) -> Iterator[None]:
    """So many viewers, in a process of their own."""
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=_viewers, args=(port, count, ready), daemon=True)
    process.start()
    ready.wait()
    try:
        yield
    finally:
        process.kill()
        process.join()


def per_frame(served: Served, frames: int) -> float:
    """Milliseconds of CPU between two frames, the median of so many."""
    first = len(served.spent) + 1
    while len(served.spent) < first + frames + 1:
        time.sleep(0.05)
    spent = served.spent[first : first + frames + 1]
    return 1000 * median(after - before for before, after in pairwise(spent))


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--tenants", type=int, default=1000)
    options.add_argument("--frames", type=int, default=15)
    options.add_argument("--viewers", type=int, nargs="+", default=[50])
    asked = chosen(options, tenants=50, frames=2, viewers=[3])
    served = Served(asked.tenants)

    def make(ready: Any) -> HttpServer:
        return HttpServer(served, ready, lifespan="off")

    print("| tenants | viewers | CPU ms a frame | times one viewer |\n|--:|--:|--:|--:|")
    with in_thread(make) as url:
        port = urlsplit(url).port or 0
        rows = {}
        for viewers in (1, 0, *asked.viewers):
            with looking(port, viewers):
                rows[viewers] = per_frame(served, asked.frames)
        for viewers, cost in sorted(rows.items()):
            ratio = cost / rows[1]
            print(f"| {asked.tenants:,} | {viewers} | {cost:.1f} | {ratio:.2f} |")
        served.close()


if __name__ == "__main__":
    main()
