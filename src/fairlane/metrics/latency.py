"""Latencies as clients feel them: first token, whole request, time per output token."""

from typing import NamedTuple

import numpy as np

from fairlane.metrics.table import Floats, Table


class Spread(NamedTuple):
    """Mean and percentiles of a quantity; NaN where nothing was measured."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Floats) -> "Spread":
        """The spread of `values`; percentiles are interpolated linearly."""
        if not len(values):
            return cls(np.nan, np.nan, np.nan, np.nan)
        p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
        return cls(float(values.mean()), p50, p90, p99)


def first_token_latency(table: Table, client: str | None = None) -> Spread:
    """Seconds from arrival to the first token (TTFT) of finished requests."""
    return Spread.of(table.ttft[_finished(table, client)])


def request_latency(table: Table, client: str | None = None) -> Spread:
    """Seconds from arrival to the last token of finished requests."""
    return Spread.of(table.latency[_finished(table, client)])


def time_per_output_token(table: Table, client: str | None = None) -> Spread:
    """Seconds per token after the first (TPOT) of finished requests with two tokens or more."""
    rows = _finished(table, client) & (table.output > 1)
    return Spread.of((table.latency[rows] - table.ttft[rows]) / (table.output[rows] - 1))


def _finished(table: Table, client: str | None) -> np.ndarray:
    rows = table.delivered & ~table.aborted
    return rows if client is None else rows & (table.client == table.clients.index(client))
