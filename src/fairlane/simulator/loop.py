"""What the serving loops have in common: they are advanced from outside, in turn with arrivals.

A loop has a time `due` at which it goes on, and `advance` does what it does then. All requests
that reach it up to `due` must have been added before; later ones need not be known. So one loop
serves a workload that is known as a whole, as fast as it can (`run`), and requests that come while
it works, held against a real clock by whoever advances it (fairlane.simulated). Its times are the
same in both, to the last bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import NamedTuple, Protocol

from fairlane.core.types import Rejection
from fairlane.simulator.randomness import Randomness
from fairlane.simulator.serving import Times
from fairlane.workloads.trace import TracedRequest


class Listener(Protocol):
    """Is told what becomes of requests, by position. Times are the server's, in seconds.

    each_token: whether `token` is to be called for every token. Otherwise a loop may leave out
    those between a request's first and last, and skip ahead.
    """

    each_token: bool

    def accepted(self, position: int) -> None:
        """The request waits in the queue."""

    def rejected(self, position: int, rejection: Rejection) -> None:
        """The policy turned the request away."""

    def token(self, position: int, at: float, last: bool) -> None:
        """A token reaches the server's front door at `at`, which may lie after `due`."""


class Load(NamedTuple):
    """How loaded a server is.

    running, waiting: requests in the batch and in the queue, not those on their way to it.
    memory_used: part of the KV cache that running requests hold, 0 to 1. preemptions: how often one
    lost its memory and was put back, so far.
    """

    running: int
    waiting: int
    memory_used: float
    preemptions: int = 0


class Loop(ABC):
    """A serving loop. A request's position, a number of its own, is its id for the policy.

    requests: those that are neither finished nor rejected or aborted, by position.
    due: when the loop goes on; infinite while it waits for a request.
    by_step: whether it goes on after every step, so that others can look at it, or talk to its
        policy, in between. Otherwise it may do many steps at once, up to what it knows of.
    """

    requests: dict[int, TracedRequest]
    by_step: bool

    def __init__(
        self, requests: Iterable[TracedRequest], randomness: Randomness, listener: Listener | None
    ) -> None:
        """requests: known from the start. listener: without one, `run` answers with times."""
        self.requests = dict(enumerate(requests))
        count = len(self.requests)
        self.times = Times([None] * count, [None] * count)
        self.listener = self.times if listener is None else listener
        self.by_step = self.listener.each_token
        self.randomness = randomness
        delays = randomness.delays(count)
        self.inbox = [(r.arrival_s + delays[i], i) for i, r in self.requests.items()]
        heapify(self.inbox)

    def run(self) -> Times:
        """Serves all requests. Raises FairlaneError where a policy admits nobody for ever."""
        while self.requests:
            self.advance()
        return self.times

    def add(self, position: int, request: TracedRequest, delay_s: float | None = None) -> None:
        """A request comes; its arrival_s may not lie before a time up to which the loop is done.

        delay_s: how long it takes to get here; drawn where it is not given.
        """
        self.requests[position] = request
        if delay_s is None:
            (delay_s,) = self.randomness.delays(1)
        heappush(self.inbox, (request.arrival_s + delay_s, position))

    def abort(self, position: int) -> None:
        """A request's client is gone: what it held is free at once. Others are passed over."""
        request = self.requests.pop(position, None)
        if request is not None:
            self._abort(position, request)

    def report(self) -> None:
        """Tell the policy of all tokens so far; a loop may do so later than they are delivered."""
        return

    def _next_arrival(self, horizon: float) -> int | None:
        """Take the next request that arrived until `horizon`, if there is one."""
        while self.inbox and self.inbox[0][0] <= horizon:
            position = heappop(self.inbox)[1]
            if position in self.requests:  # else its client left while it was on its way
                return position
        return None

    @property
    @abstractmethod
    def due(self) -> float:
        """When the loop goes on."""

    @abstractmethod
    def advance(self) -> None:
        """Do what is due. Raises FairlaneError where a policy admits nobody for ever."""

    @abstractmethod
    def _abort(self, position: int, request: TracedRequest) -> None:
        """Forget a request, wherever it is."""

    @abstractmethod
    def load(self) -> Load:
        """How loaded the server is."""
