"""A workload that the paper's artifact has beside its figures: random arrivals with pauses."""

from fairlane.experiments.figure import Figure, artifact
from fairlane.experiments.panels import (
    difference_panel,
    fairness_table,
    response_panel,
    service_panel,
)

FIGURE = Figure(
    name="poisson-on-off",
    title="A pausing client, Poisson arrivals and random lengths",
    about="Client 0 sends little and in every second minute; client 1 overloads the server.",
    sources=artifact(VTC="VTC/poisson_on_off_overload", FCFS="FCFS/poisson_on_off_overload"),
    panels=lambda results: [
        service_panel(results["VTC"]),
        response_panel(results["VTC"]),
        difference_panel(results),
    ],
    tables=lambda results: [fairness_table(results)],
)
