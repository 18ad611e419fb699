"""Pure functions over the records of a run: service, fairness, latency."""

from fairlane.metrics.backlog import backlogged_difference
from fairlane.metrics.fairness import (
    accumulated_difference,
    largest_difference,
    summed_difference,
)
from fairlane.metrics.latency import (
    Spread,
    first_token_latency,
    request_latency,
    time_per_output_token,
)
from fairlane.metrics.paper import (
    DifferenceTable,
    ablation_curve,
    difference_curve,
    difference_table,
    headline,
    revision_curve,
    revision_table,
    shown_clients,
    span,
    tokens_per_second,
)
from fairlane.metrics.replicas import ReplicaSummary, summarise_replicas
from fairlane.metrics.service import (
    accumulated,
    delivered_between,
    demand,
    response_time,
    service,
    throughput,
    ticks,
)
from fairlane.metrics.shares import Share, shares_while_waiting
from fairlane.metrics.summary import ClientSummary, slowdown, summarise
from fairlane.metrics.table import CostFunction, Floats, Table

__all__ = [
    "ClientSummary",
    "CostFunction",
    "DifferenceTable",
    "Floats",
    "ReplicaSummary",
    "Share",
    "Spread",
    "Table",
    "ablation_curve",
    "accumulated",
    "accumulated_difference",
    "backlogged_difference",
    "delivered_between",
    "demand",
    "difference_curve",
    "difference_table",
    "first_token_latency",
    "headline",
    "largest_difference",
    "request_latency",
    "response_time",
    "revision_curve",
    "revision_table",
    "service",
    "shares_while_waiting",
    "shown_clients",
    "slowdown",
    "span",
    "summarise",
    "summarise_replicas",
    "summed_difference",
    "throughput",
    "ticks",
    "time_per_output_token",
    "tokens_per_second",
]
