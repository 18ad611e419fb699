"""What the core costs a host: microseconds an event, and bytes an idle client.

Fairlane's VTC stands beside a straightforward one that scans all counters with min() and rebuilds
its waiting list, as the paper's artifact does. First idle clients come with a request each and
cancel it (enqueue). Then come rounds: 12 requests arrive, 12 are selected and admitted, 64 running
ones are charged a token, the 12 oldest finish. So all sizes stay as they are while they are
measured.
"""

import gc
import random
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, pairwise
from statistics import median
from time import perf_counter
from typing import Protocol, TypeVar

from benchmarks import parser
from fairlane.core.audit import Auditor
from fairlane.core.fair_queue import FairQueue
from fairlane.core.types import Request, RequestId

EACH = 12  # returning, selected and finishing requests a round
RUNNING = 64
PROMPT = 100
OPERATIONS = ("enqueue", "select 12", "charge 64", "finish", "round")


T = TypeVar("T")


class Queue(Protocol):
    """What a round needs."""

    def know(self, names: Iterable[str]) -> None:
        """These clients were served before and are idle."""

    def load(self, requests: Iterable[Request]) -> None:
        """Queue requests while it is not measured."""

    def enqueue(self, request: Request) -> None:
        """Queue a request."""

    def select(self, most: int) -> list[Request]:
        """Admit up to `most` requests."""

    def charge(self, tokens: dict[RequestId, int]) -> None:
        """Charge output tokens by request id."""

    def finish(self, request: Request) -> None:
        """A running request ended."""

    def cancel(self, request: Request) -> None:
        """A waiting request is taken back."""


class Scanning:
    """VTC written straight down: everything is found by looking at all of it."""

    def __init__(self) -> None:
        self.served: dict[str, float] = {}
        self.queues: dict[str, deque[Request]] = {}
        self.waiting: list[Request] = []
        self.client_of: dict[RequestId, str] = {}

    def know(self, names: Iterable[str]) -> None:
        """Every client ever seen keeps a counter and a queue."""
        for name in names:
            self.served[name] = 0.0
            self.queues[name] = deque()

    def load(self, requests: Iterable[Request]) -> None:
        """All counters are 0, so that nobody needs to be lifted."""
        for request in requests:
            self.queues[request.client].append(request)
            self.waiting.append(request)

    def enqueue(self, request: Request) -> None:
        """Lift to the least counter of the other clients that wait."""
        client = request.client
        if client not in self.served:
            self.know([client])
        if not self.queues[client]:
            others = [c for n, c in self.served.items() if n != client and self.queues[n]]
            if others:
                self.served[client] = max(self.served[client], min(others))
        self.queues[client].append(request)
        self.waiting.append(request)

    def select(self, most: int) -> list[Request]:
        """The least counter of the clients that wait, again and again."""
        active = {client: c for client, c in self.served.items() if self.queues[client]}
        chosen: list[Request] = []
        while active and len(chosen) < most:
            client = min(active, key=active.__getitem__)
            request = self.queues[client].popleft()
            self.served[client] += request.prompt_tokens
            active[client] += request.prompt_tokens
            if not self.queues[client]:
                del active[client]
            self.client_of[request.id] = client
            chosen.append(request)
        ids = {request.id for request in chosen}
        self.waiting = [request for request in self.waiting if request.id not in ids]
        return chosen

    def charge(self, tokens: dict[RequestId, int]) -> None:
        """Two a token."""
        for request_id, number in tokens.items():
            self.served[self.client_of[request_id]] += 2 * number

    def finish(self, request: Request) -> None:
        """Forget the request."""
        del self.client_of[request.id]

    def cancel(self, request: Request) -> None:
        """The newest, here."""
        self.queues[request.client].pop()
        self.waiting.pop()


