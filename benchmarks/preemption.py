"""Whom to preempt when KV memory runs out: what either choice does to fairness, work and latency.

    .venv-vllm/bin/python -m benchmarks.preemption

vLLM's scheduler with the fair queue and too little memory, without a model. Clients a and b always
have requests waiting; a light client sends one now and then. Reported, as means over the seeds: the
largest difference in service (prompt + 2 x output) between a and b over any 200 steps, and over
any interval at all; tokens computed again after a preemption, of all computed; the 90th
percentile of the light client's latency, in steps; preemptions; output tokens a step.
"""

import logging
import os
import random
import statistics
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks import chosen, parser

logging.disable(logging.WARNING)

from tests.engines.vllm.inside.engine import (  # noqa: E402
    make_request,
    make_scheduler,
    run_model,
)

STEPS, WINDOW, LIGHT_EVERY = 1500, 200, 40
LENGTHS = {  # of prompts and outputs, by range
    "mixed": ((16, 97), (16, 113)),
    "alike": ((32, 33), (64, 65)),
    "long outputs": ((8, 33), (64, 257)),
}
SIZES = [("mixed", 41), ("alike", 41), ("long outputs", 41), ("mixed", 200), ("long outputs", 200)]


class Run:
    """One run, and what is counted in it."""

    def __init__(self, seed: int, lengths: str, blocks: int, run_ahead: bool) -> None:
        self.prompts, self.outputs = LENGTHS[lengths]
        self.dice = random.Random(seed)
        self.scheduler: Any = make_scheduler(seqs=64, blocks=blocks, run_ahead=run_ahead)
        self.number = 0
        self.first: dict[str, int] = {}  # prompts of requests without a token yet
        self.computed: dict[str, int] = {}  # how far each request was ever computed
        self.arrived: dict[str, int] = {}  # steps, of the light client's requests
        self.latencies: list[int] = []
        self.service = {"a": [0.0], "b": [0.0], "light": [0.0]}  # so far, by step
        self.flying: deque[tuple[Any, Any]] = deque()  # batches, and what the model will answer
        self.most_flying = 1 + run_ahead
        self.again = self.total = self.output = 0

    def send(self, client: str) -> str:
        """Queue a request; the light client's are short."""
        self.number += 1
        request_id = f"{client}-{self.number}"
        output = 16 if client == "light" else self.dice.randrange(*self.outputs)
        self.first[request_id] = prompt = self.dice.randrange(*self.prompts)
        self.scheduler.add_request(make_request(request_id, client, prompt=prompt, output=output))
        return request_id

    def step(self, number: int) -> None:
        """One step of the engine."""
        if number % LIGHT_EVERY == 0:
            self.arrived[self.send("light")] = number
        scheduler = self.scheduler
        batch = scheduler.schedule()
        for request_id, count in batch.num_scheduled_tokens.items():
            now = scheduler.requests[request_id].num_computed_tokens
            self.again += count - max(0, now - self.computed.get(request_id, 0))
            self.total += count
            self.computed[request_id] = max(now, self.computed.get(request_id, 0))
        self.flying.append((batch, run_model(scheduler, batch)))
        outputs: dict[int, Any] = {}
        if len(self.flying) == self.most_flying:
            outputs = scheduler.update_from_output(*self.flying.popleft())
        now_served = {client: column[-1] for client, column in self.service.items()}
        for answer in (a for batch in outputs.values() for a in batch.outputs):
            client = answer.request_id.split("-")[0]
            tokens = len(answer.new_token_ids)
            self.output += tokens
            now_served[client] += 2 * tokens
            if tokens:
                now_served[client] += self.first.pop(answer.request_id, 0)
            if answer.finish_reason is not None and answer.request_id in self.arrived:
                self.latencies.append(number - self.arrived[answer.request_id])
        for client, amount in now_served.items():
            self.service[client].append(amount)


def measure(seed: int, lengths: str, blocks: int, steps: int, run_ahead: bool) -> list[float]:
    """The numbers of one run, in the order of the table."""
    run = Run(seed, lengths, blocks, run_ahead)
    for _ in range(steps * blocks // 200):
        for client in "aab":
            run.send(client)
    for number in range(steps):
        run.step(number)
    gaps = [a - b for a, b in zip(run.service["a"], run.service["b"], strict=True)]
    in_window = max(abs(gaps[i + WINDOW] - gaps[i]) for i in range(len(gaps) - WINDOW))
    rows = run.scheduler.fairlane_snapshot()["clients"]
    assert min(rows["a"]["queued"], rows["b"]["queued"]) > 0, "both are backlogged to the end"
    return [
        in_window,
        max(gaps) - min(gaps),
        100 * run.again / run.total,
        statistics.quantiles(run.latencies, n=10)[-1],
        float(sum(row["preemptions"] for row in rows.values())),
        run.output / steps,
    ]


def main() -> None:
    """Print a line for each choice."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--run-ahead", action="store_true", help="AsyncScheduler, a step ahead")
    asked = chosen(options, seeds=1)
    sizes, steps = (SIZES[:1], 2 * WINDOW) if asked.quick else (SIZES, STEPS)
    print(
        "| lengths | blocks | victim | 200 steps | any | again % | light | preempted | tok/step |"
    )
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "fairlane.toml"
        os.environ["FAIRLANE_CONFIG"] = str(config)
        for lengths, blocks in sizes:
            for victim in ("newest", "fairest"):
                config.write_text(f'[scheduler]\npreemption = "{victim}"\n')
                runs = [
                    measure(seed, lengths, blocks, steps, asked.run_ahead)
                    for seed in range(asked.seeds)
                ]
                means = [statistics.mean(column) for column in zip(*runs, strict=True)]
                cells = [f"{value:.1f}" if value < 100 else f"{value:,.0f}" for value in means]
                print(f"| {lengths} | {blocks} | {victim} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
