"""Deficit longest prefix match: fair between clients, and kind to the prefix cache.

Source: Cao et al., "Locality-aware Fair Scheduling in LLM Serving" (2025). Idea: among the clients
with a positive balance, the request with the longest cached prefix goes first; a request draws its
*uncached* input tokens at admission and its output tokens as they come. When no backlogged client
has a positive balance, every client that has none is paid a quantum. A large quantum favours the
cache, a small one fairness; without end (`lpm`) it is longest prefix first, unfair.
Bounds: while two clients are backlogged they are paid alike, and a balance lies in (-U', Q], U' =
w_p L_in + w_q M, so their services (uncached input and output, priced) differ by at most
2 (U' + Q). Work-conserving.
Departures: only the first requests in order of arrival are compared, since hosts ask often. A
client that comes back starts without a balance, or with its debt.
Cost: peek is O(clients that may be served + compared requests).
"""

from collections.abc import Callable, Iterator, Mapping
from heapq import merge
from itertools import islice
from math import inf, isinf

from fairlane.core.cost import Cost, LinearCost
from fairlane.core.options import QUANTA, Quantum, Weight, checked_weights
from fairlane.core.policy import ClientQueue, Policy, Priced
from fairlane.core.types import ClientState, Outcome, Request, RequestId

COMPARED = 128  # waiting requests whose cached prefixes are compared, oldest first


class Purse:
    """A client's balance and its waiting requests."""

    __slots__ = ("balance", "live", "queue", "weight")

    def __init__(self, weight: float) -> None:
        self.queue: ClientQueue[Payer] = ClientQueue()
        self.balance = 0.0
        self.live = 0  # requests waiting or running
        self.weight = weight


class Payer(Priced):
    """A live request, its place in order of arrival, and what it drew."""

    __slots__ = ("place", "purse")

    def __init__(self, request: Request, purse: Purse, place: int) -> None:
        super().__init__(request)
        self.purse = purse
        self.place = place


