"""An engine with slots and steps, as far as a window can see it: for tests in simulated time."""

import random
from collections import deque
from dataclasses import dataclass, field

from fairlane.gateway.dispatch import GROWING_S, SCRAPE_S
from fairlane.gateway.window import Window


@dataclass
class Sent:
    """A request in the engine."""

    at: float
    output: int
    prompt: int
    done: int = 0
    first: float | None = None
    stream: bool = True


@dataclass
class SlotEngine:
    """B slots, and a KV memory; a step takes longer with each that runs and each that is new."""

    slots: int
    memory: int = 10**9
    waiting: deque[Sent] = field(default_factory=deque)
    running: list[Sent] = field(default_factory=list)

    def step(self) -> tuple[float, list[Sent]]:
        """Seconds of the next step, in which everyone who runs gets a token; and who ends in it."""
        new = 0
        while self.waiting and new < 8 and self._has_room(self.waiting[0]):
            self.running.append(self.waiting.popleft())
            new += 1
        for one in self.running:
            one.done += 1
        ended = [one for one in self.running if one.done == one.output]
        seconds = 0.015 + 0.00006 * len(self.running) + 0.004 * new
        return seconds, ended

    def _has_room(self, one: Sent) -> bool:
        held = sum(other.prompt + other.done for other in self.running)
        return len(self.running) < self.slots and held + one.prompt <= self.memory


@dataclass
class Outcome:
    """Of the second half of a run."""

    busy: float
    waiting: float
    sizes: list[tuple[float, float]]


def run(
    window: Window,
    engine: SlotEngine,
    *,
    seconds: float,
    tells: bool,
    lengths: tuple[int, int] = (20, 200),
    prompt: int = 100,
    change: tuple[float, int] | None = None,
    streamed: float = 1.0,
    seed: int = 0,
) -> Outcome:
    """A queue that never empties before the window, and the engine behind it.

    streamed: the part of all answers that are streams.
    """
    rng = random.Random(seed)
    now = next_scrape = next_look = 0.0
    busy, waiting, sizes = [], [], []
    while now < seconds:
        if change is not None and now >= change[0]:
            engine.slots = change[1]
        for _ in range(window.room(now)):
            one = Sent(now, rng.randint(*lengths), prompt, stream=rng.random() < streamed)
            window.sent(now, stream=one.stream)
            engine.waiting.append(one)
        step, ended = engine.step()
        now += step
        _tell(window, engine, ended, now)
        if tells and now >= next_scrape:
            next_scrape = now + (GROWING_S if window.grows else SCRAPE_S)
            window.told(len(engine.running), len(engine.waiting), now)
        if now >= next_look:
            next_look = now + 0.05
            window.adjust(queued=True, now=now)
            sizes.append((now, window.size))
        if now > seconds / 2:
            busy.append(min(len(engine.running), engine.slots) / engine.slots)
            waiting.append(len(engine.waiting))
    return Outcome(sum(busy) / len(busy), sum(waiting) / len(waiting), sizes)


def _tell(window: Window, engine: SlotEngine, ended: list[Sent], now: float) -> None:
    """What the window hears of a step."""
    for one in engine.running:
        if one.first is None:
            one.first = now
            if one.stream:
                window.first_token(now - one.at)
    for one in ended:
        engine.running.remove(one)
        token_s = (now - (one.first or now)) / max(1, one.output - 1)
        window.ended(now, flowed=one.stream, token_s=token_s, stream=one.stream)
