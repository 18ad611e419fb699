"""Reads CSV files as people and spreadsheets write them: the one reader of rows and of numbers.

A spreadsheet writes `374.0` and `1E3` for whole numbers, and people put blanks after commas; that
is taken. What Python takes for a number and no spreadsheet writes (`1_000`, `nan`, digits of other
scripts) is refused: it is more likely a mistake.
"""

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO, TypeVar

from fairlane.core.errors import FairlaneError

T = TypeVar("T")

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_EXACT = 2.0**53  # whole numbers beyond it are not exact as floats
_BLANKS = " \t"


def parse_number(text: str, what: str = "a number") -> float:
    """A number as spreadsheets write it, blanks around it allowed. Raises ValueError: "must be"."""
    plain = text.strip(_BLANKS)
    if not _NUMBER.fullmatch(plain):
        raise ValueError(f"must be {what}, not {text!r}")
    return float(plain)


@dataclass(frozen=True, slots=True)
class Row:
    """The fields of one line, by the names in the first one, without the blanks around them."""

    line: int
    fields: Mapping[str, str]

    def number(self, column: str) -> float:
        """The number in this column. Raises ValueError, naming the column."""
        try:
            return parse_number(self.fields[column])
        except ValueError as error:
            raise ValueError(f"{column} {error}") from None

    def whole(self, column: str) -> int:
        """The whole number in this column, also where it is written as `374.0` or `1e3`."""
        text, what = self.fields[column], "a whole number"
        try:
            number = parse_number(text, what)
        except ValueError as error:
            raise ValueError(f"{column} {error}") from None
        if not number.is_integer() or abs(number) >= _EXACT:
            raise ValueError(f"{column} must be {what}, not {text!r}")
        return int(number)


def read_rows(
    path: str | os.PathLike[str],
    parse: Callable[[Row], T],
    error: type[FairlaneError],
    columns: Sequence[str],
    optional: Sequence[str] = (),
) -> Iterator[T]:
    """`parse` of every row of a CSV file whose first line names `columns`, in any order.

    Raises `error`, naming file and line, where the file cannot be read, the first line lacks one of
    the columns or names one twice (an optional one too), a row has another number of fields, or
    `parse` raises ValueError.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in _rows(path, file, error, columns, optional):
                try:
                    parsed = parse(row)
                except ValueError as wrong:
                    raise error(f"{path}:{row.line}: {wrong}") from None
                yield parsed
    except OSError as wrong:
        raise error(f"{path}: cannot be read ({(wrong.strerror or '').lower()})") from wrong
    except (UnicodeDecodeError, csv.Error) as wrong:
        raise error(f"{path}: not a CSV file in UTF-8 ({wrong})") from wrong


def _rows(
    path: str | os.PathLike[str],
    file: TextIO,
    error: type[FairlaneError],
    columns: Sequence[str],
    optional: Sequence[str],
) -> Iterator[Row]:
    reader = csv.reader(file, strict=True, skipinitialspace=True)
    names = [name.strip(_BLANKS) for name in next(reader, [])]
    if complaint := _wrong_names(names, columns, optional):
        raise error(f"{path}:1: {complaint}")
    for fields in reader:
        if len(fields) == len(names):
            stripped = [field.strip(_BLANKS) for field in fields]
            yield Row(reader.line_num, dict(zip(names, stripped, strict=True)))
        elif fields:  # not a blank line
            raise error(f"{path}:{reader.line_num}: not as many fields as the first line names")


def _wrong_names(names: list[str], columns: Sequence[str], optional: Sequence[str]) -> str | None:
    if missing := [name for name in columns if name not in names]:
        has = f" (it names {', '.join(names)})" if any(names) else ""
        also = "".join(f", and {name} if need be" for name in optional)
        return (
            f"no column {', '.join(missing)}{has}; the first line must name "
            f"{','.join(columns)}{also}"
        )
    if twice := [name for name in (*columns, *optional) if names.count(name) > 1]:
        return f"the first line names {', '.join(twice)} twice; leave one of them out"
    return None
