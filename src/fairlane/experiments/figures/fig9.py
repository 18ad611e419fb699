"""Figure 9: a client within its share beside one whose rate keeps growing."""

from fairlane.experiments.figure import Figure, artifact
from fairlane.experiments.panels import response_panel, service_panel

FIGURE = Figure(
    name="fig9",
    title="Isolation from a client that sends ever more",
    about="Client 1 sends ever more; the response time of client 0 stays low.",
    sources=artifact(VTC="VTC/increase"),
    panels=lambda results: [service_panel(results["VTC"]), response_panel(results["VTC"])],
)
