"""Brings docs/reproduction.md up to date: its figures and its tables, from the artifact's files.

python -m tools.reproduction FAIR_BENCH REAL_TRACE.csv

Takes some minutes. What was simulated is kept in out/, so a second time is quick.
"""

import csv
import shutil
import sys
from pathlib import Path

from tools.page import fill, table

from fairlane.experiments.compare import Comparison, Row, compare, error_medians
from fairlane.experiments.reproduce import reproduce

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reproduction.md"
OUTPUT = ROOT / "out" / "reproduction"
FIGURES = ("fig3", "fig4", "fig9", "fig11", "fig13", "fig14")
PAPER = {  # table 2 of the paper: maximum, average, variance, throughput
    "FCFS": (759.97, 433.53, 32112, 777),
    "LCF": (750.49, 323.82, 29089, 778),
    "VTC": (368.40, 251.66, 6549, 779),
}
SHOWN = (
    "total_time",
    "mean_first_token_latency",
    "max_accumulated_service_difference",
    "table_average_difference",
)


def main() -> None:
    """Simulate, then replace figures and tables when all went well."""
    measured, trace = Path(sys.argv[1]), Path(sys.argv[2])
    comparison = compare(measured)
    reproduce(measured=measured, trace=trace, output=OUTPUT)
    page = PAGE.read_text()
    for name, text in {
        "errors": error_table(comparison),
        "files": file_table(comparison),
        "table2": table2(OUTPUT / "table2.csv"),
    }.items():
        page = fill(page, name, text)
    for figure in FIGURES:
        shutil.copy(OUTPUT / f"{figure}.png", PAGE.parent / "images" / f"{figure}.png")
    PAGE.write_text(page)


def error_table(comparison: Comparison) -> str:
    """The median error of every metric."""
    columns = ("metric", "all files", "held-out files", "measured within the simulated range")
    rows = []
    for one in error_medians(comparison):
        within = f"{one.in_range} of {one.files}"
        rows.append((_words(one.metric), f"{one.all_files:.2%}", f"{one.held_out:.2%}", within))
    return table(columns, rows)


def file_table(comparison: Comparison) -> str:
    """The error of the main metrics for every file; a star where a profile was fitted to it."""
    found = {(row.file, row.metric): row for row in comparison.rows}
    rows = []
    for experiment in comparison.experiments:
        name = experiment.file.replace("all_results_", "").removesuffix(".jsonl")
        cells = [_error(found[experiment.file, metric]) for metric in SHOWN]
        rows.append([f"`{name}`{' *' * experiment.fitted}", *cells])
    return table(["file", *map(_words, SHOWN)], rows)


def table2(path: Path) -> str:
    """Table 2 of the paper beside ours."""
    simulated: dict[str, list[str]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            median, low, high = (f"{float(row[name]):,.0f}" for name in ("median", "low", "high"))
            simulated.setdefault(row["series"], []).append(f"{median} [{low}, {high}]")
    rows = []
    for scheduler, numbers in PAPER.items():
        rows.append([scheduler, "paper", *(f"{number:,.0f}" for number in numbers)])
        rows.append(["", "simulated", *simulated[scheduler]])
    columns = ("scheduler", "", "max", "average", "variance", "tokens/s")
    return table(columns, rows, words=2)


def _error(row: Row) -> str:
    inside = "" if row.low <= row.measured <= row.high else " (out)"
    return "-" if row.error is None else f"{row.error:+.1%}{inside}"


def _words(metric: str) -> str:
    return metric.replace("_", " ").replace("accumulated service ", "accumulated ")


if __name__ == "__main__":
    main()
