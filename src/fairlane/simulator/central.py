"""One queue before all replicas: whichever has room takes the policy's next.

The yardstick for everything that is routed. Each loop has a queue of its own as always, and every
request is offered to all of them; who admits it has it, and the others are told that it left. What
a loop sees as its policy asks the one that they all share.

A request that lost its memory goes on where it ran, before all others there, as it would on one
server; for the policy it runs all the while.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fairlane.core.policy import Policy, Ticket
from fairlane.core.types import Outcome, Rejection, Request, RequestId

Taken = Callable[[int, RequestId], None]


class CentralQueue:
    """The queue behind `Offers`. taken: is told which replica admitted a request."""

    def __init__(self, policy: Policy[Any], taken: Taken) -> None:
        self.policy = policy
        self.taken = taken
        self._answers: dict[RequestId, Rejection | None] = {}

    def enqueue(self, request: Request, now: float) -> Rejection | None:
        """Queue a request that the first replica has heard of; the others get the same answer."""
        if request.id not in self._answers:
            self._answers[request.id] = self.policy.enqueue(request, now)
        return self._answers[request.id]


class Offers(Policy[Ticket]):
    """The policy of one replica: those in the central queue that it has heard of."""

    def __init__(self, queue: CentralQueue, replica: int) -> None:
        super().__init__()
        self._queue = queue
        self._policy = queue.policy
        self._replica = replica
        self._put_back: list[Request] = []  # the latest last

    @property
    def hears_tokens(self) -> bool:
        """As the policy behind it."""
        return self._policy.hears_tokens

    def enqueue(self, request: Request, now: float) -> Rejection | None:
        """As of `Policy`."""
        return self._queue.enqueue(request, now) or super().enqueue(request, now)

    def peek(self, now: float) -> Request | None:
        """As of `Policy`; nobody as long as the next is still on its way here."""
        if self._put_back:
            return self._put_back[-1]
        request = self._policy.peek(now)
        return request if request is not None and request.id in self._tickets else None

    def admit(self, request_id: RequestId, now: float, *, cached_tokens: int = 0) -> None:
        """As of `Policy`; the other replicas hear that it is taken."""
        super().admit(request_id, now, cached_tokens=cached_tokens)
        if self._put_back and self._put_back[-1].id == request_id:
            self._put_back.pop()
            return
        self._policy.admit(request_id, now, cached_tokens=cached_tokens)
        self._queue.taken(self._replica, request_id)

    def record_tokens(self, tokens: Mapping[RequestId, int], now: float) -> None:
        """As of `Policy`."""
        self._policy.record_tokens(tokens, now)

    def finish(
        self, request_id: RequestId, now: float, outcome: Outcome = Outcome.FINISHED
    ) -> None:
        """As of `Policy`; an offer that another replica took just ends."""
        ticket = self._tickets.get(request_id)
        if ticket is not None and (ticket.running or ticket.request in self._put_back):
            self._policy.finish(request_id, now, outcome)
        super().finish(request_id, now, outcome)

    def _enqueue(self, request: Request) -> Ticket:
        return Ticket(request)

    def _admit(self, ticket: Ticket, cached_tokens: int) -> None:
        pass

    def _requeue(self, ticket: Ticket, undo: bool) -> None:
        self._put_back.append(ticket.request)

    def _finish(self, ticket: Ticket, outcome: Outcome) -> None:
        if ticket.request in self._put_back:
            self._put_back.remove(ticket.request)
