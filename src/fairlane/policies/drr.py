"""Deficit round robin, adapted to output lengths that nobody knows beforehand.

Source: Shreedhar and Varghese, "Efficient Fair Queuing using Deficit Round Robin" (SIGCOMM 1995),
adapted as in the paper's section 4.5 and its artifact. Idea: clients take turns; a client in debt
is paid a quantum when its turn comes and may be served while its balance is positive. Since
output tokens are charged after the fact, balances become negative and are paid off in later
turns. Bounds: VTC's and three quanta (tools/guarantees.py searches for worse). Work-conserving:
when every balance is negative, the turns needed are skipped at once.
Cost: peek walks the ring until it finds a client that this round will serve.
"""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import takewhile

from fairlane.core.cost import Cost, LinearCost
from fairlane.core.options import QUANTA, Quantum, Weight, checked_weights
from fairlane.core.policy import ClientQueue, Policy, Priced
from fairlane.core.types import ClientState, Outcome, Request, RequestId


class Turn:
    """A client's place in the ring: its waiting requests and its balance."""

    __slots__ = ("balance", "live", "queue", "weight")

    def __init__(self, weight: float) -> None:
        self.queue: ClientQueue[Drawn] = ClientQueue()
        self.balance = 0.0
        self.live = 0  # requests waiting or running
        self.weight = weight


class Drawn(Priced):
    """A live request that draws on its client's balance."""

    __slots__ = ("turn",)

    def __init__(self, request: Request, turn: Turn) -> None:
        super().__init__(request)
        self.turn = turn


class DeficitRoundRobin(Policy[Drawn]):
    """Turns with balances. quantum: service per turn and unit of weight, in cost units."""

    def __init__(
        self,
        *,
        quantum: float = 500.0,
        weights: Mapping[str, float] | None = None,
        cost: Cost | None = None,
    ) -> None:
        super().__init__()
        QUANTA.check("quantum", quantum)
        self._quantum = quantum
        self._weights = checked_weights(weights)
        self._cost: Cost = LinearCost() if cost is None else cost
        self._ring: OrderedDict[str, Turn] = OrderedDict()

    def peek(self, now: float) -> Request | None:
        """The earliest request of the client whose balance becomes positive first."""
        best: Turn | None = None
        fewest = 0
        for turn in self._ring.values():
            if turn.queue:
                rounds = self._rounds(turn)
                if best is None or rounds < fewest:
                    best, fewest = turn, rounds
                if fewest == 1:
                    break
        return None if best is None else best.queue.head().request

    def _record_tokens(self, tokens: Mapping[RequestId, int]) -> None:
        """Draw the price of delivered tokens."""
        for request_id, count in tokens.items():
            ticket = self._tickets.get(request_id)
            if ticket is not None:
                start, ticket.output = ticket.output, ticket.output + count
                prompt = ticket.request.prompt_tokens
                self._draw(ticket, self._cost.output(prompt, start, ticket.output))

    def _settle(
        self, ticket: Drawn, request: Request, cached_tokens: int, output_tokens: int | None
    ) -> None:
        """Draw the difference, or give it back; nobody saves by that who does not wait."""
        self._draw(ticket, ticket.settle(self._cost, request, cached_tokens, output_tokens))
        if not ticket.turn.queue:
            ticket.turn.balance = min(ticket.turn.balance, 0.0)

    def _rounds(self, turn: Turn) -> int:
        """How often the ring must come round until this client may be served, at least 1."""
        if turn.balance > 0:
            return 1
        return int(-turn.balance // (self._quantum * turn.weight)) + 1

    def _enqueue(self, request: Request) -> Drawn:
        turn = self._ring.get(request.client)
        if turn is None:
            turn = self._ring[request.client] = Turn(self._weights.get(request.client, 1.0))
        ticket = Drawn(request, turn)
        turn.live += 1
        turn.queue.push(ticket)
        return ticket

    def _admit(self, ticket: Drawn, cached_tokens: int) -> None:
        client, turn = ticket.request.client, ticket.turn
        self._advance_to(client, turn)
        del turn.queue[ticket.request.id]
        if ticket.admission is None:
            ticket.admission = self._cost.admission(ticket.request.prompt_tokens, cached_tokens)
            self._draw(ticket, ticket.admission)
        if not turn.queue or turn.balance <= 0:
            turn.balance = min(turn.balance, 0.0)  # an unused balance is not saved
            self._ring.move_to_end(client)

    def _advance_to(self, client: str, chosen: Turn) -> None:
        """Turn the ring until `client` is in front, paying the quanta of the turns passed."""
        rounds = self._rounds(chosen)
        passed = list(takewhile(lambda name: name != client, self._ring))
        visits = rounds
        for turn in self._ring.values():
            if turn.balance <= 0 and visits:
                quantum = self._quantum * turn.weight
                limit = float("inf") if turn.queue else 0.0
                turn.balance = min(turn.balance + min(visits, self._rounds(turn)) * quantum, limit)
            if turn is chosen:
                visits -= 1  # those behind it in the ring are passed once less
        for name in passed:
            if self._ring[name].live or self._ring[name].balance < 0:
                self._ring.move_to_end(name)
            else:
                del self._ring[name]  # nothing live and the debt is paid

    def _requeue(self, ticket: Drawn, undo: bool) -> None:
        if undo and not ticket.output and ticket.admission is not None:
            self._draw(ticket, -ticket.admission)
            ticket.admission = None
        ticket.turn.queue.push_front(ticket)

    def _finish(self, ticket: Drawn, outcome: Outcome) -> None:
        turn = ticket.turn
        if not ticket.running:
            del turn.queue[ticket.request.id]
        turn.live -= 1
        if not turn.live and turn.balance >= 0:
            del self._ring[ticket.request.client]

    def _draw(self, ticket: Drawn, amount: float) -> None:
        turn = ticket.turn
        before = turn.balance
        turn.balance -= amount
        if before > 0 >= turn.balance:  # its turn is over
            self._ring.move_to_end(ticket.request.client)

    def set_weight(self, name: str, weight: float) -> None:
        """From its next turn on, a client is paid by this weight."""
        self._weights |= checked_weights({name: weight})
        turn = self._ring.get(name)
        if turn is not None:
            turn.weight = weight
        for watcher in self._watchers:
            watcher.set_weight(name, weight)

    @property
    def shares(self) -> bool:
        """Quanta are by weight."""
        return True

    @property
    def slack(self) -> float:
        """Three quanta: what a client may be paid ahead, what it may have left, and one turn."""
        return 3 * self._quantum

    def standing(self, client: str) -> tuple[float, ...]:
        """The client's debt."""
        return (-self._ring[client].balance,)

    def _client_state(self, client: str, queued: int, running: int) -> ClientState:
        turn = self._ring[client]
        return ClientState(queued, running, -turn.balance, turn.weight)


def drr(
    *,
    quantum: Quantum = 500.0,
    weights: Mapping[str, Weight] | None = None,
    cost: Cost | None = None,
) -> DeficitRoundRobin:
    """Deficit round robin with debts."""
    return DeficitRoundRobin(quantum=quantum, weights=weights, cost=cost)
