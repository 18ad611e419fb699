"""How many requests one upstream gets at once: enough that it never idles, so few that hardly any
wait inside it, where nobody orders them.

Source: own, see docs/gateway.md. Idea: an engine is full when requests wait in it. So the window
follows two numbers, R that run and W that wait. Where the engine tells them (`told`), they are its
own; where it does not, they are seen from outside: R answers flow; of the requests that were sent
and have no first token, those wait that are more than can be prefilling. The target is to have T
waiting, what ends in two steps: a slot that becomes free is taken in the next step.

    W > 2T                          window = R + T at once, then leave the engine time to show it
    W > T                           window - 1
    W < T and somebody queues here  at once to what filled the engine before, R + T of then; from
                                    there + 1, and + 1/4 of it once W stays 0 (it has more room now)

From outside, of answers that are not streamed nothing is seen; they are taken to run and wait as
often as streams do, and the fewer streams there are, the longer it looks and the slower it moves.
How long a prefill takes is the least time to a first token in half a minute; then what waits inside
is let drain for a moment, and it is learned anew. Forgotten bit by bit it would grow by the queue
that it is to tell from.

Latency does not serve as a signal: an answer takes as long as its length says, and a larger batch
is slower without a queue. A request that the engine turns away (429, 503) halves the window.

No clock and no I/O: time is handed in, in seconds, never decreasing.
"""

import math
from dataclasses import dataclass
from statistics import median

_RENEW_S = 30.0  # how often the time to a first token without a queue is found anew
_LONGEST_DRAIN_S = 2.0
_RATE_S = 5.0  # over how long rates are averaged
_SETTLE_S = 0.25
_STALE_S = 3.0  # what the engine told is older: look from outside
_LOOK_S = 0.25  # from outside
_DARK = 20  # looks in a row that see nothing, until that is no chance
_TWICE = 2  # a queue that is empty for a moment is so by chance
_TOKEN_S = 0.05  # a token's time before any is known


class Rate:
    """Events a second, averaged over the past seconds, the latest counting most."""

    def __init__(self) -> None:
        self._weighed = 0.0
        self._at: float | None = None
        self._begin = 0.0

    def count(self, now: float) -> None:
        """One more."""
        self._decay(now)
        self._weighed += 1.0

    def at(self, now: float) -> float:
        """Events a second now."""
        if self._at is None:
            return 0.0
        self._decay(now)
        seen = 1 - math.exp(-max(now - self._begin, 1e-3) / _RATE_S)  # less at the start
        return self._weighed / (_RATE_S * seen)

    def _decay(self, now: float) -> None:
        if self._at is None:
            self._at = self._begin = now
        self._weighed *= math.exp(-(now - self._at) / _RATE_S)
        self._at = now


class Base:
    """The least median of 8 times to the first token: one without a queue.

    most: what it can be: those that are seen may be of a queue after all.
    """

    def __init__(self, most: float = math.inf) -> None:
        self._most = most
        self._recent: list[float] = []
        self.seconds: float | None = None

    def saw(self, seconds: float) -> None:
        """A request had its first token after so long."""
        self._recent = [*self._recent[-7:], seconds]
        if len(self._recent) == 8:
            usual = min(median(self._recent), self._most)
            self.seconds = usual if self.seconds is None else min(self.seconds, usual)


