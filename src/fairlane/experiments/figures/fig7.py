"""Figure 7: many short requests beside few long ones, arriving at random."""

from fairlane.experiments.figure import Figure, artifact
from fairlane.experiments.panels import (
    difference_panel,
    fairness_table,
    response_panel,
    service_panel,
)

FIGURE = Figure(
    name="fig7",
    title="Short requests beside long ones, Poisson arrivals",
    about="Client 0 sends many short requests, client 1 few long ones. VTC weighs them by what "
    "they cost.",
    sources=artifact(VTC="VTC/poisson_short_long", FCFS="FCFS/poisson_short_long"),
    panels=lambda results: [
        service_panel(results["VTC"]),
        response_panel(results["VTC"]),
        difference_panel(results),
    ],
    tables=lambda results: [fairness_table(results)],
)
