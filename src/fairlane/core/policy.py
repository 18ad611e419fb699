"""The policy protocol and the lifecycle that every policy shares.

A policy is a pure state machine: it has no clock, no I/O, no randomness of its own, no logging
and no threads. A host (the simulator, a server's scheduler) feeds it events and obeys its picks:

  1. enqueue(request, now)   -> None, or a Rejection
  2. peek(now)               -> the request to admit next, or None. Changes nothing.
  3. the host checks what only it knows (memory, batch budget). If the request does not fit, the
     host stops: a fair queue is not skipped over.
  4. admit(id, now)          out of the queue, into the running batch; admission is charged
  5. record_tokens(tokens, now)   output tokens as they are delivered
  6. finish(id, now, outcome)     settled to what was delivered, then forgotten. Idempotent, and
                                  good for waiting requests too.
Also requeue(id, now): a running request goes back to the front of its client's queue; and
settle(id, now, ...): a host that went by estimates has learned a request's true numbers.

Rules. The host calls from one thread. `now` (seconds) never decreases. An id is unique among
live requests. Hosts may report tokens late and in any grouping: charges only depend on totals.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from fairlane.core.cost import Cost
from fairlane.core.errors import FairlaneError, UnknownRequestError
from fairlane.core.limits import Gate
from fairlane.core.sharing import Waiting
from fairlane.core.types import ClientState, Outcome, Rejection, Request, RequestId, Snapshot


class Ticket:
    """A policy's note of one live request."""

    __slots__ = ("request", "running")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.running = False


class Priced(Ticket):
    """A ticket of a policy that charges what was delivered."""

    __slots__ = ("admission", "output")

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.output = 0  # tokens delivered
        self.admission: float | None = None  # what its prompt was charged, once admitted

    def charged(self, cost: Cost) -> float:
        """What it was charged so far."""
        return (self.admission or 0.0) + cost.output(self.request.prompt_tokens, 0, self.output)

    def settle(
        self, cost: Cost, request: Request, cached_tokens: int, output_tokens: int | None
    ) -> float:
        """As if it had been `request` all along; what it is to be charged for that."""
        before = self.charged(cost)
        self.request = request
        if self.admission is not None:
            self.admission = cost.admission(request.prompt_tokens, cached_tokens)
        if output_tokens is not None:
            self.output = output_tokens
        return self.charged(cost) - before


T = TypeVar("T", bound=Ticket)


class Watcher(Protocol):
    """Is told of every event after a policy took it in, such as an auditor (audit.py)."""

    def enqueue(self, request: Request) -> None:
        """A request was accepted."""

    def admit(self, request_id: RequestId, *, cached_tokens: int) -> None:
        """A waiting request was admitted."""

    def record_tokens(self, tokens: Mapping[RequestId, int]) -> None:
        """Tokens were delivered, perhaps also of requests that the policy does not know."""

    def settle(self, request: Request, *, cached_tokens: int, output_tokens: int | None) -> None:
        """The true numbers of a live request became known; `request` has its true prompt."""

    def requeue(self, request_id: RequestId, *, undo: bool) -> None:
        """A running request was put back."""

    def finish(self, request_id: RequestId) -> None:
        """A request ended that the policy knew."""

    def set_weight(self, name: str, weight: float) -> None:
        """A client or group has a new weight."""


class ClientQueue(OrderedDict[RequestId, T]):
    """One client's waiting requests, oldest first, with removal from anywhere in O(1)."""

    def head(self) -> T:
        """The oldest waiting request."""
        return next(iter(self.values()))

    def push(self, ticket: T) -> None:
        """Add a request as the newest."""
        self[ticket.request.id] = ticket

    def push_front(self, ticket: T) -> None:
        """Add a request as the oldest."""
        self[ticket.request.id] = ticket
        self.move_to_end(ticket.request.id, last=False)


