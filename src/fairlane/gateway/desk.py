"""The desk: where requests ask for their turns, and say what became of them.

Everything that must be decided in one place is decided here: limits, the order of the queues, how
much each upstream gets, what everyone is charged. Requests deal with it by tickets, which know
nothing of HTTP; so bytes may pass through other processes than this (wire.py).
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fairlane.cluster.config import Cluster
from fairlane.core.types import Outcome, Rejection, Request
from fairlane.dashboard.live import TELLS, Live
from fairlane.door.admission import Caller, Refused
from fairlane.door.door import Door
from fairlane.door.gen_ai import GenAiMetrics
from fairlane.door.keeping import Keeper
from fairlane.door.telemetry import Telemetry
from fairlane.door.used import TOLD, Used
from fairlane.door.visits import Visit
from fairlane.gateway.counting import Usage
from fairlane.gateway.dispatch import Dispatcher, NotQueued
from fairlane.gateway.estimate import Estimates
from fairlane.gateway.pool import Lane, Pool
from fairlane.gateway.sharing import Shared
from fairlane.gateway.status import metrics, pools_of, shown, upstreams

_TELLS_LIMITS = 16  # output tokens that are counted against limits at once


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for, as far as its turn depends on it.

    stream: whether its answer is one. characters: of the text that becomes its prompt; tokens: of
    it that is tokens already. most: output tokens at most, None where it does not say. session:
    what it has in common with requests that had better go to the same upstream.
    """

    model: str
    stream: bool = True
    characters: int = 0
    tokens: int = 0
    most: int | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An upstream did not take a request.

    unreachable: it has not even seen it. retry_after_s: it is busy, and for how long.
    """

    unreachable: bool = False
    retry_after_s: float | None = None


@dataclass(slots=True)
class Served:
    """What became of a request.

    sent: whether an engine was given it; refused: whether the engine then did no work for it.
    output_tokens: those that came, and None where nobody could count them. usage: what the engine
    said of it.
    """

    outcome: Outcome = Outcome.ABORTED
    sent: bool = False
    refused: bool = False
    output_tokens: int | None = 0
    usage: Usage | None = None


class Ticket(Protocol):
    """One request's dealings with a desk, from its arrival to its end."""

    @property
    def rate_headers(self) -> Mapping[str, str]:
        """What is left of its client's limits."""

    async def turn(self, wish: Wish) -> str:
        """Wait until it is its turn; the upstream to send it to. Raises Refused.

        Asked again, that upstream did not answer: the request waits anew, before its client's
        others. Cancelled, it still waits: `end` it.
        """

    def flows(self) -> None:
        """Its answer begins."""

    def tokens(self, so_far: int) -> None:
        """Its answer holds so many tokens so far."""

    def fails(self, failure: Failure) -> None:
        """The upstream whose turn it was did not take it."""

    def end(self, served: Served, visit: Visit) -> None:
        """It is over. To be called once, whatever happened. visit: what was noted of it."""


class AnyDesk(Protocol):
    """A desk, in this process or another."""

    def take_up_changes(self) -> None:
        """Take up a changed file of tenants, before anybody's key is looked at."""

    async def arrive(self, caller: Caller) -> Ticket:
        """A request of a known client comes in. Raises Refused, by its client's limits."""

    async def tell(self, what: str, caller: Caller, *more: Any) -> Any:
        """What whoever asks may see: "models", "tenants", "upstreams", "metrics", "rates", "me",
        and "usage", with the URL's query.

        And what a dashboard's Live tells, with what more that is asked. Raises Refused.
        """

    def over(self, visit: Visit) -> None:
        """A request that never had a ticket is over."""


