"""Figure 4: three clients, two of which ask for less than their share."""

from fairlane.experiments.figure import Figure, artifact
from fairlane.experiments.panels import response_panel, service_panel

FIGURE = Figure(
    name="fig4",
    title="Three clients, two below their share",
    about="Clients 0 and 1 get all that they ask for at once; client 2 gets what they leave.",
    sources=artifact(VTC="VTC/proportional"),
    panels=lambda results: [
        service_panel(results["VTC"], count=20),
        response_panel(results["VTC"], count=20),
    ],
)