class Policy(ABC, Generic[T]):
    """Base of all policies: keeps the lifecycle, leaves order and charges to subclasses.

    Subclasses write the hooks (names with an underscore); hosts call the public methods.
    """

    def __init__(self, gates: Sequence[Gate] = ()) -> None:
        self._tickets: dict[RequestId, T] = {}
        self._gates = tuple(gates)
        self._watchers: list[Watcher] = []

    # -- what hosts call ---------------------------------------------------------------------

    def enqueue(self, request: Request, now: float) -> Rejection | None:
        """Queue a request, or say why not. Raises FairlaneError when its id is in use."""
        if request.id in self._tickets:
            raise FairlaneError(f"request id {request.id!r} is already in use")
        for gate in self._gates:
            rejection = gate.check(request, now)
            if rejection is not None:
                return rejection
        self._tickets[request.id] = self._enqueue(request)
        for gate in self._gates:
            gate.accepted(request, now)
        for watcher in self._watchers:
            watcher.enqueue(request)
        return None

    @abstractmethod
    def peek(self, now: float) -> Request | None:
        """The request that should be admitted next, or None. Changes nothing."""

    def admit(self, request_id: RequestId, now: float, *, cached_tokens: int = 0) -> None:
        """A waiting request enters the running batch; its prompt is charged, once.

        cached_tokens: how many prompt tokens the host found in its KV cache.
        """
        ticket = self._find(request_id, running=False)
        _check_cached(request_id, ticket.request.prompt_tokens, cached_tokens)
        ticket.running = True
        for gate in self._gates:
            gate.left(ticket.request)
        self._admit(ticket, cached_tokens)
        for watcher in self._watchers:
            watcher.admit(request_id, cached_tokens=cached_tokens)

    def record_tokens(self, tokens: Mapping[RequestId, int], now: float) -> None:
        """Output tokens newly delivered, by request. Unknown requests are passed over."""
        self._record_tokens(tokens)
        for watcher in self._watchers:
            watcher.record_tokens(tokens)

    @property
    def hears_tokens(self) -> bool:
        """Whether reports of tokens change anything; where not, a host may leave them out."""
        return type(self)._record_tokens is not Policy._record_tokens or bool(self._watchers)

    def settle(
        self,
        request_id: RequestId,
        now: float,
        *,
        prompt_tokens: int,
        cached_tokens: int = 0,
        output_tokens: int | None = None,
    ) -> None:
        """The host has learned a live request's true numbers. Unknown requests are passed over.

        From now on it is charged as if they had been known from the beginning: the difference is
        charged, or given back, at once. What was decided meanwhile stands: the order, lifts, who
        was charged in advance. Idempotent. Raises FairlaneError for numbers that cannot be.

        prompt_tokens, cached_tokens: in place of what the request and `admit` said. While it was
        not admitted only the prompt counts, as `admit` will say how much of it is cached.
        output_tokens: how many were delivered until now, more or fewer than were recorded; what
        is recorded later adds to them. None where that is right.
        """
        ticket = self._tickets.get(request_id)
        if ticket is None:
            return
        _check_cached(request_id, prompt_tokens, cached_tokens)
        if output_tokens is not None and output_tokens < 0:
            raise FairlaneError(f"request {request_id!r} cannot have {output_tokens} output tokens")
        request = replace(ticket.request, prompt_tokens=prompt_tokens)
        self._settle(ticket, request, cached_tokens, output_tokens)
        for watcher in self._watchers:
            watcher.settle(request, cached_tokens=cached_tokens, output_tokens=output_tokens)

    def requeue(self, request_id: RequestId, now: float, *, undo: bool = False) -> None:
        """A running request goes back to the front of its client's queue (no lift).

        Preempted requests keep what they paid. With `undo`, the admission did not take place
        after all and what it charged is given back.
        """
        ticket = self._find(request_id, running=True)
        ticket.running = False
        for gate in self._gates:
            gate.returned(ticket.request)
        self._requeue(ticket, undo)
        for watcher in self._watchers:
            watcher.requeue(request_id, undo=undo)

    def finish(
        self, request_id: RequestId, now: float, outcome: Outcome = Outcome.FINISHED
    ) -> None:
        """A request ended, running or still waiting. Unknown ids are passed over."""
        ticket = self._tickets.pop(request_id, None)
        if ticket is None:
            return
        if not ticket.running:
            for gate in self._gates:
                gate.left(ticket.request)
        self._finish(ticket, outcome)
        for watcher in self._watchers:
            watcher.finish(request_id)

    def snapshot(self) -> Snapshot:
        """Active clients (something queued or running) and their state. O(live requests)."""
        queued: dict[str, int] = {}
        running: dict[str, int] = {}
        for ticket in self._tickets.values():
            count = running if ticket.running else queued
            count[ticket.request.client] = count.get(ticket.request.client, 0) + 1
        names = sorted(queued.keys() | running.keys())
        return Snapshot(
            {c: self._client_state(c, queued.get(c, 0), running.get(c, 0)) for c in names}
        )

    def standing(self, client: str) -> tuple[float, ...]:
        """Counters of a client that has requests, those of its groups first; O(groups).

        Clients are compared by the first that differs: who has less there is served first. Empty
        for policies that keep no counters.
        """
        return ()

    def set_weight(self, name: str, weight: float) -> None:
        """From now on, service counts for a client or group by this weight.

        What was delivered stays as it was charged. Raises FairlaneError for a weight out of range,
        and from a policy that has no weights.
        """
        raise FairlaneError(f"{type(self).__name__} serves everyone by the same rule: no weights")

    @property
    def has_weights(self) -> bool:
        """Whether weights change what clients get."""
        return type(self).set_weight is not Policy.set_weight

    @property
    def has_counters(self) -> bool:
        """Whether clients can be compared by `standing`."""
        return type(self).standing is not Policy.standing

    @property
    def shares(self) -> bool:
        """Whether clients that wait are served in proportion to their weights."""
        return False

    @property
    def slack(self) -> float | None:
        """How much further than VTC's bound two clients that wait may be apart, per weight.

        None where nothing is guaranteed.
        """
        return None

    # -- one fairness over many schedulers (sharing.py) --------------------------------------

    @property
    def can_share(self) -> bool:
        """Whether what other schedulers charge can count here."""
        return False

    def share(
        self,
        *,
        max_debt: float | None = None,
        guard: float = 0.0,
        most_credit: float | None = None,
    ) -> None:
        """Begin to share, before the first request. Raises FairlaneError from a policy that cannot.

        max_debt: service per weight that a client may be ahead, here, for service elsewhere.
        guard: part of the service here that is given out as if nobody else were there, at most
        most_credit of it saved up. None is no limit.
        """
        raise FairlaneError(f"{type(self).__name__} cannot share: it keeps no counters to compare")

    def take_charges(self) -> dict[str, float]:
        """Service charged here by client, not by weight, since it was last taken.

        Delivered service: nothing that a prediction prepaid. What was given back is negative.
        """
        raise FairlaneError(f"{type(self).__name__} does not share its charges")

    def hear(self, charges: Mapping[str, float]) -> None:
        """Other schedulers charged so much since this was last told, by client."""
        raise FairlaneError(f"{type(self).__name__} does not share its charges")

    def set_max_debt(self, max_debt: float | None, most_credit: float | None = None) -> None:
        """Change `max_debt`, as when there are more schedulers than before, and `most_credit`.

        A `most_credit` of None stays as it is.
        """
        raise FairlaneError(f"{type(self).__name__} does not share its charges")

    def tell_waiting(self, totals: Mapping[str, float]) -> Waiting:
        """Who waits here, and where they stand but for what they were charged.

        totals: service by client that was charged anywhere, all of which is charged or heard here;
        what was charged here and not taken yet comes to that.
        """
        raise FairlaneError(f"{type(self).__name__} does not share its charges")

    def raise_levels(self, amounts: Mapping[str, float]) -> None:
        """Another has these clients and groups further ahead; see settling.py."""
        raise FairlaneError(f"{type(self).__name__} does not share its charges")

    def hear_waiting(self, others: Iterable[Waiting] | None, totals: Mapping[str, float]) -> None:
        """What others that serve of the same capacity told last (one_queue.py).

        None where they cannot be heard. totals: see above.
        """
        raise FairlaneError(f"{type(self).__name__} does not share its charges")

    def yields(self, slack: float) -> bool:
        """Whether somebody who waits elsewhere is before the next one here.

        By more than `slack`: service, that counts by the weight of the next one here.
        """
        return False

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of every event from now on; for a policy without live requests."""
        self._watchers.append(watcher)

    # -- what subclasses write ---------------------------------------------------------------

    @abstractmethod
    def _enqueue(self, request: Request) -> T:
        """Make a ticket and queue it."""

    @abstractmethod
    def _admit(self, ticket: T, cached_tokens: int) -> None:
        """Take a ticket out of the queue and charge its admission."""

    def _record_tokens(self, tokens: Mapping[RequestId, int]) -> None:
        """Charge delivered tokens; nothing, for policies that charge none."""

    def _settle(
        self, ticket: T, request: Request, cached_tokens: int, output_tokens: int | None
    ) -> None:
        """Correct a ticket and its charges; there are none, for policies that charge nothing."""
        ticket.request = request

    @abstractmethod
    def _requeue(self, ticket: T, undo: bool) -> None:
        """Put a ticket back at the front."""

    @abstractmethod
    def _finish(self, ticket: T, outcome: Outcome) -> None:
        """Drop a ticket (already out of `_tickets`), queued or running, and settle it."""

    def _client_state(self, client: str, queued: int, running: int) -> ClientState:
        """One row of a snapshot."""
        return ClientState(queued, running)

    def _find(self, request_id: RequestId, *, running: bool) -> T:
        ticket = self._tickets.get(request_id)
        if ticket is None or ticket.running is not running:
            state = "running" if running else "waiting"
            raise UnknownRequestError(f"no {state} request has the id {request_id!r}")
        return ticket


def _check_cached(request_id: RequestId, prompt_tokens: int, cached_tokens: int) -> None:
    if not 0 <= cached_tokens <= prompt_tokens:
        raise FairlaneError(
            f"request {request_id!r} of {prompt_tokens} prompt tokens cannot have "
            f"{cached_tokens} of them cached"
        )


class RepeatsCharges(ABC):
    """A policy that can charge a delivered token a second time.

    Only for reproducing measurements of the paper's artifact, whose later version charges the
    whole batch once more in a step that finishes a request.
    """

    @abstractmethod
    def charge_again(self, request_ids: Iterable[RequestId]) -> None:
        """Charge the latest token of each running request again."""