class Desk:
    """The desk of this process.

    models: the queue of each; may change while it runs. policy: the scheduler's name. cached_part:
    of a token, what one of the engine's prefix cache counts against limits. max_wait_s: how long a
    request waits that is not streamed. cluster, shared: with whom it shares, and what. listeners:
    are told of each request that is over.
    """

    def __init__(
        self,
        door: Door,
        models: Mapping[str, Dispatcher],
        *,
        policy: str,
        max_wait_s: float,
        cached_part: float = 1.0,
        cluster: Cluster = Cluster(),  # noqa: B008 - it does not change
        shared: Shared | None = None,
        listeners: Sequence[Callable[[Visit], None]] = (),
    ) -> None:
        self.door = door
        self.models = models
        self.max_wait_s = max_wait_s
        self.cached_part = cached_part
        self.estimates = Estimates()
        self.ids = itertools.count(1)
        self.policy = policy
        self._shared = shared
        self._gen_ai = GenAiMetrics(models)
        self._listeners: list[Callable[[Visit], None]] = [self._gen_ai, *listeners]
        self._telemetry = Telemetry(door.access, door.admission, self._snapshots, cluster)
        self._used = Used(door)
        self.live = Live(self._look, door)

    async def arrive(self, caller: Caller) -> "LocalTicket":
        """A request of a known client comes in. Raises Refused, by its client's limits."""
        await self.door.arrive(caller)
        assert caller.client is not None
        return LocalTicket(self, caller, caller.client)

    def take_up_changes(self) -> None:
        """Take up a changed file of tenants."""
        weights = self.door.look_for_changes()
        if weights is not None:
            for _, pool in pools_of(self.models):
                pool.books.set_weights(weights)

    async def tell(self, what: str, caller: Caller, *more: Any) -> Any:
        """See AnyDesk."""
        sees_all = caller.operator or self.door.access.public
        if what in TELLS:
            return await self.live.tell(what, None if sees_all else caller.client, *more)
        if what == "models":
            return list(self.models)
        if what == "rates":
            return self.door.rate_headers(caller)
        if what in TOLD.values():
            return await self._used.tell(what, caller, *more)
        if what == "tenants":
            return await self._telemetry.tenants(caller, self.door.tenants)
        if not sees_all:
            raise Refused(403, "operators_only", "This route is for operators.")
        if what == "upstreams":
            return upstreams(self.models)
        told = await self._telemetry.metrics(caller)
        return told + metrics(self.models) + self._gen_ai.text()

    def over(self, visit: Visit) -> None:
        """A request is over."""
        for listener in self._listeners:
            listener(visit)

    def keeps(self, keeper: Keeper) -> None:
        """From now on usage is kept."""
        self._used.keeper = keeper
        self._telemetry.usage = keeper.report

    async def close(self) -> None:
        """Let go of what it asks."""
        await self.live.stop()
        await self._telemetry.close()

    async def _look(self) -> dict[str, Any]:
        """All that a dashboard shows."""
        self.take_up_changes()
        seen = await self._telemetry.tenants(Caller(None, operator=True), self.door.tenants)
        return {**seen, "upstreams": shown(self.models)}

    async def _snapshots(self) -> list[dict[str, Any] | None]:
        return [self._snapshot(pool) for _, pool in pools_of(self.models)]

    def _snapshot(self, pool: Pool) -> dict[str, Any]:
        found = {"policy": self.policy, **pool.books.snapshot()}
        if self._shared is not None:
            found["cluster"] = self._shared.report(pool)
        return found


@dataclass(slots=True)
class _Place:
    """A request in its queue. lane: where it was sent last."""

    queue: Dispatcher
    request: Request
    wish: Wish
    lane: Lane | None = None

    @property
    def id(self) -> str:
        return str(self.request.id)


