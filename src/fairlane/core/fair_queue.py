"""Counters of service that decide who is next: the mechanism under VTC and its relatives.

Source: Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), algorithms 2 to 4.
Idea: every client has a counter of the service it received, divided by its weight. The next
request is the earliest of the backlogged client with the least counter. A client that returns
from idleness is lifted to the others' level, so that nobody saves up service.
Bounds: with the paper's lift, any two clients that are backlogged over an interval differ by at
most 2 max(w_p L_in, w_q M) in service per weight, however long the interval (theorem 4.4).
Drawbacks: output is charged as it is generated, so waves of one client's requests may alternate
with waves of another's; a predictor charges expected output in advance and smooths this.

Departures from the paper. Counters form a tree: a client is a path of names (organisation, team,
user), every level is fair by itself, and the paper's flat VTC is a path of length one. Charges
are differences of a cumulative cost, so plain, predicted and oracle VTC are one class with
different predictors, and a preempted request never pays its prompt twice.

Cost: peek, admit and a lift are O(log backlogged siblings) a level; a report of tokens is
O(requests in it); idle clients keep one counter each.
"""

from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush, heapreplace

from fairlane.core.cost import Cost, LinearCost
from fairlane.core.limits import Gate
from fairlane.core.policy import ClientQueue, Policy, RepeatsCharges, Ticket
from fairlane.core.predict import Predictor
from fairlane.core.types import ClientState, Outcome, Request, RequestId

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


class Level:
    """Siblings that share by counters: the backlogged ones in a heap with stale lower bounds.

    Heap invariant: each backlogged child has an entry (key, seq, child) whose key equals
    child.key and is at most its counter. Counters mostly grow, so an entry is refreshed only
    when it reaches the top; entries whose key differs from child.key are dropped there. Ties go
    to the child that was known first.
    """

    __slots__ = ("backlogged", "children", "heap", "idle", "last", "seq")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Node]] = []
        self.backlogged = 0
        self.children: dict[str, Node] = {}  # clients with live requests, and groups
        self.idle: dict[str, tuple[float, int]] = {}  # the others: counter and seq
        self.last: Node | None = None  # who left the queue last
        self.seq = 0

    def least(self) -> "Node | None":
        """The backlogged child with the least counter, after refreshing stale entries."""
        heap = self.heap
        while heap:
            key, seq, child = heap[0]
            if child.key != key:
                heappop(heap)
                continue
            counter = child.base + child.charged / child.weight
            if counter == key:
                return child
            child.key = counter
            heapreplace(heap, (counter, seq, child))
        return None

    def push(self, child: "Node") -> None:
        """A child became backlogged, or its counter fell."""
        child.key = child.counter
        heappush(self.heap, (child.key, child.seq, child))
        if len(self.heap) > 2 * self.backlogged + 64:
            self.heap = [(c.key, c.seq, c) for c in self.children.values() if c.key is not None]
            heapify(self.heap)


class Node:
    """A client, or a group of clients, that has something queued or running.

    Its counter is base + charged / weight; `charged` is the priced service since `base` was set.
    """

    __slots__ = (
        "base", "charged", "inner", "key", "level", "live", "name", "parent", "queue", "seq",
        "weight",
    )  # fmt: skip

    def __init__(self, name: str, parent: "Node | None", level: Level, weight: float) -> None:
        self.name = name
        self.parent = parent
        self.level = level  # the siblings
        self.weight = weight
        self.live = 0  # requests that keep a client from being idle; groups stay
        self.charged = 0.0
        self.key: float | None = None  # of its heap entry; None when nothing is queued below it
        self.queue: ClientQueue[Charged] = ClientQueue()  # of a client
        self.inner: Level | None = None  # of a group
        known = level.idle.pop(name, None)
        if known is None:
            level.seq += 1
            known = (0.0, level.seq)
        self.base, self.seq = known
        level.children[name] = self

    @property
    def counter(self) -> float:
        """Service per weight, as lifted."""
        return self.base + self.charged / self.weight


class Charged(Ticket):
    """A live request, its client, and what it has been charged for."""

    __slots__ = ("admission", "covered", "node", "output")

    def __init__(self, request: Request, node: Node) -> None:
        super().__init__(request)
        self.node = node
        self.output = 0  # tokens delivered
        self.covered = 0.0  # output tokens charged in advance
        self.admission: float | None = None  # what its prompt was charged, once admitted


