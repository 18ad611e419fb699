"""What all subcommands share: tables, JSON, progress bars, options.

Tables are drawn for a terminal and aligned plainly for a pipe. Progress goes to standard error, and
only where that is a terminal, so that standard output holds nothing but the answer.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer

from fairlane.core.errors import FairlaneError

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Runs = Annotated[int, typer.Option(min=1, help="Simulations of each, with consecutive seeds.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes at most; one per core by default.")
]
TooLong = Annotated[
    str | None,
    typer.Option(help="Requests of a trace too long for the memory: refuse (default), drop, clip."),
]
Progress = Callable[[int, int, str], None]


def print_json(value: Any) -> None:
    """Print `value` as JSON; numbers that are not are null."""
    print(json.dumps(_finite(value), indent=2))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table. A column whose name ends in a blank is text; others are set to the right."""
    if sys.stdout.isatty():
        _print_drawn(columns, rows, title)
    else:
        _print_plain(columns, rows, title)


def _print_drawn(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE)
    for column in columns:
        side: Literal["left", "right"] = "left" if column.endswith(" ") else "right"
        table.add_column(column.rstrip(), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    lines = [[column.rstrip() for column in columns], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    if title:
        print(title)
    for line in lines:
        cells = [
            cell.ljust(width) if column.endswith(" ") else cell.rjust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        print("  ".join(cells).rstrip())


@contextmanager
def progress_bar(title: str) -> Iterator[Progress | None]:
    """A callback (done, in all, what) that moves a bar; None where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}"),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=None, what="")

        def move(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, what=what)

        yield move


def say(message: str) -> None:
    """A remark beside the answer, to standard error."""
    print(message, file=sys.stderr)


def parse_numbers(text: str | None, option: str) -> tuple[float, ...]:
    """The numbers of an option like `1,2,3`. Raises FairlaneError, naming the option."""
    if text is None:
        return ()
    from fairlane.workloads.rows import parse_number

    try:
        numbers = tuple(parse_number(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise FairlaneError(f"{option} takes numbers above 0 with commas between, not {text!r}")
    return numbers


def printable(text: str) -> str:
    """A text that moves nothing on a terminal, whoever wrote it."""
    return "".join(c if c.isprintable() else "?" for c in text)


def format_number(value: float) -> str:
    """Four significant digits, thousands apart; a dash where there is no number."""
    if not math.isfinite(value):
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
