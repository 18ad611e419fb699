"""The revision's VTC with predicted output lengths: an oracle, and one that errs by half."""

from fairlane.experiments.drawings import Drawing
from fairlane.experiments.figure import Figure, Results, measured
from fairlane.experiments.panels import revision_grid, revision_panel

_FOLDERS = {"VTC": "VTC", "oracle": "VTC_oracle", "oracle ±50 %": "VTC_pred_50"}
_WORKLOADS = {"two clients": "overload", "eight clients": "overload-multi"}


def _of(results: Results, clients: str) -> Results:
    """The series of one workload, by scheduler."""
    suffix = f", {clients}"
    return {k.removesuffix(suffix): e for k, e in results.items() if k.endswith(suffix)}


def _panels(results: Results) -> list[Drawing]:
    return [revision_panel(_of(results, clients), title=clients) for clients in _WORKLOADS]


FIGURE = Figure(
    name="prediction",
    title="VTC with predicted output lengths",
    about="Charging the expected output at admission halves the difference and more, even when "
    "the prediction may be off by half.",
    sources={
        f"{label}, {clients}": measured(f"{folder}/{workload}")
        for clients, workload in _WORKLOADS.items()
        for label, folder in _FOLDERS.items()
    },
    panels=_panels,
    tables=lambda results: [revision_grid(results)],
)
