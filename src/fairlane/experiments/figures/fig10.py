"""Figure 10: what the lift of VTC is for, on a load that shifts twice."""

from fairlane.experiments.drawings import Drawing
from fairlane.experiments.figure import Figure, Results, artifact
from fairlane.experiments.panels import response_panel, service_panel
from fairlane.metrics import span


def _panels(results: Results) -> list[Drawing]:
    panels: list[Drawing] = []
    for ensemble in results.values():
        end = span(ensemble.samples[0].table)
        panels += [service_panel(ensemble, span=end), response_panel(ensemble, span=end)]
    return panels


FIGURE = Figure(
    name="fig10",
    title="Three phases: pausing, both overloading, one overloading",
    about="Without the lift, LCF lets client 0 live on the service that it did not ask for before "
    "and starves client 1 in the second phase; VTC shares equally.",
    sources=artifact(LCF="LCF/dist_shift", VTC="VTC/dist_shift"),
    panels=_panels,
)
