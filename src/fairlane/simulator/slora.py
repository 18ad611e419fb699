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

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy, RepeatsCharges
from fairlane.core.types import Outcome, Request, RequestId
from fairlane.simulator.loop import Listener, Load, Loop
from fairlane.simulator.prefix_cache import PrefixCache
from fairlane.simulator.profile import SloraProfile
from fairlane.simulator.randomness import Randomness
from fairlane.simulator.running import Running
from fairlane.simulator.serving import Charging, ServerConfig
from fairlane.simulator.waiting import Waiting
from fairlane.workloads.trace import TracedRequest

DECODE_TURNS, PREFILL_TURNS = 1, 3


def _position(request: Request) -> int:
    """The loop's ids are positions."""
    assert isinstance(request.id, int)
    return request.id


class ServingLoop(Loop):
    """One run of the loop."""

    def __init__(
        self,
        requests: Iterable[TracedRequest],
        policy: Policy[Any],
        config: ServerConfig,
        randomness: Randomness,
        cache: PrefixCache | None = None,
        listener: Listener | None = None,
    ) -> None:
        """requests, listener: as of `Loop`."""
        super().__init__(requests, randomness, listener)
        self.cache = cache
        self.policy = policy
        self.config = config
        assert isinstance(config.profile, SloraProfile), "another loop's profile"
        self.profile = config.profile
        self.now = 0.0
        self.ends_at = 0.0  # what is under way, ...
        self.finish: Callable[[], None] = lambda: None  # ... and what happens then
        self.turn = 0  # prefills and decodes so far: the index of the next noise factor
        self.cold = True
        # messages
        self.notices: deque[float] = deque()
        self.credit = 0.0
        self.idle = True
        self.idle_since = 0.0
        self.polls = self.next_poll = 0
        self.dozing = False  # until a request comes
        # the running batch
        self.step = 0  # decode steps so far
        self.running = Running()
        self.cached: dict[int, int] = {}  # of those about to be prefilled: tokens in the cache
        self.waiting = Waiting()
        self.ask_at: float = inf  # decode step from which asking the queue may help
        self.by_head = False  # ... which holds for the head of the queue alone
        self.earliest_ask = 0  # ten steps after the last prefill
        # reports of tokens
        self.charges = policy.hears_tokens
        self.reported = 0  # decode step up to which tokens were reported
        self.ahead: set[int] = set()  # whose latest token was reported before its time

    # -- the loop ----------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """As of `Loop`: when what is under way ends."""
        return self.ends_at

    def advance(self) -> None:
        """As of `Loop`: end what is under way, and begin what comes next."""
        self.finish()
        if self.running:
            if self.step >= self.ask_at and (batch := self._select()):
                self._begin_prefill(batch)
            else:
                self._begin_decode()
        elif not self.idle:
            self.idle, self.idle_since, self.polls = True, self.now, 0
            self._sleep(1)
        elif batch := self._select():
            self._begin_prefill(batch)
        else:
            self._doze()

    def _begin(self, ends_at: float, finish: Callable[[], None]) -> None:
        self.ends_at, self.finish = ends_at, finish

    def _begin_decode(self) -> None:
        """Decode steps up to and including the next one after which something happens."""
        self._charge_again()
        profile = self.profile
        n = len(self.running)
        now, step, turn = self.now, self.step, self.turn
        end = self.running.next_end
        stop = min(end, max(self.ask_at, step + 1))
        if self.by_step:
            stop = step + 1
        next_message = min(
            self.inbox[0][0] if self.inbox else inf, self.notices[0] if self.notices else inf
        )
        self.randomness.grow(turn + int(end) - step)
        factors = self.randomness.factors
        context = self.running.context + n * step
        longest = self.running.longest + step
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
        self.turn = turn
        self._begin(now, partial(self._end_decode, started, step))

    def _end_decode(self, started: float, step: int) -> None:
        if step > self.step + 1:  # a step without messages leaves credit for one
            self.credit = 1.0
        self.now, self.step = self.ends_at, step
        ended = self.running.ending(step)
        if self.listener.each_token:
            for position in self.running:
                if position not in ended:
                    self.listener.token(position, self.now, False)
        if ended:
            self.report()
            self._finish_decode(ended)
            self._pump(self.now, DECODE_TURNS + 1)
        else:
            self._pump(started, DECODE_TURNS)

    def _finish_decode(self, ended: list[int]) -> None:
        if self.config.charging is Charging.STEP_START_AND_FINISH and self.charges:
            self.policy.record_tokens(dict.fromkeys(self.running, 1), self.now)
            self.ahead = set(self.running)
        for position in ended:
            self.running.remove(position)
            self._end(position)
        self._plan_to_ask()

    def _begin_prefill(self, batch: list[int]) -> None:
        """All of `batch` get their first token; a step of its own."""
        prompts = [self._prompt(position) for position in batch]
        fresh = sum(prompts) - sum(self.cached.pop(position) for position in batch)
        seconds = self.profile.prefill(fresh)
        if self.cold:
            seconds += self.config.first_prefill_delay_s
            self.cold = False
        self.randomness.grow(self.turn + 1)
        ends_at = self.now + seconds * self.randomness.factors[self.turn]
        self.idle = False
        self.turn += 1
        self._begin(ends_at, partial(self._end_prefill, batch))

    def _end_prefill(self, batch: list[int]) -> None:
        self.now = self.ends_at
        batch = [i for i in batch if i in self.requests]  # the others' clients have left
        ended = [i for i in batch if self.requests[i].output_len <= 1]
        if self.charges:
            self._charge_prefill(batch, bool(ended))
        for position in batch:
            if self.cache is not None:
                self.cache.keep(position)
            output = self.requests[position].output_len
            if output <= 1:
                self._end(position)
                continue
            self.listener.token(position, self.now, False)
            base = self._prompt(position) + 1 - self.step
            end = self.step + output - 1
            self.running.add(position, self.requests[position].client, base, end)
        self.earliest_ask = self.step + self.config.decodes_between_admissions
        self._plan_to_ask()
        self._pump(self.now, PREFILL_TURNS + bool(ended))

    def _end(self, position: int) -> None:
        self.listener.token(position, self.now, True)
        self.policy.finish(position, self.now)
        self.notices.append(self.now + self.config.finish_notice_s)
        del self.requests[position]

    # -- reports of tokens to the policy -----------------------------------------------------

    def report(self) -> None:
        """As of `Loop`: the tokens of the decode steps since the last report."""
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
        if not self.waiting:
            return []
        self.report()
        batch: list[int] = []
        room = self.config.max_prefill_tokens
        plan = self.running.plan()
        clients = set(self.running.clients)
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
            self.waiting.remove(_position(request))
        if batch:
            self.running.forget_plan()
        else:
            self._plan_to_ask(refused=request)
        return batch

    def _cached(self, request: Request) -> int:
        return 0 if self.cache is None else self.cache.cached_tokens(request)

    def _limit(self, clients: int) -> int:
        return self.config.memory_tokens - self.config.adapter_tokens * clients

    def _plan_to_ask(self, refused: Request | None = None) -> None:
        """Set `ask_at`, the first decode step at which the queue could give us something.

        The shortest prompt and the shortest output that wait make a request that fits no later
        than any real one, and what it needs falls by at most one token a step. A policy that
        hears of no tokens stays with the request that was `refused` until something else happens.
        """
        self.by_head = refused is not None and not self.charges
        if not self.waiting or len(self.running) >= self.config.max_batch:
            self.ask_at = inf
            return
        prompt, output = self.waiting.prompts.least, self.waiting.outputs.least
        clients = len(self.running.clients)
        if self.by_head and refused is not None:
            prompt, output = refused.prompt_tokens, self._output(refused)
            clients += refused.client not in self.running.clients
        need = self.running.plan().need_with(self.step + output - 1, prompt + 1 - self.step)
        self.ask_at = max(self.earliest_ask, self.step + max(0, need - self._limit(clients) + 1))

    def _wait(self, position: int, client: str, prompt: int, output: int) -> None:
        """A request was queued."""
        shorter = prompt < self.waiting.prompts.least or output < self.waiting.outputs.least
        self.waiting.add(position, client, prompt, output)
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
        elif (position := self._next_arrival(horizon)) is not None:
            self._enqueue(position)
        return True

    def _enqueue(self, position: int) -> None:
        traced = self.requests[position]
        prompt = self._prompt(position)
        if not self.waiting.clients[traced.client]:
            self.report()  # its counter may be lifted to the others'; otherwise it does not count
        rejection = self.policy.enqueue(
            Request(position, traced.client, prompt, traced.output_len), self.now
        )
        if rejection is None:
            self._wait(position, traced.client, prompt, traced.output_len)
            self.listener.accepted(position)
        else:
            del self.requests[position]
            self.listener.rejected(position, rejection)

    # -- an idle server ----------------------------------------------------------------------

    def _sleep(self, polls: int) -> None:
        """Sleep until so many polls have passed since the server fell idle."""
        self.next_poll = polls
        self._begin(self.idle_since + polls * self.config.idle_poll_s, self._wake)

    def _doze(self) -> None:
        """Sleep until the poll that finds the next request."""
        self.dozing = True
        if self.inbox:
            period, arrival = self.config.idle_poll_s, self.inbox[0][0]
            polls = max(self.polls + 1, int((arrival - self.idle_since) / period))
            while self.idle_since + polls * period < arrival:
                polls += 1
            self._sleep(polls)
        elif self.requests:
            raise FairlaneError("the scheduler holds requests but admits none on an idle server")
        else:
            self._begin(inf, self._wake)

    def _wake(self) -> None:
        """An idle router reads everything that came."""
        self.dozing = False
        self.now, self.polls = self.ends_at, self.next_poll
        self.credit = 1.0
        while self._receive(self.now):
            pass

    # -- requests that come and go -----------------------------------------------------------

    def add(self, position: int, request: TracedRequest, delay_s: float | None = None) -> None:
        """As of `Loop`."""
        super().add(position, request, delay_s)
        self.turn -= self.randomness.forget(self.turn)
        if self.dozing:
            self._doze()

    def _abort(self, position: int, request: TracedRequest) -> None:
        if position in self.running:
            self.report()
            self.running.remove(position)
            self._plan_to_ask()
        elif position in self.waiting:
            self.waiting.remove(position)
            self._plan_to_ask()
        self.policy.finish(position, self.now, Outcome.ABORTED)

    def load(self) -> Load:
        """As of `Loop`; memory is what is there beside the adapters."""
        tokens = self.running.context + len(self.running) * self.step
        used = tokens / max(1, self._limit(len(self.running.clients)))
        return Load(len(self.running), len(self.waiting), used)
