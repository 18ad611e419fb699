"""What a figure consists of, as numbers: drawn, written as CSV and shown in reports alike.

Every quantity comes as one value per run of an ensemble, and shows as its median and its range,
with what was measured beside it where that is at hand.
"""

import csv
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fairlane.files import atomic_write
from fairlane.metrics import Floats


class Number(NamedTuple):
    """One number of a figure; NaN where there is none.

    panel, series: where it is found. x: its place there, seconds or a name. low, high: the range
    over the ensemble's runs.
    """

    panel: str
    series: str
    x: float | str
    median: float
    low: float
    high: float
    measured: float


class Band(NamedTuple):
    """Median, lowest and highest over runs, each (m,); NaN where no run has a value."""

    median: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(cls, values: Floats) -> "Band":
        """Of (runs, m) values; runs that have none at some place do not count there."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # places without any value
            low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            return cls(np.nanmedian(values, axis=0), low, high)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A quantity over time: x (m,) seconds, values (runs, m), measured (m,) on the same x."""

    label: str
    x: Floats
    values: Floats
    colour: str
    measured: Floats | None = None
    quiet: bool = False  # one of so many that neither band nor legend would be readable


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Axes with curves. y_max cuts the axis off, as the paper does for the sake of the rest."""

    title: str
    y_label: str
    curves: list[Curve]
    x_label: str = "time (s)"
    x_min: float = 0.0
    y_max: float | None = None

    def numbers(self) -> Iterator[Number]:
        """Every point that is drawn."""
        for curve in self.curves:
            measured = np.full(len(curve.x), np.nan) if curve.measured is None else curve.measured
            points = zip(curve.x, *Band.of(curve.values), measured, strict=True)
            for point in points:
                yield Number(self.title, curve.label, *map(float, point))


@dataclass(frozen=True, slots=True, eq=False)
class Bar:
    """One quantity: values (runs,)."""

    label: str
    values: Floats
    colour: str
    measured: float = np.nan


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Axes with one bar per quantity."""

    title: str
    y_label: str
    bars: list[Bar]

    def numbers(self) -> Iterator[Number]:
        """The height and range of every bar."""
        for bar in self.bars:
            median, low, high = Band.of(bar.values[:, np.newaxis])
            numbers = (float(median[0]), float(low[0]), float(high[0]), bar.measured)
            yield Number(self.title, bar.label, self.y_label, *numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """A distribution: values (k,) of all runs together."""

    label: str
    values: Floats
    colour: str
    measured: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Axes with one box per distribution: quartiles, and whiskers to percentiles 5 and 95."""

    title: str
    y_label: str
    boxes: list[Box]

    PERCENTILES = (5, 25, 50, 75, 95)

    def numbers(self) -> Iterator[Number]:
        """The percentiles of every box; pooled over runs, so without a range."""
        none = [np.nan] * len(self.PERCENTILES)
        for box in self.boxes:
            values = np.percentile(box.values, self.PERCENTILES)
            measured = (
                none if box.measured is None else np.percentile(box.measured, self.PERCENTILES)
            )
            for p, value, beside in zip(self.PERCENTILES, values, measured, strict=True):
                yield Number(
                    self.title, box.label, f"p{p}", float(value), np.nan, np.nan, float(beside)
                )


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One row of a table: values (runs, columns), measured (columns,)."""

    label: str
    values: Floats
    measured: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A table of numbers; `columns` are names, each with the decimals it is shown with."""

    title: str
    columns: dict[str, int]
    rows: list[Row]

    def numbers(self) -> Iterator[Number]:
        """Every cell."""
        for row in self.rows:
            measured = np.full(len(self.columns), np.nan) if row.measured is None else row.measured
            cells = zip(self.columns, *Band.of(row.values), measured, strict=True)
            for column, *cell in cells:
                yield Number(self.title, row.label, column, *map(float, cell))


Drawing = Panel | Bars | Boxes


def write_numbers(path: Path, drawings: Iterable[Drawing | Grid]) -> None:
    """Write all numbers of a figure as CSV; a field without one is empty. Raises OutputError."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Number._fields)
        for drawing in drawings:
            for number in drawing.numbers():
                writer.writerow(["" if field != field else field for field in number])
