"""The revision's VTC that predicts by a moving average, on the real trace."""

from fairlane.experiments.figure import Figure, measured
from fairlane.experiments.panels import summed_lack_panel

FIGURE = Figure(
    name="moving-average",
    title="Real trace: VTC with a moving average of output lengths",
    about="How far clients are behind the best served while they ask for more, summed over all. "
    "Predicting by the average of a client's last output lengths is compared with an oracle.",
    sources={
        "FCFS": measured("FCFS/real"),
        "VTC": measured("VTC/real"),
        "moving average": measured("VTC_predict/real"),
        "oracle": measured("VTC_oracle/real"),
    },
    panels=lambda results: [summed_lack_panel(results)],
)
