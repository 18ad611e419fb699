"""Table 2: the real trace under every scheduler."""

from fairlane.experiments.figure import Figure, measured
from fairlane.experiments.panels import revision_grid

FIGURE = Figure(
    name="table2",
    title="Real trace: every scheduler",
    about="The service difference is that of the worst-off clients; throughput counts input and "
    "output tokens.",
    sources={
        **{f"RPM {limit}": measured(f"LShare/rpm{limit}/real") for limit in (5, 10, 15, 20, 30)},
        "FCFS": measured("FCFS/real"),
        "LCF": measured("LCF/real"),
        "VTC": measured("VTC/real"),
        "moving average": measured("VTC_predict/real"),
        "oracle": measured("VTC_oracle/real"),
    },
    tables=lambda results: [revision_grid(results)],
)