class LocalTicket:
    """A ticket of this process's desk."""

    def __init__(self, desk: Desk, caller: Caller, client: str) -> None:
        self._desk, self._caller, self._client = desk, caller, client
        self._door = desk.door
        self._until: float | None = None
        self._entered = False
        self._place: _Place | None = None
        self._so_far = 0  # output tokens
        self._output = 0  # those that are counted, against its client's limits
        self._counted = 0  # with those of its prompt
        self._came = time.monotonic()

    @property
    def rate_headers(self) -> Mapping[str, str]:
        """What is left of its client's limits."""
        return self._door.rate_headers(self._caller)

    # -- its turn ----------------------------------------------------------------------------

    async def turn(self, wish: Wish) -> str:
        """See Ticket."""
        queue = self._desk.models.get(wish.model)
        if self._place is None:
            if queue is None:
                message = f"The model {wish.model!r} is not served here."
                raise Refused(404, "model_not_found", message)
            self._until = self._patience(wish)
        else:
            queue = self._place.queue
        try:
            async with asyncio.timeout_at(self._until):
                return await self._turn(queue, wish)
        except TimeoutError:
            soon = Rejection("queue_timeout", queue.pool.expected_wait())
            message = "The request waited too long for its turn."
            raise Refused(504, "queue_timeout", message, soon) from None
        except NotQueued as error:
            raise _refused(error) from None

    async def _turn(self, queue: Dispatcher, wish: Wish) -> str:
        if self._place is None:
            await self._door.turns.enter(self._client)
            self._entered = True
            self._place = self._queued(queue, wish)
        elif self._place.lane is not None:
            self._place.lane = None
            queue.again(self._place.id)
        place = self._place
        place.lane = await queue.turn(place.id)
        if not self._counted:
            self._count(place.request.prompt_tokens)
        if not wish.stream:  # its tokens will not be seen before they are all there
            queue.pool.tokens(place.id, self._expected_output(wish))
        return place.lane.name

    def _queued(self, queue: Dispatcher, wish: Wish) -> _Place:
        guessed = self._desk.estimates.tokens(self._client, wish.model, wish.characters)
        prompt = wish.tokens + guessed
        request = Request(f"r{next(self._desk.ids)}", self._client, prompt, wish.most or None)
        expected = self._expected_output(wish)
        queue.arrive(
            request, expected, model=wish.model, session=wish.session, whole=not wish.stream
        )
        return _Place(queue, request, wish)

    def _expected_output(self, wish: Wish) -> int:
        return self._desk.estimates.output(self._client, wish.model, wish.most)

    def _patience(self, wish: Wish) -> float | None:
        """Until when it waits, by the loop's clock."""
        limits = self._door.limits_of(self._client)
        most = None if limits is None else limits.max_wait_s
        if not wish.stream:
            most = self._desk.max_wait_s if most is None else min(most, self._desk.max_wait_s)
        return None if most is None else asyncio.get_running_loop().time() + most

    # -- its answer --------------------------------------------------------------------------

    def flows(self) -> None:
        """Its answer begins; with a first token, if it is a stream."""
        if self._place is not None and self._place.wish.stream:
            self._door.admission.first_token(self._caller, self._door.clock())
        else:
            self._door.admission.served(self._caller)

    def tokens(self, so_far: int) -> None:
        """Its answer holds so many tokens so far."""
        place = self._sent()
        self._so_far = so_far
        place.queue.pool.tokens(place.id, so_far)
        more = so_far - self._output
        if more >= _TELLS_LIMITS:
            self._output = so_far
            self._count(more)

    def fails(self, failure: Failure) -> None:
        """The upstream whose turn it was did not take it."""
        place = self._sent()
        assert place.lane is not None
        if failure.unreachable:
            place.queue.unreachable(place.lane)
        if failure.retry_after_s is not None:
            place.queue.pool.turned_away(place.lane, failure.retry_after_s)

    def end(self, served: Served, visit: Visit) -> None:
        """It is over: what it was charged is settled by what the engine says."""
        visit.service = 0.0  # until it is known better
        try:
            if self._place is not None:
                if served.sent or self._place.lane is not None:
                    self._settle(self._place, served, visit)
                self._place.queue.end(self._place.id, served.outcome)
        finally:
            if self._entered:
                self._door.turns.leave(self._client)
            self._door.admission.served(self._caller)
            self._desk.over(visit)

    def lost(self) -> None:
        """Whoever served it is gone."""
        place = self._place
        visit = Visit("POST", "", began=self._came, client=self._client, code="worker_ended")
        visit.at -= time.monotonic() - self._came
        if place is not None:
            visit.model, visit.stream = place.wish.model, place.wish.stream
            visit.upstream = "" if place.lane is None else place.lane.name
        visit.end(finished=False)
        self.end(self.so_far(), visit)

    def so_far(self) -> Served:
        """What is known of it, where whoever served it is gone."""
        sent = self._place is not None and self._place.lane is not None
        whole = self._place is not None and not self._place.wish.stream
        return Served(sent=sent, output_tokens=None if whole else self._so_far)

    def _sent(self) -> _Place:
        assert self._place is not None, "its turn comes first"
        return self._place

    def _settle(self, place: _Place, served: Served, visit: Visit) -> None:
        worked = served.sent and not served.refused
        final = self._final(place, served) if worked else Usage()
        place.queue.pool.settle(place.id, final)
        told = (final.input, final.cached, final.output)
        visit.was_served(*told, place.queue.pool.books.price(*told))
        free = round(final.cached * (1 - self._desk.cached_part))  # of the cache's, by the prices
        self._count(final.input - free + final.output - self._counted)

    def _final(self, place: _Place, served: Served) -> Usage:
        """What the engine did; what it did not say is guessed."""
        wish, estimates = place.wish, self._desk.estimates
        told = served.usage or Usage()
        output = served.output_tokens
        if output is None:  # its client hung up before anything was to be seen
            output = place.queue.pool.likely(place.id)
            output = output if wish.most is None else min(output, wish.most)
        if served.outcome is Outcome.FINISHED:
            estimates.learn_output(self._client, wish.model, output)
        if not told.input:
            return Usage(place.request.prompt_tokens, 0, output)
        fresh = told.input - wish.tokens
        estimates.learn(self._client, wish.model, wish.characters, fresh)
        return Usage(told.input, min(told.cached, told.input), output)

    def _count(self, tokens: int) -> None:
        """Count tokens against its client's limits; a negative number gives them back."""
        self._counted += tokens
        rates, now = self._door.admission.rates, self._door.clock()
        if tokens > 0:
            rates.take_tokens(self._client, tokens, now)
        elif tokens < 0:
            rates.give_back_tokens(self._client, -tokens, now)


def _refused(error: NotQueued) -> Refused:
    if error.reason == "policy_error":
        return Refused(500, "policy_error", "The scheduling policy failed; see the gateway's log.")
    if error.reason == "no_upstream":
        return Refused(503, "no_upstream", "No upstream serves this model any more.")
    return Refused(
        429, "rate_limit_exceeded", "The scheduler turned the request away.",
        Rejection(error.reason, None),
    )  # fmt: skip
