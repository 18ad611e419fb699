"""Tables as text, for drawings and reports."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairlane.experiments.drawings import Band, Grid


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table as it is shown; every row has as many cells as there are columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


def number_table(grid: Grid) -> TextTable:
    """Each number as its median and [range]; what was measured, if anything, in columns beside."""
    is_measured = any(row.measured is not None for row in grid.rows)
    columns = [""]
    for name in grid.columns:
        columns += [name, "measured"] if is_measured else [name]
    rows = []
    for row in grid.rows:
        cells = [row.label]
        for i, decimals in enumerate(grid.columns.values()):
            median, low, high = (f"{v[i]:,.{decimals}f}" for v in Band.of(row.values))
            cells.append(median if low == high else f"{median} [{low}, {high}]")
            if is_measured:
                beside = np.nan if row.measured is None else row.measured[i]
                cells.append("–" if np.isnan(beside) else f"{beside:,.{decimals}f}")
        rows.append(cells)
    return TextTable(columns, rows, grid.title)
