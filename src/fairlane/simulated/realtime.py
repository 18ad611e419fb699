"""A serving loop of the simulator held against a real clock.

Server time is real time since the start, times `speed`. Whatever the loop has to do is done when
its server time has come, and every token is handed to its owner at its own time. There is one timer
for all of it, set for the next deadline; deadlines are absolute, so a process that was late catches
up and never drifts, and what happens in server time does not depend on how late it was. Nothing is
done while the loop has nothing to do.

Everything here is called on one event loop.
"""

import asyncio
import logging
import math
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

from fairlane.core.types import Rejection
from fairlane.records import RequestRecord
from fairlane.simulator.loop import Listener, Load, Loop
from fairlane.workloads.trace import TracedRequest

log = logging.getLogger("fairlane.simulated")

LATE_BOUNDS_S = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_GRAIN_S = 0.001  # event loops count in milliseconds
_BUSY_S = 0.005  # then others may have the event loop
_VERY_LATE_S = 0.5
_WARN_EVERY_S = 10.0


class Owner(Protocol):
    """Whoever the tokens of one sequence are for."""

    def accepted(self) -> None:
        """The sequence is in the engine's queue."""

    def rejected(self, rejection: Rejection) -> None:
        """The scheduler turned it away; nothing more comes."""

    def token(self, last: bool) -> None:
        """It has one more token."""

    def failed(self, reason: str) -> None:
        """The engine broke down; nothing more comes."""


