"""The axes of the paper's figures and tables, and the numbers that sum a run up.

Section 5 of the paper and its revision sample the same quantities at different instants. Which
instants is part of the result, so each rule has its function here. The revision leaves aborted
requests out, also from what clients asked for; pass `table.without_aborted()` to its functions.
"""

from dataclasses import dataclass

import numpy as np

from fairlane.metrics.fairness import (
    accumulated_difference,
    largest_difference,
    summed_difference,
)
from fairlane.metrics.latency import first_token_latency, request_latency
from fairlane.metrics.service import LINEAR, ticks
from fairlane.metrics.table import CostFunction, Floats, Table
from fairlane.records import Run

SAMPLES = 20
REVISION_SPAN_S = 600.0
REVISION_WARM_UP_S = 30.0
ABLATION_SKIP_S = 120.0


@dataclass(frozen=True, slots=True)
class DifferenceTable:
    """A row of the paper's tables: service difference (cost/s), and throughput (tokens/s)."""

    max: float
    avg: float
    var: float
    throughput: float


def span(table: Table) -> float:
    """The time axis of the figures, seconds: the last arrival, rounded down."""
    return float(int(table.arrival.max(initial=0.0)))


def tokens_per_second(table: Table, total_time_s: float) -> float:
    """Input and output tokens of delivered requests over the run's time (figure 13)."""
    tokens = (table.prompt + table.output)[table.delivered].sum()
    return float(tokens / total_time_s) if total_time_s > 0 else np.nan


def difference_curve(table: Table, *, count: int = SAMPLES) -> tuple[Floats, Floats]:
    """(x, accumulated difference) as on the right of figures 3, 7 and 8."""
    x = ticks(span(table), count, skip_zero=True)
    return x, accumulated_difference(table, x)


def ablation_curve(table: Table, *, count: int = SAMPLES) -> tuple[Floats, Floats]:
    """(x, accumulated difference) of figure 14: of requests that end after two minutes."""
    x = ticks(span(table), count, skip_zero=True)
    return x, accumulated_difference(table, x, skip=ABLATION_SKIP_S)


def difference_table(table: Table, total_time_s: float) -> DifferenceTable:
    """The quantitative table beside figures 3, 7 and 8; the variance is the population's."""
    difference = largest_difference(table, ticks(span(table), SAMPLES, skip_zero=True))
    return _row(difference, table, total_time_s)


def revision_instants() -> Floats:
    """The instants of the revision, seconds since its warm-up."""
    return ticks(REVISION_SPAN_S - REVISION_WARM_UP_S, SAMPLES, skip_zero=True)


def revision_table(
    table: Table, total_time_s: float, *, cost: CostFunction = LINEAR
) -> DifferenceTable:
    """A row of the revision's tables (table 2 of the paper for the real trace)."""
    difference = summed_difference(table, revision_instants() + REVISION_WARM_UP_S, cost=cost)
    return _row(difference, table, total_time_s)


def revision_curve(table: Table) -> tuple[Floats, Floats]:
    """(x since the warm-up, accumulated difference since then) of the revision's figures."""
    x = revision_instants()
    return x, accumulated_difference(table, x, begin=REVISION_WARM_UP_S)


def shown_clients(table: Table) -> list[str]:
    """The clients of figures 11 and 12: the two in the middle and the two heaviest, by requests.

    Of 27 clients these are ranks 12, 13, 25 and 26 from 0; clients with as many requests are
    ranked by name.
    """
    n = len(table.clients)
    counts = np.bincount(table.client, minlength=n)
    order = np.argsort(counts, kind="stable")
    ranks = dict.fromkeys(r for r in (n // 2 - 1, n // 2, n - 2, n - 1) if r >= 0)
    return [table.clients[order[rank]] for rank in ranks]


def headline(run: Run) -> dict[str, float]:
    """The metrics that runs are compared by: seconds, tokens per second, cost, cost per second."""
    table = Table.from_records(run.records)
    curve = difference_curve(table)[1]
    revision = revision_table(table.without_aborted(), run.total_time_s)
    return {
        "total_time": run.total_time_s,
        "throughput": tokens_per_second(table, run.total_time_s),
        "mean_first_token_latency": first_token_latency(table).mean,
        "mean_request_latency": request_latency(table).mean,
        "max_accumulated_service_difference": float(curve.max()),
        "mean_accumulated_service_difference": float(curve.mean()),
        "table_max_difference": revision.max,
        "table_average_difference": revision.avg,
        "aborted": int(table.aborted.sum()),
    }


def _row(difference: Floats, table: Table, total_time_s: float) -> DifferenceTable:
    return DifferenceTable(
        max=float(difference.max()),
        avg=float(difference.mean()),
        var=float(difference.var()),
        throughput=tokens_per_second(table, total_time_s),
    )
