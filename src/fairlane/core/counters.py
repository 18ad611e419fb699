"""A tree of counters of service: who is next, and at what level a client returns from idleness.

The mechanism under FairQueue. Each level of the tree holds siblings (clients, or groups of them)
that share by counters. Backlogged ones sit in a heap; those with running requests only are kept
beside it; idle ones shrink to a few numbers, and are forgotten when there are too many.

A step mostly gives every running request one token. Such a round is counted, and not walked
through: with each, a node's counter grows by its rate, the price of a token for each of its running
requests. See `Node.fold`.

Where several schedulers share their charges (sharing.py), a counter also holds what was charged
elsewhere; less that it would be the counter of a scheduler that stands alone, here called its home
counter. A second heap keeps the home order, if somebody wants to know it. Where they also share
what they serve, a third keeps those who wait elsewhere, by their counters here.

Forgetting hands out no advantage: a forgotten client returns as a new one, and new ones start at
the highest counter that was ever forgotten among their siblings. As the backlogged move on, that
is below the level to which a returning client is lifted in any case.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from typing import TypeAlias

from fairlane.core.policy import ClientQueue, Ticket

Lift = Callable[[float | None, float | None], float | None]
"""(least counter of the backlogged, counter of who left the queue last) -> the level to which a
client that returns is lifted, or None. Either argument is None when there is no such client."""


def lift_to_least_or_last(least: float | None, last: float | None) -> float | None:
    """The paper's lift: to the least backlogged counter, else to that of the last to leave."""
    return last if least is None else least


def lift_to_least(least: float | None, last: float | None) -> float | None:
    """The artifact's lift: as the paper's, but none when nobody is backlogged."""
    return least


def no_lift(least: float | None, last: float | None) -> float | None:
    """Least counter first: an idle client saves up service (paper, section 5.1, "LCF")."""
    return None


Idle: TypeAlias = "tuple[float, int, Level | None, float]"
"""What is kept of an idle client or group: its counter, its place in ties, a group's members, and
how much of the counter is from elsewhere."""


class Common:
    """What the levels of one tree have in common.

    rounds: how many steps gave every running request one token. home: whether the home order is
    kept.
    """

    __slots__ = ("home", "rounds")

    def __init__(self) -> None:
        self.rounds = 0
        self.home = False


BY_COUNTER, AT_HOME, ELSEWHERE = range(3)  # orders


class Order:
    """Siblings that are backlogged, in a heap of lower bounds of their counters.

    Invariant: each of them has one live entry (bound, seq, child), kept in child.entries, whose
    bound is at most its counter. Counters mostly grow, so an entry is renewed only when it reaches
    the top; entries that are no longer their child's are dropped there. Ties go to the child that
    was known first.

    which: BY_COUNTER; AT_HOME for the home order; ELSEWHERE for those who are backlogged elsewhere.
    """

    __slots__ = ("common", "heap", "which")

    def __init__(self, common: Common, which: int) -> None:
        self.common = common
        self.which = which
        self.heap: list[Entry] = []

    def least(self) -> "Node | None":
        """The child with the least counter, after renewing what stands before it."""
        heap, now, which = self.heap, self.common.rounds, self.which
        while heap:
            entry = heap[0]
            child = entry[2]
            if entry is not child.entries[which]:
                heappop(heap)
                continue
            charged = child.charged + child.rate * (now - child.since)
            counter = child.base + charged / child.weight
            if which == AT_HOME:
                counter -= child.away
            if counter <= entry[0]:
                return child
            child.entries[which] = entry = (counter, child.seq, child)
            heapreplace(heap, entry)
        return None

    def least_counter(self) -> float | None:
        """The least counter."""
        return None if self.least() is None else self.heap[0][0]

    def push(self, child: "Node", most: int) -> None:
        """A child became backlogged, or its counter fell. most: how many are backlogged."""
        which = self.which
        counter = child.counter - child.away if which == AT_HOME else child.counter
        child.entries[which] = entry = (counter, child.seq, child)
        heappush(self.heap, entry)
        if len(self.heap) > 2 * most + 64:
            self.heap = [entry for entry in self.heap if entry is entry[2].entries[which]]
            heapify(self.heap)


