"""The serving loop of the paper's artifact (S-LoRA's runtime), event by event.

One step of the real loop asks the queue, then either prefills what it was given or decodes one
token for everybody. Nearly all steps are plain decodes in which nothing else happens; here those
run in a tight inner loop up to the next event: a message becomes visible, a request ends, or
asking the queue could admit something. Times are equal, to the last bit, to those of the obvious
loop that does everything in every step (it is kept in the tests).

What the real loop does, and this one with it:
- After a prefill, ten decode steps pass before the queue is asked; then it is asked every step
  until it admits something. A prefill takes a step of its own.
- Requests, and a notice for each ended request, arrive as messages. The router reads 1.5 of them
  per turn of its event loop: one turn a decode step, three a prefill, one more if somebody ended.
  What arrives during a decode step is seen a step later.
- With nothing to run it sleeps 10 ms at a time.
"""

from collections import Counter, deque
from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy, RepeatsCharges
from fairlane.core.types import Request, RequestId
from fairlane.simulator.memory import MemoryPlan
from fairlane.simulator.prefix_cache import PrefixCache
from fairlane.simulator.profile import SloraProfile
from fairlane.simulator.randomness import Randomness
from fairlane.simulator.serving import Charging, ServerConfig, Times
from fairlane.workloads.trace import TracedRequest

DECODE_TURNS, PREFILL_TURNS = 1, 3
NONE = 1 << 62  # longer than any length


def _position(request: Request) -> int:
    """The loop's ids are positions."""
    assert isinstance(request.id, int)
    return request.id


class Lengths(Counter[int]):
    """A multiset of lengths that knows the least of them (huge when it is empty)."""

    least = NONE

    def add(self, length: int) -> None:
        """One more of this length."""
        self[length] += 1
        if length < self.least:
            self.least = length

    def remove(self, length: int) -> None:
        """One less of this length."""
        self[length] -= 1
        if not self[length]:
            del self[length]
            if length == self.least:
                self.least = min(self, default=NONE)


