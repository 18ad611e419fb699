"""A scheduler that shares with others: with which limits it begins, and what is told of it.

For any host that keeps Books; what is exchanged, and how, is fairlane.cluster. Limits that are not
configured follow from what a scheduler may be ahead for reasons of its own: U, half of what
theorem 4.4 allows (core/audit.py), and from how many schedulers there are.

Servers also tell each other what their clients get (`tell`), so that each can show all (`told`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fairlane.cluster.config import Cluster
from fairlane.cluster.levels import finite
from fairlane.door.books import Books

_DEBT_IN_U = 1.5  # U of all schedulers together; less than 1 + 2 A is forgiven again and again
_CREDIT_IN_U = 0.25  # U of this scheduler
_SLACK_IN_U = 0.02


class Sharing:
    """What one scheduler keeps for it, around its books.

    unit: U of this scheduler, in service (of the weight 1); 0 where nothing is known of it yet, and
    then there is no limit to debts. weights: of clients and groups, as they
    are at any time. Raises FairlaneError for a policy that cannot share, or has begun to serve.

    Schedulers before the same upstreams have one queue (core/one_queue.py): no debt is forgotten
    there, and nothing guarded.
    """

    def __init__(
        self, books: Books, cluster: Cluster, unit: float, weights: Mapping[str, float]
    ) -> None:
        self._books = books
        self._cluster = cluster
        self._unit = unit
        self._weights = weights
        self._members = 1
        self._heard = 0.0
        guard = 0.0 if cluster.same_upstreams else cluster.guard
        books.share(self._max_debt, guard=guard, most_credit=self._most_credit)

    @property
    def has_heard(self) -> bool:
        """Whether others charged anything: only then is it not as if it stood alone."""
        return self._heard > 0

    def swap(self, heard: Mapping[str, float], members: int) -> dict[str, float]:
        """Hear what others charged, by client; what was charged here since the last time.

        members: how many schedulers share, this one included.
        """
        if members != self._members:
            self._members = members
            self.limits_changed()
        self._heard += sum(service for service in heard.values() if service > 0)
        return self._books.swap(heard)

    def set_unit(self, unit: float) -> None:
        """U of this scheduler is another than before."""
        self._unit = unit
        self.limits_changed()

    def limits_changed(self) -> None:
        """There are other weights, or more or fewer schedulers."""
        self._books.set_max_debt(self._max_debt, self._most_credit)

    def report(self, stale: float) -> dict[str, Any]:
        """For telemetry. stale: the most service that others charged between two exchanges.

        `bound`: how far apart, in service per weight over all schedulers, two clients get that wait
        at each of them. It is proved where no others wait and nothing is guarded; with n clients
        `max_debt` counts n - 1 times (docs/guarantees.md, B1).
        """
        debt, weight = self._max_debt, self._least_weight
        told = {"schedulers": self._members, "heard": self._heard, "stale": stale}
        if debt is None:
            return told
        bound = debt + (self._members * self._unit + 2 * stale) / weight
        return {**told, "max_debt": debt, "bound": bound}

    def slack(self, price: float) -> float:
        """By how much service a client may be further than who waits elsewhere, to be next.

        For schedulers that are one queue. price: of a usual request; with less, who is as good as
        next would be held up.
        """
        return max(_SLACK_IN_U * self._unit, price)

    @property
    def _max_debt(self) -> float | None:
        if self._cluster.same_upstreams:
            return None
        if self._cluster.max_debt is not None:
            return self._cluster.max_debt
        if not self._unit:
            return None
        return _DEBT_IN_U * self._members * self._unit / self._least_weight

    @property
    def _most_credit(self) -> float:
        return _CREDIT_IN_U * self._unit

    @property
    def _least_weight(self) -> float:
        return min([1.0, *self._weights.values()])


def where(cluster: Cluster) -> str:
    """With whom it shares, for a log: the pool, and its hub without a password."""
    parts = urlsplit(cluster.hub or "")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    address = f"{parts.scheme}://{host}:{parts.port or 6379}" if host else cluster.hub
    return f"pool {cluster.pool} at {address} every {cluster.every_s:g} s"


# -- what servers tell each other -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """What one server said of itself: its name, when it started, its clients' totals."""

    server: str
    started: float
    clients: dict[str, dict[str, float]]


def tell(server: str, started: float, schedulers: Sequence[Mapping[str, Any]], **more: Any) -> str:
    """What a server says of itself. started: seconds of the wall clock. schedulers: Books.part.

    more: what its kind of servers alone understands, ready for JSON.
    """
    clients: dict[str, dict[str, float]] = {}
    for part in schedulers:
        for client, row in part.items():
            total = clients.setdefault(client, {})
            for name, value in row.items():
                total[name] = total.get(name, 0.0) + value
    return json.dumps({"server": server, "started": started, "clients": clients, **more})


def told(posts: Mapping[str, str]) -> dict[str, dict[str, dict[str, float]]]:
    """The clients' totals by server and client, of the last start of each; what is none is skipped.

    A server that was restarted may have left a word from before.
    """
    parts = [part for part in map(_part, posts.values()) if part is not None]
    parts.sort(key=lambda part: part.started)
    return {part.server: part.clients for part in parts}


def _part(text: str) -> Part | None:
    try:
        found = json.loads(text)
        clients = {
            str(client): {str(name): finite(value) for name, value in row.items()}
            for client, row in found["clients"].items()
        }
        return Part(str(found["server"]), finite(found["started"]), clients)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return None
