"""The revision's weighted VTC: four clients of weights 1, 2, 3 and 4."""

from fairlane.experiments.figure import Figure, measured
from fairlane.experiments.panels import service_panel

FIGURE = Figure(
    name="weighted",
    title="Weighted VTC: clients of weights 1, 2, 3 and 4",
    about="Without weights all overloading clients get the same; with them, service in proportion "
    "while all four are backlogged.",
    sources={
        "VTC": measured("VTC/overload-weighted"),
        "weighted VTC": measured("WVTC/overload-weighted"),
    },
    panels=lambda results: [service_panel(ensemble) for ensemble in results.values()],
)
