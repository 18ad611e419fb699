"""How vLLM's V1 scheduler chooses the batch of a step, without its clock (that is in vllm.py).

Every request has tokens that the model still has to see: its prompt, then each token that it gave
itself. A step takes some from each, at most `token_budget` in all; whoever has none left after
that gives a token. Running requests come first, in the order in which they were admitted, then
whom the policy offers; a prompt that exceeds the budget is cut and goes on in the next step.

The KV cache is handed out in blocks as tokens are computed. When a running request needs a block
and none is free, the last in order loses all of its own and goes back to the front of the
queue, to compute everything anew (its tokens so far included); in such a step nobody is admitted.
With fair preemption the order is by what clients hold as soon as blocks may run out.
A request is admitted only when blocks for all its tokens so far are free. Whoever cannot be
admitted holds up all behind it.

A step may be scheduled before the one before it has answered: tokens count as there from the
moment at which they are scheduled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from fairlane.core.policy import Policy
from fairlane.core.preemption import may_run_out, put_last_who_holds_most
from fairlane.core.types import Outcome, Rejection, Request
from fairlane.simulator.step_latency import StepSize
from fairlane.workloads.trace import TracedRequest


@dataclass(slots=True, eq=False)
class Live:
    """A live request. Counts are of tokens, but for `blocks`.

    computed: those that the KV cache holds when all scheduled steps are done. sampled: its output,
    that of steps under way included; delivered: its output without them.
    """

    position: int
    prompt: int
    output: int
    computed: int = 0
    sampled: int = 0
    delivered: int = 0
    blocks: int = 0
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """What a step computes of one request: `tokens` after `before`; samples: it gives a token."""

    live: Live
    before: int
    tokens: int
    samples: bool


@dataclass(slots=True)
class Batch:
    """One step. preempted: positions of those that lost their blocks for it."""

    parts: list[Part] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)

    def size(self) -> StepSize:
        """What its latency depends on. A last single token of a prompt counts as a decode."""
        decodes = context = prefill = attention = 0
        for part in self.parts:
            if part.tokens == 1 and part.before:
                decodes += 1
                context += part.before
            else:
                prefill += part.tokens
                attention += part.tokens * (2 * part.before + part.tokens)
        return StepSize(decodes, context, prefill, attention)


class BatchScheduler:
    """Waiting and running requests. A position in `requests` is a request's id for the policy."""

    def __init__(
        self,
        requests: Sequence[TracedRequest] | Mapping[int, TracedRequest],
        policy: Policy[Any],
        *,
        max_seqs: int,
        token_budget: int,
        blocks: int,
        block_size: int,
        preemption: str = "newest",
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """blocks: those that requests can have; vLLM keeps one of its own.

        preemption: see core/preemption.py; weights: for it, by client.
        """
        self._requests = requests
        self._policy = policy
        self._max_seqs = max_seqs
        self._token_budget = token_budget
        self._block_size = block_size
        self._reorders = preemption == "fairest"
        self._weights = weights or {}
        self._waiting: dict[int, Live] = {}
        self.blocks = self.free_blocks = blocks
        self.running: list[Live] = []
        self.preemptions = 0

    @property
    def waiting(self) -> int:
        """Requests that wait, preempted ones included."""
        return len(self._waiting)

    def add(self, position: int, now: float) -> Rejection | None:
        """A request arrives; answers why it may not wait, or None."""
        traced = self._requests[position]
        request = Request(position, traced.client, traced.prompt_len, traced.output_len)
        rejection = self._policy.enqueue(request, now)
        if rejection is None:
            self._waiting[position] = Live(position, traced.prompt_len, traced.output_len)
        return rejection

    def schedule(self, now: float) -> Batch:
        """Choose the next step, which may turn out empty."""
        batch = Batch()
        if self._reorders and self._blocks_may_run_out():
            put_last_who_holds_most(
                self.running, lambda live: self._requests[live.position].client,
                attrgetter("computed"), self._weights,
            )  # fmt: skip
        budget = self._serve_running(batch, self._token_budget, now)
        if not batch.preempted:
            self._admit(batch, budget, now)
        return batch

    def update(self, batch: Batch, now: float) -> tuple[list[int], list[int]]:
        """The step has answered: positions of those that got a token, and of those that ended."""
        given = [part.live for part in batch.parts if part.samples and not part.live.gone]
        ended = []
        for live in given:
            live.delivered += 1
            if live.delivered == live.output:
                ended.append(live.position)
                self._release(live)
                self._waiting.pop(live.position, None)
        if ended:
            self.running = [one for one in self.running if one.delivered < one.output]
        positions = [live.position for live in given]
        if positions and self._policy.hears_tokens:
            self._policy.record_tokens(dict.fromkeys(positions, 1), now)
        for position in ended:
            self._policy.finish(position, now, Outcome.FINISHED)
        return positions, ended

    def abort(self, position: int, now: float) -> None:
        """A request's client left; what steps under way compute for it is nobody's."""
        live = self._waiting.pop(position, None)
        if live is None:
            live = next((one for one in self.running if one.position == position), None)
            if live is None:
                return
            self.running.remove(live)
        self._release(live)
        live.gone = True
        self._policy.finish(position, now, Outcome.ABORTED)

    # -- inside ------------------------------------------------------------------------------

    def _blocks_may_run_out(self) -> bool:
        missing = (live.prompt + live.delivered - live.computed for live in self.running)
        return may_run_out(
            self.free_blocks, len(self.running), missing, self._token_budget, self._block_size
        )

    def _serve_running(self, batch: Batch, budget: int, now: float) -> int:
        """Give the running requests their tokens; what is left of the budget."""
        i = 0
        while i < len(self.running) and budget > 0:
            live = self.running[i]
            if live.sampled < live.output:  # otherwise its last token is under way
                tokens = min(live.prompt + live.sampled - live.computed, budget)
                while not self._allocate(live, live.computed + tokens):
                    if self._preempt(batch, now) is live:
                        return budget
                self._take(batch, live, tokens)
                budget -= tokens
            i += 1
        return budget

    def _admit(self, batch: Batch, budget: int, now: float) -> None:
        """Admit whom the policy offers, as long as there is room."""
        while budget > 0 and len(self.running) < self._max_seqs:
            request = self._policy.peek(now)
            if request is None:
                return
            assert isinstance(request.id, int)
            live = self._waiting[request.id]
            wanted = live.prompt + live.sampled
            if self._blocks(wanted) > self.free_blocks:
                return
            tokens = min(wanted, budget)
            self._allocate(live, tokens)
            self._policy.admit(request.id, now)
            del self._waiting[request.id]
            self.running.append(live)
            self._take(batch, live, tokens)
            budget -= tokens

    def _take(self, batch: Batch, live: Live, tokens: int) -> None:
        """`tokens` of the request are part of the step."""
        before = live.computed
        live.computed += tokens
        samples = live.computed == live.prompt + live.sampled
        live.sampled += samples
        batch.parts.append(Part(live, before, tokens, samples))

    def _preempt(self, batch: Batch, now: float) -> Live:
        """Put the last running request back into the queue, and say which."""
        victim = self.running.pop()
        self._release(victim)
        victim.computed = 0
        self._waiting[victim.position] = victim
        self._policy.requeue(victim.position, now)
        batch.preempted.append(victim.position)
        self.preemptions += 1
        return victim

    def _allocate(self, live: Live, tokens: int) -> bool:
        """See to it that the request has blocks for so many tokens, if there are enough."""
        more = self._blocks(tokens) - live.blocks
        if more > self.free_blocks:
            return False
        if more > 0:
            live.blocks += more
            self.free_blocks -= more
        return True

    def _release(self, live: Live) -> None:
        self.free_blocks += live.blocks
        live.blocks = 0

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self._block_size)
