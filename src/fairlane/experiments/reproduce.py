"""All figures and tables of the paper: simulated, drawn, written as numbers, put in a report.

What was simulated is kept in `runs/` below the output, so an interrupted reproduction goes on
where it was, and one with more runs per series adds only those.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fairlane
from fairlane.core.errors import FairlaneError
from fairlane.experiments.acting import check_settings
from fairlane.experiments.catalogue import find_experiment
from fairlane.experiments.compare import Comparison, Row, error_medians, metric_rows
from fairlane.experiments.drawings import Bars, Boxes, Drawing, Grid, write_numbers
from fairlane.experiments.ensemble import Progress, run_jobs, seeds
from fairlane.experiments.figure import STAND_IN, Ensemble, Figure, Results, Source
from fairlane.experiments.figures import figures, get_figures
from fairlane.experiments.plotting import draw_page, draw_tables, save_page
from fairlane.experiments.report import Section, render_report
from fairlane.experiments.samples import Sample, SampleStore
from fairlane.experiments.settings import Settings
from fairlane.experiments.tables import TextTable, number_table
from fairlane.files import atomic_write

RUNS = 24


@dataclass(frozen=True, slots=True)
class Drawn:
    """What became of one figure: NAME.png, NAME.pdf and NAME.csv, its tables, and its errors.

    measured: the labels of the series that have a measurement beside them.
    """

    name: str
    tables: list[Grid]
    measured: list[str]
    errors: list[Row]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What a reproduction left in its output folder, and how many runs it had to simulate."""

    report: Path
    figures: list[str]
    simulated: int
    errors: Comparison


@dataclass(frozen=True, slots=True)
class _Job:
    """One figure to draw; the figure itself, with its functions, does not pickle."""

    name: str
    trace: str | None
    too_long: str | None
    runs: int
    measured: Path | None
    output: Path
    store: SampleStore

    def figure(self) -> Figure:
        return get_figures([self.name])[0].on_trace(self.trace, self.too_long)


