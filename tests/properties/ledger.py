"""A watcher that writes down everything, and the paper's theorems as questions to it."""

from collections.abc import Iterator, Mapping
from itertools import permutations

from fairlane.core.cost import Cost, LinearCost
from fairlane.core.types import Request, RequestId


class Ledger:
    """Service per weight and who is backlogged, after every event."""

    def __init__(
        self, cost: Cost | None = None, weights: Mapping[str, float] | None = None
    ) -> None:
        self.cost = cost or LinearCost()
        self.weights = dict(weights or {})
        self.requests: dict[RequestId, Request] = {}
        self.output: dict[RequestId, int] = {}
        self.paid: dict[RequestId, float] = {}  # for the prompt
        self.waiting: dict[str, int] = {}
        self.running: dict[str, int] = {}
        self.most_running = 0  # requests at once, of all clients
        self.service: dict[str, float] = {}
        self.asked: dict[str, float] = {}  # service asked for, delivered or not
        self.pages: list[tuple[dict[str, float], frozenset[str], dict[str, float]]] = []
        self.arrivals: dict[RequestId, int] = {}  # of requests of clients with nothing else
        self.latencies: list[tuple[str, int, int]] = []  # client, page of arrival, of dispatch

    # -- events ------------------------------------------------------------------------------

    def enqueue(self, request: Request) -> None:
        client = request.client
        self.requests[request.id] = request
        self.output[request.id] = 0
        self.service.setdefault(client, 0.0)
        assert request.max_output_tokens is not None
        price = self.cost.admission(request.prompt_tokens)
        price += self.cost.output(request.prompt_tokens, 0, request.max_output_tokens)
        self.asked[client] = self.asked.get(client, 0.0) + price / self.weight(client)
        if not self.waiting.get(client) and not self.running.get(client):
            self.arrivals[request.id] = len(self.pages)
        self.waiting[client] = self.waiting.get(client, 0) + 1
        self.write()

    def admit(self, request_id: RequestId, *, cached_tokens: int) -> None:
        request = self.requests[request_id]
        if request_id in self.arrivals:
            page = self.arrivals.pop(request_id)
            self.latencies.append((request.client, page, len(self.pages) - 1))
        if request_id not in self.paid:
            price = self.cost.admission(request.prompt_tokens, cached_tokens)
            self.paid[request_id] = price
            self.service[request.client] += price / self.weight(request.client)
        self.write()
        self.waiting[request.client] -= 1
        self.running[request.client] = self.running.get(request.client, 0) + 1
        self.most_running = max(self.most_running, sum(self.running.values()))

    def record_tokens(self, tokens: Mapping[RequestId, int]) -> None:
        for request_id, count in tokens.items():
            request, start = self.requests[request_id], self.output[request_id]
            self.output[request_id] += count
            price = self.cost.output(request.prompt_tokens, start, start + count)
            self.service[request.client] += price / self.weight(request.client)
        self.write()

    def settle(self, request: Request, *, cached_tokens: int, output_tokens: int | None) -> None:
        before = self.price(request.id)
        self.requests[request.id] = request
        if request.id in self.paid:
            self.paid[request.id] = self.cost.admission(request.prompt_tokens, cached_tokens)
        if output_tokens is not None:
            self.output[request.id] = output_tokens
        change = self.price(request.id) - before
        self.service[request.client] += change / self.weight(request.client)
        self.write()

    def price(self, request_id: RequestId) -> float:
        """Of what was delivered of a request."""
        prompt, output = self.requests[request_id].prompt_tokens, self.output[request_id]
        return self.paid.get(request_id, 0.0) + self.cost.output(prompt, 0, output)

    def requeue(self, request_id: RequestId, *, undo: bool) -> None:
        client = self.requests[request_id].client
        self.waiting[client] += 1
        self.running[client] -= 1
        self.write()

    def finish(self, request_id: RequestId) -> None:
        self.running[self.requests[request_id].client] -= 1

    def set_weight(self, name: str, weight: float) -> None:
        raise NotImplementedError

    def weight(self, client: str) -> float:
        return self.weights.get(client, 1.0)

    def write(self) -> None:
        backlogged = frozenset(client for client, count in self.waiting.items() if count)
        self.pages.append((dict(self.service), backlogged, dict(self.asked)))

    # -- questions ---------------------------------------------------------------------------

    def largest_difference(self, *clients: str) -> float:
        """Theorem 4.4: max W_f - W_g over intervals in which both are backlogged, of any two."""
        pairs = permutations(clients or self.service, 2)
        return max((self._widest(f, g, {f, g}) for f, g in pairs), default=0.0)

    def largest_lag(self) -> float:
        """Theorem 4.9: max W_g - W_f over intervals in which f is backlogged, and any g."""
        pairs = permutations(self.service, 2)
        return max((self._widest(g, f, {f}) for f, g in pairs), default=0.0)

    def latest_dispatch(self) -> float:
        """Theorem 4.11: most service of others, by weight, until an idle client's first request."""
        worst = 0.0
        for client, arrival, dispatch in self.latencies:
            before, after = self.pages[arrival][0], self.pages[dispatch][0]
            others = sum(
                (after[c] - before.get(c, 0.0)) * self.weight(c) for c in after if c != client
            )
            worst = max(worst, others)
        return worst

    def largest_refusal(self) -> float:
        """Theorem 4.13: max T/n less what f asked for, over beginnings of backlogged intervals."""
        worst = 0.0
        for client in self.service:
            for begin, end in self._spans({client}):
                start, _, asked = self.pages[begin]
                for service, _, asked_now in self.pages[begin:end]:
                    total = sum(service[c] - start.get(c, 0.0) for c in service)
                    # what waits or runs at the beginning was asked for, too
                    mine = asked_now[client] - min(asked[client], start[client])
                    worst = max(worst, total / len(self.service) - mine)
        return worst

    def _widest(self, ahead: str, behind: str, backlogged: set[str]) -> float:
        widest = 0.0
        for begin, end in self._spans(backlogged):
            least = float("inf")
            for service, _, _ in self.pages[begin:end]:
                gap = service.get(ahead, 0.0) - service.get(behind, 0.0)
                least = min(least, gap)
                widest = max(widest, gap - least)
        return widest

    def _spans(self, clients: set[str]) -> Iterator[tuple[int, int]]:
        """The longest runs of pages on which all of `clients` are backlogged."""
        begin = None
        for number, (_, backlogged, _) in enumerate(self.pages):
            if clients <= backlogged:
                begin = number if begin is None else begin
            elif begin is not None:
                yield begin, number
                begin = None
        if begin is not None:
            yield begin, len(self.pages)
