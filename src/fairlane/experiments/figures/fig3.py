"""Figure 3: two clients that both ask for more than their share."""

from fairlane.experiments.figure import Figure, artifact
from fairlane.experiments.panels import (
    difference_panel,
    fairness_table,
    response_panel,
    service_panel,
)

FIGURE = Figure(
    name="fig3",
    title="Two overloading clients",
    about="Client 1 sends twice as much as client 0. VTC serves both alike; under FCFS the "
    "difference grows without bound.",
    sources=artifact(VTC="VTC/overload", FCFS="FCFS/overload"),
    panels=lambda results: [
        service_panel(results["VTC"]),
        response_panel(results["VTC"]),
        difference_panel(results),
    ],
    tables=lambda results: [fairness_table(results)],
)
