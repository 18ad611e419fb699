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
from collections.abc import Sequence
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy
from fairlane.simulator.batching import Batch, BatchScheduler
from fairlane.simulator.randomness import Randomness
from fairlane.simulator.serving import Times, VllmConfig
from fairlane.workloads.trace import TracedRequest


class VllmLoop:
    """One run of the loop over a list of requests. A position in that list is a request's id."""

    def __init__(
        self,
        requests: Sequence[TracedRequest],
        policy: Policy[Any],
        config: VllmConfig,
        randomness: Randomness,
    ) -> None:
        profile = config.profile
        self._latency = profile.latency
        self._scheduler = BatchScheduler(
            requests,
            policy,
            max_seqs=profile.max_num_seqs,
            token_budget=profile.max_num_batched_tokens,
            blocks=config.blocks,
            block_size=profile.block_size,
            preemption=config.preemption,
            weights=config.weights,
        )
        self._depth = 2 if profile.async_scheduling else 1
        self._random = randomness
        self._times = Times([None] * len(requests), [None] * len(requests))
        self._left = len(requests)
        delays = randomness.delays(len(requests))
        self._inbox = deque(sorted((r.arrival_s + delays[i], i) for i, r in enumerate(requests)))
        self._under_way: deque[tuple[Batch, float]] = deque()  # with when the GPU is done
        self._steps = 0
        self._cold_s = config.first_prefill_delay_s
        self._now = 0.0  # until when the engine's thread is busy, and the others
        self._gpu = 0.0
        self._front_end = 0.0

    def run(self) -> Times:
        """Serves all requests. Raises FairlaneError where a policy admits nobody for ever."""
        while self._left:
            self._receive()
            batch = self._scheduler.schedule(self._now)
            if batch.parts:
                self._launch(batch)
                if len(self._under_way) < self._depth:
                    continue
            if self._under_way:
                self._take_in(*self._under_way.popleft())
            elif self._left:
                self._wait()
        return self._times

    # -- the engine's thread -----------------------------------------------------------------

    def _receive(self) -> None:
        """Take in what has arrived."""
        while self._inbox and self._inbox[0][0] <= self._now:
            position = self._inbox.popleft()[1]
            rejection = self._scheduler.add(position, self._now)
            if rejection is not None:
                self._times.rejection[position] = rejection.reason
                self._left -= 1

    def _wait(self) -> None:
        """Nothing to do until the next request arrives."""
        if not self._inbox:
            raise FairlaneError("the scheduler holds requests but admits none on an idle server")
        self._now = max(self._now, self._inbox[0][0])

    def _launch(self, batch: Batch) -> None:
        """Prepare a step and queue it on the GPU."""
        size, latency = batch.size(), self._latency
        self._random.grow(self._steps + 1)
        self._now += latency.schedule(size)
        if size.prefill and self._cold_s:
            self._now, self._cold_s = self._now + self._cold_s, 0.0
        begin = max(self._gpu, self._now)
        self._now += latency.launch(size, self._random.luck[self._steps])
        end = begin + latency.gpu(size) * self._random.factors[self._steps]
        self._gpu = max(end, self._now)
        self._steps += 1
        self._under_way.append((batch, self._gpu))

    def _take_in(self, batch: Batch, answered: float) -> None:
        """The GPU is done with a step: note its tokens, and pass them on."""
        self._now = max(self._now, answered)
        given, ended = self._scheduler.update(batch, self._now)
        self._now += self._latency.update(len(batch.parts))
        self._left -= len(ended)
        self._hand_out(given, set(ended))

    # -- the API server ----------------------------------------------------------------------

    def _hand_out(self, given: list[int], ended: set[int]) -> None:
        """Send tokens to their clients, one after the other."""
        latency = self._latency
        at = max(self._front_end, self._now)
        first, end = self._times.first_token, self._times.end
        for position in given:
            at += latency.hand_out_s
            if first[position] is None:
                first[position] = at + latency.reply_s
            if position in ended:
                end[position] = at + latency.reply_s
        self._front_end = at
