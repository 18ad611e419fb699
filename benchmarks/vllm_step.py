"""What the fair queue adds to a step of vLLM's scheduler, and what sharing adds to that.

    .venv-vllm/bin/python -m benchmarks.vllm_step

5,000 requests wait, 256 run, the batch turns over: every request ends after 64 tokens. The time is
the processor's for schedule() and update_from_output(), without any model; a model's step on a GPU
takes ten milliseconds and more, so `of a 20 ms step` is what an operator would notice. Median of
the steps.

Sharing: a scheduler like it that exchanges charges every 0.2 s, the time of ten such steps, and
hears each time that all clients were served elsewhere. An exchange asks it twice.
"""

import logging
import statistics
import time
from typing import Any

from benchmarks import parser

logging.disable(logging.WARNING)

from tests.engines.vllm.inside.engine import (  # noqa: E402
    make_request,
    make_scheduler,
    run_model,
)

WAITING, RUNNING, OUTPUT, STEPS = 5000, 256, 64, 300
GPU_STEP_MS = 20.0
STEPS_IN_AN_EXCHANGE = 10


def fill(scheduler: Any, clients: int, steps: int) -> None:
    """Queue enough for all steps, the clients in turn."""
    ends = steps * RUNNING // OUTPUT
    for number in range(WAITING + RUNNING + ends):
        client = f"client-{number % clients}"
        # lengths differ, so that requests end at all times and not all at once
        request = make_request(f"{number}", client, prompt=16, output=OUTPUT // 2 + number % OUTPUT)
        scheduler.add_request(request)


def step_ms(scheduler: Any) -> float:
    """Milliseconds of the scheduler in one step."""
    start = time.thread_time()
    batch = scheduler.schedule()
    chosen = time.thread_time()
    answer = run_model(scheduler, batch)
    back = time.thread_time()
    scheduler.update_from_output(batch, answer)
    return 1000 * (time.thread_time() - back + chosen - start)


def make(kind: str) -> Any:
    """A scheduler: "stock", "fair", or "sharing"."""
    scheduler = make_scheduler(fair=kind != "stock", seqs=RUNNING, batch_tokens=8192, blocks=20_000)
    if kind == "sharing":
        assert scheduler.fairlane_share() == ""
    return scheduler


def exchange_ms(scheduler: Any, clients: int) -> float:
    """Milliseconds of the scheduler for one exchange: it says its charges, then hears others'."""
    heard = {f"client-{number}": 10.0 + number % 7 for number in range(clients)}
    start = time.thread_time()
    scheduler.fairlane_swap({}, 2, {})
    scheduler.fairlane_swap(heard, 2, {})
    return 1000 * (time.thread_time() - start)


def measure(kinds: tuple[str, str], clients: int, steps: int) -> tuple[float, float, float]:
    """Median step of two kinds, taken in turn so that the machine's moods hit both.

    And the median exchange of the second, if it shares, else 0.
    """
    pair = [make(kind) for kind in kinds]
    for scheduler in pair:
        fill(scheduler, clients, steps)
        for _ in range(20):
            step_ms(scheduler)
    times, exchanges = [], [0.0]
    for number in range(steps):
        if kinds[1] == "sharing" and number % STEPS_IN_AN_EXCHANGE == 0:
            exchanges.append(exchange_ms(pair[1], clients))
        times.append([step_ms(scheduler) for scheduler in pair])
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    return first, second, statistics.median(exchanges[1:] or exchanges)


def added(before: float, more: float) -> str:
    """Milliseconds more, in words."""
    return (
        f"+{more:.2f} ms = {100 * more / before:.0f} % of the scheduler, "
        f"{100 * more / (GPU_STEP_MS + before):.1f} % of a 20 ms step"
    )


def main() -> None:
    """Print a line for each number of clients, and one of sharing."""
    quick = parser(__doc__).parse_args().quick
    steps = 10 if quick else STEPS
    for clients in (2,) if quick else (2, 100, 1000):
        stock, fair, _ = measure(("stock", "fair"), clients, steps)
        print(
            f"{clients:5d} clients: stock {stock:.2f} ms, fair {fair:.2f} ms, "
            f"{added(stock, fair - stock)}"
        )
    clients = 2 if quick else 1000
    alone, sharing, exchange = measure(("fair", "sharing"), clients, steps)
    print(
        f"{clients:5d} clients: alone {alone:.2f} ms, sharing {sharing:.2f} ms and "
        f"{exchange:.2f} ms for an exchange in {STEPS_IN_AN_EXCHANGE} steps, "
        f"{added(alone, sharing - alone + exchange / STEPS_IN_AN_EXCHANGE)}"
    )


if __name__ == "__main__":
    main()
