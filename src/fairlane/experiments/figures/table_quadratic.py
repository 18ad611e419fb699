"""The revision's table of the real trace with the quadratic cost."""

from fairlane.experiments.figure import Figure, measured
from fairlane.experiments.panels import QUADRATIC, revision_grid

FIGURE = Figure(
    name="table-quadratic",
    title="Real trace with the quadratic cost",
    about="As table 2, priced by what prefill and decode take on the device.",
    sources={
        "FCFS": measured("FCFS/real"),
        "LCF": measured("LCF/real"),
        "VTC": measured("VTC_profile/real"),
        "moving average": measured("VTC_predict_profile/real"),
        "oracle": measured("VTC_oracle_profile/real"),
    },
    tables=lambda results: [revision_grid(results, cost=QUADRATIC)],
)