class Level:
    """Siblings that share by counters."""

    __slots__ = (
        "backlogged", "children", "common", "elsewhere", "home", "last", "old", "order", "seq",
        "start", "young",
    )  # fmt: skip

    def __init__(self, common: Common) -> None:
        self.common = common
        self.order = Order(common, BY_COUNTER)
        self.home = Order(common, AT_HOME)
        self.elsewhere = Order(common, ELSEWHERE)
        self.backlogged = 0
        self.children: dict[str, Node] = {}  # those with requests, waiting or running
        self.young: dict[str, Idle] = {}  # idle since the last forgetting
        self.old: dict[str, Idle] = {}  # idle for longer: the next to be forgotten
        self.start = 0.0  # where unknown children begin: the highest counter ever forgotten
        self.last: Node | None = None  # who left the heap last
        self.seq = 0

    def push(self, child: "Node") -> None:
        """A child became backlogged, or its counter fell."""
        self.order.push(child, self.backlogged)
        if self.common.home:
            self.home.push(child, self.backlogged)

    def fell(self, child: "Node") -> None:
        """The counter of a child fell."""
        if child.waits:
            self.push(child)
        if child.waits_elsewhere:
            self.elsewhere.push(child, len(self.children))

    def least_counter(self) -> float | None:
        """The least counter of those who are backlogged, here or elsewhere."""
        here, elsewhere = self.order.least_counter(), self.elsewhere.least_counter()
        if here is None or elsewhere is None:
            return elsewhere if here is None else here
        return min(here, elsewhere)

    def relax(self, most: float) -> None:
        """Leave no gap above `most` between backlogged children that follow each other.

        Whoever is behind a larger one is raised by what is too much, and so are all behind.
        """
        counters = [(n.counter, n.seq, n) for n in self.children.values() if n.waits]
        if not counters or max(counters)[0] - min(counters)[0] <= most:
            return
        counters.sort(reverse=True)
        above, risen = counters[0][0], 0.0
        for counter, _, node in counters:
            risen += max(0.0, above - counter - most)
            above = counter
            node.add_from_elsewhere(risen)

    def count_young(self) -> int:
        """How many went idle since the last forgetting, here and in idle groups below."""
        groups = (idle[2] for idle in self.young.values() if idle[2] is not None)
        return len(self.young) + sum(inner.count_young() for inner in groups)

    def forget_old(self) -> None:
        """Forget who has been idle for two generations, here and in all groups below."""
        self.start = max(self.start, max((idle[0] for idle in self.old.values()), default=0.0))
        groups = [idle[2] for idle in self.young.values()]
        groups += [child.inner for child in self.children.values()]
        for inner in groups:
            if inner is not None:
                inner.forget_old()
        self.old, self.young = self.young, {}


