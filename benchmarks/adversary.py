"""A small server for proofs and attacks, and the workloads that an adversary tries on it.

The server is as plain as the paper's model: in every step what fits is admitted in the policy's
order, then every running request gets a token. It either reserves memory for the whole request,
so that it never has to preempt, or only for what there is, and puts the youngest back when memory
runs out.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fairlane.core.policy import Policy
from fairlane.core.types import Request, RequestId


@dataclass(frozen=True, slots=True)
class Job:
    """A request as the adversary knows it; `arrival` is the step before which it arrives."""

    client: str
    arrival: int
    prompt: int
    output: int


class Server:
    """Runs jobs through a policy on a memory of `memory` tokens."""

    def __init__(self, policy: Policy[Any], memory: int, *, preempts: bool = False) -> None:
        self.policy = policy
        self.memory = memory
        self.preempts = preempts
        self.jobs: dict[RequestId, Job] = {}
        self.done: dict[RequestId, int] = {}  # output so far
        self.running: list[RequestId] = []
        self.step = 0

    def run(self, jobs: Iterable[Job], steps: int | None = None) -> None:
        """Serve all jobs, or as much as `steps` steps allow."""
        left = sorted(enumerate(jobs), key=lambda item: item[1].arrival)
        left.reverse()
        while (left or self.jobs) and (steps is None or self.step < steps):
            while left and left[-1][1].arrival <= self.step:
                self.take(*left.pop())
            self.turn()

    def turn(self) -> None:
        """One step."""
        self._admit()
        self._decode()
        self.step += 1

    def take(self, number: int, job: Job) -> None:
        """A job arrives, under a number of its own."""
        request = Request(number, job.client, job.prompt, job.output)
        if self.policy.enqueue(request, float(self.step)) is None:
            self.jobs[number] = job
            self.done[number] = 0

    def _admit(self) -> None:
        while (request := self.policy.peek(float(self.step))) is not None:
            if self._used() + self._size(request.id) > self.memory:
                return
            self.policy.admit(request.id, float(self.step))
            self.running.append(request.id)

    def _decode(self) -> None:
        while self.preempts and self._used() + len(self.running) > self.memory:
            self.policy.requeue(self.running.pop(), float(self.step))
        self.policy.record_tokens(dict.fromkeys(self.running, 1), float(self.step))
        for request_id in list(self.running):
            self.done[request_id] += 1
            if self.done[request_id] >= self.jobs[request_id].output:
                self.running.remove(request_id)
                self.policy.finish(request_id, float(self.step))
                del self.jobs[request_id], self.done[request_id]

    def _used(self) -> int:
        return sum(self._size(request_id) for request_id in self.running)

    def _size(self, request_id: RequestId) -> int:
        """Memory that a request takes: as it is, or as it will be at its end."""
        job = self.jobs[request_id]
        return job.prompt + (self.done[request_id] if self.preempts else job.output)


@dataclass(frozen=True, slots=True)
class Wave:
    """What one client sends: `count` equal requests at a time, `rounds` times, `gap` apart."""

    client: str
    start: int
    prompt: int
    output: int
    count: int
    gap: int
    rounds: int

    def jobs(self) -> list[Job]:
        """The requests."""
        return [
            Job(self.client, self.start + round_ * self.gap, self.prompt, self.output)
            for round_ in range(self.rounds)
            for _ in range(self.count)
        ]


LIMITS = {  # least and most of each number of a wave
    "start": (0, 200),
    "prompt": (1, 40),
    "output": (1, 40),
    "count": (1, 30),
    "gap": (1, 100),
    "rounds": (1, 8),
}


def random_wave(draw: random.Random, client: str) -> Wave:
    """Any wave."""
    return Wave(client, **{name: draw.randint(low, high) for name, (low, high) in LIMITS.items()})


def random_waves(draw: random.Random, clients: int = 3) -> list[Wave]:
    """Two waves for each client."""
    return [random_wave(draw, f"c{n % clients}") for n in range(2 * clients)]


def with_number(wave: Wave, field: str, value: int) -> Wave:
    """The same wave with one number changed, within its limits."""
    low, high = LIMITS[field]
    number: dict[str, Any] = {field: min(max(value, low), high)}
    return replace(wave, **number)


def mutate(waves: Sequence[Wave], draw: random.Random) -> list[Wave]:
    """The same waves with one to three numbers changed, by a little or altogether."""
    changed = list(waves)
    for _ in range(draw.randint(1, 3)):
        index = draw.randrange(len(changed))
        field, (low, high) = draw.choice(list(LIMITS.items()))
        old = getattr(changed[index], field)
        new = draw.choice([draw.randint(low, high), int(old * draw.uniform(0.7, 1.4)), low, high])
        changed[index] = with_number(changed[index], field, new)
    return changed