class ServingLoop:
    """One run of the loop over a list of requests. A position in that list is a request's id."""

    def __init__(
        self,
        requests: Sequence[TracedRequest],
        policy: Policy[Any],
        config: ServerConfig,
        randomness: Randomness,
        cache: PrefixCache | None = None,
    ) -> None:
        self.requests = requests
        self.cache = cache
        self.policy = policy
        self.config = config
        assert isinstance(config.profile, SloraProfile), "another loop's profile"
        self.profile = config.profile
        self.factors = randomness
        self.times = Times([None] * len(requests), [None] * len(requests))
        self.left = len(requests)
        self.now = 0.0
        self.turn = 0  # prefills and decodes so far: the index of the next noise factor
        self.cold = True
        # messages
        delays = randomness.delays(len(requests))
        self.inbox = deque(sorted((r.arrival_s + delays[i], i) for i, r in enumerate(requests)))
        self.notices: deque[float] = deque()
        self.credit = 0.0
        self.idle_since = 0.0
        self.polls = 0
        # the running batch, as of decode step 0 (see fairlane.simulator.memory)
        self.step = 0  # decode steps so far
        self.running: dict[int, int] = {}  # position -> context - step
        self.context_base = 0  # sum and maximum of these
        self.longest_base = 0
        self.ends: dict[int, list[int]] = {}  # decode step -> who ends in it
        self.end_steps: list[int] = []  # a heap of these steps
        self.clients: Counter[str] = Counter()
        self.plan: MemoryPlan | None = None
        self.cached: dict[int, int] = {}  # of those about to be prefilled: tokens in the cache
        # the queue, as far as the loop has to know it
        self.waiting_clients: Counter[str] = Counter()
        self.waiting_prompts = Lengths()
        self.waiting_outputs = Lengths()
        self.ask_at: float = inf  # decode step from which asking the queue may help
        self.by_head = False  # ... which holds for the head of the queue alone
        self.earliest_ask = 0  # ten steps after the last prefill
        # reports of tokens
        self.charges = policy.hears_tokens
        self.reported = 0  # decode step up to which tokens were reported
        self.ahead: set[int] = set()  # whose latest token was reported before its time

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> Times:
        """Serves all requests."""
        while self.left:
            if not self.running:
                batch = self._select()
                if not batch:
                    self._sleep()
                    continue
                self._prefill(batch)
            elif self.step >= self.ask_at and (batch := self._select()):
                self._prefill(batch)
            else:
                self._decode()
            if not self.running:
                self.idle_since, self.polls = self.now, 0
                self._poll(1)
        return self.times

    def _decode(self) -> None:
        """Decode steps up to and including the next one after which something happens."""
        self._charge_again()
        profile = self.profile
        n = len(self.running)
        now, step, turn = self.now, self.step, self.turn
        stop = min(self.end_steps[0], max(self.ask_at, step + 1))
        next_message = min(
            self.inbox[0][0] if self.inbox else inf, self.notices[0] if self.notices else inf
        )
        self.factors.grow(turn + self.end_steps[0] - step)
        factors = self.factors.factors
        context = self.context_base + n * step
        longest = self.longest_base + step
        base, floor = profile.decode_base[n], profile.decode_floor
        per_token, per_longest = profile.decode_per_token, profile.decode_per_longest
        while True:
            started = now
            seconds = base + per_token * context + per_longest * longest
            if seconds < floor:
                seconds = floor
            now = started + seconds * factors[turn]
            turn += 1
            step += 1
            if step >= stop or next_message <= started:
                break
            context += n
            longest += 1
        if step > self.step + 1:  # a step without messages leaves credit for one
            self.credit = 1.0
        self.now, self.step, self.turn = now, step, turn
        if step == self.end_steps[0]:
            heappop(self.end_steps)
            self._report()
            self._finish_decode(self.ends.pop(step))
            self._pump(now, DECODE_TURNS + 1)
        else:
            self._pump(started, DECODE_TURNS)

    def _finish_decode(self, ended: list[int]) -> None:
        if self.config.charging is Charging.STEP_START_AND_FINISH and self.charges:
            self.policy.record_tokens(dict.fromkeys(self.running, 1), self.now)
            self.ahead = set(self.running)
        for position in ended:
            base = self.running.pop(position)
            self.context_base -= base
            client = self.requests[position].client
            self.clients[client] -= 1
            if not self.clients[client]:
                del self.clients[client]
            self._end(position)
        self.longest_base = max(self.running.values(), default=0)
        self.plan = None
        self._plan_to_ask()

    def _prefill(self, batch: list[int]) -> None:
        """All of `batch` get their first token; a step of its own."""
        prompts = [self._prompt(position) for position in batch]
        fresh = sum(prompts) - sum(self.cached.pop(position) for position in batch)
        seconds = self.profile.prefill(fresh)
        if self.cold:
            seconds += self.config.first_prefill_delay_s
            self.cold = False
        self.factors.grow(self.turn + 1)
        self.now += seconds * self.factors.factors[self.turn]
        self.turn += 1
        ended = [i for i in batch if self.requests[i].output_len <= 1]
        if self.charges:
            self._charge_prefill(batch, bool(ended))
        for position, prompt in zip(batch, prompts, strict=True):
            if self.cache is not None:
                self.cache.keep(position)
            self.times.first_token[position] = self.now
            output = self.requests[position].output_len
            if output <= 1:
                self._end(position)
                continue
            base = prompt + 1 - self.step
            self.running[position] = base
            self.context_base += base
            self.longest_base = max(base, self.longest_base) if len(self.running) > 1 else base
            end = self.step + output - 1
            if end not in self.ends:
                self.ends[end] = []
                heappush(self.end_steps, end)
            self.ends[end].append(position)
            self.clients[self.requests[position].client] += 1
        self.plan = None
        self.earliest_ask = self.step + self.config.decodes_between_admissions
        self._plan_to_ask()
        self._pump(self.now, PREFILL_TURNS + bool(ended))

    def _end(self, position: int) -> None:
        self.times.end[position] = self.now
        self.policy.finish(position, self.now)
        self.notices.append(self.now + self.config.finish_notice_s)
        self.left -= 1

    # -- reports of tokens to the policy -----------------------------------------------------

    def _report(self) -> None:
        """Report the tokens of the decode steps since the last report."""
        steps = self.step - self.reported
        if steps > 0:
            if self.charges:
                self.policy.record_tokens(dict.fromkeys(self.running, steps), self.now)
            self.reported = self.step

    def _charge_prefill(self, batch: list[int], ended: bool) -> None:
        charging = self.config.charging
        if charging is Charging.DELIVERY:
            self.policy.record_tokens(dict.fromkeys(batch, 1), self.now)
        elif charging is Charging.STEP_START_AND_FINISH and ended:
            self.policy.record_tokens(dict.fromkeys(batch, 1), self.now)
            self.ahead.update(batch)

    def _charge_again(self) -> None:
        """The first decode step after an early report charges those tokens once more."""
        if not self.ahead:
            return
        ahead = [position for position in self.running if position in self.ahead]
        if isinstance(self.policy, RepeatsCharges):
            self.policy.charge_again(ahead)
        others: dict[RequestId, int] = dict.fromkeys(
            (i for i in self.running if i not in self.ahead), 1
        )
        self.policy.record_tokens(others, self.now)
        self.reported = self.step + 1
        self.ahead.clear()

    # -- admission ---------------------------------------------------------------------------

    def _select(self) -> list[int]:
        """What the queue gives us that fits: positions, already admitted."""
        if not self.waiting_prompts:
            return []
        self._report()
        batch: list[int] = []
        room = self.config.max_prefill_tokens
        plan = self._memory_plan()
        clients = set(self.clients)
        while (request := self.policy.peek(self.now)) is not None:
            output = self._output(request)
            limit = self._limit(len(clients | {request.client}))
            end, base = self.step + output - 1, request.prompt_tokens + 1 - self.step
            if (
                plan.need_with(end, base) >= limit
                or len(self.running) + len(batch) >= self.config.max_batch
                or request.prompt_tokens - (cached := self._cached(request)) > room
            ):
                break
            self.policy.admit(request.id, self.now, cached_tokens=cached)
            self.cached[_position(request)] = cached
            plan.add(end, base)
            clients.add(request.client)
            room -= request.prompt_tokens - cached
            batch.append(_position(request))
            self.waiting_clients[request.client] -= 1
            self.waiting_prompts.remove(request.prompt_tokens)
            self.waiting_outputs.remove(output)
        if batch:
            self.plan = None
        else:
            self._plan_to_ask(refused=request)
        return batch

    def _cached(self, request: Request) -> int:
        return 0 if self.cache is None else self.cache.cached_tokens(request)

    def _memory_plan(self) -> MemoryPlan:
        """The plan of the running batch, in which nobody waits for its last token any more."""
        if self.plan is None:
            running = self.running
            self.plan = MemoryPlan(
                (end - 1, len(who), sum([running[i] for i in who]))
                for end, who in self.ends.items()
            )
        return self.plan

    def _limit(self, clients: int) -> int:
        return self.config.memory_tokens - self.config.adapter_tokens * clients

    def _plan_to_ask(self, refused: Request | None = None) -> None:
        """Set `ask_at`, the first decode step at which the queue could give us something.

        The shortest prompt and the shortest output that wait make a request that fits no later
        than any real one, and what it needs falls by at most one token a step. A policy that
        hears of no tokens stays with the request that was `refused` until something else happens.
        """
        self.by_head = refused is not None and not self.charges
        if not self.waiting_prompts or len(self.running) >= self.config.max_batch:
            self.ask_at = inf
            return
        prompt, output = self.waiting_prompts.least, self.waiting_outputs.least
        clients = len(self.clients)
        if self.by_head and refused is not None:
            prompt, output = refused.prompt_tokens, self._output(refused)
            clients += refused.client not in self.clients
        need = self._memory_plan().need_with(self.step + output - 1, prompt + 1 - self.step)
        self.ask_at = max(self.earliest_ask, self.step + max(0, need - self._limit(clients) + 1))

    def _wait(self, prompt: int, output: int) -> None:
        """A request was queued."""
        shorter = prompt < self.waiting_prompts.least or output < self.waiting_outputs.least
        self.waiting_prompts.add(prompt)
        self.waiting_outputs.add(output)
        if shorter or self.by_head:
            self._plan_to_ask()

    # -- messages ----------------------------------------------------------------------------

    def _prompt(self, position: int) -> int:
        return self.requests[position].prompt_len + self.config.prompt_overhead

    def _output(self, request: Request) -> int:
        return self.requests[_position(request)].output_len

    def _pump(self, horizon: float, turns: int) -> None:
        """Read the messages that came until `horizon`, as many as the router's turns allow."""
        self.credit += self.config.messages_per_turn * turns
        while self.credit >= 1.0 and self._receive(horizon):
            self.credit -= 1.0
        self.credit = min(self.credit, 1.0)

    def _receive(self, horizon: float) -> bool:
        """Read one message that came until `horizon`, if there is one."""
        notice = self.notices[0] if self.notices else inf
        arrival = self.inbox[0][0] if self.inbox else inf
        if min(notice, arrival) > horizon:
            return False
        if notice <= arrival:
            self.notices.popleft()
        else:
            self._enqueue(self.inbox.popleft()[1])
        return True

    def _enqueue(self, position: int) -> None:
        traced = self.requests[position]
        prompt = self._prompt(position)
        if not self.waiting_clients[traced.client]:
            self._report()  # its counter may be lifted to the others'; otherwise it does not count
        rejection = self.policy.enqueue(
            Request(position, traced.client, prompt, traced.output_len), self.now
        )
        if rejection is None:
            self.waiting_clients[traced.client] += 1
            self._wait(prompt, traced.output_len)
        else:
            self.times.rejection[position] = rejection.reason
            self.left -= 1

    def _sleep(self) -> None:
        """Sleep until the poll that finds the next request."""
        if not self.inbox:
            raise FairlaneError("the scheduler holds requests but admits none on an idle server")
        period, arrival = self.config.idle_poll_s, self.inbox[0][0]
        polls = max(self.polls + 1, int((arrival - self.idle_since) / period))
        while self.idle_since + polls * period < arrival:
            polls += 1
        self._poll(polls - self.polls)

    def _poll(self, polls: int) -> None:
        """Sleep some polls long; an idle router reads everything that came."""
        self.polls += polls
        self.now = self.idle_since + self.polls * self.config.idle_poll_s
        self.credit = 1.0
        while self._receive(self.now):
            pass