class FairQueue(Policy[Charged], RepeatsCharges):
    """Least counter first over a tree of clients.

    cost: what tokens are worth. weights: by client or group name, default 1. lift: see `Lift`.
    predictor: charges the expected output at admission, or None. path_of: the names from the
    top-level group down to the client; by default the client alone.
    """

    def __init__(
        self,
        *,
        cost: Cost | None = None,
        weights: Mapping[str, float] | None = None,
        lift: Lift = lift_to_least_or_last,
        predictor: Predictor | None = None,
        path_of: Callable[[str], tuple[str, ...]] | None = None,
        gates: Iterable[Gate] = (),
    ) -> None:
        super().__init__(tuple(gates))
        self._cost: Cost = LinearCost() if cost is None else cost
        self._weights = dict(weights or {})
        for name, weight in self._weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"the weight of {name!r} must be positive, not {weight}")
        self._lift = lift
        self._predictor = predictor
        self._path_of = path_of
        self._root = Level()

    # -- order -------------------------------------------------------------------------------

    def peek(self, now: float) -> Request | None:
        """The earliest request of the backlogged client with the least counter."""
        node = self._root.least()
        if node is None:
            return None
        while node.inner is not None:
            below = node.inner.least()
            assert below is not None, "a group is backlogged only while a child is"
            node = below
        return node.queue.head().request

    def _enqueue(self, request: Request) -> Charged:
        node = self._node_of(request.client)
        ticket = Charged(request, node)
        node.live += 1
        if not node.queue:
            self._raise_backlog(node, lifted=True)
        node.queue.push(ticket)
        return ticket

    def _admit(self, ticket: Charged, cached_tokens: int) -> None:
        node = ticket.node
        del node.queue[ticket.request.id]
        if not node.queue:
            self._lower_backlog(node)
        if ticket.admission is None:
            prompt = ticket.request.prompt_tokens
            ticket.admission = self._cost.admission(prompt, cached_tokens)
            charge = ticket.admission
            if self._predictor is not None:
                ticket.covered = max(0.0, self._predictor.predict(ticket.request))
                charge += self._cost.output(prompt, 0, ticket.covered)
            self._charge(node, charge)

    def _requeue(self, ticket: Charged, undo: bool) -> None:
        node = ticket.node
        if undo and not ticket.output and ticket.admission is not None:
            self._refund(ticket)
        if not node.queue:
            self._raise_backlog(node, lifted=False)
        node.queue.push_front(ticket)

    def _finish(self, ticket: Charged, outcome: Outcome) -> None:
        node = ticket.node
        if not ticket.running:
            del node.queue[ticket.request.id]
            if not node.queue:
                self._lower_backlog(node)
        self._settle(ticket)
        if outcome is Outcome.FINISHED and self._predictor is not None:
            self._predictor.observe(ticket.request, ticket.output)
        self._release(node)

    # -- charges -----------------------------------------------------------------------------

    def record_tokens(self, tokens: Mapping[RequestId, int], now: float) -> None:
        """Charge newly delivered output tokens, less those that a prediction paid for."""
        tickets = self._tickets
        output_price = self._cost.per_output_token
        for request_id, count in tokens.items():
            ticket = tickets.get(request_id)
            if ticket is None:
                continue
            start = ticket.output
            stop = ticket.output = start + count
            covered = ticket.covered
            if stop <= covered:
                continue
            if output_price is None or start < covered:
                prompt = ticket.request.prompt_tokens
                charge = self._cost.output(prompt, max(start, covered), stop)
            else:
                charge = output_price * count
            node: Node | None = ticket.node
            while node is not None:
                node.charged += charge
                node = node.parent

    def charge_again(self, request_ids: Iterable[RequestId]) -> None:
        """Charge the latest token of each running request again (see RepeatsCharges)."""
        for request_id in request_ids:
            ticket = self._tickets.get(request_id)
            if ticket is not None and ticket.output > ticket.covered:
                last = self._cost.output(
                    ticket.request.prompt_tokens, ticket.output - 1, ticket.output
                )
                self._charge(ticket.node, last)

    def _settle(self, ticket: Charged) -> None:
        """Give back what a prediction charged beyond the delivered output."""
        if ticket.admission is not None and ticket.covered > ticket.output:
            prompt = ticket.request.prompt_tokens
            self._charge(ticket.node, -self._cost.output(prompt, ticket.output, ticket.covered))
            ticket.covered = ticket.output

    def _refund(self, ticket: Charged) -> None:
        """Give back all that an admission charged."""
        self._settle(ticket)
        if ticket.admission is not None:
            self._charge(ticket.node, -ticket.admission)
            ticket.admission = None

    def _charge(self, node: Node, amount: float) -> None:
        """Add `amount` of service to a client and the groups above it; negative refunds."""
        step: Node | None = node
        while step is not None:
            step.charged += amount
            if amount < 0 and step.key is not None:
                step.level.push(step)
            step = step.parent

    # -- the tree ----------------------------------------------------------------------------

    def _node_of(self, client: str) -> Node:
        """The client's node, made (with the groups above it) when it was idle."""
        if self._path_of is None:
            return self._root.children.get(client) or self._make(client, None, self._root)
        *groups, leaf = self._path_of(client)
        level, parent = self._root, None
        for name in groups:
            group = level.children.get(name) or self._make(name, parent, level)
            if group.inner is None:
                group.inner = Level()
            level, parent = group.inner, group
        return level.children.get(leaf) or self._make(leaf, parent, level)

    def _make(self, name: str, parent: Node | None, level: Level) -> Node:
        return Node(name, parent, level, self._weights.get(name, 1.0))

    def _raise_backlog(self, node: Node, *, lifted: bool) -> None:
        """A client got its first waiting request: it, and groups above, join their heaps."""
        step: Node | None = node
        while step is not None and step.key is None:
            level = step.level
            if lifted:
                self._lift_node(step)
            level.backlogged += 1
            level.push(step)
            step = step.parent

    def _lift_node(self, node: Node) -> None:
        level = node.level
        least, last = level.least(), level.last
        floor = self._lift(
            None if least is None else least.counter, None if last is None else last.counter
        )
        if floor is not None and floor > node.counter:
            node.base, node.charged = floor, 0.0

    def _lower_backlog(self, node: Node) -> None:
        """A client's last waiting request left: it, and groups above, leave their heaps."""
        step: Node | None = node
        while step is not None:
            step.key = None
            level = step.level
            level.backlogged -= 1
            level.last = step
            if level.backlogged:
                return
            step = step.parent

    def _release(self, node: Node) -> None:
        """A request ended: a client without any goes idle and keeps only its counter."""
        node.live -= 1
        if not node.live:
            node.level.idle[node.name] = (node.counter, node.seq)
            del node.level.children[node.name]

    def _client_state(self, client: str, queued: int, running: int) -> ClientState:
        node = self._node_of(client)
        return ClientState(queued, running, node.counter, node.weight)
