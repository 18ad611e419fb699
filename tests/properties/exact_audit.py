"""What the auditor is held against: every pair of clients, every interval, one number a pair."""

from collections.abc import Iterable, Mapping
from itertools import permutations

from fairlane.core.cost import Cost, LinearCost
from fairlane.core.types import Request, RequestId


class ExactAuditor:
    """Watches a policy and compares all backlogged pairs after each event: O(n^2) each.

    For a pair that is backlogged together, the largest difference over any interval so far is the
    current difference less the least one since both are backlogged.
    """

    def __init__(
        self, cost: Cost | None = None, weights: Mapping[str, float] | None = None
    ) -> None:
        self.cost = cost or LinearCost()
        self.weights = dict(weights or {})
        self.requests: dict[RequestId, Request] = {}
        self.output: dict[RequestId, int] = {}
        self.paid: dict[RequestId, float] = {}
        self.waiting: dict[str, set[RequestId]] = {}
        self.service: dict[str, float] = {}  # per weight
        self.least: dict[tuple[str, str], float] = {}
        self.largest: dict[tuple[str, str], float] = {}

    @property
    def observed(self) -> float:
        """The largest difference of any pair over any interval."""
        return max(self.largest.values(), default=0.0)

    def enqueue(self, request: Request) -> None:
        self.requests[request.id] = request
        self.output[request.id] = 0
        self.service.setdefault(request.client, 0.0)
        self.wait(request)

    def admit(self, request_id: RequestId, *, cached_tokens: int) -> None:
        request = self.requests[request_id]
        if request_id not in self.paid:
            self.paid[request_id] = self.cost.admission(request.prompt_tokens, cached_tokens)
            self.serve({request_id: self.paid[request_id]})
        self.leave(request)

    def record_tokens(self, tokens: Mapping[RequestId, int]) -> None:
        prices: dict[RequestId, float] = {}
        for request_id, count in tokens.items():
            if request_id in self.requests:
                start = self.output[request_id]
                self.output[request_id] += count
                prompt = self.requests[request_id].prompt_tokens
                prices[request_id] = self.cost.output(prompt, start, start + count)
        self.serve(prices)

    def settle(self, request: Request, *, cached_tokens: int, output_tokens: int | None) -> None:
        prompt, output = self.requests[request.id].prompt_tokens, self.output[request.id]
        before = self.paid.get(request.id, 0.0) + self.cost.output(prompt, 0, output)
        self.requests[request.id] = request
        if request.id in self.paid:
            self.paid[request.id] = self.cost.admission(request.prompt_tokens, cached_tokens)
        if output_tokens is not None:
            self.output[request.id] = output = output_tokens
        price = self.cost.output(request.prompt_tokens, 0, output)
        self.serve({request.id: self.paid.get(request.id, 0.0) + price - before})

    def requeue(self, request_id: RequestId, *, undo: bool) -> None:
        if undo and not self.output[request_id]:
            self.serve({request_id: -self.paid.pop(request_id)})
        self.wait(self.requests[request_id])

    def finish(self, request_id: RequestId) -> None:
        request = self.requests.pop(request_id)
        if request_id in self.waiting.get(request.client, ()):
            self.leave(request)

    def set_weight(self, name: str, weight: float) -> None:
        self.weights[name] = weight

    def serve(self, prices: Mapping[RequestId, float]) -> None:
        for request_id, price in prices.items():
            client = self.requests[request_id].client
            self.service[client] += price / self.weights.get(client, 1.0)
        for pair in self.pairs(self.waiting):
            gap = self.service[pair[0]] - self.service[pair[1]]
            self.least[pair] = min(self.least[pair], gap)
            self.largest[pair] = max(self.largest.get(pair, 0.0), gap - self.least[pair])

    def wait(self, request: Request) -> None:
        joins = request.client not in self.waiting
        self.waiting.setdefault(request.client, set()).add(request.id)
        if joins:
            for pair in self.pairs(self.waiting):
                if request.client in pair:
                    self.least[pair] = self.service[pair[0]] - self.service[pair[1]]

    def leave(self, request: Request) -> None:
        self.waiting[request.client].remove(request.id)
        if not self.waiting[request.client]:
            del self.waiting[request.client]

    @staticmethod
    def pairs(clients: Iterable[str]) -> Iterable[tuple[str, str]]:
        return permutations(clients, 2)
