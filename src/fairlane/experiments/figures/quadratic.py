"""The revision's quadratic cost, fitted to the measured times of prefill and decode."""

from fairlane.experiments.drawings import Drawing
from fairlane.experiments.figure import Figure, Results, measured
from fairlane.experiments.panels import QUADRATIC, revision_grid, revision_panel

_TWO = {"VTC": "VTC_profile", "oracle": "VTC_oracle_profile"}
_EIGHT = _TWO | {"oracle ±50 %": "VTC_pred_50_profile"}


def _panels(results: Results) -> list[Drawing]:
    two = {label: results[f"{label}, two clients"] for label in _TWO}
    eight = {label: results[f"{label}, eight clients"] for label in _EIGHT}
    return [
        revision_panel(two, title="two clients", cost=QUADRATIC),
        revision_panel(eight, title="eight clients", cost=QUADRATIC),
    ]


FIGURE = Figure(
    name="quadratic",
    title="VTC with the quadratic cost",
    about="Service is priced by what prefill and decode take on the device, not by a weighted sum "
    "of tokens.",
    sources={f"{k}, two clients": measured(f"{folder}/overload") for k, folder in _TWO.items()}
    | {f"{k}, eight clients": measured(f"{f}/overload-multi") for k, f in _EIGHT.items()},
    panels=_panels,
    tables=lambda results: [revision_grid(results, cost=QUADRATIC)],
)
