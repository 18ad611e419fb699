"""The revision's table of overloading clients: FCFS, VTC, and VTC with predictions."""

from fairlane.experiments.figure import Figure, measured
from fairlane.experiments.panels import revision_grid

FIGURE = Figure(
    name="table-overload",
    title="Eight overloading clients: every scheduler",
    about="The service difference is that of the worst-off clients; throughput counts input and "
    "output tokens.",
    sources={
        "FCFS": measured("FCFS/overload-multi"),
        "VTC": measured("VTC/overload-multi"),
        "oracle ±50 %": measured("VTC_pred_50/overload-multi"),
        "oracle": measured("VTC_oracle/overload-multi"),
    },
    tables=lambda results: [revision_grid(results)],
)
