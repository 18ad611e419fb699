"""The panels and tables that several figures share, made out of ensembles.

Which instants are sampled is the artifact's choice (see `fairlane.metrics.paper`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from fairlane import metrics
from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.experiments.drawings import Curve, Grid, Panel, Row
from fairlane.experiments.figure import Ensemble, Results
from fairlane.experiments.samples import Sample
from fairlane.metrics import CostFunction, Floats, Table
from fairlane.metrics.paper import REVISION_WARM_UP_S, SAMPLES, revision_instants

Quantity = Callable[[Table, Floats], Floats]  # (table, instants (m,)) -> (m,) or (m, clients)

FIGURE_SPAN_S = 600.0
TRACE_SAMPLES = 100
LINEAR = LinearCost()
QUADRATIC = QuadraticCost()
SERVICE = "service (weighted tokens/s)"
RESPONSE_TIME = "response time (s)"
LACK = "behind the best served (cost/s)"
DIFFERENCE = "accumulated service difference"
SINCE_WARM_UP = "time since the warm-up (s)"

# Okabe and Ito's colours, told apart with any colour vision; clients take them in turn.
CLIENT_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D1F",
)  # fmt: skip
# Paul Tol's "muted" scheme for what is not a client, so that the two are never confused.
SERIES_COLOURS = {
    "VTC": "#332288",
    "FCFS": "#CC6677",
    "LCF": "#44AA99",
    "weighted VTC": "#882255",
    "oracle": "#117733",
    "oracle ±50 %": "#999933",
    "moving average": "#AA4499",
}
OTHER_COLOURS = ("#0077BB", "#EE7733", "#009988", "#CC3311", "#33BBEE", "#EE3377")  # "vibrant"


def client_colour(index: int) -> str:
    """The colour of the client of this index."""
    return CLIENT_COLOURS[index % len(CLIENT_COLOURS)]


def series_colour(label: str, index: int = 0) -> str:
    """The colour of a scheduler, the same in all figures; others take theirs by `index`."""
    return SERIES_COLOURS.get(label, OTHER_COLOURS[index % len(OTHER_COLOURS)])


def part(results: Results, name: str) -> Results:
    """The series whose label begins with `name` and a comma, by the rest of their label."""
    start = f"{name}, "
    return {k.removeprefix(start): e for k, e in results.items() if k.startswith(start)}


def service_panel(
    ensemble: Ensemble,
    *,
    count: int = 30,
    span: float | None = None,
    clients: Sequence[str] | None = None,
) -> Panel:
    """Each client's service in the minute around each instant."""
    title = f"Service under {ensemble.label}"
    return client_panel(
        ensemble, metrics.service, title, SERVICE, count=count, span=span, clients=clients
    )


def replica_panel(
    ensemble: Ensemble,
    replica: int,
    *,
    count: int = 30,
    span: float | None = None,
    clients: Sequence[str] | None = None,
) -> Panel:
    """Each client's service at one replica in the minute around each instant."""

    def service(table: Table, x: Floats) -> Floats:
        return metrics.service(table.at(replica), x)

    title = f"Service at replica {replica} under {ensemble.label}"
    return client_panel(ensemble, service, title, SERVICE, count=count, span=span, clients=clients)


def response_panel(
    ensemble: Ensemble,
    *,
    count: int = 30,
    span: float | None = None,
    clients: Sequence[str] | None = None,
    y_max: float | None = None,
) -> Panel:
    """Each client's mean first-token latency in the minute around each instant."""
    title = f"Response time under {ensemble.label}"
    return client_panel(
        ensemble, metrics.response_time, title, RESPONSE_TIME,
        count=count, span=span, clients=clients, y_max=y_max,
    )  # fmt: skip


def trace_panel(ensemble: Ensemble, *, y_max: float, everyone: bool = False) -> Panel:
    """Response times on the real trace: of all clients, or of two in the middle and two heavy."""
    table = ensemble.samples[0].table
    clients = table.clients if everyone else metrics.shown_clients(table)
    return response_panel(
        ensemble, count=TRACE_SAMPLES, span=metrics.span(table), clients=clients, y_max=y_max
    )


def client_panel(
    ensemble: Ensemble,
    quantity: Quantity,
    title: str,
    y_label: str,
    *,
    count: int,
    span: float | None = None,
    clients: Sequence[str] | None = None,
    y_max: float | None = None,
) -> Panel:
    """A curve per client: of all, or of those named, at `count` instants of `span` seconds."""
    x = metrics.ticks(span or FIGURE_SPAN_S, count)
    names = ensemble.samples[0].table.clients
    values, beside = ensemble.each(lambda sample: quantity(sample.table, x))
    chosen = list(clients if clients is not None else names)
    quiet = len(chosen) > len(CLIENT_COLOURS)
    curves = []
    for position, name in enumerate(chosen):
        c = names.index(name)
        curves.append(
            Curve(
                f"client {name}", x, values[:, :, c], client_colour(position),
                None if beside is None or quiet else beside[:, c], quiet=quiet,
            )
        )  # fmt: skip
    return Panel(title, y_label, curves, y_max=y_max)