class Node:
    """A client, or a group of clients, that has something waiting or running.

    Its counter is base + charged / weight; `charged` is the priced service since `base` was set,
    but for the rounds since `since`, each of which charged `rate`. Where there are two numbers, the
    second is of the home order.
    """

    __slots__ = (
        "advance", "away", "base", "charged", "client", "entries", "inner", "leads", "level",
        "name", "parent", "queue", "rate", "running", "seq", "since", "taken", "tokens", "weight",
    )  # fmt: skip

    def __init__(
        self, name: str, parent: "Node | None", level: Level, weight: float, idle: Idle
    ) -> None:
        self.name = name
        self.parent = parent
        self.level = level  # the siblings
        self.weight = weight
        self.base, self.seq, self.inner, self.away = idle  # inner: the members of a group
        self.charged = 0.0
        self.taken = 0.0  # of `charged`, what others were told of; see sharing.py
        self.rate = 0.0
        self.since = level.common.rounds
        self.entries: list[Entry | None] = [None, None, None]  # in orders, while backlogged
        self.leads = [0.0, 0.0]  # how far it was behind the least other when it left them
        self.client: str | None = None  # whose node it is; nobody's if it is a group's
        self.queue: ClientQueue[Ticket] = ClientQueue()  # a client's waiting requests
        self.running = 0  # a client's running requests
        self.tokens = 0  # of these, where they are limited
        self.advance = 0.0  # what its running requests were charged in advance

    def __lt__(self, other: "Node") -> bool:
        """Never: only the old and the new entry of one client tie in counter and seq."""
        return False

    @property
    def waits(self) -> bool:
        """Whether it is backlogged, or a group of which somebody is."""
        return self.entries[BY_COUNTER] is not None

    @property
    def waits_elsewhere(self) -> bool:
        """Whether another scheduler, that serves of the same, has it backlogged."""
        return self.entries[ELSEWHERE] is not None

    @property
    def counter(self) -> float:
        """Service per weight, as lifted."""
        charged = self.charged + self.rate * (self.level.common.rounds - self.since)
        return self.base + charged / self.weight

    def fold(self) -> None:
        """Charge the rounds so far; to be called before `rate`, `base` or `weight` changes."""
        now = self.level.common.rounds
        self.charged += self.rate * (now - self.since)
        self.since = now

    def restart(self, counter: float, charged: float = 0.0) -> None:
        """From now on its counter is `counter` and what is charged; fold first."""
        self.base = counter
        self.taken -= self.charged - charged
        self.charged = charged

    def add_from_elsewhere(self, amount: float) -> None:
        """Add to the counter, and not to the home counter; lower it by a negative amount."""
        self.base += amount
        self.away += amount
        if amount < 0:
            self.level.fell(self)

    def raise_by(self, amount: float) -> None:
        """Raise the counter, as for a lift that was made elsewhere; not by a negative amount."""
        self.base += max(0.0, amount)

    def leave_elsewhere(self) -> None:
        """Nobody else has it backlogged; who left last, anywhere, is who has the most."""
        self.entries[ELSEWHERE] = None
        last = self.level.last
        if last is None or last.counter < self.counter:
            self.level.last = self

    def lift(self, lift: Lift, keep_lead: bool) -> None:
        """Raise the counter to the siblings' level, less the lead it had when it left them.

        Who waits elsewhere is at that level.
        """
        if self.waits_elsewhere:
            return
        level = self.level
        last = level.last
        floor = lift(level.least_counter(), None if last is None else last.counter)
        before = self.counter
        if floor is not None:
            if keep_lead:
                floor -= self.leads[0]
            if floor > before:
                self.fold()
                self.restart(floor)
        if level.common.home:
            self._lift_home(lift, keep_lead, before)

    def _lift_home(self, lift: Lift, keep_lead: bool, before: float) -> None:
        """Raise the home counter; before: the counter until now."""
        level, last = self.level, self.level.last
        home = before - self.away
        floor = lift(level.home.least_counter(), None if last is None else last.counter - last.away)
        if floor is not None:
            home = max(home, floor - self.leads[1] if keep_lead else floor)
        self.away = self.counter - home

    def enter(self) -> None:
        """Into the heaps of its level."""
        self.level.backlogged += 1
        self.level.push(self)

    def leave(self) -> None:
        """Out of the heaps of its level; a stale entry is dropped when it comes up."""
        level = self.level
        self.entries[BY_COUNTER] = self.entries[AT_HOME] = None
        level.backlogged -= 1
        level.last = self
        least, counter = level.least_counter(), self.counter
        self.leads[0] = 0.0 if least is None else max(0.0, least - counter)
        if level.common.home:
            least = level.home.least_counter()
            self.leads[1] = 0.0 if least is None else max(0.0, least - counter + self.away)


Entry: TypeAlias = tuple[float, int, Node]
