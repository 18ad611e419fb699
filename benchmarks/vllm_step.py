"""What the fair queue adds to a step of vLLM's scheduler, against the same class without it.

    .venv-vllm/bin/python -m benchmarks.vllm_step

5,000 requests wait, 256 run, the batch turns over: every request ends after 64 tokens. The time is
that of schedule() and update_from_output(), without any model; a model's step on a GPU takes ten
milliseconds and more, so `of a 20 ms step` is what an operator would notice. Median of the steps.
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
    start = time.perf_counter()
    batch = scheduler.schedule()
    chosen = time.perf_counter()
    answer = run_model(scheduler, batch)
    back = time.perf_counter()
    scheduler.update_from_output(batch, answer)
    return 1000 * (time.perf_counter() - back + chosen - start)


def measure(clients: int, steps: int) -> tuple[float, float]:
    """Median step of stock and fair, taken in turn so that the machine's moods hit both."""
    pair = [
        make_scheduler(fair=fair, seqs=RUNNING, batch_tokens=8192, blocks=20_000)
        for fair in (False, True)
    ]
    for scheduler in pair:
        fill(scheduler, clients, steps)
        for _ in range(20):
            step_ms(scheduler)
    times = [[step_ms(scheduler) for scheduler in pair] for _ in range(steps)]
    stock, fair = (statistics.median(column) for column in zip(*times, strict=True))
    return stock, fair


def main() -> None:
    """Print a line for each number of clients."""
    quick = parser(__doc__).parse_args().quick
    for clients in (2,) if quick else (2, 100, 1000):
        stock, fair = measure(clients, steps=10 if quick else STEPS)
        added = fair - stock
        print(
            f"{clients:5d} clients: stock {stock:.2f} ms, fair {fair:.2f} ms, "
            f"+{added:.2f} ms = {100 * added / stock:.0f} % of the scheduler, "
            f"{100 * added / (GPU_STEP_MS + stock):.1f} % of a 20 ms step"
        )


if __name__ == "__main__":
    main()
