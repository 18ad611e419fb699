"""What requests are charged, under FairQueue: admissions, output as it comes, what is prepaid.

Charges are differences of a cumulative cost, so plain, predicted and oracle VTC are one class with
different predictors, and a preempted request never pays its prompt twice. Who is next by what was
charged is fair_queue.py.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from math import inf

from fairlane.core.cost import Cost
from fairlane.core.counters import Node
from fairlane.core.limits import Gate
from fairlane.core.options import NOT_NEGATIVE
from fairlane.core.policy import Policy, Priced, RepeatsCharges
from fairlane.core.predict import Predictor
from fairlane.core.tree import ClientTree, lineage
from fairlane.core.types import Request, RequestId


class Charged(Priced):
    """A live request, its client, and what it has been charged for."""

    __slots__ = ("advance", "covered", "node", "since")

    def __init__(self, request: Request, node: Node) -> None:
        self.request = request  # all by hand: two calls less for each request
        self.running = False
        self.node = node
        self.admission: float | None = None
        self.output = 0  # but for the rounds since `since`, while it runs
        self.since = 0
        self.covered: float = 0  # output tokens charged in advance
        self.advance = 0.0  # what that was

    @property
    def tokens(self) -> int:
        """What it takes up in the running batch."""
        return self.request.prompt_tokens + self.output

    def charged(self, cost: Cost) -> float:
        """What it was charged so far, delivered or predicted; `fold` first."""
        stop = max(self.output, self.covered)
        return (self.admission or 0.0) + cost.output(self.request.prompt_tokens, 0, stop)

    def fold(self, now: int) -> None:
        """Count the rounds until `now`; as `Node.fold`."""
        self.output += now - self.since
        self.since = now


class Charging(Policy[Charged], RepeatsCharges):
    """Charges the nodes of a tree; see the module. Options are FairQueue's.

    counts_held: whether the tokens are counted that a client has in the running batch.
    """

    def __init__(
        self,
        tree: ClientTree,
        *,
        cost: Cost,
        predictor: Predictor | None,
        max_advance: float | None,
        counts_held: bool,
        gates: Sequence[Gate],
    ) -> None:
        super().__init__(gates)
        if max_advance is not None:
            NOT_NEGATIVE.check("max_advance", max_advance)
        self._tree = tree
        self._cost = cost
        self._predictor = predictor
        self._max_advance = inf if max_advance is None else max_advance
        self._counts_held = counts_held
        # Rounds are counted (counters.py) where every output token costs the same and is charged
        # when it is delivered, and nobody asks for each request's length in between.
        counts = predictor is None and not counts_held
        self._round_price = cost.per_output_token if counts else None
        self._running: dict[RequestId, Charged] = {}

    @abstractmethod
    def _holds_more(self, node: Node) -> None:
        """A client has more or fewer tokens in the running batch, where they are counted."""

    def _occupy(self, ticket: Charged, sign: int) -> None:
        """A request enters the running batch (1) or leaves it (-1)."""
        ticket.node.running += sign
        if self._round_price is not None:
            if sign > 0:
                self._running[ticket.request.id] = ticket
                ticket.since = self._tree.common.rounds
            else:
                del self._running[ticket.request.id]
                ticket.fold(self._tree.common.rounds)
            for step in lineage(ticket.node):
                step.fold()
                step.rate += sign * self._round_price
        if self._counts_held:
            ticket.node.tokens += sign * ticket.tokens

    def _charge_admission(self, ticket: Charged, cached_tokens: int) -> None:
        """Charge a prompt, once, and the output that is expected."""
        if ticket.admission is not None:
            return
        node, prompt = ticket.node, ticket.request.prompt_tokens
        ticket.admission = charge = self._cost.admission(prompt, cached_tokens)
        if self._predictor is not None:
            expected = max(0.0, self._predictor.predict(ticket.request))
            advance = self._cost.output(prompt, 0, expected)
            if node.advance + advance <= self._max_advance:
                node.advance += advance
                ticket.advance, ticket.covered = advance, expected
                charge += advance
        self._charge(node, charge)

    def _record_tokens(self, tokens: Mapping[RequestId, int]) -> None:
        """Charge newly delivered output tokens, less those that a prediction paid for.

        Hosts call this in every step for everything that runs: hence rounds, and one plain loop.
        """
        if self._round_price is not None and self._count_round(tokens, self._round_price):
            return
        tickets, price = self._tickets, self._cost.per_output_token
        for request_id, count in tokens.items():
            ticket = tickets.get(request_id)
            if ticket is None:
                continue
            start = ticket.output
            ticket.output = stop = start + count
            if price is not None and (not ticket.covered or ticket.covered <= start):
                charge = price * count
            elif ticket.covered < stop:
                prompt = ticket.request.prompt_tokens
                charge = self._cost.output(prompt, max(start, ticket.covered), stop)
            else:
                continue
            node: Node | None = ticket.node
            while node is not None:
                node.charged += charge
                node = node.parent
        if self._counts_held:
            self._hold(tokens)

    def _count_round(self, tokens: Mapping[RequestId, int], price: float) -> bool:
        """Take in a report if it is as many tokens for each of most that run; whether it was.

        Of several steps there are as many rounds. Those that run and got none, such as long
        prompts, are given their part of the rounds back.
        """
        running, counts = self._running, set(tokens.values())
        if len(counts) != 1:
            return False
        without = () if tokens.keys() == running.keys() else running.keys() - tokens.keys()
        if len(running) - len(without) != len(tokens) or len(without) > len(tokens):
            return False
        (count,) = counts
        self._tree.common.rounds += count
        for request_id in without:
            ticket = running[request_id]
            ticket.output -= count
            for step in lineage(ticket.node):
                step.charged -= price * count
        return True

    def _hold(self, tokens: Mapping[RequestId, int]) -> None:
        """Running requests take up more of the batch, perhaps all that their clients may."""
        live = [(self._tickets[i], n) for i, n in tokens.items() if i in self._tickets]
        for ticket, count in live:
            if ticket.running:
                ticket.node.tokens += count
        for ticket, _ in live:
            self._holds_more(ticket.node)

    def charge_again(self, request_ids: Iterable[RequestId]) -> None:
        """Charge the latest token of each running request again (see RepeatsCharges)."""
        for request_id in request_ids:
            ticket = self._tickets.get(request_id)
            if ticket is None:
                continue
            if ticket.running:
                ticket.fold(self._tree.common.rounds)
            if ticket.output > ticket.covered:
                last = self._cost.output(
                    ticket.request.prompt_tokens, ticket.output - 1, ticket.output
                )
                self._charge(ticket.node, last)

    def _prepaid_of(self, ticket: Charged) -> float:
        """What a prediction charged for output that has not been delivered."""
        if not ticket.covered or ticket.covered <= ticket.output:
            return 0.0
        return self._cost.output(ticket.request.prompt_tokens, ticket.output, ticket.covered)

    def _settle(
        self, ticket: Charged, request: Request, cached_tokens: int, output_tokens: int | None
    ) -> None:
        """Charge the difference, of what a prediction covers too; what it expected stands.

        An advance that would have exceeded the client's limit is given back.
        """
        node = ticket.node
        if ticket.running:
            ticket.fold(self._tree.common.rounds)
        held = ticket.tokens
        self._charge(node, ticket.settle(self._cost, request, cached_tokens, output_tokens))
        if ticket.covered:
            advance = self._cost.output(request.prompt_tokens, 0, ticket.covered)
            node.advance += advance - ticket.advance
            ticket.advance = advance
            if node.advance > self._max_advance:
                self._give_back_advance(ticket)
        if self._counts_held and ticket.running:
            node.tokens += ticket.tokens - held
            self._holds_more(node)

    def _give_back_advance(self, ticket: Charged) -> None:
        """Give back what was prepaid; from now on output is charged as it comes."""
        prepaid = self._prepaid_of(ticket)
        ticket.node.advance -= ticket.advance
        ticket.covered, ticket.advance = 0, 0.0
        if prepaid:
            self._charge(ticket.node, -prepaid)

    def _refund(self, ticket: Charged) -> None:
        """Give back all that an admission charged."""
        self._give_back_advance(ticket)
        if ticket.admission is not None:
            self._charge(ticket.node, -ticket.admission)
            ticket.admission = None

    def _charge(self, node: Node, amount: float) -> None:
        """Add `amount` of service to a client and the groups above it; negative refunds."""
        step: Node | None = node
        while step is not None:
            step.charged += amount
            if amount < 0:
                step.level.fell(step)
            step = step.parent

    def _charged(self, ticket: Charged) -> float:
        """What a request was charged until now."""
        if ticket.running and self._round_price is not None:
            ticket.fold(self._tree.common.rounds)
        return ticket.charged(self._cost)

    def _prepaid(self) -> dict[Node, float]:
        """Outstanding prepayments by client and group. O(live requests), if anything is."""
        prepaid: dict[Node, float] = {}
        for ticket in self._tickets.values() if self._predictor is not None else ():
            for step in lineage(ticket.node):
                prepaid[step] = prepaid.get(step, 0.0) + self._prepaid_of(ticket)
        return prepaid
