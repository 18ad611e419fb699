"""Figure 5: a client that pauses, below its share, beside an overloading one."""

from fairlane.experiments.figure import Figure, artifact
from fairlane.experiments.panels import response_panel, service_panel

FIGURE = Figure(
    name="fig5",
    title="A pausing client below its share",
    about="Client 0 sends in every second minute. Client 1 gets all that it leaves.",
    sources=artifact(VTC="VTC/on_off_less"),
    panels=lambda results: [service_panel(results["VTC"]), response_panel(results["VTC"])],
)
