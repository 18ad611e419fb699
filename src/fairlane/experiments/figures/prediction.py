"""The revision's VTC with predicted output lengths: an oracle, and one that errs by half."""

from fairlane.experiments.drawings import Drawing
from fairlane.experiments.figure import Figure, Results, measured
from fairlane.experiments.panels import part, revision_grid, revision_panel

_FOLDERS = {"VTC": "VTC", "oracle": "VTC_oracle", "oracle ±50 %": "VTC_pred_50"}
_WORKLOADS = {"Two clients": "overload", "Eight clients": "overload-multi"}


def _panels(results: Results) -> list[Drawing]:
    return [revision_panel(part(results, clients), title=clients) for clients in _WORKLOADS]


FIGURE = Figure(
    name="prediction",
    title="VTC with predicted output lengths",
    about="Charging the expected output at admission keeps clients closer together than charging "
    "tokens as they come, even when the prediction may be off by half.",
    sources={
        f"{clients}, {label}": measured(f"{folder}/{workload}")
        for clients, workload in _WORKLOADS.items()
        for label, folder in _FOLDERS.items()
    },
    panels=_panels,
    tables=lambda results: [revision_grid(results)],
)
