"""The parts of a document that a tool writes, each between `<!-- NAME -->` and `<!-- /NAME -->`.

Also what such tools share: files of rows, and how a mean is written.

Imports the standard library alone.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any


def arguments(description: str | None, output: str) -> argparse.Namespace:
    """What tools take that make a page's tables: folders of `raw` data, `output`, and the `page`.

    output: the folder of the data that are kept, by default; it is made.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--page", type=Path)
    found = parser.parse_args()
    found.output.mkdir(parents=True, exist_ok=True)
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON Lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One line a row."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def mean(values: Sequence[float], digits: int = 4) -> str:
    """The mean and its standard error."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{fmean(values):.{digits}f} ± {error:.{digits}f}"


def show(tables: str, page: Path | None, name: str) -> None:
    """Print tables, and fill them into a page as the part of that name."""
    print(tables)
    if page is not None:
        text = page.read_text(encoding="utf-8")
        page.write_text(fill(text, name, f"\n{tables}\n"), encoding="utf-8")


def fill(page: str, name: str, text: str) -> str:
    """The page with `text` as the part of that name. Raises SystemExit where it has none."""
    block = f"<!-- {name} -->\n{text}\n<!-- /{name} -->"
    marks = rf"<!-- {name} -->.*<!-- /{name} -->"
    page, found = re.subn(marks, lambda _: block, page, flags=re.DOTALL)
    if not found:
        raise SystemExit(f"no place for {name} in the page")
    return page


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table in Markdown; the first `words` columns hold words, the others numbers."""
    marks = "---|" * words + "---:|" * (len(columns) - words)
    return "\n".join([_line(columns), f"|{marks}", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
