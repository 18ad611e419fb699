"""Counters of service that decide who is next: the policy under VTC and its relatives.

Source: Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), algorithms 2 to 4.
Idea: every client has a counter of the service it received, divided by its weight. The next
request is the earliest of the backlogged client with the least counter. A client that returns
from idleness is lifted to the others' level, so that nobody saves up service.
Bounds: with the paper's lift, any two clients that are backlogged over an interval differ by at
most 2 max(w_p L_in, w_q M) in service per weight, however long the interval (theorem 4.4).
Drawbacks: output is charged as it is generated, so waves of one client's requests may alternate
with waves of another's; a predictor charges expected output in advance and smooths this, at the
price of a wider bound (see max_advance).

Departures from the paper. Counters form a tree: a client is a path of names (organisation, team,
user), every level is fair by itself, and the paper's flat VTC is a path of length one. What is
charged when is charging.py; what is shared with other schedulers, sharing.py. A preempted request
brings its client back with the lead it had when it left, and no more, or else a client could
save up service by being preempted. A client at its running limit (remark 4.7) counts as not
backlogged until it drops below.

Cost: peek, admit and a lift are O(log backlogged siblings) a level; a report of tokens is
O(requests in it), of one token for each that runs as little as comparing their names; idle clients
keep one counter each.
"""

from collections.abc import Iterable, Mapping
from math import isinf
from typing import TypedDict

from fairlane.core.charging import Charged, Charging
from fairlane.core.cost import Cost, LinearCost
from fairlane.core.counters import Level, Lift, Node, lift_to_least_or_last, no_lift
from fairlane.core.errors import FairlaneError
from fairlane.core.limits import Gate
from fairlane.core.one_queue import hear_waiting, lift_to_elsewhere, tell_waiting
from fairlane.core.options import AT_LEAST_ONE, Count, NotNegative, Weight
from fairlane.core.predict import Predictor
from fairlane.core.saved import Saved
from fairlane.core.settling import raise_levels
from fairlane.core.sharing import Sharing, Waiting
from fairlane.core.tree import ClientTree, PathOf, lineage
from fairlane.core.tree import split_path as split_path
from fairlane.core.types import ClientState, Outcome, Request


class FairOptions(TypedDict, total=False):
    """The options of every policy that is a FairQueue; see there."""

    cost: Cost | None
    weights: Mapping[str, Weight] | None
    path_of: PathOf | None
    gates: Iterable[Gate]
    max_running: Count | None
    max_running_tokens: Count | None
    max_advance: NotNegative | None
    max_idle: Count


