"""Figure 11: response times on the real trace under FCFS and VTC."""

from fairlane.experiments.figure import Figure, artifact
from fairlane.experiments.panels import trace_panel

FIGURE = Figure(
    name="fig11",
    title="Real trace: response time of four of 27 clients",
    about="The two heaviest clients and two in the middle. Under FCFS all wait alike; under VTC "
    "only those wait that send too much.",
    sources=artifact(FCFS="FCFS/real", VTC="VTC/real"),
    panels=lambda results: [trace_panel(ensemble, y_max=60) for ensemble in results.values()],
)