def difference_panel(
    results: Results,
    *,
    title: str = "Difference between clients",
    count: int = SAMPLES,
    skip: float = 0.0,
    colours: Mapping[str, str] = SERIES_COLOURS,
) -> Panel:
    """The accumulated difference of the best and the worst served client, a curve per series.

    `skip` leaves out the requests that end before it, and the time before it from the drawing.
    """
    quantity = partial(metrics.accumulated_difference, skip=skip)
    curves = [
        _series_curve(label, i, ensemble, _sampled(ensemble, count), quantity, colours)
        for i, (label, ensemble) in enumerate(results.items())
    ]
    return Panel(title, DIFFERENCE, curves, x_min=skip)


def lack_panel(results: Results, *, count: int = 60) -> Panel:
    """What the worst-off client lacks in the minute around each instant, a curve per series."""
    curves = [
        _series_curve(label, i, ensemble, _sampled(ensemble, count), metrics.largest_difference)
        for i, (label, ensemble) in enumerate(results.items())
    ]
    return Panel("Worst-off client's lack of service", LACK, curves)


def revision_panel(
    results: Results, *, title: str = "Difference between clients", cost: CostFunction = LINEAR
) -> Panel:
    """The accumulated difference as the revision samples it: since the end of its warm-up."""
    quantity = partial(metrics.accumulated_difference, begin=REVISION_WARM_UP_S, cost=cost)
    curves = [
        _series_curve(label, i, ensemble, revision_instants(), quantity)
        for i, (label, ensemble) in enumerate(results.items())
    ]
    return Panel(title, DIFFERENCE, curves, x_label=SINCE_WARM_UP)


def summed_lack_panel(results: Results) -> Panel:
    """All clients' lack of service around each instant: what the revision's tables sum up."""

    def quantity(table: Table, x: Floats) -> Floats:
        return metrics.summed_difference(table.without_aborted(), x + REVISION_WARM_UP_S)

    curves = [
        _series_curve(label, i, ensemble, revision_instants(), quantity)
        for i, (label, ensemble) in enumerate(results.items())
    ]
    return Panel("All clients' lack of service", LACK, curves, x_label=SINCE_WARM_UP)


def _sampled(ensemble: Ensemble, count: int) -> Floats:
    """Instants from the start to the last arrival, which is the same in all runs."""
    return metrics.ticks(metrics.span(ensemble.samples[0].table), count, skip_zero=True)


def _series_curve(
    label: str,
    index: int,
    ensemble: Ensemble,
    x: Floats,
    quantity: Quantity,
    colours: Mapping[str, str] = SERIES_COLOURS,
) -> Curve:
    values, beside = ensemble.each(lambda sample: quantity(sample.table, x))
    return Curve(label, x, values, colours.get(label) or series_colour(label, index), beside)


def ahead_panel(ensemble: Ensemble) -> Panel:
    """How far each client's accumulated service is ahead of the first's, since the warm-up."""
    x = revision_instants()

    def ahead(sample: Sample) -> Floats:
        received = metrics.accumulated(sample.table, x, begin=REVISION_WARM_UP_S)
        relative: Floats = received - received[:, :1]
        return relative

    values, beside = ensemble.each(ahead)
    curves = [
        Curve(
            f"client {name}", x, values[:, :, c], client_colour(c),
            None if beside is None else beside[:, c],
        )
        for c, name in enumerate(ensemble.samples[0].table.clients)
    ]  # fmt: skip
    first = ensemble.samples[0].table.clients[0]
    return Panel(
        f"Ahead of client {first} under {ensemble.label}", "accumulated service ahead", curves,
        x_label=SINCE_WARM_UP,
    )  # fmt: skip


def fairness_table(results: Results) -> Grid:
    """The table beside figures 3, 7 and 8: the worst-off client's lack of service."""

    def row(sample: Sample) -> Floats:
        table = metrics.difference_table(sample.table, sample.total_time_s)
        return np.array([table.max, table.avg, table.var])

    columns = {"max diff": 2, "avg diff": 2, "diff var": 2}
    return Grid("Service difference (cost/s)", columns, _rows(results, row))


def revision_grid(results: Results, *, cost: CostFunction = LINEAR) -> Grid:
    """A table of the revision: all clients' lack of service, priced by `cost`, and throughput."""

    def row(sample: Sample) -> Floats:
        table = sample.table.without_aborted()
        found = metrics.revision_table(table, sample.total_time_s, cost=cost)
        return np.array([found.max, found.avg, found.var, found.throughput])

    columns = {"max diff": 2, "avg diff": 2, "diff var": 2, "throughput (tokens/s)": 0}
    return Grid("Service difference (cost/s) and throughput", columns, _rows(results, row))


def _rows(results: Results, row: Callable[[Sample], Floats]) -> list[Row]:
    return [Row(label, *ensemble.each(row)) for label, ensemble in results.items()]
