"""First come, first served: one queue for everyone.

Source: the default of LLM engines, the paper's baseline ("FCFS"). Bounds: none; a client that
sends more is served more, in proportion. Work-conserving, O(1).
"""

from collections.abc import Iterable

from fairlane.core.limits import Gate
from fairlane.core.policy import ClientQueue, Policy, Ticket
from fairlane.core.types import Outcome, Request


class FirstComeFirstServed(Policy[Ticket]):
    """One queue, oldest first."""

    def __init__(self, gates: Iterable[Gate] = ()) -> None:
        super().__init__(tuple(gates))
        self._queue: ClientQueue[Ticket] = ClientQueue()

    def peek(self, now: float) -> Request | None:
        """The oldest waiting request."""
        return self._queue.head().request if self._queue else None

    def _enqueue(self, request: Request) -> Ticket:
        ticket = Ticket(request)
        self._queue.push(ticket)
        return ticket

    def _admit(self, ticket: Ticket, cached_tokens: int) -> None:
        del self._queue[ticket.request.id]

    def _requeue(self, ticket: Ticket, undo: bool) -> None:
        self._queue.push_front(ticket)

    def _finish(self, ticket: Ticket, outcome: Outcome) -> None:
        if not ticket.running:
            del self._queue[ticket.request.id]


def fcfs() -> FirstComeFirstServed:
    """First come, first served."""
    return FirstComeFirstServed()
