"""The revision's quadratic cost, fitted to the measured times of prefill and decode."""

from fairlane.experiments.drawings import Drawing
from fairlane.experiments.figure import Figure, Results, measured
from fairlane.experiments.panels import QUADRATIC, part, revision_grid, revision_panel

_TWO = {"VTC": "VTC_profile", "oracle": "VTC_oracle_profile"}
_EIGHT = _TWO | {"oracle ±50 %": "VTC_pred_50_profile"}


def _panels(results: Results) -> list[Drawing]:
    return [
        revision_panel(part(results, clients), title=clients, cost=QUADRATIC)
        for clients in ("Two clients", "Eight clients")
    ]


FIGURE = Figure(
    name="quadratic",
    title="VTC with the quadratic cost",
    about="Service is priced by what prefill and decode take on the device, not by a weighted sum "
    "of tokens. Differences are in that cost.",
    sources={f"Two clients, {k}": measured(f"{f}/overload") for k, f in _TWO.items()}
    | {f"Eight clients, {k}": measured(f"{f}/overload-multi") for k, f in _EIGHT.items()},
    panels=_panels,
    tables=lambda results: [revision_grid(results, cost=QUADRATIC)],
)