class Seen:
    """Parts of what is in flight that wait and that run, as streams show: averages over looks.

    The fewer of all are streams, the more looks, up to twenty.
    """

    def __init__(self) -> None:
        self._values: tuple[float, float] | None = None

    def update(
        self, waits: float, flowing: float, streams: int, in_flight: int
    ) -> tuple[float, float]:
        """One more look; the averages."""
        latest = waits / streams, flowing / streams
        if self._values is None:
            self._values = latest
        new = max(0.05, streams / in_flight)
        before = self._values
        self._values = (
            before[0] + new * (latest[0] - before[0]),
            before[1] + new * (latest[1] - before[1]),
        )
        return self._values


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a window begins, and between what it may move; equal ones fix it."""

    start: int = 8
    least: int = 1
    greatest: int = 1_000_000

    @classmethod
    def fixed(cls, size: int) -> "Bounds":
        """A window that does not move."""
        return cls(size, size, size)


class Window:
    """The window of one upstream; see the module.

    in_flight: sent and not ended. elsewhere: those that other gateways have in flight there, which
    count as well; and most_elsewhere: the greatest window that they found. streams: of ours, those
    whose first token will be seen; flowing: those that have it. running, waiting: as the engine
    told last, None where it never did. grows: whether it is on its way up. token_s: seconds that an
    answer takes for a token. bounds: may be set anew.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.size = float(self.bounds.start)
        self.in_flight = 0
        self.elsewhere = 0
        self.most_elsewhere = 0.0
        self.streams = 0
        self.flowing = 0
        self._dark = 0  # looks in a row that saw nothing
        self._drain_until = 0.0
        self._renew_at: float | None = None
        self._seen = Seen()
        self.running: int | None = None
        self.waiting: int | None = None
        self._told_at = -math.inf
        self.grows = False
        self._full = 0  # how many ran when some waited last
        self._looks = 0  # in a row that saw nobody wait
        self._news = False  # told, and not yet acted upon
        self._look_at = 0.0
        self._closed_until = 0.0
        self._sends, self._ends = Rate(), Rate()
        self._base = Base()
        self.token_s = _TOKEN_S

    # -- what happens ------------------------------------------------------------------------

    def sent(self, now: float, *, stream: bool = True) -> None:
        """A request goes to the engine; whether its first token will be seen."""
        self.in_flight += 1
        if stream:
            self.streams += 1
            self._sends.count(now)

    def first_token(self, seconds: float) -> None:
        """A stream has its first token, so long after it was sent."""
        self.flowing += 1
        self._base.saw(seconds)

    def ended(
        self, now: float, *, flowed: bool, token_s: float | None = None, stream: bool = True
    ) -> None:
        """A request ended, however; whether its first token was seen, and its seconds a token."""
        self.in_flight -= 1
        self.streams -= stream
        self.flowing -= flowed
        self._ends.count(now)
        if token_s is not None:
            self.token_s += 0.1 * (token_s - self.token_s)

    def told(self, running: int, waiting: int, now: float) -> None:
        """The engine says how many run and wait, those of others included."""
        self.running, self.waiting, self._told_at = running, waiting, now
        self._news, self._dark = True, 0

    def turned_away(self, retry_after_s: float, now: float) -> None:
        """The engine answered 429 or 503: it gets nothing until then, and less."""
        self._resize(self.size / 2)
        self._closed_until = max(self._closed_until, now + retry_after_s)
        self._look_at = max(self._look_at, self._closed_until)

    # -- what follows ------------------------------------------------------------------------

    def room(self, now: float) -> int:
        """How many more requests the engine may be sent."""
        if now < max(self._closed_until, self._drain_until):
            return 0
        return max(0, math.floor(max(self.size, self.most_elsewhere)) - self._everywhere)

    @property
    def blind(self) -> bool:
        """Whether nothing shows how loaded the engine is, though requests wait here."""
        return self._dark > _DARK

    def ends_rate(self, now: float) -> float:
        """Requests a second that end."""
        return self._ends.at(now)

    def adjust(self, queued: bool, now: float) -> None:
        """Look at the engine and move; to be called a few times a second.

        queued: whether anybody waits here.
        """
        self._resize(self.size)
        if now < self._look_at or self.bounds.least == self.bounds.greatest:
            return
        if now - self._told_at <= _STALE_S:
            if self._news and self.running is not None and self.waiting is not None:
                self._news = False  # one move for each answer
                self._by_its_own_numbers(self.running, self.waiting, queued, now)
        else:
            self._look_at = now + _LOOK_S
            self._from_outside(queued, now)

    @property
    def _everywhere(self) -> int:
        return self.in_flight + self.elsewhere

    def _target(self, now: float) -> int:
        """T: how many should wait inside."""
        return max(2, math.ceil(2 * self.ends_rate(now) * self.token_s))

    def _by_its_own_numbers(self, running: int, waiting: int, queued: bool, now: float) -> None:
        target = self._target(now)
        others = max(0, running + waiting - self._everywhere)
        if waiting:
            self._full = running
        self._looks = 0 if waiting else self._looks + 1
        known = self._full + target - others
        self.grows = queued and not waiting
        if waiting > 2 * target:
            self._resize(running + target - others)
            self._settle(now)
        elif waiting > target:
            self._resize(self.size - 1)
        elif self.grows and self.size < known:
            self._resize(known)
        elif self.grows and (not self._full or self._looks > _TWICE):
            self._resize(1.25 * self.size)
        elif waiting < target and queued:
            self._resize(self.size + 1)

    def _from_outside(self, queued: bool, now: float) -> None:
        """What streams show stands for all: whole answers are as often waiting as they."""
        base, target = self._base.seconds, self._target(now)
        self._dark = self._dark + 1 if queued and not self.streams else 0
        if not self.streams or self._renews(now, target):
            return
        prefilling = self._sends.at(now) * (base or 0.0)
        waits = self.streams - self.flowing - prefilling
        part, running = self._seen.update(waits, self.flowing, self.streams, self.in_flight)
        waiting = part * self._everywhere
        if waiting > target and base is None:
            return  # how long a prefill takes is not known yet
        if waiting > 2 * target + 1:
            scale = self._everywhere / self.streams
            self._resize(running * self._everywhere + target + prefilling * scale)
            self._seen = Seen()
            self._settle(now)
        elif waiting > target:
            self._resize(self.size - 1)
        elif waiting < target and queued:
            share = self.streams / self.in_flight  # the fewer show, the slower it grows
            self._resize(self.size + share * (self.size / 8 if waiting < target / 2 else 0.5))

    def _renews(self, now: float, target: int) -> bool:
        """Now and then let what waits inside drain, and learn anew what a prefill takes."""
        if self._renew_at is None:
            self._renew_at = now + _RENEW_S
        if now < self._renew_at:
            return False
        self._renew_at = now + _RENEW_S
        if self._base.seconds is None:
            return False
        drain = 2 * target / max(self._ends.at(now), 1e-3)
        self._drain_until = now + min(drain, _LONGEST_DRAIN_S)
        self._base = Base(2 * self._base.seconds)
        self._look_at = self._drain_until + _SETTLE_S
        return True

    def _settle(self, now: float) -> None:
        self._look_at = now + 2 * (self._base.seconds or 0.0) + _SETTLE_S

    def _resize(self, size: float) -> None:
        self.size = min(max(size, self.bounds.least), self.bounds.greatest)