@dataclass(slots=True)
class Counts:
    """What has happened so far, exactly. Tokens count when they are handed to their owner.

    sequences: that came; a request for n answers is n. prompt_tokens: of sequences that had their
    first token. ended: sequences by reason: stop, length, abort, rejected. peak_running: the most
    that ever ran at once. late: tokens by how late they were, for each bound in LATE_BOUNDS_S the
    number up to it and above the one before; the last is above all.
    """

    sequences: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    peak_running: int = 0
    late: list[int] = field(default_factory=lambda: [0] * (len(LATE_BOUNDS_S) + 1))
    late_sum_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `late` by its bounds."""
        names = ("sequences", "prompt_tokens", "generation_tokens", "peak_running", "late_sum_s")
        late = dict(zip([*map(str, LATE_BOUNDS_S), "inf"], self.late, strict=True))
        return {**{n: getattr(self, n) for n in names}, "ended": dict(self.ended), "late_s": late}


@dataclass(slots=True)
class _Live:
    owner: Owner
    request: TracedRequest
    reason: str  # for which it will end
    delivered: int = 0
    first: float | None = None  # server time of its first and its latest token
    latest: float | None = None


class RealTimeEngine:
    """Runs one loop. `counts` may be read at any time.

    on_end: is called with a record of each sequence that ended. Its times are server time, exactly
    as the loop has them: those that a simulation of the same arrivals gives.
    """

    each_token = True  # as a `Listener`

    def __init__(
        self,
        make_loop: Callable[[Listener], Loop],
        *,
        speed: float,
        reply_delay_s: float = 0.0,
        on_end: Callable[[RequestRecord], None] | None = None,
    ) -> None:
        """reply_delay_s: server time that a token takes from the loop to its client."""
        self.speed = speed
        self.counts = Counts()
        self.broken: str | None = None
        self._reply_delay_s = reply_delay_s
        self._on_end = on_end
        self._live: dict[int, _Live] = {}
        self._next_position = 0
        self._pending: deque[tuple[float, int, bool]] = deque()  # tokens: when, whose, the last?
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._warned_at = -inf
        self._start = time.monotonic()
        self._loop = make_loop(self)

    def now(self) -> float:
        """Server time, in seconds since the start."""
        return (time.monotonic() - self._start) * self.speed

    def load(self) -> Load:
        """How loaded the server is now."""
        if self._timer is not None and self._loop.due <= self.now():
            self._wake()
        return self._loop.load()

    def submit(
        self, owner: Owner, client: str, prompt_len: int, output_len: int, reason: str
    ) -> int:
        """A sequence comes; answers its position. reason: for which it will end, stop or length."""
        position = self._next_position
        self._next_position += 1
        request = TracedRequest(position, client, self.now(), prompt_len, output_len)
        self._live[position] = _Live(owner, request, reason)
        self.counts.sequences += 1
        self._loop.add(position, request)
        self._arm()
        return position

    def abort(self, position: int) -> None:
        """A sequence's owner is gone: its memory is free at once. Others are passed over."""
        live = self._live.pop(position, None)
        if live is not None:
            self._loop.abort(position)
            self._ended(live, "abort", "aborted", "client disconnected")

    def close(self) -> None:
        """End everything that is under way."""
        self._fail("the engine is shutting down")

    # -- what the loop tells -----------------------------------------------------------------

    def accepted(self, position: int) -> None:
        """As of `Listener`."""
        self._live[position].owner.accepted()

    def rejected(self, position: int, rejection: Rejection) -> None:
        """As of `Listener`."""
        live = self._live.pop(position)
        self._ended(live, "rejected", "rejected", rejection.reason)
        live.owner.rejected(rejection)

    def token(self, position: int, at: float, last: bool) -> None:
        """As of `Listener`."""
        self._pending.append((at + self._reply_delay_s, position, last))

    # -- time --------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the timer for the next deadline."""
        due = min(self._loop.due, self._pending[0][0] if self._pending else inf)
        if self._timer is not None:
            if due >= self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        if due < inf:
            wait = max(_GRAIN_S, (due - self.now()) / self.speed)
            wait = math.ceil(wait / _GRAIN_S) * _GRAIN_S
            self._timer, self._timer_at = (
                asyncio.get_running_loop().call_later(wait, self._wake),
                due,
            )

    def _wake(self) -> None:
        """Do what is due by now, as far as it does not take too long at a time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop, now, counts = self._loop, self.now(), self.counts
        until = time.monotonic() + _BUSY_S
        try:
            while loop.due <= now and time.monotonic() < until:
                loop.advance()
                counts.peak_running = max(counts.peak_running, loop.load().running)
            self._deliver()
        except Exception as error:
            log.exception("the simulated engine broke down")
            self._fail(f"the engine broke down: {error}")
            return
        self._arm()

    def _deliver(self) -> None:
        """Hand out the tokens whose time has come."""
        pending, counts, speed, now = self._pending, self.counts, self.speed, self.now()
        late = 0.0
        while pending and pending[0][0] <= now:
            at, position, last = pending.popleft()
            live = self._live.get(position)
            if live is None:  # its owner has left
                continue
            late = (now - at) / speed
            counts.late[bisect_left(LATE_BOUNDS_S, late)] += 1
            counts.late_sum_s += late
            counts.generation_tokens += 1
            live.delivered += 1
            live.latest = at
            if live.first is None:
                live.first = at
                counts.prompt_tokens += live.request.prompt_len
            if last:
                del self._live[position]
                self._ended(live, live.reason, "finished", "")
            live.owner.token(last)
        if late > _VERY_LATE_S:
            self._warn(late)

    def _warn(self, late: float) -> None:
        if time.monotonic() - self._warned_at > _WARN_EVERY_S:
            self._warned_at = time.monotonic()
            log.warning(
                "tokens come %.1f s late: this machine is too slow for so many at speed %g",
                late, self.speed,
            )  # fmt: skip

    def _ended(self, live: _Live, ending: str, outcome: str, reason: str) -> None:
        self.counts.ended[ending] += 1
        if self._on_end is None:
            return
        request = live.request
        self._on_end(
            RequestRecord(
                id=request.id,
                client=request.client,
                arrival_s=request.arrival_s,
                prompt_len=request.prompt_len,
                output_len=live.delivered or request.output_len,
                ttft_s=None if live.first is None else live.first - request.arrival_s,
                latency_s=None if live.latest is None else live.latest - request.arrival_s,
                outcome=outcome,
                reason=reason,
            )
        )

    def _fail(self, reason: str) -> None:
        """Nothing goes on from here."""
        self.broken = reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pending.clear()
        live, self._live = self._live, {}
        for one in live.values():
            self._ended(one, "abort", "aborted", reason)
            one.owner.failed(reason)
