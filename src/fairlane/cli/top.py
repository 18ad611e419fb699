"""`fairlane top`: a live view of who gets what from a server."""

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fairlane.cli.output import Json, format_number, print_json, print_table, printable

if TYPE_CHECKING:
    from rich.table import Table

    from fairlane.door.watch import Row, View

_COLUMNS = (
    "client ", "share", "entitled", "queued", "running", "in tok/s", "out tok/s", "wait (s)",
    "rejected", "service",
)  # fmt: skip


def top(
    url: Annotated[str, typer.Argument(help="The server: http://localhost:8000")],
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, since its start.")] = False,
    server: Annotated[
        str | None,
        typer.Option(help="One of the servers that share, by the name that it has here."),
    ] = None,
    json: Json = False,
) -> None:
    """Show who gets what: shares of the service between two looks, beside the entitlements.

    A share below the entitlement is unfair only while the client has requests queued. Servers
    with tenants want an operator's key in the environment variable FAIRLANE_KEY.

    Of a server that shares with others by a hub it shows what clients get of all of them, as these
    told each other in the last seconds; --server shows the part of one.

    \b
    fairlane top http://localhost:8000
    FAIRLANE_KEY=fl-... fairlane top https://llm.example.com --once --json
    """
    from fairlane.door.watch import Watch, views

    watch = Watch(url, os.environ.get("FAIRLANE_KEY"), server=server)
    if json or once or not sys.stdout.isatty():
        view = watch.look()
        if json:
            print_json(asdict(view))
        else:
            print_table(_COLUMNS, [_cells(row) for row in view.rows], _title(view))
        return
    from rich.live import Live

    try:
        with Live(auto_refresh=False, screen=True) as live:
            for view in views(watch, interval):
                live.update(drawn(view), refresh=True)
    except KeyboardInterrupt:
        return


def drawn(view: "View") -> "Table":
    """A view as a table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(_title(view)), title_justify="left", box=box.SIMPLE)
    for column in _COLUMNS:
        table.add_column(column.rstrip(), justify="left" if column.endswith(" ") else "right")
    for row in view.rows:
        behind = row.queued and (row.share or 0.0) < 0.8 * (row.entitlement or 0.0)
        table.add_row(*map(Text, _cells(row)), style="yellow" if behind else "")
    return table


def _title(view: "View") -> str:
    title = f"{view.policy}: {len(view.rows)} clients"
    if view.observed is not None:
        title += f", largest difference in service {format_number(view.observed)}"
    if view.bound is not None:
        title += f" of at most {format_number(view.bound)}"
    if view.where:
        title += f"; {printable(view.where)}"
    return title + (f" ({view.problem})" if view.problem else "")


def _cells(row: "Row") -> list[str]:
    return [
        printable(row.client),
        *("-" if part is None else f"{part:.1%}" for part in (row.share, row.entitlement)),
        str(row.queued),
        str(row.running),
        format_number(round(row.input_rate, 1)),
        format_number(round(row.output_rate, 1)),
        "-" if row.wait_s is None else f"{row.wait_s:.2f}",
        "-" if row.rejected is None else str(row.rejected),
        format_number(row.service),
    ]
