"""One model's queue, and the upstreams that serve it: who is sent next, and where.

A state machine without I/O, as the policies are: the gateway tells it what happens and sends what
`turns` answers. A request's way: it arrives and waits; when an upstream's window has room, the
policy says who is next and the upstream with the least work gets it; its tokens are counted as
they pass and reported a few times a second; when it ends, however it ends, it is settled.

An upstream's work is what its requests are expected to need: prompts and outputs, in tokens.

Requests of one session may be kept together (`sticky`): each session has an order of upstreams of
its own, so that one more or one less moves few sessions. Who is next and finds its upstream full
lets a few others go first whose upstream has room; where there are none, it goes where room is. So
no upstream idles, and whoever stood back is first as soon as its own has room.

Where other gateways stand before the same upstreams (core/one_queue.py), nobody is sent before whom
somebody comes who waits there, as long as others take the room that is left.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from fairlane.core.one_queue import Patience
from fairlane.core.sharing import Waiting
from fairlane.core.types import Outcome, Request
from fairlane.door.books import Books
from fairlane.door.sharing import Sharing
from fairlane.gateway.counting import Usage
from fairlane.gateway.signals import Load
from fairlane.gateway.window import Bounds, Window

_LOOKS = 16  # requests that are looked at for one whose own upstream has room
_LONG_LOOKS = 10  # until room is used that others do not take although it is their turn
_RECENT = 0.05  # what the latest request counts in the usual price


class Lane:
    """One upstream, as one model's queue sees it.

    accepts: whether new requests go there; not while it is down or drained.
    """

    def __init__(self, name: str, bounds: Bounds | None = None, weight: float = 1.0) -> None:
        self.name = name
        self.window = Window(bounds)
        self.weight = weight
        self.accepts = True
        self.work = 0

    def room(self, now: float) -> int:
        """How many more requests it may be sent."""
        return self.window.room(now) if self.accepts else 0


@dataclass(slots=True)
class Live:
    """A request that waits or runs. reported: tokens that the books know of."""

    id: str
    expected: int
    session: str | None = None
    whole: bool = False  # its tokens are seen all at once
    lane: Lane | None = None
    sent_at: float = 0.0
    first_at: float | None = None
    tokens: int = 0
    reported: int = 0
    gone: set[str] = field(default_factory=set)  # lanes that it was sent to and that failed


@dataclass(frozen=True, slots=True)
class Turn:
    """It is this request's turn, on this lane."""

    id: str
    lane: Lane


@dataclass(frozen=True, slots=True)
class Told:
    """What a queue tells those of other gateways before the same upstreams.

    lanes: by name, how many requests it has in flight, and the window that it found; 0 where it
    needs none. yields: whether its next one comes after somebody who waits elsewhere.
    """

    lanes: Mapping[str, tuple[int, float]]
    yields: bool
    waiting: Waiting


