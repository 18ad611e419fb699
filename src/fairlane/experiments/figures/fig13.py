"""Figure 13: what limits of requests per minute cost in throughput."""

import numpy as np

from fairlane.experiments.drawings import Bar, Bars, Drawing
from fairlane.experiments.figure import Figure, Results, measured
from fairlane.experiments.panels import series_colour
from fairlane.experiments.samples import Sample
from fairlane.metrics import Floats, tokens_per_second

_LIMITS = (5, 10, 15, 20, 30)


def _throughput(sample: Sample) -> Floats:
    return np.array(tokens_per_second(sample.table, sample.total_time_s))


def _panels(results: Results) -> list[Drawing]:
    bars = []
    for label, ensemble in results.items():
        values, beside = ensemble.each(_throughput)
        bars.append(
            Bar(label, values, series_colour(label), np.nan if beside is None else float(beside))
        )
    return [Bars("Throughput", "input and output tokens/s", bars)]


FIGURE = Figure(
    name="fig13",
    title="Real trace: throughput under limits of requests per minute, and under VTC",
    about="Turning requests away wastes capacity; VTC turns none away.",
    sources={f"RPM {limit}": measured(f"LShare/rpm{limit}/real") for limit in _LIMITS}
    | {"VTC": measured("VTC/real")},
    panels=_panels,
)
