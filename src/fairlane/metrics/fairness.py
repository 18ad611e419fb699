"""How unequal the service of clients is: accumulated and per-window differences."""

import numpy as np

from fairlane.metrics.service import LINEAR, WINDOW_S, accumulated, demand, service
from fairlane.metrics.table import CostFunction, Floats, Table


def accumulated_difference(
    table: Table, x: Floats, *, cost: CostFunction = LINEAR, begin: float = 0.0, skip: float = 0.0
) -> Floats:
    """Largest difference between two clients' service in [begin, begin + x], in cost units: (m,).

    `skip` leaves out the requests that end before it. What theorem 4.4 of the paper bounds, but
    over all clients: one that asks for little receives little without being treated unfairly.
    """
    if not table.clients:
        return np.zeros(len(x))
    received = accumulated(table, x, cost=cost, begin=begin, skip=skip)
    spread: Floats = received.max(axis=1) - received.min(axis=1)
    return spread


def largest_difference(
    table: Table, x: Floats, *, cost: CostFunction = LINEAR, window: float = WINDOW_S
) -> Floats:
    """The worst-off client's lack of service around x, in cost per second: (m,).

    A client lacks what it is behind the best-served one, but no more than it asked for and did
    not get.
    """
    lack, unserved = _lacks(table, x, cost, window)
    worst: Floats = np.minimum(lack, unserved).max(axis=1)
    return worst


def summed_difference(
    table: Table, x: Floats, *, cost: CostFunction = LINEAR, window: float = WINDOW_S
) -> Floats:
    """All clients' lack of service around x, in cost per second: (m,).

    As in the paper's revision: what was asked and what was served count by their distance, so a
    client that is served more than it just asked for (its backlog) adds to the sum. Requests are
    priced by `cost` where they are served and linearly where they are asked for.
    """
    lack, unserved = _lacks(table, x, cost, window)
    total: Floats = np.minimum(lack, np.abs(unserved)).sum(axis=1)
    return total


def _lacks(table: Table, x: Floats, cost: CostFunction, window: float) -> tuple[Floats, Floats]:
    """(behind the best served, asked and not served), each (m, clients)."""
    served = service(table, x, cost=cost, window=window)
    best = served.max(axis=1, keepdims=True, initial=0.0)
    return best - served, demand(table, x, window=window) - served
