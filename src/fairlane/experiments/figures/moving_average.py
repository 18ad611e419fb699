"""The revision's VTC that predicts by a moving average, on the real trace."""

from fairlane.experiments.figure import Figure, measured
from fairlane.experiments.panels import revision_panel

FIGURE = Figure(
    name="moving-average",
    title="Real trace: VTC with a moving average of output lengths",
    about="The average of a client's last output lengths predicts well enough to come close to the "
    "oracle.",
    sources={
        "VTC": measured("VTC/real"),
        "moving average": measured("VTC_predict/real"),
        "oracle": measured("VTC_oracle/real"),
    },
    panels=lambda results: [revision_panel(results)],
)