class Pool:
    """See the module. clock: seconds, never decreasing; the books' too.

    sharing: what it shares with other gateways' queues, None where it does not.
    """

    def __init__(self, books: Books, lanes: Iterable[Lane], clock: Callable[[], float]) -> None:
        self.books = books
        self.lanes = {lane.name: lane for lane in lanes}
        self._clock = clock
        self._live: dict[str, Live] = {}
        self._news: set[str] = set()  # requests with tokens that are not reported
        self._waiting = 0
        self._usual_price: float | None = None
        self._patience = Patience()
        self._long_patience = Patience(_LONG_LOOKS)
        self.sharing: Sharing | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait here."""
        return self._waiting

    @property
    def running(self) -> int:
        """How many requests were sent and have not ended."""
        return len(self._live) - self._waiting

    # -- events ------------------------------------------------------------------------------

    def arrive(
        self,
        request: Request,
        output: int,
        *,
        model: str = "",
        session: str | None = None,
        whole: bool = False,
    ) -> str | None:
        """A request begins to wait; answers why it may not, or None.

        output: tokens that its answer is expected to have. model: which it asks for. session: what
        it shares with others that had better go where it goes. whole: its tokens will be seen all
        at once.
        """
        reason = self.books.arrive(request, model)
        if reason is None:
            expected = request.prompt_tokens + output
            self._live[str(request.id)] = Live(str(request.id), expected, session, whole)
            self._waiting += 1
            if self._usual_price is None:
                self._usual_price = self.books.price(request.prompt_tokens, 0, output)
        return reason

    def turns(self) -> list[Turn]:
        """Who is sent now, in this order. They count as sent."""
        now = self._clock()
        found: list[Turn] = []
        while self._waiting:
            lanes = [lane for lane in self.lanes.values() if lane.room(now)]
            chosen = self._next(lanes) if lanes and not self._yields() else None
            if chosen is None:
                break
            self._send(*chosen, now)
            found.append(Turn(chosen[0].id, chosen[1]))
        return found

    def likely(self, request_id: str) -> int:
        """Output tokens that an engine is likely to have made of a request, uncounted."""
        live = self._live[request_id]
        if live.lane is None:
            return 0
        return round((self._clock() - live.sent_at) / live.lane.window.token_s)

    def tokens(self, request_id: str, tokens: int) -> None:
        """An answer holds so many tokens so far; one that comes whole is expected to."""
        live = self._live[request_id]
        if live.first_at is None and live.lane is not None and not live.whole:
            live.first_at = self._clock()
            live.lane.window.first_token(live.first_at - live.sent_at)
        if tokens > live.tokens:
            live.tokens = tokens
            self._news.add(request_id)

    def told(self, lane: str, load: Load) -> None:
        """An upstream says how loaded it is."""
        self.lanes[lane].window.told(load.running, load.waiting, self._clock())

    def turned_away(self, lane: Lane, retry_after_s: float) -> None:
        """An upstream has no room, and says for how long."""
        lane.window.turned_away(retry_after_s, self._clock())

    def tick(self) -> None:
        """Report tokens, and look how large the windows should be; some fifty times a second."""
        self._report()
        now = self._clock()
        for lane in self.lanes.values():
            lane.window.adjust(self._waiting > 0, now)

    def failed(self, request_id: str) -> None:
        """The lane did not answer: the request waits again, before its client's others."""
        live = self._live[request_id]
        if live.lane is not None:
            live.gone.add(live.lane.name)
        self._leave(live)
        self.books.put_back(request_id)
        self._waiting += 1

    def settle(self, request_id: str, usage: Usage) -> None:
        """The engine says what a request's prompt and answer had; the answer has all it will."""
        live = self._live[request_id]
        self._news.discard(request_id)  # what it has is said here
        live.tokens = live.reported = usage.output
        self.books.settle(
            request_id, usage.input, cached_tokens=usage.cached, output_tokens=usage.output
        )
        if usage.input and self._usual_price is not None:
            price = self.books.price(usage.input, usage.cached, usage.output)
            self._usual_price += _RECENT * (price - self._usual_price)

    def end(self, request_id: str, outcome: Outcome) -> None:
        """A request ended, or waits no more. Unknown ids are passed over."""
        live = self._live.get(request_id)
        if live is None:
            return
        self._report()
        if live.lane is None:
            self._waiting -= 1
        else:
            self._leave(live)
        del self._live[request_id]
        self.books.finish(request_id, outcome)

    def take_failed(self) -> list[str]:
        """Requests that must end since the policy made a mistake with them."""
        failed, self.books.failed[:] = list(self.books.failed), []
        return failed

    def expected_wait(self) -> float:
        """Seconds until a request that comes now is likely to be sent."""
        now = self._clock()
        rate = sum(lane.window.ends_rate(now) for lane in self.lanes.values())
        return (self._waiting + 1) / rate if rate > 0 else 1.0

    # -- with other gateways -----------------------------------------------------------------

    @property
    def unit(self) -> float:
        """Service that may be under way here: as many requests as the windows let, as usual."""
        size = sum(lane.window.size for lane in self.lanes.values() if lane.accepts)
        return size * (self._usual_price or 0.0)

    def tell(self, totals: Mapping[str, float]) -> Told:
        """What other gateways are told of this queue."""
        serves = any(lane.accepts for lane in self.lanes.values())
        lanes = {
            name: (lane.window.in_flight, lane.window.size if self._waiting else 0.0)
            for name, lane in self.lanes.items()
        }
        waiting = self.books.tell_waiting(totals)
        if not serves:  # who waits here alone has to wait
            waiting = Waiting({}, waiting.there)
        return Told(lanes, self._comes_later(), waiting)

    def hear(self, others: Sequence[Told] | None, totals: Mapping[str, float]) -> None:
        """What other gateways told of theirs; None where they cannot be heard."""
        told = None if others is None else [other.waiting for other in others]
        self.books.hear_waiting(told, totals)
        for name, lane in self.lanes.items():
            there = [other.lanes[name] for other in others or () if name in other.lanes]
            lane.window.elsewhere = sum(in_flight for in_flight, _ in there)
            lane.window.most_elsewhere = max((size for _, size in there), default=0.0)
        self._look(others or ())

    def _look(self, others: Iterable[Told]) -> None:
        """See whether room is left that nobody takes.

        Soon, where all yield; late, where it is somebody's turn: that one may see less room, such
        as where it cannot reach an upstream.
        """
        now = self._clock()
        room = sum(lane.room(now) for lane in self.lanes.values()) if self._comes_later() else 0
        all_yield = all(one.yields or not one.waiting.here for one in others)
        self._patience.look(min(room, self._waiting) if all_yield else 0)
        self._long_patience.look(min(room, self._waiting))

    def _yields(self) -> bool:
        """Whether somebody who waits elsewhere is to be sent first, and may still be."""
        if not self._comes_later():
            return False
        for patience in (self._patience, self._long_patience):
            if patience.over:
                patience.used()
                return False
        return True

    def _comes_later(self) -> bool:
        price = self._usual_price or 0.0
        return self.sharing is not None and self.books.yields(self.sharing.slack(price))

    # -- inside ------------------------------------------------------------------------------

    def _next(self, lanes: list[Lane]) -> tuple[Live, Lane] | None:
        """Who is sent next, and to which of the lanes that have room."""
        back: list[str] = []
        found = None
        while found is None and len(back) < _LOOKS:
            request_id = self.books.peek()
            if request_id is None:
                break
            live = self._live[request_id]
            own = self._own_lane(live)
            if own is None or own in lanes:
                found = live, own or self._least_work(live, lanes)
            elif not self.books.set_aside(request_id):
                break
            else:
                back.append(request_id)
        for request_id in reversed(back):
            self.books.take_back(request_id)
        if found is None and back:
            live = self._live[back[0]]
            found = live, self._least_work(live, lanes)
        return found

    def _own_lane(self, live: Live) -> Lane | None:
        """The lane of its session, of those that take requests; None where it has none."""
        if live.session is None:
            return None
        lanes = [one for one in self.lanes.values() if one.accepts and one.name not in live.gone]
        return max(lanes, key=lambda one: _affinity(live.session, one), default=None)

    @staticmethod
    def _least_work(live: Live, lanes: list[Lane]) -> Lane:
        untried = [lane for lane in lanes if lane.name not in live.gone]
        return min(untried or lanes, key=lambda one: (one.work / one.weight, one.name))

    def _send(self, live: Live, lane: Lane, now: float) -> None:
        self.books.admit(live.id, 0)
        self._waiting -= 1
        live.lane, live.sent_at, live.first_at = lane, now, None
        lane.work += live.expected
        lane.window.sent(now, stream=not live.whole)

    def _leave(self, live: Live) -> None:
        """The lane has done with a request."""
        lane, live.lane = live.lane, None
        if lane is None:
            return
        now = self._clock()
        flowed = live.first_at is not None
        token_s = None
        if live.whole and live.tokens:
            token_s = (now - live.sent_at) / live.tokens
        elif live.first_at is not None and live.tokens > 1:
            token_s = (now - live.first_at) / (live.tokens - 1)
        lane.work -= live.expected
        lane.window.ended(now, flowed=flowed, token_s=token_s, stream=not live.whole)

    def _report(self) -> None:
        if self._news:
            grown = {i: self._live[i] for i in self._news}
            self._news.clear()
            self.books.delivered({i: one.tokens - one.reported for i, one in grown.items()})
            for one in grown.values():
                one.reported = one.tokens


def _affinity(session: str | None, lane: Lane) -> float:
    """How much a session likes a lane: each likes most one as often as its weight says.

    Source: weighted rendezvous hashing.
    """
    digest = blake2b(f"{session}\0{lane.name}".encode("utf-8", "replace"), digest_size=8).digest()
    return -lane.weight / math.log((int.from_bytes(digest) + 0.5) / 2**64)
