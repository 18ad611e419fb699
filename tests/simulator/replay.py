"""One-step replay: hold the serving loop's queue against a measured run, one batch at a time.

The loop is led along the measured events (first tokens and ends of requests). At the start of
each measured prefill the queue is asked what it would admit; the answer is compared with the
measured batch, which is then forced on it. Time is measured time, and the number of decode steps
between two events is what the measured run must have taken: a request that got n tokens was
decoded n - 1 times between its first token and its end.
"""

import copy
from dataclasses import dataclass, field

import numpy as np

from fairlane.core.types import Request
from tests.simulator.plain_loop import Live, PlainLoop

SAME_EVENT_S = 0.02  # tokens whose times differ by less were sent by the same step
PASSES = 10
SLACK_STEPS = 3
LONG = 15.5  # steps: longer intervals are found from the requests that span them


@dataclass
class Event:
    """A measured moment: a batch got its first tokens (`prefill` seconds of it), or requests ended.

    steps: decode steps since the event before.
    """

    time: float
    ids: list[int]
    prefill: float = 0.0
    steps: int = 0


@dataclass
class Replay(PlainLoop):
    """`measured`: request id -> (first token, end) in client time; rejected ones are absent."""

    measured: dict[int, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        delay = self.config.reply_delay_s
        self.first = {i: first - delay for i, (first, _) in self.measured.items()}
        self.last = {i: end - delay for i, (_, end) in self.measured.items()}

    def replay(self) -> tuple[int, int]:
        """Returns (batches that the queue predicted exactly, batches)."""
        exact = batches = 0
        for event in self.events():
            self.lead_to(event)
            if event.prefill:
                exact += self.asked() == set(event.ids)
                batches += 1
                self.force(event)
        return exact, batches

    def asked(self) -> set[int]:
        """What the queue would admit: now, or in one of the next few steps, then undone.

        The start of a prefill is known to about a step, and while a request waits for memory each
        step frees a token.
        """
        kept = copy.deepcopy((self.policy, self.running, self.credit, self.arrivals, self.notices))
        now, decodes = self.now, self.decodes
        admitted = self.select()
        for _ in range(SLACK_STEPS):
            if admitted or not self.running:
                break
            self.led_decode(self.now + self.decode_seconds(), [])
            admitted = self.select()
        self.policy, self.running, self.credit, self.arrivals, self.notices = kept
        self.now, self.decodes = now, decodes
        return {live.traced.id for live in admitted}

    def decode_seconds(self) -> float:
        contexts = [live.input_len + live.generated for live in self.running]
        return self.config.profile.decode(len(contexts), sum(contexts), max(contexts))

    # -- what was measured -------------------------------------------------------------------

    def events(self) -> list[Event]:
        """Batches and ends in order, with the decode steps between them."""
        events = [Event(t, ids, self.prefill_seconds(ids)) for t, ids in self.grouped(self.first)]
        events[0].prefill += self.config.first_prefill_delay_s
        events += [Event(t, ids) for t, ids in self.grouped(self.last)]
        events.sort(key=lambda event: event.time)
        self.count_steps(events)
        return events

    def grouped(self, times: dict[int, float]) -> list[tuple[float, list[int]]]:
        """[(time, ids)]: what follows faster than a step could is one event."""
        groups: list[tuple[float, list[int]]] = []
        for time, i in sorted((time, i) for i, time in times.items()):
            gap = 0.8 * self.prefill_seconds([i]) if times is self.first else SAME_EVENT_S
            if groups and time - groups[-1][0] < gap:
                groups[-1][1].append(i)
            else:
                groups.append((time, [i]))
        return groups

    def prefill_seconds(self, ids: list[int]) -> float:
        overhead = self.config.prompt_overhead
        return self.config.profile.prefill(sum(self.by_id[i].prompt_len + overhead for i in ids))

    def count_steps(self, events: list[Event]) -> None:
        """Estimates by the profile, moved until every request got its tokens (Kaczmarz)."""
        spans: dict[int, tuple[int, int]] = {}
        running: dict[int, tuple[int, int]] = {}
        steps = np.zeros(len(events))
        for k, event in enumerate(events):
            if running:
                contexts = [start + steps[j + 1 : k].sum() for start, j in running.values()]
                seconds = self.config.profile.decode(len(running), sum(contexts), max(contexts))
                passed = event.time - event.prefill - events[k - 1].time
                steps[k] = max(0.0, passed / (seconds + len(running) * 1e-6))
            for i in event.ids:
                if event.prefill:
                    running[i] = (self.by_id[i].prompt_len + 3, k)
                else:
                    spans[i] = (running.pop(i)[1] + 1, k + 1)
        settled = np.zeros(len(events), dtype=bool)
        for tolerance in (0.15, 0.3, 0.5):
            steps = np.where(settled, np.round(steps), steps)
            settled = np.abs(steps - np.round(steps)) <= np.where(steps < LONG, tolerance, 0.0)
            steps[settled] = np.round(steps[settled])
            for _ in range(PASSES):
                for i, (start, stop) in spans.items():
                    span, free = steps[start:stop], ~settled[start:stop]
                    open_steps = span[free].sum()
                    if open_steps:
                        lack = self.by_id[i].output_len - 1 - span.sum()
                        span[free] *= 1 + lack / open_steps
        for event, count in zip(events, np.round(steps), strict=True):
            event.steps = max(0, int(count))

    # -- led steps ---------------------------------------------------------------------------

    def lead_to(self, event: Event) -> None:
        """Decode steps up to an event: to the end of requests, or to the start of a prefill."""
        due = event.time - event.prefill
        if not self.running:
            self.idle_since, self.polls = self.now, 0
            while self.now < due or not self.polls:
                self.sleep()
        for left in range(event.steps, 0, -1):
            ended = [] if event.prefill or left > 1 else event.ids
            self.led_decode(self.now + max(0.0, due - self.now) / left, ended)
        if not event.prefill and not event.steps:
            self.running = self.finish_now(event.ids)
            self.pump(self.now, gathers=1, finished=True)

    def led_decode(self, until: float, ended: list[int]) -> None:
        """One decode step that takes until `until` and ends those requests."""
        started = self.now
        self.charge_step_start()
        self.now = until
        for live in self.running:
            live.generated = min(live.generated + 1, live.traced.output_len - 1)
        if ended and self.second_charge:
            self.policy.record_tokens({live.traced.id: 1 for live in self.running}, self.now)
            for live in self.running:
                live.reported_ahead = True
        if ended:
            self.running = self.finish_now(ended)
        self.decodes += 1
        self.pump(self.now if ended else started, gathers=1, finished=bool(ended))

    def finish_now(self, ids: list[int]) -> list[Live]:
        for live in self.running:
            if live.traced.id in ids:
                live.generated = live.traced.output_len
        return self.finish(self.running)

    def force(self, event: Event) -> None:
        """The measured batch is prefilled and done."""
        for entry in [entry for entry in self.arrivals if entry[2] in event.ids]:
            self.arrivals.remove(entry)  # its client sent it a moment before the workload says
            traced = self.by_id[entry[2]]
            prompt = traced.prompt_len + self.config.prompt_overhead
            self.policy.enqueue(Request(traced.id, traced.client, prompt), self.now)
        batch = []
        for i in sorted(event.ids):
            self.policy.admit(i, self.now)
            traced = self.by_id[i]
            batch.append(Live(traced, traced.prompt_len + self.config.prompt_overhead, generated=1))
        self.now = event.time
        finished = any(live.traced.output_len <= 1 for live in batch)
        self.running += batch
        self.decodes = 0
        self.pump(self.now, gathers=3, finished=finished)
