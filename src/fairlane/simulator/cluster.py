"""Many serving loops as one cluster, in time order: routed requests, or one queue before all.

Every replica is a `Loop` that is advanced when it is due. A request is routed when it arrives and
reaches its replica a little later, as it reaches a single server. In between, the replicas tell
each other in turn what they charged (exchange.py). A cluster of one replica gives the times of
`simulate`, to the last bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import Any

from fairlane.core.policy import Policy
from fairlane.core.types import Rejection, RequestId
from fairlane.simulator.central import CentralQueue, Offers
from fairlane.simulator.exchange import Exchange
from fairlane.simulator.loop import Loop
from fairlane.simulator.routers import Reach, Router
from fairlane.simulator.serving import AnyServer, ServerConfig, Times
from fairlane.workloads.trace import TracedRequest


class Cluster(ABC):
    """One run. It hears of all replicas as their `Listener`.

    policies: of the replicas. loops: over these policies, without requests, to be set before `run`.
    times, placed: by position of the request; placed is the replica that serves it, or -1.
    """

    each_token = False

    def __init__(self, requests: Sequence[TracedRequest], policies: Sequence[Policy[Any]]) -> None:
        """requests: in arrival order."""
        self.requests = requests
        self.policies = policies
        self.loops: list[Loop] = []
        self.times = Times([None] * len(requests), [None] * len(requests))
        self.placed = [-1] * len(requests)
        self._left = len(requests)
        self._turn_at = inf
        self._heap: list[tuple[float, int]] = []  # (due, replica), some of them out of date

    def run(self) -> None:
        """Serve all requests. Raises FairlaneError where a policy admits nobody for ever."""
        for loop in self.loops:
            loop.by_step = True
        delays = self.loops[0].randomness.delays(len(self.requests))
        self._heap = [(loop.due, r) for r, loop in enumerate(self.loops)] + [(inf, -1)]
        heapify(self._heap)
        position = 0
        arrival = self._arrival(position)
        while self._left:
            due = self._heap[0][0]
            if arrival <= due and arrival <= self._turn_at:
                self._arrive(position, delays[position])
                position += 1
                arrival = self._arrival(position)
            elif self._turn_at <= due:
                self._take_turn()
            else:
                self._advance()

    def _arrival(self, position: int) -> float:
        return self.requests[position].arrival_s if position < len(self.requests) else inf

    def _advance(self) -> None:
        """Let the replica that is due go on."""
        due, replica = self._heap[0]
        loop = self.loops[replica]
        if due != loop.due:
            heappop(self._heap)
            return
        loop.advance()
        self._advanced(replica)
        heapreplace(self._heap, (loop.due, replica))

    def _send(self, replica: int, position: int, delay_s: float) -> None:
        """A request is on its way to a replica."""
        loop = self.loops[replica]
        before = loop.due
        loop.add(position, self.requests[position], delay_s)
        if loop.due != before:
            heappush(self._heap, (loop.due, replica))

    def server(self, config: AnyServer) -> AnyServer:
        """What each replica is, where it alone would be `config`."""
        return config

    # -- what the loops tell -----------------------------------------------------------------

    def accepted(self, position: int) -> None:
        """As of `Listener`; that it is on its way is enough to know."""
        return

    def rejected(self, position: int, rejection: Rejection) -> None:
        """As of `Listener`; of a request that was offered to several once from each."""
        if position not in self.times.rejection:
            self.times.rejected(position, rejection)
            self._ended(position)

    def token(self, position: int, at: float, last: bool) -> None:
        """As of `Listener`."""
        self.times.token(position, at, last)
        if last:
            self._ended(position)

    def _ended(self, position: int) -> None:
        self._left -= 1

    # -- what kinds of clusters differ in ----------------------------------------------------

    @abstractmethod
    def _arrive(self, position: int, delay_s: float) -> None:
        """A request arrives, and reaches whom it is sent to after the delay."""

    def _advanced(self, replica: int) -> None:
        """A replica went on."""
        return

    def _take_turn(self) -> None:
        """It is `_turn_at`, and sets the next."""
        raise NotImplementedError


class RoutedCluster(Cluster):
    """Every replica has a policy and a queue of its own."""

    def __init__(
        self,
        requests: Sequence[TracedRequest],
        policies: Sequence[Policy[Any]],
        router: Router,
        reach: Reach,
        exchange: Exchange | None,
    ) -> None:
        """exchange: between these policies; None where they are independent."""
        super().__init__(requests, policies)
        self._router = router
        self._reach = reach
        self.exchange = exchange
        self._turns = 0  # so far
        self._tokens = [0] * len(policies)  # under way at each replica
        if exchange is not None and exchange.every_s:
            self._turn_at = exchange.every_s / len(policies)

    def _arrive(self, position: int, delay_s: float) -> None:
        request = self.requests[position]
        replica = self._router(request, self._reach.of(request.client), self._tokens)
        self.placed[position] = replica
        self._tokens[replica] += request.prompt_len + request.output_len
        if self.exchange is not None:
            self.exchange.comes(replica, request.client)
        self._send(replica, position, delay_s)

    def _ended(self, position: int) -> None:
        super()._ended(position)
        request, replica = self.requests[position], self.placed[position]
        self._tokens[replica] -= request.prompt_len + request.output_len
        if self.exchange is not None:
            self.exchange.ends(replica, request.client)

    def _advanced(self, replica: int) -> None:
        if self.exchange is not None and not self.exchange.every_s:
            self.loops[replica].report()
            self.exchange.at_once(replica)

    def _take_turn(self) -> None:
        assert self.exchange is not None, "without an exchange there are no turns"
        replica = self._turns % len(self.loops)
        if replica in self.exchange.busy:
            self.loops[replica].report()
        self.exchange.turn(replica)
        self._turns += 1
        self._turn_at = (self._turns + 1) * self.exchange.every_s / len(self.loops)


class CentralCluster(Cluster):
    """One policy and one queue before all replicas, which take from it what fits."""

    def __init__(
        self, requests: Sequence[TracedRequest], policy: Policy[Any], replicas: int
    ) -> None:
        queue = CentralQueue(policy, self._taken)
        super().__init__(requests, [Offers(queue, replica) for replica in range(replicas)])

    def server(self, config: AnyServer) -> AnyServer:
        """As of `Cluster`: a queue before all is not read by a replica, a few messages a step."""
        return (
            replace(config, messages_per_turn=inf) if isinstance(config, ServerConfig) else config
        )

    def _arrive(self, position: int, delay_s: float) -> None:
        for replica in range(len(self.loops)):
            self._send(replica, position, delay_s)

    def _taken(self, replica: int, request_id: RequestId) -> None:
        assert isinstance(request_id, int), "the loops' ids are positions"
        self.placed[request_id] = replica
        for other, loop in enumerate(self.loops):
            if other != replica:
                loop.abort(request_id)
