"""One fair queue before all replicas of a deployment, for all routers that send requests to them.

A state machine without I/O and without Ray: the actor around it (queue_actor.py) tells it what
happens and wakes whose turn `turns` says it is. A router is a process that sends requests, such as
an HTTP proxy. A call is one request on its way: it enters and waits; is given a replica that has
room; comes back to the front of its client's queue when that replica turns it away; and leaves.

Messages get lost when processes die, so each router says now and then which calls it has and how
much its replicas take (`hear`). A router that is not heard of loses its calls, a call that its
router has no more is ended, and a queue that was restarted learns what runs.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from fairlane.core.types import Outcome, Request
from fairlane.door.books import Books

SILENCE_S = 10.0  # after it a router counts as dead
_GRACE_S = 2.0  # for how long a call that its router does not name is believed to be on its way
_FULL_S = 0.05  # for how long a replica that turned a call away is sent none
_LOOKS = 16  # calls that are looked at for one whose router knows a replica with room


@dataclass(slots=True)
class Call:
    """One request on its way. key: its own; request: what its replica calls it.

    Calls that one request makes in turn share the replica's name for it, and their client.
    """

    key: str
    router: str
    client: str
    request: str
    replica: str | None = None


@dataclass(slots=True)
class _Router:
    capacity: Mapping[str, int]
    heard: float


@dataclass(slots=True)
class _Live:
    call: Call
    since: float


@dataclass
class SharedQueue:
    """See the module. clock: seconds, never decreasing; the books' too."""

    books: Books
    clock: Callable[[], float]
    _routers: dict[str, _Router] = field(default_factory=dict)
    _capacity: dict[str, int] = field(default_factory=dict)
    _busy: Counter[str] = field(default_factory=Counter)
    _full_until: dict[str, float] = field(default_factory=dict)
    _live: dict[str, _Live] = field(default_factory=dict)
    _served: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)  # keys, in order

    # -- events ------------------------------------------------------------------------------

    def hear(
        self,
        router: str,
        capacity: Mapping[str, int],
        waiting: Collection[str],
        running: Collection[Call],
    ) -> None:
        """A router lives: how many requests each replica takes at once, and which calls it has."""
        now = self.clock()
        self._routers[router] = _Router(dict(capacity), now)
        self._add_up()
        for call in running:
            if call.key not in self._live:
                self._take_up(call)
        known = {*waiting, *(call.key for call in running)}
        for key, live in list(self._live.items()):
            if live.call.router == router and key not in known and now - live.since > _GRACE_S:
                self.leave(key, Outcome.ABORTED)

    def forget_silent(self) -> list[str]:
        """Drop the routers that were not heard of for SILENCE_S; the keys of calls lost so."""
        now = self.clock()
        silent = {name for name, r in self._routers.items() if now - r.heard > SILENCE_S}
        lost = [key for key, live in self._live.items() if live.call.router in silent]
        for key in lost:
            self.leave(key, Outcome.ABORTED)
        for name in silent:
            del self._routers[name]
        if silent:
            self._add_up()
        return lost

    def enter(self, call: Call) -> str | None:
        """A call begins to wait, or waits again since its replica turned it away.

        Answers why it may not, or None.
        """
        live = self._live.get(call.key)
        if live is None:
            call.replica = None  # whatever another queue gave it
            reason = self.books.arrive(Request(call.key, call.client, 0))
            if reason is None:
                self._live[call.key] = _Live(call, self.clock())
            return reason
        live.since = self.clock()
        replica = live.call.replica
        if replica is not None:
            self._full_until[replica] = live.since + _FULL_S
            self._vacate(live.call)
            self.books.put_back(call.key)
        return None

    def turns(self) -> list[tuple[str, str]]:
        """Keys of the calls whose turn it is, each with its replica. They count as sent."""
        found: list[tuple[str, str]] = []
        while self._has_room() and (chosen := self._next()) is not None:
            call, replica = chosen
            self.books.admit(call.key, 0)
            self._occupy(call, replica)
            found.append((call.key, replica))
        return found

    def report(self, request: str, replica: str, output: int, prompt: int | None) -> bool:
        """A replica tells tokens of a request that it serves; whether there is such a call."""
        key = next(iter(self._served.get((request, replica), ())), None)
        if key is None:
            return False
        if prompt is not None:
            self.books.settle(key, prompt)
        if output:
            self.books.delivered({key: output})
        return True

    def leave(self, key: str, outcome: Outcome = Outcome.FINISHED) -> None:
        """A call ended, or waits no more. Unknown keys are passed over."""
        live = self._live.pop(key, None)
        if live is not None:
            self._vacate(live.call)
            self.books.finish(key, outcome)

    def take_failed(self) -> list[str]:
        """Calls that must end since the policy made a mistake with them."""
        failed, self.books.failed[:] = list(self.books.failed), []
        for key in failed:
            self.leave(key, Outcome.ABORTED)
        return failed

    # -- what others want to know ------------------------------------------------------------

    def __contains__(self, key: str) -> bool:
        return key in self._live

    @property
    def idle(self) -> bool:
        """Whether no router lives and no call is known."""
        return not self._routers and not self._live

    def counts(self) -> dict[str, dict[str, int]]:
        """Calls that wait, by router, and that run, by replica."""
        waiting = Counter(x.call.router for x in self._live.values() if x.call.replica is None)
        return {"waiting": dict(waiting), "running": {r: n for r, n in self._busy.items() if n}}

    # -- inside ------------------------------------------------------------------------------

    def _add_up(self) -> None:
        """Replicas that any router knows; where two differ, as who was heard last says."""
        self._capacity = {}
        for router in sorted(self._routers.values(), key=lambda one: one.heard):
            self._capacity |= router.capacity
        for name in [name for name in self._full_until if name not in self._capacity]:
            del self._full_until[name]

    def _take_up(self, call: Call) -> None:
        """A call that runs already, which this queue did not know."""
        request = Request(call.key, call.client, 0)
        if call.replica is not None and self.books.arrive(request) is None:
            self._live[call.key] = _Live(call, self.clock())
            self.books.admit(call.key, 0)
            self._occupy(call, call.replica)

    def _occupy(self, call: Call, replica: str) -> None:
        call.replica = replica
        self._busy[replica] += 1
        self._served.setdefault((call.request, replica), {})[call.key] = None

    def _vacate(self, call: Call) -> None:
        if call.replica is None:
            return
        self._busy[call.replica] -= 1
        if not self._busy[call.replica]:
            del self._busy[call.replica]
        served = self._served[call.request, call.replica]
        del served[call.key]
        if not served:
            del self._served[call.request, call.replica]
        call.replica = None

    def _load(self, replica: str) -> float:
        """The part of its places that is taken; infinite while it takes none."""
        places, busy = self._capacity.get(replica, 0), self._busy.get(replica, 0)
        if busy >= places or self._full_until.get(replica, -math.inf) > self.clock():
            return math.inf
        return busy / places

    def _has_room(self) -> bool:
        return any(self._load(replica) < 1 for replica in self._capacity)

    def _next(self) -> tuple[Call, str] | None:
        """Who is sent next, and where: the policy's next, or else a few after it.

        The next stands back while its router knows of no replica with room, as when it has not
        heard of new ones yet, and is first as soon as it does.
        """
        back: list[str] = []
        found = None
        while found is None and len(back) < _LOOKS and (key := self.books.peek()) is not None:
            call = self._live[key].call
            replica = self._room_for(call)
            if replica is not None:
                found = call, replica
            elif self.books.set_aside(key):
                back.append(key)
            else:
                break
        for key in reversed(back):
            self.books.take_back(key)
        return found

    def _room_for(self, call: Call) -> str | None:
        """The least busy of the replicas with room that the call's router knows."""
        router = self._routers.get(call.router)
        known = () if router is None else router.capacity
        best = min(known, key=lambda name: (self._load(name), name), default=None)
        return None if best is None or self._load(best) == math.inf else best