class Fairlane:
    """The policy as a host uses it."""

    def __init__(self) -> None:
        self.policy = FairQueue(max_idle=10_000_000)

    def know(self, names: Iterable[str]) -> None:
        """Idle clients, as after a restart."""
        members = [[name, 0.0, None] for name in names]
        self.policy.restore({"start": 0.0, "last": 0.0, "members": members})

    def load(self, requests: Iterable[Request]) -> None:
        """As any others."""
        for request in requests:
            self.enqueue(request)

    def select(self, most: int) -> list[Request]:
        """Peek and admit, one by one."""
        policy = self.policy
        chosen: list[Request] = []
        while len(chosen) < most and (request := policy.peek(0.0)) is not None:
            policy.admit(request.id, 0.0)
            chosen.append(request)
        return chosen

    def enqueue(self, request: Request) -> None:
        """Queue it."""
        self.policy.enqueue(request, 0.0)

    def charge(self, tokens: dict[RequestId, int]) -> None:
        """One report for all."""
        self.policy.record_tokens(tokens, 0.0)

    def finish(self, request: Request) -> None:
        """Running or waiting."""
        self.policy.finish(request.id, 0.0)

    cancel = finish


class Load:
    """A queue with so many known and backlogged clients, and what happens to it."""

    def __init__(self, queue: Queue, known: int, backlogged: int) -> None:
        self.queue = queue
        names = [f"client-{n:07d}" for n in range(known)]
        queue.know(names)
        random.Random(1).shuffle(names)
        self.resting = deque(names)  # with nothing waiting, in the order of their return
        self.busy = deque(names[:backlogged])
        self.ids = count()
        self.running: deque[Request] = deque()
        queue.load([self.arrival() for _ in range(backlogged)])

    def arrival(self) -> Request:
        """A request of a client with nothing waiting, if there is one."""
        if not self.resting:
            self.busy.rotate()
        client = self.resting.popleft() if self.resting else self.busy[0]
        return Request(next(self.ids), client, PROMPT)

    def start(self, most: int) -> None:
        """Select requests, which makes their clients rest."""
        chosen = self.queue.select(most)
        self.running.extend(chosen)
        self.resting.extend(request.client for request in chosen)

    def visit(self) -> float:
        """Seconds that the arrival of one request of an idle client takes."""
        visits = [self.arrival() for _ in range(min(EACH, len(self.resting)))]
        begin = perf_counter()
        for request in visits:
            self.queue.enqueue(request)
        spent = perf_counter() - begin
        for request in reversed(visits):
            self.queue.cancel(request)
            self.resting.append(request.client)
        return spent / len(visits)

    def fill(self) -> None:
        """Let enough requests run, each with a successor in the queue."""
        while len(self.running) < RUNNING:
            self.queue.enqueue(self.arrival())
            self.start(1)

    def round(self) -> tuple[float, float, float, float]:
        """Seconds to select, to charge, to finish one, and in all with the arrivals."""
        queue = self.queue
        arrivals = [self.arrival() for _ in range(EACH)]
        tokens = dict.fromkeys((request.id for request in self.running), 1)
        ended = [self.running.popleft() for _ in range(EACH)]
        marks = [perf_counter()]
        for request in arrivals:
            queue.enqueue(request)
        marks.append(perf_counter())
        self.start(EACH)
        marks.append(perf_counter())
        queue.charge(tokens)
        marks.append(perf_counter())
        for request in ended:
            queue.finish(request)
        marks.append(perf_counter())
        _, select, charge, finish = (stop - start for start, stop in pairwise(marks))
        return select, charge, finish / EACH, marks[-1] - marks[0]


def repeat(what: Callable[[], T], seconds: float) -> list[T]:
    """Results of doing it over and over for about so long."""
    results: list[T] = []
    begin = perf_counter()
    while len(results) < 5 or (perf_counter() - begin < seconds and len(results) < 2000):
        results.append(what())
    return results