def reproduce(
    *,
    only: Sequence[str] = (),
    runs: int = RUNS,
    trace: Path | None = None,
    too_long: str | None = None,
    measured: Path | None = None,
    output: Path = Path("reproduction"),
    workers: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Reproduction:
    """Make the figures named in `only`, or all, from `runs` simulations of every series.

    trace: CSV of the real trace; too_long: as in `Settings`. measured: folder laid out like the
    artifact's results; its curves are drawn beside ours and, without a trace, its requests are the
    trace. With neither a synthesized trace stands in. say: is told, before anything is simulated,
    how the trace was read. Raises FairlaneError for input that cannot be used, and for what no
    chosen figure uses.
    """
    chosen = get_figures(list(only))
    sources = [source for figure in chosen for source in figure.sources.values()]
    used = _trace(sources, runs, trace, measured)
    for note in _check_trace(used, too_long):
        if say is not None:
            say(note)
    store = SampleStore(output / "runs")
    jobs = {f.name: _Job(f.name, used, too_long, runs, measured, output, store) for f in chosen}
    wanted = [settings for job in jobs.values() for settings in _settings(job)]
    steps = len(set(wanted)) + len(jobs)

    def simulating(done: int, _total: int, label: str) -> None:
        if progress is not None:
            progress(done, steps, label)

    def drawing(done: int, total: int, label: str) -> None:
        if progress is not None:
            progress(steps - total + done, steps, label)

    simulated = store.simulate(wanted, workers=workers, progress=simulating)
    drawn = dict(run_jobs(_draw, jobs, workers=workers, progress=drawing))
    ordered = [drawn[name] for name in jobs]
    errors = _errors(ordered)
    _write_manifest(list(jobs.values()), ordered)
    with atomic_write(output / "report.html") as file:
        file.write(_report(list(jobs.values()), ordered, errors))
    return Reproduction(output / "report.html", list(jobs), simulated, errors)


def _trace(
    sources: Sequence[Source], runs: int, trace: Path | None, measured: Path | None
) -> str | None:
    """The trace to use. What cannot be used is found here, before anything is simulated."""
    if runs < 1:
        raise FairlaneError(f"runs must be at least 1, not {runs}")
    if measured is not None and not measured.is_dir():
        raise FairlaneError(f"{measured}: not a folder; name the one that holds VTC/, FCFS/, ...")
    wanted = any(source.needs_trace for source in sources)
    if trace is not None and not wanted:
        raise FairlaneError(f"{trace}: none of these figures is of a trace")
    if trace is None and wanted and measured is not None:
        every = [source for figure in figures().values() for source in figure.sources.values()]
        paths = [measured / source.file for source in every if source.needs_trace]
        trace = next((path for path in paths if path.is_file()), None)
    if measured is not None and not (trace and measured in trace.parents):
        shown = [source.file for source in sources if source.file]
        if not any((measured / file).is_file() for file in shown):
            raise FairlaneError(f"{measured}: holds nothing that these figures show")
    return None if trace is None else str(trace)


def _check_trace(trace: str | None, too_long: str | None) -> list[str]:
    """What is to be said of the trace. Raises FairlaneError where it cannot be simulated."""
    suite = STAND_IN if trace is None else "real"
    return check_settings(Settings(suite=suite, scheduler="fcfs", trace=trace, too_long=too_long))


def _settings(job: _Job) -> list[Settings]:
    sources = job.figure().sources.values()
    return [settings for source in sources for settings in seeds(source.settings, job.runs)]


def _draw(job: _Job) -> Drawn:
    """Draw one figure and write its numbers, from samples that are there by now."""
    figure = job.figure()
    results = _results(job, figure)
    panels, tables = figure.panels(results), figure.tables(results)
    measured = [label for label, ensemble in results.items() if ensemble.measured]
    note = _note(panels, job.runs, measured=bool(measured))
    if panels:
        page = draw_page(figure.heading, panels, note=note)
    else:
        page = draw_tables(figure.heading, tables, note=note)
    for kind in ("png", "pdf"):
        save_page(page, job.output / f"{figure.name}.{kind}")
    write_numbers(job.output / f"{figure.name}.csv", [*panels, *tables])
    return Drawn(figure.name, tables, measured, _rows(figure, results))


def _results(job: _Job, figure: Figure) -> Results:
    results = {}
    for label, source in figure.sources.items():
        found = [job.store.load(settings) for settings in seeds(source.settings, job.runs)]
        samples = [sample for sample in found if sample is not None]
        if len(samples) < len(found):
            raise FairlaneError(f"{job.store.folder}: runs have gone missing; start again")
        results[label] = Ensemble(label, samples, _measurement(job.measured, source))
    return results


def _measurement(folder: Path | None, source: Source) -> Sample | None:
    if folder is None or not source.file or not (folder / source.file).is_file():
        return None
    return Sample.read(folder / source.file)


def _note(drawings: Sequence[Drawing], runs: int, *, measured: bool) -> str:
    """What marks what, for below a drawing; without drawings there is a table."""
    kinds = {type(drawing) for drawing in drawings}
    middle, extent, beside = ("line", "band", "circles")
    if Bars in kinds:
        middle, extent = "bar", "whisker"
    if Boxes in kinds:
        beside = "circles and white boxes"
    if not kinds:
        shown = f"median [range] of {runs} simulated runs" if runs > 1 else "one simulated run"
        return shown
    shown = f"{middle}: median, {extent}: range of {runs} simulated runs"
    if runs == 1:
        shown = f"{middle}: one simulated run"
    return f"{shown}; {beside}: measured" if measured else shown


def _rows(figure: Figure, results: Results) -> list[Row]:
    """The errors of the series that were measured."""
    return [
        row
        for label, ensemble in results.items()
        if ensemble.measured is not None
        for row in metric_rows(
            figure.sources[label].file,
            ensemble.measured.headline,
            [sample.headline for sample in ensemble.samples],
        )
    ]


def _errors(drawn: Sequence[Drawn]) -> Comparison:
    """All figures' errors; a file that several figures show counts once."""
    rows = {(row.file, row.metric): row for one in drawn for row in one.errors}
    files = dict.fromkeys(file for file, _ in rows)
    found = [experiment for file in files if (experiment := find_experiment(file))]
    return Comparison(list(rows.values()), found, {})


def _write_manifest(jobs: Sequence[_Job], drawn: Sequence[Drawn]) -> None:
    """Every figure with all settings of its series."""
    shown: dict[str, Any] = {}
    for job, one in zip(jobs, drawn, strict=True):
        figure = job.figure()
        shown[job.name] = {
            "title": figure.title,
            "series": {
                label: {
                    "settings": source.settings.described(),
                    "measured": source.file if label in one.measured else None,
                }
                for label, source in figure.sources.items()
            },
        }
    first = jobs[0]
    manifest = {
        "fairlane": fairlane.__version__,
        "runs": first.runs,
        "seeds": [0, first.runs - 1],
        "trace": first.trace,
        "measured": None if first.measured is None else str(first.measured),
        "figures": shown,
    }
    with atomic_write(first.output / "manifest.json") as file:
        json.dump(manifest, file, indent=2, allow_nan=False)
        file.write("\n")


def _report(jobs: Sequence[_Job], drawn: Sequence[Drawn], errors: Comparison) -> str:
    first = jobs[0]
    about = (
        f"Every series was simulated {first.runs} times, each time with other noise. "
        "Figures show the median as a line and the range of all runs as a band; tables show the "
        "median and [the range]."
    )
    if errors.rows:
        about += " What was measured is drawn as circles, and stands beside in tables."
    sections = [_section(job, one) for job, one in zip(jobs, drawn, strict=True)]
    if errors.rows:
        sections.append(_error_section(errors))
    return render_report("Fairness in serving large language models, reproduced", about, sections)


def _section(job: _Job, drawn: Drawn) -> Section:
    figure = job.figure()
    pictured = (job.output / f"{figure.name}.png").read_bytes()
    defaults = asdict(Settings(suite="", scheduler=""))
    rows = []
    for label, source in figure.sources.items():
        settings = asdict(source.settings)
        told = [f"{key}={value}" for key, value in settings.items() if value != defaults[key]]
        beside = source.file if label in drawn.measured else "–"
        rows.append([label, ", ".join(told), beside])
    return Section(
        figure.heading,
        figure.about,
        pictured,
        [number_table(grid) for grid in drawn.tables],
        [TextTable(["series", "settings", "measured"], rows)],
    )


def _error_section(errors: Comparison) -> Section:
    medians = TextTable(
        ["metric", "all files", "files", "held out", "files"],
        [
            [m.metric.replace("_", " "), _percent(m.all_files), str(m.files),
             _percent(m.held_out), str(m.held_out_files)]
            for m in error_medians(errors)
        ],
        "Median of the absolute error",
    )  # fmt: skip
    rows = TextTable(
        ["file", "metric", "measured", "simulated", "low", "high", "error"],
        [
            [row.file, row.metric.replace("_", " "),
             *(f"{value:,.4g}" for value in (row.measured, row.simulated, row.low, row.high)),
             "–" if row.error is None else f"{row.error:+.2%}"]
            for row in errors.rows
        ],
    )  # fmt: skip
    about = "Held out are the files that took no part in fitting the latency profiles."
    return Section("Errors against the measurements", about, b"", [medians], [rows])


def _percent(value: float) -> str:
    return "–" if value != value else f"{value:.2%}"
