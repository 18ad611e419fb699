"""Round robin: one request per client in turn, the counter-example that turns are not tokens.

Bounds: requests per backlogged client differ by at most one; tokens differ without limit, since
a client with long requests gets as many turns as one with short ones. Work-conserving, O(1).
"""

from collections import OrderedDict

from fairlane.core.policy import ClientQueue, Policy, Ticket
from fairlane.core.types import Outcome, Request


class RoundRobin(Policy[Ticket]):
    """Backlogged clients in a ring; an admission sends its client to the back."""

    def __init__(self) -> None:
        super().__init__()
        self._ring: OrderedDict[str, ClientQueue[Ticket]] = OrderedDict()  # in order of turns

    def peek(self, now: float) -> Request | None:
        """The earliest request of the client whose turn it is."""
        if not self._ring:
            return None
        return next(iter(self._ring.values())).head().request

    def _enqueue(self, request: Request) -> Ticket:
        ticket = Ticket(request)
        self._ring.setdefault(request.client, ClientQueue()).push(ticket)
        return ticket

    def _admit(self, ticket: Ticket, cached_tokens: int) -> None:
        client = ticket.request.client
        queue = self._ring.pop(client)
        del queue[ticket.request.id]
        if queue:
            self._ring[client] = queue

    def _requeue(self, ticket: Ticket, undo: bool) -> None:
        self._ring.setdefault(ticket.request.client, ClientQueue()).push_front(ticket)

    def _finish(self, ticket: Ticket, outcome: Outcome) -> None:
        if not ticket.running:
            queue = self._ring[ticket.request.client]
            del queue[ticket.request.id]
            if not queue:
                del self._ring[ticket.request.client]


def round_robin() -> RoundRobin:
    """One request per client in turn."""
    return RoundRobin()
