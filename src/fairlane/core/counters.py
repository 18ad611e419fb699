"""A tree of counters of service: who is next, and at what level a client returns from idleness.

The mechanism under FairQueue. Each level of the tree holds siblings (clients, or groups of them)
that share by counters. Backlogged ones sit in a heap; those with running requests only are kept
beside it; idle ones shrink to a few numbers, and are forgotten when there are too many.

A step mostly gives every running request one token. Such a round is counted, and not walked
through: with each, a node's counter grows by its rate, the price of a token for each of its running
requests. See `Node.fold`.

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


Idle: TypeAlias = "tuple[float, int, Level | None]"
"""What is kept of an idle client or group: its counter, its place in ties, a group's members."""


class Rounds:
    """How many steps gave every running request one token; one for a whole tree."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Level:
    """Siblings that share by counters: the backlogged ones in a heap of lower bounds.

    Heap invariant: each backlogged child has one live entry (bound, seq, child), kept in
    child.entry, whose bound is at most its counter. Counters mostly grow, so an entry is renewed
    only when it reaches the top; entries that are no longer their child's are dropped there. Ties
    go to the child that was known first.
    """

    __slots__ = (
        "backlogged", "children", "heap", "last", "old", "rounds", "seq", "start", "young",
    )  # fmt: skip

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds
        self.heap: list[Entry] = []
        self.backlogged = 0
        self.children: dict[str, Node] = {}  # those with requests, waiting or running
        self.young: dict[str, Idle] = {}  # idle since the last forgetting
        self.old: dict[str, Idle] = {}  # idle for longer: the next to be forgotten
        self.start = 0.0  # where unknown children begin: the highest counter ever forgotten
        self.last: Node | None = None  # who left the heap last
        self.seq = 0

    def least(self) -> "Node | None":
        """The backlogged child with the least counter, after renewing what stands before it."""
        heap, now = self.heap, self.rounds.count
        while heap:
            entry = heap[0]
            child = entry[2]
            if entry is not child.entry:
                heappop(heap)
                continue
            charged = child.charged + child.rate * (now - child.since)
            counter = child.base + charged / child.weight
            if counter <= entry[0]:
                return child
            child.entry = entry = (counter, child.seq, child)
            heapreplace(heap, entry)
        return None

    def least_counter(self) -> float | None:
        """The least counter of the backlogged."""
        return None if self.least() is None else self.heap[0][0]

    def push(self, child: "Node") -> None:
        """A child became backlogged, or its counter fell."""
        child.entry = entry = (child.counter, child.seq, child)
        heappush(self.heap, entry)
        if len(self.heap) > 2 * self.backlogged + 64:
            self.heap = [entry for entry in self.heap if entry is entry[2].entry]
            heapify(self.heap)

    def count_young(self) -> int:
        """How many went idle since the last forgetting, here and in idle groups below."""
        groups = (inner for _, _, inner in self.young.values() if inner is not None)
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
    but for the rounds since `since`, each of which charged `rate`.
    """

    __slots__ = (
        "advance", "base", "charged", "entry", "inner", "lead", "level", "name", "parent", "queue",
        "rate", "running", "seq", "since", "tokens", "weight",
    )  # fmt: skip

    def __init__(
        self, name: str, parent: "Node | None", level: Level, weight: float, idle: Idle
    ) -> None:
        self.name = name
        self.parent = parent
        self.level = level  # the siblings
        self.weight = weight
        self.base, self.seq, self.inner = idle  # inner: the members of a group
        self.charged = 0.0
        self.rate = 0.0
        self.since = level.rounds.count
        self.entry: Entry | None = None  # in the level's heap, while backlogged
        self.lead = 0.0  # how far it was behind the least other when it left the heap
        self.queue: ClientQueue[Ticket] = ClientQueue()  # a client's waiting requests
        self.running = 0  # a client's running requests
        self.tokens = 0  # of these, where they are limited
        self.advance = 0.0  # what its running requests were charged in advance

    def __lt__(self, other: "Node") -> bool:
        """Never: only the old and the new entry of one client tie in counter and seq."""
        return False

    @property
    def counter(self) -> float:
        """Service per weight, as lifted."""
        charged = self.charged + self.rate * (self.level.rounds.count - self.since)
        return self.base + charged / self.weight

    def fold(self) -> None:
        """Charge the rounds so far; to be called before `rate`, `base` or `weight` changes."""
        now = self.level.rounds.count
        self.charged += self.rate * (now - self.since)
        self.since = now

    def lift(self, lift: Lift, keep_lead: bool) -> None:
        """Raise the counter to the siblings' level, less the lead it had when it left them."""
        level = self.level
        last = level.last
        floor = lift(level.least_counter(), None if last is None else last.counter)
        if floor is not None:
            if keep_lead:
                floor -= self.lead
            if floor > self.counter:
                self.fold()
                self.base, self.charged = floor, 0.0

    def enter(self) -> None:
        """Into the heap of its level."""
        self.level.backlogged += 1
        self.level.push(self)

    def leave(self) -> None:
        """Out of the heap of its level; the stale entry is dropped when it comes up."""
        level = self.level
        self.entry = None
        level.backlogged -= 1
        level.last = self
        least = level.least_counter()
        self.lead = 0.0 if least is None else max(0.0, least - self.counter)


Entry: TypeAlias = tuple[float, int, Node]
