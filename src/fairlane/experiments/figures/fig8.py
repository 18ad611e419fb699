"""Figure 8: long outputs beside long prompts, arriving at random."""

from fairlane.experiments.figure import Figure, artifact
from fairlane.experiments.panels import (
    difference_panel,
    fairness_table,
    response_panel,
    service_panel,
)

FIGURE = Figure(
    name="fig8",
    title="Long outputs beside long prompts, Poisson arrivals",
    about="Clients 0 and 1 ask for opposite mixtures of prompt and output. VTC keeps their service "
    "together.",
    sources=artifact(VTC="VTC/poisson_short_long_2", FCFS="FCFS/poisson_short_long_2"),
    panels=lambda results: [
        service_panel(results["VTC"]),
        response_panel(results["VTC"]),
        difference_panel(results),
    ],
    tables=lambda results: [fairness_table(results)],
)
