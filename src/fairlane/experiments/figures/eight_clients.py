"""The revision's workload of eight overloading clients at two rates."""

from fairlane.experiments.figure import Figure, artifact
from fairlane.experiments.panels import ahead_panel, revision_panel

FIGURE = Figure(
    name="eight-clients",
    title="Eight overloading clients at two rates",
    about="Clients 0 to 2 send less than clients 3 to 7. VTC serves all eight alike; FCFS serves "
    "those more who send more.",
    sources=artifact(VTC="VTC/overload-multi", FCFS="FCFS/overload-multi"),
    panels=lambda results: [
        *(ahead_panel(ensemble) for ensemble in results.values()),
        revision_panel(results),
    ],
)
