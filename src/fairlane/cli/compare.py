"""`fairlane compare`: the artifact's measurements beside simulations of the same runs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairlane.cli.output import (
    Json,
    Runs,
    Workers,
    format_number,
    print_json,
    print_table,
    progress_bar,
    say,
)

if TYPE_CHECKING:
    from fairlane.experiments.compare import Comparison, Row


def compare(
    measured: Annotated[
        Path, typer.Option(help="Folder of results: VTC/, FCFS/, LShare/, sec6.4/ and so on.")
    ],
    runs: Runs = 24,
    cold_start: Annotated[
        float | None,
        typer.Option(help="Seconds by which the first prefill takes longer, for all files."),
    ] = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Hold the simulator against the artifact's measurements.

    Each file's own requests are simulated with the settings that the file was measured with. One
    row per file and metric: measured, the simulated median and range, and the median's error.

    \b
    fairlane compare --measured VTC-artifact/fair_bench
    fairlane compare --measured fair_bench --runs 8 --json > errors.json
    """
    from fairlane.experiments import compare as comparing

    with progress_bar("simulating") as progress:
        comparison = comparing.compare(
            measured, runs=runs, cold_start_s=cold_start, workers=workers, progress=progress
        )
    for file, reason in comparison.skipped.items():
        say(f"skipped {file}: {reason}")
    for experiment in comparison.experiments:
        if experiment.note:
            say(f"{experiment.file}: {experiment.note}")
    if json:
        print_json([asdict(row) for row in comparison.rows])
    else:
        _print(comparison)


def _print(comparison: "Comparison") -> None:
    from fairlane.experiments.compare import error_medians

    rows = [_cells(row) for row in comparison.rows]
    print_table(("file ", "metric ", "measured", "simulated", "low", "high", "error"), rows)
    print()
    print_table(
        ("metric ", "all files", "files", "held out", "files", "in range"),
        [
            [
                one.metric,
                _percent(one.all_files),
                str(one.files),
                _percent(one.held_out),
                str(one.held_out_files),
                str(one.in_range),
            ]
            for one in error_medians(comparison)
        ],
        "median |error| over files; held out: those that no profile was fitted to; "
        "in range: files measured within the range of the simulated runs",
    )


def _cells(row: "Row") -> list[str]:
    numbers = (row.measured, row.simulated, row.low, row.high)
    error = "-" if row.error is None else f"{row.error:+.2%}"
    return [row.file, row.metric, *map(format_number, numbers), error]


def _percent(value: float) -> str:
    return "-" if value != value else f"{value:.2%}"
