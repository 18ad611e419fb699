"""Figure 12: response times on the real trace under limits of requests per minute."""

from fairlane.experiments.drawings import Drawing
from fairlane.experiments.figure import Figure, Results, measured
from fairlane.experiments.panels import trace_panel

_Y_MAX = {5: 1, 10: 15, 15: 15, 20: 60, 30: 60}


def _panels(results: Results) -> list[Drawing]:
    return [
        trace_panel(ensemble, y_max=y_max, everyone=y_max == 1)
        for ensemble, y_max in zip(results.values(), _Y_MAX.values(), strict=True)
    ]


FIGURE = Figure(
    name="fig12",
    title="Real trace: response time under limits of requests per minute",
    about="A low limit keeps everyone's response time short by turning requests away (all clients "
    "are shown for 5 per minute); a high one brings the queue of FCFS back.",
    sources={f"RPM {limit}": measured(f"LShare/rpm{limit}/real") for limit in _Y_MAX},
    panels=_panels,
)
