"""Figure 14: how the bound grows with the length of requests and the size of the memory."""

from typing import Any

from fairlane import metrics
from fairlane.experiments.drawings import Box, Boxes, Drawing
from fairlane.experiments.figure import Figure, Results, measured
from fairlane.experiments.panels import DIFFERENCE, difference_panel, series_colour
from fairlane.metrics.paper import ABLATION_SKIP_S

_VTC = {
    f"{length} tokens, pool {pool}": measured(f"sec6.4/{pool}/VTC-{length}/overload-s4")
    for pool in (35000, 65000)
    for length in (256, 512, 768)
}


_COLOURS = {label: series_colour(label, i) for i, label in enumerate(_VTC)}


def _panels(results: Results) -> list[Drawing]:
    by_length = {label: e for label, e in results.items() if label.endswith("35000")}
    by_pool = {label: e for label, e in results.items() if label.startswith("512")}
    options: dict[str, Any] = {"skip": ABLATION_SKIP_S, "colours": _COLOURS}
    return [
        difference_panel(by_length, title="By length of requests", **options),
        difference_panel(by_pool, title="By memory pool", count=50, **options),
        _boxes(results),
    ]


def _boxes(results: Results) -> Boxes:
    """The distribution over time of every setting's difference, of all runs together."""
    boxes = []
    for label, ensemble in results.items():
        values, beside = ensemble.each(
            lambda sample: metrics.ablation_curve(sample.table, count=100)[1]
        )
        boxes.append(Box(label, values.ravel(), _COLOURS[label], beside))
    return Boxes("All settings", DIFFERENCE, boxes)


FIGURE = Figure(
    name="fig14",
    title="Ablation on an A100: length of requests and memory",
    about="More memory holds more running requests, so the service that is under way when VTC "
    "corrects a difference, and with it the bound, is larger.",
    sources=_VTC,
    panels=_panels,
)
