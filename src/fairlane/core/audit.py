"""An auditor that says, while a server runs, how unequally it has served its clients so far.

It sees the events that a policy is fed (`policy.watch(auditor)`), keeps its own account of what
was delivered, and trusts no counter of the policy. What it measures is what the paper's theorem 4.4
is about: the largest difference in service per weight between two clients over an interval in
which both are backlogged, that is, have requests waiting. It answers with three numbers:

  observed  the largest difference that did occur, and between whom
  at most   no difference can have been larger
  bound     what VTC guarantees: 2U per weight, see `service_bound`

The maximum over all pairs takes a number for each pair. So up to 16 backlogged clients are compared
pair by pair, exactly; while more are backlogged, the others wait to be taken up, and `observed` may
miss what happens between them. `at most` covers everyone by one number each: all race, a client
that joins starts at the level of the least, or where it was if that is further. Over an interval
in which two run, their distance changes as their services differ, so no difference exceeds twice
the widest spread.

Of several queues, as of the replicas of a cluster, all service counts, and a client is backlogged
while it has requests waiting in every one of them: only then is it the scheduler's doing who is
served (see `Auditor.at`).

Service that was charged by an estimate counts as what it is settled to from then on; a difference
that was found in between stays in the report.

Cost: for each client served in an event O(log backlogged clients) amortised, and at most 16
comparisons; all backlogged clients are looked at when something is given back to the least.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace

from fairlane.core.cost import Cost, LinearCost
from fairlane.core.options import AT_LEAST_ONE, NOT_NEGATIVE, WEIGHTS, checked_weights
from fairlane.core.policy import Priced
from fairlane.core.types import Request, RequestId


@dataclass(frozen=True, slots=True)
class Audit:
    """Service differences per weight, in cost units. `bound` is None where none was given."""

    observed: float
    between: tuple[str, str] | None
    at_most: float
    bound: float | None

    def __str__(self) -> str:
        who = "" if self.between is None else f" between {' and '.join(self.between)}"
        bound = "" if self.bound is None else f", bound {self.bound:.6g}"
        return f"observed {self.observed:.6g}{who}, at most {self.at_most:.6g}{bound}"


def service_bound(
    memory_tokens: int,
    longest_prompt: int,
    cost: Cost | None = None,
    longest_output: int = 1,
    least_weight: float = 1.0,
) -> float:
    """2U of theorem 4.4, per weight, for any cost that grows ever faster with the output.

    U is what a client's counter may gain on the least one after it was admitted last: the price
    of a prompt, and of the output that fits in the rest of the memory. That is w_q M, the paper's
    max(w_p L_in, w_q M), unless an input token costs more than an output token; then it is
    w_q M + (w_p - w_q) L_in, and the paper's term would be too small.

    longest_output: matters only for costs whose later tokens cost more. Raises FairlaneError for
    lengths and a weight out of their range.
    """
    NOT_NEGATIVE.check("memory_tokens", memory_tokens)
    NOT_NEGATIVE.check("longest_prompt", longest_prompt)
    AT_LEAST_ONE.check("longest_output", longest_output)
    WEIGHTS.check("least_weight", least_weight)
    h: Cost = LinearCost() if cost is None else cost
    a_token = h.output(longest_prompt, 0, longest_output) / longest_output
    dearer = max(h.admission(n) - a_token * n for n in (0, longest_prompt))
    u = max(h.admission(longest_prompt), a_token * memory_tokens + max(0.0, dearer))
    return 2 * u / least_weight


class _Race:
    """Clients by a score that grows as their total service does; a heap finds the least."""

    __slots__ = ("heap", "starts")

    def __init__(self) -> None:
        self.starts: dict[str, float] = {}  # total less score
        self.heap: list[tuple[float, str]] = []  # lower bounds of scores, as totals mostly grow

    def join(self, client: str, start: float, score: float) -> None:
        """A client comes in at `score` when its total is `start` + `score`."""
        self.starts[client] = start
        heappush(self.heap, (score, client))
        if len(self.heap) > 2 * len(self.starts) + 64:
            lowest = {client: score for score, client in sorted(self.heap, reverse=True)}
            self.heap = [(lowest[client], client) for client in self.starts]
            heapify(self.heap)

    def least(self, totals: Mapping[str, float]) -> float | None:
        """The least score."""
        heap = self.heap
        while heap:
            bound, client = heap[0]
            start = self.starts.get(client)
            if start is None:
                heappop(heap)
                continue
            score = totals[client] - start
            if score <= bound:
                return score
            heapreplace(heap, (score, client))
        return None


class _Live(Priced):
    """What the auditor notes of a request."""

    __slots__ = ("client", "place")

    def __init__(self, request: Request, client: str, place: int) -> None:
        super().__init__(request)
        self.client = client
        self.place = place


class Auditor:
    """Follows the events of one policy; see the module.

    cost, weights: as the policy's. bound: see `service_bound`, or None.
    name_of: from a request's client to whom is audited, such as the client's organisation; by
        default the client itself.
    pairwise: how many backlogged clients are compared with each other.
    places: how many queues there are; ids of requests must differ between them.
    """

    def __init__(
        self,
        *,
        cost: Cost | None = None,
        weights: Mapping[str, float] | None = None,
        bound: float | None = None,
        name_of: Callable[[str], str] = str,
        pairwise: int = 16,
        places: int = 1,
    ) -> None:
        self._cost: Cost = LinearCost() if cost is None else cost
        self._weights = checked_weights(weights)
        if bound is not None:
            NOT_NEGATIVE.check("bound", bound)
        self._bound = bound
        self._name_of = name_of
        self._pairwise = pairwise
        self._places = places
        self._live: dict[RequestId, _Live] = {}
        self._requests: dict[str, int] = {}  # live ones, by client
        self._waiting: dict[str, dict[int, int]] = {}  # requests by client and place
        self._totals: dict[str, float] = {}  # service per weight
        self._race = _Race()  # of the backlogged clients
        self._left: dict[str, float] = {}  # starts of clients that are not backlogged
        self._most_left = 64  # when to look which of them can be forgotten
        self._least: dict[str, dict[str, float]] = {}  # of totals[f] - totals[g], by f and g
        self._unpaired: OrderedDict[str, None] = OrderedDict()  # backlogged, and not in _least
        self._observed = self._spread = 0.0
        self._between: tuple[str, str] | None = None

    def report(self) -> Audit:
        """What was found so far."""
        return Audit(self._observed, self._between, 2 * self._spread, self._bound)

    def spread(self) -> float:
        """How far the counters of backlogged clients are apart now. O(backlogged clients)."""
        scores = [self._totals[client] - start for client, start in self._race.starts.items()]
        return max(scores) - min(scores) if scores else 0.0

    def at(self, place: int) -> "AuditorAt":
        """What watches the policy of one of several queues, numbered from 0."""
        return AuditorAt(self, place)

    # -- events, named as the policy's -------------------------------------------------------

    def enqueue(self, request: Request, place: int = 0) -> None:
        """A request was accepted."""
        client = self._name_of(request.client)
        self._live[request.id] = _Live(request, client, place)
        self._requests[client] = self._requests.get(client, 0) + 1
        self._totals.setdefault(client, 0.0)
        self._wait(client, place)

    def admit(self, request_id: RequestId, *, cached_tokens: int = 0) -> None:
        """A waiting request was admitted."""
        live = self._live[request_id]
        live.running = True
        if live.admission is None:
            live.admission = self._cost.admission(live.request.prompt_tokens, cached_tokens)
            self._serve(live.client, live.admission)
            self._compare([live.client])
        self._wait_no_more(live.client, live.place)

    def record_tokens(self, tokens: Mapping[RequestId, int]) -> None:
        """Output tokens were delivered, all at the same moment."""
        touched: dict[str, float] = {}
        price = self._cost.per_output_token
        for request_id, count in tokens.items():
            live = self._live.get(request_id)
            if live is None:
                continue
            start = live.output
            live.output = stop = start + count
            if price is None:
                amount = self._cost.output(live.request.prompt_tokens, start, stop)
            else:
                amount = price * count
            touched[live.client] = touched.get(live.client, 0.0) + amount
        for client, amount in touched.items():
            self._serve(client, amount)
        self._compare(touched)

    def settle(
        self, request: Request, *, cached_tokens: int = 0, output_tokens: int | None = None
    ) -> None:
        """The true numbers of a live request became known. Unknown ids are passed over."""
        live = self._live.get(request.id)
        if live is not None:
            amount = live.settle(self._cost, request, cached_tokens, output_tokens)
            self._correct(live.client, amount)

    def requeue(self, request_id: RequestId, *, undo: bool = False) -> None:
        """A running request was put back; with `undo` as if it had not been admitted.

        A difference that was found in between stays in the report.
        """
        live = self._live[request_id]
        live.running = False
        if undo and not live.output and live.admission is not None:
            self._correct(live.client, -live.admission)
            live.admission = None
        self._wait(live.client, live.place)

    def finish(self, request_id: RequestId) -> None:
        """A request ended. Unknown ids are passed over."""
        live = self._live.pop(request_id, None)
        if live is None:
            return
        if not live.running:
            self._wait_no_more(live.client, live.place)
        self._requests[live.client] -= 1
        if not self._requests[live.client]:
            del self._requests[live.client]
            if live.client not in self._left:  # it never was backlogged
                del self._totals[live.client]
            self._forget()

    def set_weight(self, name: str, weight: float) -> None:
        """From now on service counts for `name` by this weight."""
        self._weights[name] = weight

    # -- service and comparison --------------------------------------------------------------

    def _serve(self, client: str, amount: float) -> None:
        self._totals[client] += amount / self._weights.get(client, 1.0)
        start = self._race.starts.get(client)
        if amount < 0 and start is not None:
            self._race.join(client, start, self._totals[client] - start)

    def _correct(self, client: str, amount: float) -> None:
        """Serve a client more, or take service back, which puts the others further ahead of it."""
        totals, before = self._totals, self._race.least(self._totals)
        self._serve(client, amount)
        self._compare([client])
        least = self._race.least(totals)
        if before is None or least is None or amount >= 0:
            return
        if least < before:
            furthest = max(totals[other] - start for other, start in self._race.starts.items())
            self._spread = max(self._spread, furthest - least)
        for other, row in self._least.items():
            if client in row:
                gap = totals[other] - totals[client] - row[client]
                if gap > self._observed:
                    self._observed, self._between = gap, (other, client)

    def _compare(self, served: Iterable[str]) -> None:
        """Look whether clients that were just served are now further ahead than any before."""
        least = self._race.least(self._totals)
        for client in served:
            start = self._race.starts.get(client)
            if start is not None and least is not None:
                self._spread = max(self._spread, self._totals[client] - start - least)
            if client in self._least:
                self._compare_pairs(client)

    def _compare_pairs(self, client: str) -> None:
        totals, all_least = self._totals, self._least
        mine, total = all_least[client], self._totals[client]
        for other, least in mine.items():
            gap = total - totals[other]
            if gap < least:
                mine[other] = gap
            elif gap - least > self._observed:
                self._observed, self._between = gap - least, (client, other)
            theirs = all_least[other]
            if -gap < theirs[client]:
                theirs[client] = -gap

    def _pair(self, client: str) -> None:
        """Compare a client with the others from now on."""
        total = self._totals[client]
        for other, row in self._least.items():
            row[client] = self._totals[other] - total
        self._least[client] = {other: total - self._totals[other] for other in self._least}

    def _unpair(self, client: str) -> None:
        del self._least[client]
        for row in self._least.values():
            del row[client]
        if self._unpaired:
            self._pair(self._unpaired.popitem(last=False)[0])

    # -- who is backlogged -------------------------------------------------------------------

    def _wait(self, client: str, place: int) -> None:
        waiting = self._waiting.setdefault(client, {})
        waiting[place] = waiting.get(place, 0) + 1
        if waiting[place] > 1 or len(waiting) < self._places:
            return
        total = self._totals[client]
        least = self._race.least(self._totals)
        score = total - self._left.pop(client, total)
        if least is not None:
            score = max(score, least)
            self._spread = max(self._spread, score - least)
        self._race.join(client, total - score, score)
        if len(self._least) < self._pairwise:
            self._pair(client)
        else:
            self._unpaired[client] = None

    def _wait_no_more(self, client: str, place: int) -> None:
        waiting = self._waiting[client]
        waiting[place] -= 1
        if waiting[place]:
            return
        was_backlogged = len(waiting) == self._places
        del waiting[place]
        if not waiting:
            del self._waiting[client]
        if not was_backlogged:
            return
        self._left[client] = self._race.starts.pop(client)
        if client in self._least:
            self._unpair(client)
        else:
            del self._unpaired[client]

    def _forget(self) -> None:
        """Clients without requests are kept only while they are ahead of the least."""
        if len(self._left) <= self._most_left:
            return
        least = self._race.least(self._totals)
        for client, start in list(self._left.items()):
            ahead = least is not None and self._totals[client] - start > least
            if client not in self._requests and not ahead:
                del self._left[client], self._totals[client]
        self._most_left = 64 + 2 * len(self._left)


class AuditorAt:
    """An auditor of several queues as the `Watcher` of one of them."""

    def __init__(self, auditor: Auditor, place: int) -> None:
        self._auditor = auditor
        self._place = place
        self.admit = auditor.admit
        self.record_tokens = auditor.record_tokens
        self.settle = auditor.settle
        self.requeue = auditor.requeue
        self.finish = auditor.finish
        self.set_weight = auditor.set_weight

    def enqueue(self, request: Request) -> None:
        """A request was accepted."""
        self._auditor.enqueue(request, self._place)
