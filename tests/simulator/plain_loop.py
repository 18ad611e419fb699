"""The artifact's serving loop, step by step, as plainly as it can be written.

The simulator's fast loop must give the same times to the last bit, and the one-step replay drives
this loop against measured batches. Nothing here is clever: every step asks everything anew.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from fairlane.core.policy import Policy, RepeatsCharges
from fairlane.core.types import Request, RequestId
from fairlane.simulator.randomness import Randomness
from fairlane.simulator.serving import Charging, ServerConfig
from fairlane.workloads.trace import TracedRequest


def id_of(request: Request) -> int:
    """The loop's ids are whole numbers."""
    assert isinstance(request.id, int)
    return request.id


@dataclass
class Live:
    """A running request."""

    traced: TracedRequest
    input_len: int
    generated: int = 0
    reported_ahead: bool = False  # its latest token was already charged (second charge)


@dataclass
class Times:
    """When things happened to a request, in server time without reply delay."""

    first_token: float | None = None
    end: float | None = None
    rejected: float | None = None


@dataclass
class PlainLoop:
    requests: list[TracedRequest]
    policy: Policy[Any]
    config: ServerConfig
    random: Randomness
    now: float = 0.0
    running: list[Live] = field(default_factory=list)
    decodes: int = 0  # since the last prefill
    credit: float = 0.0
    cold: bool = True
    turn: int = 0  # steps so far

    def __post_init__(self) -> None:
        self.by_id = {r.id: r for r in self.requests}
        self.times = {r.id: Times() for r in self.requests}
        arrivals = sorted(
            (r.arrival_s + delay, position, r.id)
            for position, (r, delay) in enumerate(
                zip(self.requests, self.random.delays(len(self.requests)), strict=True)
            )
        )
        self.arrivals = deque(arrivals)
        self.notices: deque[float] = deque()
        self.idle_since, self.polls = 0.0, 0
        self.left = len(self.requests)
        self.waiting = 0

    # -- one step of the router's loop -------------------------------------------------------

    def step(self) -> None:
        if not self.running:
            batch = self.select()
            if not batch:
                self.sleep()
                return
            self.prefill(batch)
        elif self.decodes < self.config.decodes_between_admissions:
            self.decode()
        else:
            batch = self.select()
            if batch:
                self.prefill(batch)
            else:
                self.decode()
        if not self.running:
            self.idle_since, self.polls = self.now, 0
            self.sleep()

    def run(self) -> dict[int, Times]:
        while self.left:
            self.step()
        return self.times

    def sleep(self) -> None:
        self.polls += 1
        self.now = self.idle_since + self.polls * self.config.idle_poll_s
        self.credit = 1.0
        self.receive(self.now, limited=False)

    # -- admission ---------------------------------------------------------------------------

    def select(self) -> list[Live]:
        batch: list[Live] = []
        while True:
            request = self.policy.peek(self.now)
            if request is None or not self.fits(request, batch):
                return batch
            self.policy.admit(request.id, self.now)
            self.waiting -= 1
            traced = self.by_id[id_of(request)]
            batch.append(Live(traced, request.prompt_tokens))

    def fits(self, request: Request, batch: list[Live]) -> bool:
        config = self.config
        output_len = self.by_id[id_of(request)].output_len
        entries = [
            (live.input_len + live.generated, live.traced.output_len - live.generated - 1)
            for live in self.running
        ]
        entries += [(live.input_len + 1, live.traced.output_len - 1) for live in batch]
        entries.append((request.prompt_tokens + 1, output_len - 1))
        entries.sort(key=lambda entry: -entry[1])
        need = total = 0
        for k, (run, left) in enumerate(entries, start=1):
            total += run
            need = max(need, left * k + total)
        clients = {live.traced.client for live in self.running + batch} | {request.client}
        prompts = sum(live.input_len for live in batch) + request.prompt_tokens
        return (
            need < config.memory_tokens - config.adapter_tokens * len(clients)
            and len(entries) <= config.max_batch
            and prompts <= config.max_prefill_tokens
        )

    # -- the two kinds of step ---------------------------------------------------------------

    def prefill(self, batch: list[Live]) -> None:
        profile = self.config.profile
        seconds = profile.prefill(sum(live.input_len for live in batch))
        if self.cold:
            seconds += self.config.first_prefill_delay_s
            self.cold = False
        self.now += seconds * self.factor()
        for live in batch:
            live.generated = 1
            self.times[live.traced.id].first_token = self.now
        finished = any(live.generated >= live.traced.output_len for live in batch)
        if self.config.charging is Charging.DELIVERY:
            self.policy.record_tokens({live.traced.id: 1 for live in batch}, self.now)
        elif finished and self.second_charge:
            self.policy.record_tokens({live.traced.id: 1 for live in batch}, self.now)
            for live in batch:
                live.reported_ahead = True
        self.running += self.finish(batch)
        self.decodes = 0
        self.pump(self.now, gathers=3, finished=finished)

    def decode(self) -> None:
        started = self.now
        self.charge_step_start()
        contexts = [live.input_len + live.generated for live in self.running]
        seconds = self.config.profile.decode(len(contexts), sum(contexts), max(contexts))
        self.now += seconds * self.factor()
        for live in self.running:
            live.generated += 1
        finished = any(live.generated >= live.traced.output_len for live in self.running)
        everyone: dict[RequestId, int] = {live.traced.id: 1 for live in self.running}
        if self.config.charging is Charging.DELIVERY:
            self.policy.record_tokens(everyone, self.now)
        elif finished and self.second_charge:
            self.policy.record_tokens(everyone, self.now)
            for live in self.running:
                live.reported_ahead = True
        self.running = self.finish(self.running)
        self.decodes = min(self.decodes + 1, self.config.decodes_between_admissions)
        self.pump(self.now if finished else started, gathers=1, finished=finished)

    @property
    def second_charge(self) -> bool:
        return self.config.charging is Charging.STEP_START_AND_FINISH

    def charge_step_start(self) -> None:
        if self.config.charging is Charging.DELIVERY:
            return
        for live in self.running:
            if live.reported_ahead:
                if isinstance(self.policy, RepeatsCharges):
                    self.policy.charge_again([live.traced.id])
                live.reported_ahead = False
            else:
                self.policy.record_tokens({live.traced.id: 1}, self.now)

    def finish(self, batch: list[Live]) -> list[Live]:
        """Ends those that are done; returns the others."""
        for live in batch:
            if live.generated >= live.traced.output_len:
                self.times[live.traced.id].end = self.now
                self.policy.finish(live.traced.id, self.now)
                self.notices.append(self.now + self.config.finish_notice_s)
                self.left -= 1
        return [live for live in batch if live.generated < live.traced.output_len]

    def factor(self) -> float:
        """The next step's noise."""
        self.turn += 1
        self.random.grow(self.turn)
        return self.random.factors[self.turn - 1]

    # -- messages ----------------------------------------------------------------------------

    def pump(self, horizon: float, gathers: int, finished: bool) -> None:
        self.credit += self.config.messages_per_turn * (gathers + finished)
        self.receive(horizon, limited=True)
        self.credit = min(self.credit, 1.0)

    def receive(self, horizon: float, limited: bool) -> None:
        while not limited or self.credit >= 1.0:
            notice = self.notices[0] if self.notices else float("inf")
            arrival = self.arrivals[0][0] if self.arrivals else float("inf")
            if min(notice, arrival) > horizon:
                return
            if limited:
                self.credit -= 1.0
            if notice <= arrival:
                self.notices.popleft()
                continue
            _, _, request_id = self.arrivals.popleft()
            traced = self.by_id[request_id]
            prompt = traced.prompt_len + self.config.prompt_overhead
            request = Request(request_id, traced.client, prompt, traced.output_len)
            if self.policy.enqueue(request, self.now) is None:
                self.waiting += 1
            else:
                self.times[request_id].rejected = self.now
                self.left -= 1
