"""Who sends a request, and whether it may come in now: the state of one server's front door.

Where several servers stand before one engine, each lets in its part of every limit. Where they ask
a hub (cluster/shared_limits.py) the limits of requests and tokens per minute and of waiting
requests hold over all of them, and each lets in its part only while the hub is lost.

Two counts per client, both of this process. `waiting`: requests (as clients count them) that have
arrived and have no first token; max_queued limits it, and turns away. `inside`: requests that the
engine holds (one of n samples is one); max_running limits it, and makes wait, in order of arrival.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fairlane.cluster.hub import HubError
from fairlane.cluster.limits import QUEUE_FULL, Arrival
from fairlane.cluster.shared_limits import SharedLimits
from fairlane.core.types import Rejection
from fairlane.door.first_tokens import FirstTokens
from fairlane.door.limits import RateLimits
from fairlane.door.tenants import Limits
from fairlane.door.visits import Visit
from fairlane.usage.quotas import Quotas
from fairlane.usage.tally import Tally

_MOST_REASONS = 10_000  # (client, reason) pairs that are counted apart
QUOTA_EXCEEDED = "quota_exceeded"
_SENTENCES = {
    "requests_per_minute": "Your limit of requests per minute is reached.",
    "tokens_per_minute": "Your limit of tokens per minute is reached.",
    QUEUE_FULL: "Your limit of waiting requests is reached.",
}


class Refused(Exception):
    """A request that is not served: a status, a code and a sentence for its sender."""

    def __init__(
        self, status: int, code: str, message: str, rejection: Rejection | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.rejection = rejection  # by a limit: it may come back


@dataclass(slots=True)
class Caller:
    """Who sent one request.

    client: the scheduler's name for it; None until the adapter that it asks for says so.
    operator: whether it may see all tenants and control the server.
    shared: whether all servers count it among its client's waiting requests.
    arrived: when it was let in, by the door's clock. visit: what is noted of it, where somebody
    wants to know.
    """

    client: str | None
    operator: bool = False
    waiting: bool = False
    shared: bool = False
    refused: Refused | None = None  # once it is
    arrived: float = 0.0
    visit: Visit | None = None


class Admission:
    """Limits on arrival, and counts of what was turned away.

    limits_of: from a client's or group's path to its limits, or None; asked anew each time.
    """

    def __init__(self, limits_of: Callable[[str], Limits | None]) -> None:
        self._limits_of = limits_of
        self._servers = 1
        self._shared: SharedLimits | None = None
        self.rates = RateLimits(limits_of)
        self.waiting: dict[str, int] = {}
        self.rejected: dict[tuple[str, str], int] = {}
        self.first_tokens = FirstTokens()
        self.quotas: Quotas | None = None  # once there is a database of usage
        self.tally = Tally(_MOST_REASONS, "other")  # as `rejected`, to be taken

    def lowered(
        self, weights: Mapping[str, float], others: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Weights by path, less of those beyond a soft quota. others: weights of the rest."""
        return weights if self.quotas is None else self.quotas.lowered(weights, others)

    def share(self, servers: int) -> None:
        """So many servers share each limit, evenly."""
        self._servers = servers
        self._set_part()

    def ask(self, shared: SharedLimits) -> None:
        """From now on limits hold over all servers that ask the same hub; see `come_in`."""
        self._shared = shared
        self.rates.told = shared.took

    def part(self, limit: int | None) -> int | None:
        """What one server has of a limit on a number of requests: at least one."""
        return None if limit is None else max(1, limit // self._servers)

    async def come_in(self, caller: Caller, clock: Callable[[], float]) -> None:
        """As `arrive`, but the hub decides where there is one and the client has limits."""
        assert caller.client is not None, "a caller arrives once it is known"
        limits = self._limits_of(caller.client)
        most = None if limits is None else limits.max_queued
        quotas = self.rates.quotas(caller.client)
        self._check_quotas(caller.client)
        if self._shared is None or not self._shared.connected or not (quotas or most):
            self.arrive(caller, clock())
            return
        try:
            arrival = Arrival(quotas, "" if most is None else caller.client, most or 0)
            verdict = await self._shared.arrive(arrival)
        except HubError:
            self.arrive(caller, clock())
            return
        self._set_part()
        self.rates.set_left(quotas, verdict.left, clock())
        self._let_in(caller, verdict.rejection, clock())
        caller.shared = most is not None

    def arrive(self, caller: Caller, now: float) -> None:
        """Let a request of a known client wait. Raises Refused, with status 429."""
        assert caller.client is not None, "a caller arrives once it is known"
        self._check_quotas(caller.client)
        self._set_part()
        limits = self._limits_of(caller.client)
        most = None if limits is None else limits.max_queued
        part = None if most is None else max(1, most // self.rates.servers)
        if part is not None and self.waiting.get(caller.client, 0) >= part:
            self._let_in(caller, Rejection(QUEUE_FULL), now)
        self._let_in(caller, self.rates.arrive(caller.client, now), now)
        if self._shared is not None and most is not None:
            self._shared.waits(caller.client)
            caller.shared = True

    def first_token(self, caller: Caller, now: float) -> None:
        """It has its first token: how long that took is counted. Idempotent."""
        if caller.waiting and caller.client is not None:
            self.first_tokens.saw(caller.client, now - caller.arrived, now)
            self.served(caller)

    def served(self, caller: Caller) -> None:
        """It has its first token, or is gone. Idempotent."""
        if caller.waiting and caller.client is not None:
            caller.waiting = False
            left = self.waiting.pop(caller.client) - 1
            if left:
                self.waiting[caller.client] = left
            if caller.shared and self._shared is not None:
                self._shared.left(caller.client)

    def _check_quotas(self, client: str) -> None:
        """Raise Refused where a quota is used up."""
        rejection = None if self.quotas is None else self.quotas.refusal(client)
        if rejection is not None:
            self._count(client, rejection.reason)
            message = f"Your quota of {rejection.reason.replace('_', ' ')} is used up."
            raise Refused(429, QUOTA_EXCEEDED, message, rejection)

    def _let_in(self, caller: Caller, rejection: Rejection | None, now: float) -> None:
        """Count it among those that wait. Raises Refused where it is turned away."""
        assert caller.client is not None
        if rejection is not None:
            self._count(caller.client, rejection.reason)
            raise Refused(429, "rate_limit_exceeded", _SENTENCES[rejection.reason], rejection)
        self.waiting[caller.client] = self.waiting.get(caller.client, 0) + 1
        caller.waiting, caller.arrived = True, now

    def _set_part(self) -> None:
        """Whole limits while the hub decides, else as many parts as there are servers."""
        shared = self._shared
        if shared is None:
            self.rates.servers = self._servers
        else:
            self.rates.servers = 1 if shared.connected else max(self._servers, shared.servers)

    def _count(self, client: str, reason: str) -> None:
        known = (client, reason) in self.rejected or len(self.rejected) < _MOST_REASONS
        key = (client if known else "other", reason)
        self.rejected[key] = self.rejected.get(key, 0) + 1
        self.tally.refuse(client, "", reason)  # which model it asks for is not known yet


@dataclass(slots=True)
class _Inside:
    count: int = 0
    turns: dict[asyncio.Future[None], None] = field(default_factory=dict)  # the oldest first


class Turns:
    """At most max_running requests of a client inside the engine; the rest wait for their turn.

    limit_of: from a client's path to its limit, or None.
    """

    def __init__(self, limit_of: Callable[[str], int | None]) -> None:
        self._limit_of = limit_of
        self._inside: dict[str, _Inside] = {}

    def inside(self, client: str) -> int:
        """How many are inside."""
        found = self._inside.get(client)
        return 0 if found is None else found.count

    async def enter(self, client: str) -> None:
        """Come in, or wait for the client's turn. Whoever came in must `leave`, once."""
        state = self._inside.setdefault(client, _Inside())
        limit = self._limit_of(client)
        if limit is None or (state.count < limit and not state.turns):
            state.count += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        state.turns[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if state.turns.pop(turn, turn) is None:
                self._tidy(client, state)
            else:  # its turn came in the same moment
                self.leave(client)
            raise

    def leave(self, client: str) -> None:
        """Go out, and let the next come in."""
        state = self._inside[client]
        state.count -= 1
        self._let_in(client, state)
        self._tidy(client, state)

    def limits_changed(self) -> None:
        """Let in whoever may come in now."""
        for client, state in self._inside.items():
            self._let_in(client, state)

    def _let_in(self, client: str, state: _Inside) -> None:
        limit = self._limit_of(client)
        while state.turns and (limit is None or state.count < limit):
            turn = next(iter(state.turns))
            del state.turns[turn]
            state.count += 1
            if not turn.done():
                turn.set_result(None)

    def _tidy(self, client: str, state: _Inside) -> None:
        if not state.count and not state.turns:
            self._inside.pop(client, None)
