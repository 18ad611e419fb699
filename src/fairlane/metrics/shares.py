"""Each client's share of the service while it waited, and the share it was entitled to.

A request waits from its arrival to its first token, and a client while any of its requests does;
in the paper's terms it is backlogged then (section 4). The server's capacity does not enter: both
shares are parts of the service that was delivered, to anyone, during the client's waits.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fairlane.metrics.service import LINEAR
from fairlane.metrics.table import CostFunction, Floats, Table


class Share(NamedTuple):
    """Parts of the service delivered while a client waited; NaN where none was.

    received: what went to the client. entitled: the client's weight over that of all who waited,
    averaged over the service. Over long waits a fair scheduler gives at least `entitled`, and more
    where others ask for less than theirs; a client that waits only for moments can fall below it.
    """

    received: float
    entitled: float


def shares_while_waiting(
    table: Table, *, cost: CostFunction = LINEAR, weights: Mapping[str, float] | None = None
) -> dict[str, Share]:
    """The share of every client; `weights` are 1 for clients that it does not name."""
    worth = np.where(table.delivered, cost(table.prompt, table.output), 0.0)
    rows = [table.client == c for c in range(len(table.clients))]
    weight = [(weights or {}).get(name, 1.0) for name in table.clients]
    waits = [waiting_intervals(table, of_client) for of_client in rows]

    instants = np.unique((table.arrival, table.start, table.end))
    total = delivered_until(instants, table.start, table.end, worth)
    waiting_weight = _waiting_weight(instants, waits, weight)
    per_weight = np.zeros_like(total)  # service until each instant, per unit of waiting weight
    someone = waiting_weight > 0
    per_weight[1:][someone] = np.diff(total)[someone] / waiting_weight[someone]
    per_weight = np.cumsum(per_weight)

    shares = {}
    for c, name in enumerate(table.clients):
        of_client = rows[c]
        start, end = table.start[of_client], table.end[of_client]
        own_instants = np.unique((table.arrival[of_client], start, end))
        own = delivered_until(own_instants, start, end, worth[of_client])
        offered = _during(waits[c], instants, total)
        received = _during(waits[c], own_instants, own)
        entitled = weight[c] * _during(waits[c], instants, per_weight)
        shares[name] = Share(received / offered, entitled / offered) if offered else _NONE
    return shares


_NONE = Share(np.nan, np.nan)


def waiting_intervals(table: Table, rows: np.ndarray) -> tuple[Floats, Floats]:
    """(begins, ends) of the disjoint intervals in which these requests wait."""
    order = np.argsort(table.arrival[rows], kind="stable")
    arrival = table.arrival[rows][order]
    until = np.maximum.accumulate(table.start[rows][order])
    gap = arrival[1:] > until[:-1]
    return arrival[np.append(True, gap)], until[np.append(gap, True)]


def delivered_until(instants: Floats, start: Floats, end: Floats, worth: Floats) -> Floats:
    """The worth delivered until each instant, which include all starts and ends."""
    begin, stop = np.searchsorted(instants, start), np.searchsorted(instants, end)
    at_once = begin == stop
    rate = np.where(at_once, 0.0, worth) / np.where(at_once, 1.0, end - start)
    n = len(instants)
    rates = np.cumsum(np.bincount(begin, rate, n) - np.bincount(stop, rate, n))[:-1]
    served = np.cumsum(np.bincount(begin, minlength=n) - np.bincount(stop, minlength=n))[:-1]
    rates[served == 0] = 0.0  # no rest of rounding where nothing is served
    steps: Floats = np.zeros(n)
    np.add.at(steps, begin, np.where(at_once, worth, 0.0))
    steps[1:] += rates * np.diff(instants)
    until: Floats = np.cumsum(steps)
    return until


def _waiting_weight(
    instants: Floats, waits: list[tuple[Floats, Floats]], weight: list[float]
) -> Floats:
    """The weight of the clients that wait in each interval between two instants."""
    change = np.zeros((2, len(instants)))  # of the weight, and of the number of clients
    for (begins, ends), w in zip(waits, weight, strict=True):
        for times, sign in ((begins, 1), (ends, -1)):
            at = np.searchsorted(instants, times)
            np.add.at(change[0], at, sign * w)
            np.add.at(change[1], at, sign)
    total, count = np.cumsum(change, axis=1)[:, :-1]
    clear: Floats = np.where(count > 0.5, total, 0.0)  # no rest of rounding where none waits
    return clear


def _during(wait: tuple[Floats, Floats], instants: Floats, until: Floats) -> float:
    """How much a quantity known `until` each instant grew during the wait."""
    begins, ends = (until[np.searchsorted(instants, times)] for times in wait)
    return float((ends - begins).sum())
