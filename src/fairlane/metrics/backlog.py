"""What theorem 4.4 of the paper bounds: two clients' service over any time that both wait."""

from itertools import combinations

import numpy as np

from fairlane.metrics.service import LINEAR
from fairlane.metrics.shares import delivered_until, waiting_intervals
from fairlane.metrics.table import CostFunction, Floats, Table


def backlogged_difference(table: Table, *, cost: CostFunction = LINEAR) -> float:
    """Largest difference in service between two clients over any interval in which both wait.

    In cost units; 0 where no two clients ever wait at once. VTC keeps it below
    2 max(w_p L_in, w_q M) for prompts up to L_in and a memory of M tokens, however long they wait.
    """
    worth = np.where(table.delivered, cost(table.prompt, table.output), 0.0)
    instants = np.unique((table.arrival, table.start, table.end))
    waits, served = [], []
    for c in range(len(table.clients)):
        own = table.client == c
        waits.append(waiting_intervals(table, own))
        served.append(delivered_until(instants, table.start[own], table.end[own], worth[own]))
    largest = 0.0
    for f, g in combinations(range(len(table.clients)), 2):
        ahead = served[f] - served[g]
        for begin, end in _overlaps(waits[f], waits[g]):
            while_both = ahead[
                np.searchsorted(instants, begin) : np.searchsorted(instants, end) + 1
            ]
            largest = max(largest, float(np.ptp(while_both)))
    return largest


def _overlaps(
    first: tuple[Floats, Floats], second: tuple[Floats, Floats]
) -> list[tuple[float, float]]:
    """The intervals in which both of two lists of disjoint intervals hold."""
    begins = np.maximum.outer(first[0], second[0])
    ends = np.minimum.outer(first[1], second[1])
    both = begins < ends
    return list(zip(begins[both].tolist(), ends[both].tolist(), strict=True))
