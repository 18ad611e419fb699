"""Figure 6: a client that pauses, above its share, beside an overloading one."""

from fairlane.experiments.figure import Figure, artifact
from fairlane.experiments.panels import response_panel, service_panel

FIGURE = Figure(
    name="fig6",
    title="A pausing client above its share",
    about="Client 0 sends too much in every second minute; it is served its share until its queue "
    "is empty.",
    sources=artifact(VTC="VTC/on_off_overload"),
    panels=lambda results: [service_panel(results["VTC"]), response_panel(results["VTC"])],
)
