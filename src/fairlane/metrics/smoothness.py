"""How evenly service is shared over short times, and who makes up the running batch.

Over a minute VTC is fair whatever happens within it. But output is charged as it comes, so waves
of one client's requests may alternate with waves of another's: users see service stop and go.
"""

import numpy as np

from fairlane.metrics.service import LINEAR, delivered_between
from fairlane.metrics.table import CostFunction, Floats, Table


def window_differences(
    table: Table, begin: float, end: float, window: float, *, cost: CostFunction = LINEAR
) -> Floats:
    """Service of the best-served client less that of the worst-served one, in cost a second.

    One value for each window of `window` seconds that starts at a whole second of begin..end.
    Meant for a time in which all clients wait.
    """
    left = np.arange(begin, end - window, 1.0)
    served = delivered_between(table, left, left + window, cost) / window
    difference: Floats = served.max(axis=1) - served.min(axis=1)
    return difference


def batch_shares(table: Table, x: Floats) -> Floats:
    """Each client's part of the running requests at the instants x: (m, clients), rows sum to 1.

    NaN where nothing runs.
    """
    runs = (table.start <= x[:, None]) & (x[:, None] < table.end) & table.delivered
    count = table.per_client(runs.astype(np.float64))
    total = count.sum(axis=1, keepdims=True)
    shares: Floats = np.divide(count, total, out=np.full_like(count, np.nan), where=total > 0)
    return shares
