"""The serving loop of vLLM's V1 engine: batching.py on a clock.

Three things take time, and each does one job at a time. The engine's thread takes in requests,
schedules a step, launches it and, once the GPU has answered, takes in its tokens. The GPU works
off launched steps in order. The API server then hands each token to its client.

With asynchronous scheduling two steps are under way: while the GPU works on one, the engine takes
in the answer to the step before it and schedules the next. So a request that arrives waits for
one step more than with synchronous scheduling, and the GPU never waits for the engine, unless the
engine is the slower of the two.
"""

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy
from fairlane.simulator.batching import Batch, BatchScheduler
from fairlane.simulator.loop import Listener, Load, Loop
from fairlane.simulator.randomness import Randomness
from fairlane.simulator.serving import VllmConfig
from fairlane.workloads.trace import TracedRequest


class VllmLoop(Loop):
    """One run of the loop."""

    def __init__(
        self,
        requests: Iterable[TracedRequest],
        policy: Policy[Any],
        config: VllmConfig,
        randomness: Randomness,
        listener: Listener | None = None,
    ) -> None:
        """requests, listener: as of `Loop`."""
        super().__init__(requests, randomness, listener)
        profile = config.profile
        self._latency = profile.latency
        self._scheduler = BatchScheduler(
            self.requests,
            policy,
            max_seqs=profile.max_num_seqs,
            token_budget=profile.max_num_batched_tokens,
            blocks=config.blocks,
            block_size=profile.block_size,
            preemption=config.preemption,
            weights=config.weights,
        )
        self._depth = 2 if profile.async_scheduling else 1
        self._under_way: deque[tuple[Batch, float]] = deque()  # with when the GPU is done
        self._answer_next = False  # the engine's thread waits for the GPU
        self._idle = False
        self._steps = 0
        self._cold_s = config.first_prefill_delay_s
        self._now = 0.0  # until when the engine's thread is busy, and the others
        self._gpu = 0.0
        self._front_end = 0.0

    @property
    def due(self) -> float:
        """As of `Loop`: when the engine's thread is free and has something to do."""
        if self._answer_next:
            return max(self._now, self._under_way[0][1])
        if self._idle:
            return max(self._now, self.inbox[0][0]) if self.inbox else inf
        return self._now

    def advance(self) -> None:
        """As of `Loop`: take in an answer, or what has arrived and launch a step."""
        if self._answer_next:
            self._take_in(*self._under_way.popleft())
            self._answer_next = False
            return
        if self._idle and self.inbox:
            self._now = self.due
        self._receive()
        batch = self._scheduler.schedule(self._now)
        if batch.parts:
            self._launch(batch)
        full = len(self._under_way) >= self._depth
        self._answer_next = bool(self._under_way) and (full or not batch.parts)
        self._idle = not self._under_way
        if self._idle and self.requests and not self.inbox:
            raise FairlaneError("the scheduler holds requests but admits none on an idle server")

    def add(self, position: int, request: TracedRequest, delay_s: float | None = None) -> None:
        """As of `Loop`."""
        super().add(position, request, delay_s)
        self._steps -= self.randomness.forget(self._steps)

    def _abort(self, position: int, request: TracedRequest) -> None:
        self._scheduler.abort(position, self._now)

    def load(self) -> Load:
        """As of `Loop`; memory is handed out in blocks."""
        scheduler = self._scheduler
        used = 1 - scheduler.free_blocks / scheduler.blocks
        return Load(len(scheduler.running), scheduler.waiting, used, scheduler.preemptions)

    # -- the engine's thread -----------------------------------------------------------------

    def _receive(self) -> None:
        """Take in what has arrived."""
        while (position := self._next_arrival(self._now)) is not None:
            rejection = self._scheduler.add(position, self._now)
            if rejection is None:
                self.listener.accepted(position)
            else:
                del self.requests[position]
                self.listener.rejected(position, rejection)

    def _launch(self, batch: Batch) -> None:
        """Prepare a step and queue it on the GPU."""
        size, latency = batch.size(), self._latency
        self.randomness.grow(self._steps + 1)
        self._now += latency.schedule(size)
        if size.prefill and self._cold_s:
            self._now, self._cold_s = self._now + self._cold_s, 0.0
        begin = max(self._gpu, self._now)
        self._now += latency.launch(size, self.randomness.luck[self._steps])
        end = begin + latency.gpu(size) * self.randomness.factors[self._steps]
        self._gpu = max(end, self._now)
        self._steps += 1
        self._under_way.append((batch, self._gpu))

    def _take_in(self, batch: Batch, answered: float) -> None:
        """The GPU is done with a step: note its tokens, and pass them on."""
        self._now = max(self._now, answered)
        given, ended = self._scheduler.update(batch, self._now)
        self._now += self._latency.update(len(batch.parts))
        for position in ended:
            del self.requests[position]
        self._hand_out(given, set(ended))

    # -- the API server ----------------------------------------------------------------------

    def _hand_out(self, given: list[int], ended: set[int]) -> None:
        """Send tokens to their clients, one after the other."""
        latency, token = self._latency, self.listener.token
        at = max(self._front_end, self._now)
        for position in given:
            at += latency.hand_out_s
            token(position, at + latency.reply_s, position in ended)
        self._front_end = at
