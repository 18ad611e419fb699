"""The figures: what they show is what the metrics say, for every figure that there is."""

import csv
from pathlib import Path

import numpy as np
import pytest

from fairlane import metrics
from fairlane.core.errors import UnknownNameError
from fairlane.experiments.drawings import Band, Bars, Boxes, Grid, Panel, write_numbers
from fairlane.experiments.figure import Ensemble, Figure
from fairlane.experiments.figures import figures, get_figures
from fairlane.experiments.panels import LINEAR, QUADRATIC
from fairlane.experiments.samples import Sample
from fairlane.experiments.settings import Settings
from fairlane.metrics import Table, ticks
from fairlane.records import Run

PAPER = [f"fig{n}" for n in range(3, 15)]


@pytest.fixture(scope="module")
def pair() -> tuple[Run, Run]:
    """Two runs of two clients, one of which sends twice as much."""
    runs = [Settings(suite="overload", scheduler="vtc", duration=90, seed=s).run() for s in (0, 1)]
    return runs[0], runs[1]


def drawn_from(figure: Figure, runs: tuple[Run, Run]) -> dict[str, Ensemble]:
    """The same small runs for every series, the second one also as the measurement."""
    samples = [Sample.of(run) for run in runs]
    return {label: Ensemble(label, samples, samples[1]) for label in figure.sources}


def test_every_figure_of_the_paper_is_there_in_order() -> None:
    assert list(figures())[: len(PAPER)] == PAPER
    revision = {"eight-clients", "weighted", "prediction", "moving-average", "quadratic", "table2"}
    assert revision < set(figures())


def test_an_unknown_figure_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean .*fig3"):
        get_figures(["fig33"])


@pytest.mark.parametrize("name", list(figures()))
def test_every_figure_shows_something_finite_with_unique_labels(
    name: str, pair: tuple[Run, Run]
) -> None:
    figure = figures()[name]
    results = drawn_from(figure, pair)
    shown = [*figure.panels(results), *figure.tables(results)]
    assert shown
    for drawing in shown:
        numbers = list(drawing.numbers())
        assert any(np.isfinite(number.median) for number in numbers)
        places = [(number.series, number.x) for number in numbers]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", list(figures()))
def test_without_a_trace_the_title_says_that_one_was_synthesized(name: str) -> None:
    figure = figures()[name]
    needs_trace = any(source.needs_trace for source in figure.sources.values())
    without, given = figure.on_trace(None), figure.on_trace("trace.csv")
    assert ("synthesized" in without.heading) == needs_trace
    assert "synthesized" not in given.heading
    assert {source.settings.suite for source in without.sources.values()}.isdisjoint({"real"})
    for source in given.sources.values():
        assert source.settings.trace == ("trace.csv" if source.needs_trace else None)


def test_what_was_measured_is_not_drawn_beside_a_synthesized_trace() -> None:
    sources = figures()["table2"].on_trace(None).sources
    assert [source.file for source in sources.values()] == [""] * len(sources)


def test_figure_3_is_service_response_time_and_accumulated_difference(
    pair: tuple[Run, Run],
) -> None:
    figure = figures()["fig3"]
    service, response, difference = figure.panels(drawn_from(figure, pair))
    assert isinstance(service, Panel)
    assert isinstance(response, Panel)
    assert isinstance(difference, Panel)
    tables = [Table.from_records(run.records) for run in pair]
    x = ticks(600, 30)
    for c, curve in enumerate(service.curves):
        expected = np.stack([metrics.service(table, x)[:, c] for table in tables])
        np.testing.assert_array_equal(curve.values, expected)
        np.testing.assert_array_equal(curve.measured, expected[1])
    for c, curve in enumerate(response.curves):
        expected = np.stack([metrics.response_time(table, x)[:, c] for table in tables])
        np.testing.assert_array_equal(curve.values, expected)
    for curve in difference.curves:
        instants, first = metrics.difference_curve(tables[0])
        np.testing.assert_array_equal(curve.x, instants)
        np.testing.assert_array_equal(curve.values[0], first)


def test_the_revisions_tables_are_its_metrics(pair: tuple[Run, Run]) -> None:
    for name, cost in (("table2", LINEAR), ("table-quadratic", QUADRATIC)):
        figure = figures()[name]
        (grid,) = figure.tables(drawn_from(figure, pair))
        for row in grid.rows:
            for values, run in zip(row.values, pair, strict=True):
                table = Table.from_records(run.records).without_aborted()
                want = metrics.revision_table(table, run.total_time_s, cost=cost)
                assert values.tolist() == [want.max, want.avg, want.var, want.throughput]


def test_csv_holds_every_number_with_its_range(tmp_path: Path, pair: tuple[Run, Run]) -> None:
    figure = figures()["fig4"]
    panels = figure.panels(drawn_from(figure, pair))
    write_numbers(tmp_path / "fig4.csv", panels)
    with open(tmp_path / "fig4.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    service = panels[0]
    assert isinstance(service, Panel)
    curve = service.curves[0]
    mine = [row for row in rows if row["panel"] == service.title and row["series"] == "client 0"]
    band = Band.of(curve.values)
    assert curve.measured is not None
    assert [float(row["x"]) for row in mine] == curve.x.tolist()
    for column, values in zip(
        ("median", "low", "high", "measured"), (*band, curve.measured), strict=True
    ):
        assert [float(row[column]) for row in mine] == values.tolist()


def test_a_band_is_median_and_range_over_the_runs_that_have_a_value() -> None:
    nan = np.nan
    band = Band.of(np.array([[1.0, nan, nan], [5.0, 2.0, nan], [3.0, 4.0, nan]]))
    np.testing.assert_array_equal(band.median, [3.0, 3.0, nan])
    np.testing.assert_array_equal(band.low, [1.0, 2.0, nan])
    np.testing.assert_array_equal(band.high, [5.0, 4.0, nan])


def test_bars_boxes_and_tables_write_their_numbers(tmp_path: Path, pair: tuple[Run, Run]) -> None:
    bars, boxes = figures()["fig13"], figures()["fig14"]
    (throughput,) = bars.panels(drawn_from(bars, pair))
    assert isinstance(throughput, Bars)
    values = [
        metrics.tokens_per_second(Table.from_records(r.records), r.total_time_s) for r in pair
    ]
    numbers = list(throughput.numbers())
    assert (numbers[0].low, numbers[0].high) == (min(values), max(values))
    assert numbers[0].measured == values[1]
    distribution = boxes.panels(drawn_from(boxes, pair))[2]
    assert isinstance(distribution, Boxes)
    box = distribution.boxes[0]
    assert [n.median for n in distribution.numbers()][:5] == np.percentile(
        box.values, (5, 25, 50, 75, 95)
    ).tolist()
    table = figures()["fig3"]
    (grid,) = table.tables(drawn_from(table, pair))
    assert isinstance(grid, Grid)
    assert {number.x for number in grid.numbers()} == {"max diff", "avg diff", "diff var"}
