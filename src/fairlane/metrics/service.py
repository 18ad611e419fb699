"""Service over time: what each client received, asked for and waited, around each instant.

A request's cost counts as delivered evenly between its first and its last token, as in the
artifact's plots. Instants and windows are in seconds, x is an array of m instants, and results
are (m, clients) arrays in the order of `Table.clients`.
"""

import numpy as np

from fairlane.core.cost import LinearCost
from fairlane.metrics.table import CostFunction, Floats, Table

WINDOW_S = 60.0
LINEAR = LinearCost()


def ticks(duration: float, count: int, *, skip_zero: bool = False) -> Floats:
    """`count` instants from 0, evenly spaced, the end left out; `skip_zero` drops the first."""
    instants: Floats = duration / count * np.arange(int(skip_zero), count, dtype=np.float64)
    return instants


def delivered_between(
    table: Table, left: Floats, right: Floats, cost: CostFunction = LINEAR, skip: float = 0.0
) -> Floats:
    """Cost delivered in the m windows [left, right]; requests that end before `skip` are left out.

    A request whose only token came at one instant is delivered at that instant.
    """
    counted = table.delivered & (table.end >= skip)
    worth = np.where(counted, cost(table.prompt, table.output), 0.0)
    share = _share_until(table, right) - _share_until(table, left)
    return table.per_client(share * worth)


def _share_until(table: Table, x: Floats) -> Floats:
    """The part of every request that was delivered until each x: (m, requests) in 0..1."""
    elapsed = np.subtract.outer(x, table.start)
    length = table.end - table.start
    instant = length == 0
    elapsed /= np.where(instant, 1.0, length)
    elapsed[:, instant] = elapsed[:, instant] >= 0
    return elapsed.clip(0.0, 1.0, out=elapsed)


def service(
    table: Table, x: Floats, *, cost: CostFunction = LINEAR, window: float = WINDOW_S
) -> Floats:
    """Cost delivered per second in the window around x (paper, section 5.1)."""
    return delivered_between(table, x - window / 2, x + window / 2, cost) / window


def throughput(table: Table, x: Floats, *, window: float = WINDOW_S) -> Floats:
    """Output tokens per second in the window around x."""
    return service(table, x, cost=lambda _prompt, output: output, window=window)


def demand(
    table: Table, x: Floats, *, cost: CostFunction = LINEAR, window: float = WINDOW_S
) -> Floats:
    """Cost per second of the requests that arrive in the window around x, aborted ones too."""
    inside = np.abs(np.subtract.outer(x, table.arrival)) <= window / 2
    return table.per_client(inside * np.asarray(cost(table.prompt, table.output))) / window


def response_time(table: Table, x: Floats, *, window: float = WINDOW_S) -> Floats:
    """Mean first-token latency (s) of the first tokens in the window around x; NaN where none."""
    inside = (np.abs(np.subtract.outer(x, table.start)) <= window / 2) & table.delivered
    count = table.per_client(inside.astype(np.float64))
    total = table.per_client(np.where(inside, table.ttft, 0.0))
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def accumulated(
    table: Table, x: Floats, *, cost: CostFunction = LINEAR, begin: float = 0.0, skip: float = 0.0
) -> Floats:
    """Cost delivered from `begin` until begin + x, over requests that end at `skip` or later."""
    left = np.full_like(x, begin)
    return delivered_between(table, left, x + begin, cost, skip)
