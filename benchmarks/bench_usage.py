"""What it costs to keep usage, as a Markdown table: milliseconds of CPU, once every `every_s`.

Each client has one request that runs and one that waits. take: what has grown is taken from the
books, in the loop that schedules. In a thread: add, it is added up by row; write, to SQLite, and
read, the sums of everyone's quota. A number is the least of all rounds.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks import chosen, parser
from fairlane.core.audit import Auditor
from fairlane.core.cost import LinearCost
from fairlane.core.fair_queue import FairQueue
from fairlane.core.types import Request
from fairlane.door.books import Books
from fairlane.usage.rows import Batch, day_of
from fairlane.usage.store import Store

T = TypeVar("T")
_STEPS = 20  # of one token each, between two takes


def books_of(clients: int) -> Books:
    """Books of so many clients, of each of which a request runs and another waits."""
    cost = LinearCost()
    books = Books(FairQueue(cost=cost), Auditor(cost=cost), cost, time.monotonic)
    books.take_usage()
    for number in range(2 * clients):
        books.arrive(Request(f"r{number}", f"client-{number % clients}", 100), "model")
    for _ in range(clients):
        books.admit(str(books.peek()), 0)
    return books


def measure(clients: int, rounds: int, folder: Path) -> str:
    """A row."""
    least: dict[str, float] = {}

    def timed(what: str, work: Callable[[], T]) -> T:
        began = time.thread_time()
        found = work()
        least[what] = min(time.thread_time() - began, least.get(what, 1e9))
        return found

    books, store, at = books_of(clients), Store(str(folder / f"{clients}.sqlite")), time.time()
    running = [f"r{number}" for number in range(clients)]
    wanted = [(day_of(at), f"client-{number}") for number in range(clients)]
    for number in range(1, rounds + 1):
        for _ in range(_STEPS):
            books.delivered(dict.fromkeys(running, 1))
        batch = Batch()
        grown = timed("take", books.take_usage)
        timed("add", lambda g=grown, b=batch: b.add(g, at, 100_000))  # type: ignore[misc]
        timed("write", lambda n=number, b=batch: store.write("w", n, b, at))  # type: ignore[misc]
        timed("read", lambda: store.spent(wanted))
    store.close()
    numbers = " | ".join(f"{1e3 * least[what]:.2f}" for what in ("take", "add", "write", "read"))
    return f"| {clients:,} | {numbers} |"


def main() -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=50)
    asked = chosen(options, rounds=3)
    print("| clients | take (ms) | add (ms) | write (ms) | read (ms) |")
    print("|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for clients in (10, 100, 1000):
            print(measure(clients, asked.rounds, Path(folder)))


if __name__ == "__main__":
    main()