def measure(queue: Queue, known: int, backlogged: int, seconds: float) -> dict[str, float]:
    """Median microseconds of each operation and of a whole round."""
    load = Load(queue, known, backlogged)
    gc.collect()
    gc.freeze()
    visits = repeat(load.visit, seconds)
    load.fill()
    rounds = repeat(load.round, seconds)
    gc.unfreeze()
    medians = [median(visits), *(median(column) for column in zip(*rounds, strict=True))]
    return dict(zip(OPERATIONS, (1e6 * value for value in medians), strict=True))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def compare(sizes: Sequence[tuple[int, int]], label: str, seconds: float) -> str:
    """Two rows a size; `label` names the size that changes.

    Fairlane's are the best of three passes over all sizes, so that a disturbance of the machine
    does not fall on one size alone.
    """
    passes = [[measure(Fairlane(), *size, seconds) for size in sizes] for _ in range(3)]
    rows = []
    for (known, backlogged), *results in zip(sizes, *passes, strict=True):
        fast = {name: min(result[name] for result in results) for name in OPERATIONS}
        slow = measure(Scanning(), known, backlogged, seconds)
        gain = in_and_out(slow) / in_and_out(fast)
        size = f"{known if label == 'known' else backlogged:,}"
        rows.append([size, "scanning", *(f"{slow[name]:,.1f}" for name in OPERATIONS), ""])
        rows.append(
            [size, "Fairlane", *(f"{fast[name]:,.1f}" for name in OPERATIONS), f"{gain:,.0f} x"]
        )
    return table([label, "", *OPERATIONS, "12 in, 12 out"], rows)


def in_and_out(spent: Mapping[str, float]) -> float:
    """Microseconds to enqueue 12 requests of idle clients and to select 12."""
    return EACH * spent["enqueue"] + spent["select 12"]


def big_step(seconds: float, audited: bool) -> float:
    """Microseconds to charge 256 running requests of 64 clients and look who is next."""
    policy = FairQueue()
    if audited:
        policy.watch(Auditor())
    for n in range(256):
        policy.enqueue(Request(n, f"client {n % 64}", PROMPT), 0.0)
        policy.admit(n, 0.0)
    for n in range(10_000):
        policy.enqueue(Request(-1 - n, f"client {n}", PROMPT), 0.0)
    tokens: dict[RequestId, int] = dict.fromkeys(range(256), 1)
    times = []
    begin = perf_counter()
    while perf_counter() - begin < seconds:
        start = perf_counter()
        policy.record_tokens(tokens, 0.0)
        policy.peek(0.0)
        times.append(perf_counter() - start)
    return 1e6 * median(times)


def idle_bytes(clients: int) -> float:
    """Bytes per idle client, its name included, after each was served once."""
    tracemalloc.start()
    policy = FairQueue(max_idle=10 * clients)
    for n in range(clients):
        policy.enqueue(Request(0, f"client-{n:07d}", PROMPT), 0.0)
        policy.admit(0, 0.0)
        policy.finish(0, 0.0)
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / clients


def main() -> None:
    """Print all tables."""
    quick = parser(__doc__).parse_args().quick
    seconds, top = (0.01, 1_000) if quick else (0.5, 1_000_000)
    known = [(n, 5) for n in (10, 1_000, 100_000, 1_000_000) if n <= top]
    backlogged = [(n + 1_000, n) for n in (10, 100, 1_000, 10_000, 100_000) if n <= top]
    print(
        "Median microseconds. The last column says how much faster Fairlane takes in 12 requests "
        "of idle clients and selects 12.\n"
    )
    print("Five backlogged clients, more and more known ones:\n")
    print(compare(known, "known", seconds))
    print("\nA thousand idle clients, more and more backlogged ones:\n")
    print(compare(backlogged, "backlogged", seconds))
    alone, watched = big_step(seconds, audited=False), big_step(seconds, audited=True)
    print(
        f"\nCharging a step of 256 running requests of 64 clients and looking who is next, with "
        f"10,000 backlogged, takes {alone:.0f} us, or {watched:.0f} us with an auditor that "
        f"watches; a 7B model's decode step takes some 10,000 us.\n\nAn idle client takes "
        f"{idle_bytes(top):.0f} bytes, its name included, with {top:,} of them known.\n"
    )


if __name__ == "__main__":
    main()