class LongestPrefixMatch(Policy[Payer]):
    """Longest cached prefix first, among clients with a positive balance.

    cached_tokens: how many prompt tokens of a waiting request the host's cache holds now; by
        default none, which leaves the order of arrival. quantum: service per payment and unit of
        weight, in cost units; infinity for no fairness. cost: by default the linear one with
        cached input free.
    """

    def __init__(
        self,
        *,
        cached_tokens: Callable[[Request], int] | None = None,
        quantum: float = 4000.0,
        weights: Mapping[str, float] | None = None,
        cost: Cost | None = None,
    ) -> None:
        super().__init__()
        if quantum != inf:
            QUANTA.check("quantum", quantum)
        self._cached_tokens = cached_tokens
        self._quantum = quantum
        self._weights = checked_weights(weights)
        self._cost: Cost = LinearCost(cached_price=0.0) if cost is None else cost
        self._purses: dict[str, Purse] = {}  # of clients with live requests or a debt
        self._arrivals = 0

    def peek(self, now: float) -> Request | None:
        """The request with the longest cached prefix of those that may go next."""
        backlogged = [purse for purse in self._purses.values() if purse.queue]
        if not backlogged:
            return None
        payments = min(self._payments(purse) for purse in backlogged)
        queues: list[Iterator[Payer]] = [
            islice(purse.queue.values(), COMPARED)
            for purse in backlogged
            if self._payments(purse) == payments
        ]
        compared = islice(merge(*queues, key=lambda payer: payer.place), COMPARED)
        if self._cached_tokens is None:
            return next(compared).request
        cached = self._cached_tokens
        return max(compared, key=lambda payer: (cached(payer.request), -payer.place)).request

    def _payments(self, purse: Purse) -> int:
        """How many quanta a client needs for a positive balance."""
        if purse.balance > 0:
            return 0
        return int(-purse.balance // (self._quantum * purse.weight)) + 1

    def _enqueue(self, request: Request) -> Payer:
        purse = self._purses.get(request.client)
        if purse is None:
            purse = Purse(self._weights.get(request.client, 1.0))
            self._purses[request.client] = purse
        self._arrivals += 1
        payer = Payer(request, purse, self._arrivals)
        purse.live += 1
        purse.queue.push(payer)
        return payer

    def _admit(self, ticket: Payer, cached_tokens: int) -> None:
        self._pay(self._payments(ticket.purse))
        del ticket.purse.queue[ticket.request.id]
        if ticket.admission is None:
            ticket.admission = self._cost.admission(ticket.request.prompt_tokens, cached_tokens)
            ticket.purse.balance -= ticket.admission

    def _pay(self, payments: int) -> None:
        """Pay everyone without a positive balance, at most as often as that takes."""
        if not payments:
            return
        for client, purse in list(self._purses.items()):
            times = min(payments, self._payments(purse))
            if times:
                purse.balance += times * self._quantum * purse.weight
            if not purse.live and purse.balance >= 0:
                del self._purses[client]

    def _record_tokens(self, tokens: Mapping[RequestId, int]) -> None:
        """Draw the price of delivered tokens."""
        for request_id, count in tokens.items():
            payer = self._tickets.get(request_id)
            if payer is not None:
                start, payer.output = payer.output, payer.output + count
                prompt = payer.request.prompt_tokens
                payer.purse.balance -= self._cost.output(prompt, start, payer.output)

    def _settle(
        self, ticket: Payer, request: Request, cached_tokens: int, output_tokens: int | None
    ) -> None:
        """Draw the difference, or give it back."""
        ticket.purse.balance -= ticket.settle(self._cost, request, cached_tokens, output_tokens)

    def _requeue(self, ticket: Payer, undo: bool) -> None:
        if undo and not ticket.output and ticket.admission is not None:
            ticket.purse.balance += ticket.admission
            ticket.admission = None
        ticket.purse.queue.push_front(ticket)

    def _finish(self, ticket: Payer, outcome: Outcome) -> None:
        purse = ticket.purse
        if not ticket.running:
            del purse.queue[ticket.request.id]
        purse.live -= 1
        if not purse.live and purse.balance >= 0:  # an unused balance is not saved
            del self._purses[ticket.request.client]

    def set_weight(self, name: str, weight: float) -> None:
        """From the next payment on, a client is paid by this weight."""
        if not self.has_weights:
            return super().set_weight(name, weight)
        self._weights |= checked_weights({name: weight})
        purse = self._purses.get(name)
        if purse is not None:
            purse.weight = weight
        for watcher in self._watchers:
            watcher.set_weight(name, weight)

    @property
    def has_weights(self) -> bool:
        """Payments are by weight, but for an endless quantum."""
        return not isinf(self._quantum)

    @property
    def shares(self) -> bool:
        """As `has_weights`."""
        return self.has_weights

    @property
    def slack(self) -> float | None:
        """2 Q, see Bounds."""
        return 2 * self._quantum if self.shares else None

    def standing(self, client: str) -> tuple[float, ...]:
        """How many payments the client waits for."""
        return (float(self._payments(self._purses[client])),)

    def _client_state(self, client: str, queued: int, running: int) -> ClientState:
        purse = self._purses[client]
        return ClientState(queued, running, -purse.balance, purse.weight)


def dlpm(
    *,
    cached_tokens: Callable[[Request], int] | None = None,
    quantum: Quantum = 4000.0,
    weights: Mapping[str, Weight] | None = None,
    cost: Cost | None = None,
) -> LongestPrefixMatch:
    """Deficit longest prefix match."""
    return LongestPrefixMatch(
        cached_tokens=cached_tokens, quantum=quantum, weights=weights, cost=cost
    )


def lpm(*, cached_tokens: Callable[[Request], int] | None = None) -> LongestPrefixMatch:
    """Longest prefix first, for comparison: best for the cache, fair to nobody."""
    return LongestPrefixMatch(cached_tokens=cached_tokens, quantum=inf)