class FairQueue(Charging):
    """Least counter first over a tree of clients.

    lift: see `Lift`. predictor: charges the expected output at admission, or None.
    cost: what tokens are worth.
    weights: by client name, for members of groups by path ("acme/eng/alice") and for the groups
        themselves by theirs ("acme/eng"). Default 1. Also: set_weight.
    path_of: from a client's name to the names from the top-level group down to the client, which
        must not contain "/", such as `split_path`. By default there are no groups.
    gates: rules that may reject a request on arrival (limits.py).
    max_running, max_running_tokens: how many requests, or tokens (input and output so far), of
        one client may be in the running batch for it to be admitted more. Remark 4.7 of the
        paper: tightens the bounds, and capacity may stay unused.
    max_advance: the most service that a client may be charged in advance at one time; a request
        that would exceed it is charged as its tokens come. A predictor that expects too much makes
        its client wait and then gives it all back at once, so two clients may differ by
        2 (U + 2 max_advance). Without a limit that is as much as was ever predicted at one time.
    max_idle: how many idle clients and groups are remembered; beyond, the longest idle are
        forgotten.
    """

    def __init__(
        self,
        *,
        lift: Lift = lift_to_least_or_last,
        predictor: Predictor | None = None,
        cost: Cost | None = None,
        weights: Mapping[str, float] | None = None,
        path_of: PathOf | None = None,
        gates: Iterable[Gate] = (),
        max_running: int | None = None,
        max_running_tokens: int | None = None,
        max_advance: float | None = None,
        max_idle: int = 1_000_000,
    ) -> None:
        for name, limit in (
            ("max_running", max_running),
            ("max_running_tokens", max_running_tokens),
            ("max_idle", max_idle),
        ):
            if limit is not None:
                AT_LEAST_ONE.check(name, limit)
        super().__init__(
            ClientTree(path_of, weights, max_idle),
            cost=LinearCost() if cost is None else cost,
            predictor=predictor,
            max_advance=max_advance,
            counts_held=max_running_tokens is not None,
            gates=tuple(gates),
        )
        self._lift = lift
        self._max_running = max_running
        self._max_running_tokens = max_running_tokens
        self._limited = not (max_running is None and max_running_tokens is None)
        self._sharing: Sharing | None = None

    # -- order -------------------------------------------------------------------------------

    def peek(self, now: float) -> Request | None:
        """The earliest request of the backlogged client with the least counter.

        By the guard of a queue that shares: of the first in the home order.
        """
        node = self._tree.first(home=self._sharing is not None and self._sharing.guards)
        return None if node is None else node.queue.head().request

    def _enqueue(self, request: Request) -> Charged:
        node = self._tree.node(request.client)
        ticket = Charged(request, node)
        node.queue.push(ticket)
        if not node.waits:
            self._reorder(node)
            if self._sharing is not None and self._sharing.heard:
                self._come_back(node, self._sharing.max_debt)
        return ticket

    def _admit(self, ticket: Charged, cached_tokens: int) -> None:
        node = ticket.node
        guarded = self._is_guarded(node)
        del node.queue[ticket.request.id]
        self._occupy(ticket, 1)
        self._charge_admission(ticket, cached_tokens)
        if guarded and self._sharing is not None:
            self._sharing.spend(ticket.request.id, self._charged(ticket))
        self._reorder(node)

    def _requeue(self, ticket: Charged, undo: bool) -> None:
        node = ticket.node
        self._occupy(ticket, -1)
        undone = undo and not ticket.output
        if undone and ticket.admission is not None:
            self._refund(ticket)
            if self._sharing is not None:
                self._sharing.end(ticket.request.id, 0.0)
        node.queue.push_front(ticket)
        self._reorder(node, lifted=not undone, keep_lead=True)

    def _finish(self, ticket: Charged, outcome: Outcome) -> None:
        node = ticket.node
        if ticket.running:
            self._occupy(ticket, -1)
        else:
            del node.queue[ticket.request.id]
        if ticket.covered:
            self._give_back_advance(ticket)
        if self._sharing is not None:
            self._sharing.end(ticket.request.id, self._charged(ticket))
        if outcome is Outcome.FINISHED and self._predictor is not None:
            self._predictor.observe(ticket.request, ticket.output)
        self._reorder(node)
        if not (node.queue or node.running or node.waits_elsewhere):
            self._tree.retire(node)

    def _reorder(self, node: Node, *, lifted: bool = True, keep_lead: bool = False) -> None:
        """Put a client, and the groups above it, into or out of their heaps as they now belong.

        A client belongs there while it has waiting requests and is below its limits; it comes
        back lifted, unless the admission that took it out is undone.
        """
        step: Node | None = node
        if node.queue and not (self._limited and self._at_limit(node)):
            while step is not None and not step.waits:
                if lifted:
                    step.lift(self._lift, keep_lead)
                step.enter()
                step = step.parent
        elif node.waits:
            while step is not None:
                step.leave()
                if step.level.backlogged:
                    return
                step = step.parent

    def _holds_more(self, node: Node) -> None:
        """Its running requests may now be all that it may have."""
        self._reorder(node)

    def _at_limit(self, node: Node) -> bool:
        """Whether a client may not be admitted more for now."""
        requests, tokens = self._max_running, self._max_running_tokens
        return (requests is not None and node.running >= requests) or (
            tokens is not None and node.tokens >= tokens
        )

    # -- sharing with other schedulers -------------------------------------------------------

    @property
    def can_share(self) -> bool:
        """Whether it lifts; nothing bounds what least counter first would owe."""
        return self.shares

    def share(
        self,
        *,
        max_debt: float | None = None,
        guard: float = 0.0,
        most_credit: float | None = None,
    ) -> None:
        """See Policy.share."""
        if not self.can_share:
            raise FairlaneError("without a lift it cannot share: nothing limits what is owed")
        if self._tickets:
            raise FairlaneError("a scheduler begins to share before its first request")
        self._sharing = Sharing(max_debt, guard, most_credit)
        self._tree.share(home=guard > 0)

    def take_charges(self) -> dict[str, float]:
        """See Policy.take_charges. O(clients with requests)."""
        sharing = self._shared()
        charges = self._tree.take_charges(self._prepaid())
        sharing.earn(sum(charges.values()))
        sharing.look(lambda request_id: self._charged(self._tickets[request_id]))
        return charges

    def hear(self, charges: Mapping[str, float]) -> None:
        """See Policy.hear. O(clients in it + clients that wait)."""
        sharing = self._shared()
        if charges:
            sharing.heard = True
        if sharing.heard:
            self._relax(self._tree.hear(charges))

    def set_max_debt(self, max_debt: float | None, most_credit: float | None = None) -> None:
        """See Policy.set_max_debt."""
        self._shared().set_max_debt(max_debt, most_credit)

    def tell_waiting(self, totals: Mapping[str, float]) -> Waiting:
        """See Policy.tell_waiting. O(clients that wait anywhere), and with groups all in it."""
        self._shared()
        return tell_waiting(self._tree, totals, self._prepaid())

    def hear_waiting(self, others: Iterable[Waiting] | None, totals: Mapping[str, float]) -> None:
        """See Policy.hear_waiting. O(clients that wait anywhere), and with groups all in it."""
        sharing = self._shared()
        joins, sharing.one_queue = not sharing.one_queue, others is not None
        hear_waiting(self._tree, others or (), totals, self._prepaid())
        if joins and sharing.one_queue:
            lift_to_elsewhere(self._tree)

    def raise_levels(self, amounts: Mapping[str, float]) -> None:
        """See Policy.raise_levels. O(clients that wait), and with groups all in it."""
        raise_levels(self._tree, amounts, self._shared().max_debt)

    def yields(self, slack: float) -> bool:
        """See Policy.yields."""
        node = self._tree.first(home=False)
        return node is not None and any(
            (least := step.level.elsewhere.least_counter()) is not None
            and step.counter > least + slack / step.weight
            for step in lineage(node)
        )

    def _shared(self) -> Sharing:
        if self._sharing is None:
            raise FairlaneError("this scheduler does not share its charges; call share() first")
        return self._sharing

    def _relax(self, levels: Iterable[Level]) -> None:
        most = self._shared().max_debt
        if not isinf(most):
            for level in levels:
                level.relax(most)

    @staticmethod
    def _come_back(node: Node, max_debt: float) -> None:
        """A client that waits anew may have been served elsewhere meanwhile."""
        for step in lineage(node):
            least = step.level.order.least_counter()
            if least is not None and step.counter - least > max_debt:
                step.level.relax(max_debt)

    def _is_guarded(self, node: Node) -> bool:
        """Whether a client is admitted by the guard, and would not be without."""
        guards = self._sharing is not None and self._sharing.guards
        return guards and self._tree.first(home=False) is not node

    # -- what operators do -------------------------------------------------------------------

    def set_weight(self, name: str, weight: float) -> None:
        """From now on, service counts for a client or group by this weight; keys as in `weights`.

        What was delivered stays as it was charged; what a prediction prepaid is charged anew, and
        what is settled later counts by the weight of that moment.
        """
        nodes = self._tree.set_weight(name, weight)
        prepaid = self._prepaid() if nodes else {}
        for node in nodes:
            kept = prepaid.get(node, 0.0)
            node.fold()
            node.restart(node.base + (node.charged - kept) / node.weight, kept)
            node.weight = weight
            node.level.fell(node)
        for watcher in self._watchers:
            watcher.set_weight(name, weight)

    def save(self) -> Saved:
        """All counters, ready for JSON, as if every live request had ended at this moment."""
        return self._tree.save(self._prepaid())

    def restore(self, saved: Saved) -> None:
        """Take up counters that `save` gave. Only for a policy that was not used yet."""
        self._tree.restore(saved)

    # -- state -------------------------------------------------------------------------------

    @property
    def shares(self) -> bool:
        """Whether it lifts: without, whoever comes back from idleness is served alone."""
        return self._lift is not no_lift

    @property
    def slack(self) -> float | None:
        """What predictions may add to the bound; without a limit on them nothing is guaranteed."""
        if not self.shares:
            return None
        if self._predictor is None:
            return 0.0
        return None if isinf(self._max_advance) else 4 * self._max_advance

    def standing(self, client: str) -> tuple[float, ...]:
        """Counters from the top-level group down to the client."""
        node = self._tree.find(client)
        if node is None:
            return ()
        return tuple(step.counter for step in lineage(node))[::-1]

    def _client_state(self, client: str, queued: int, running: int) -> ClientState:
        node = self._tree.find(client)
        assert node is not None, "only clients with requests are asked for"
        return ClientState(queued, running, node.counter, node.weight)
