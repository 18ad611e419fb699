"""`fairlane usage`: what tenants were served, as a server kept it."""

import csv
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairlane.cli.output import Json, format_number, print_json, print_table, printable, say
from fairlane.core.errors import FairlaneError

if TYPE_CHECKING:
    from fairlane.usage.store import Store

_CONFIG = Path("fairlane.toml")
_NUMBERS = ("requests", "input", "cached", "output", "service", "wait (s)", "refused")


def usage(
    database: Annotated[
        str | None, typer.Argument(help="A file, or postgresql://USER@HOST/DATABASE.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Or the server's configuration, which names it.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="Of tenant, model, and hour, day or month; commas between.")
    ] = "tenant",
    since: Annotated[str | None, typer.Option(help="From then on: 2026-01-31, today, 30d.")] = None,
    until: Annotated[str | None, typer.Option(help="Before then.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Of it and its members alone.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    json: Json = False,
    delete: Annotated[
        str | None, typer.Option(help="Delete all that is kept of a tenant and its members.")
    ] = None,
) -> None:
    """Show what tenants were served: requests, tokens, service, waiting, refusals.

    Times are UTC; a server writes what it served within seconds. A database's password can be in
    the environment variable PGPASSWORD.

    \b
    fairlane usage usage.sqlite
    fairlane usage --config fairlane.toml --by tenant,model,day --since 30d
    fairlane usage postgresql://fairlane@db/fairlane --by month --tenant acme --csv
    fairlane usage usage.sqlite --delete alice
    """
    from fairlane.usage.reading import Where, parse_by, parse_time, report

    now = datetime.now(UTC)
    words = parse_by(by)
    hours = [None if text is None else parse_time(text, now) for text in (since, until)]
    if as_csv and json:
        raise FairlaneError("--csv or --json: one of them")
    store = _store(database, config)
    if delete is not None:
        say(f"deleted {store.delete(delete)} rows of {delete}")
        return
    rows = report(store, words, Where(hours[0], hours[1], tenant))
    if json:
        print_json(rows)
    elif as_csv:
        _print_csv(words, rows)
    else:
        print_table([*(f"{word} " for word in words), *_NUMBERS], [_cells(words, r) for r in rows])


def _store(database: str | None, config: Path | None) -> "Store":
    if database is not None and config is not None:
        raise FairlaneError("give a database or --config, not both")
    from fairlane.usage.config import Keeping

    if database is None:
        file = config or _CONFIG
        table = _table(file)
        try:
            keeping = Keeping.parse(table, file.parent)
        except FairlaneError as error:
            raise FairlaneError(f"{file}: [usage] {error}") from None
    else:
        keeping = Keeping.parse({"database": database}, Path())
    place = keeping.database or ""
    if "://" not in place and not Path(place).exists():  # it would be made
        raise FairlaneError(f"{place}: there is no such database")
    return keeping.store(makes=False)


def _table(config: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(config.read_text(encoding="utf-8")).get("usage")
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise FairlaneError(f"{config}: {cause}; name a database, or a configuration") from None
    except ValueError as error:
        raise FairlaneError(f"{config}: not valid TOML: {error}") from None
    if not isinstance(table, dict):
        raise FairlaneError(f"{config} has no [usage], so nothing is kept")
    return table


def _print_csv(words: list[str], rows: list[dict[str, Any]]) -> None:
    reasons = sorted({reason for row in rows for reason in row["refused"]})
    from fairlane.usage.rows import FIELDS

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*words, *FIELDS, *(f"refused_{reason}" for reason in reasons)])
    for row in rows:
        refused = [row["refused"].get(reason, 0) for reason in reasons]
        writer.writerow([row[name] for name in (*words, *FIELDS)] + refused)


def _cells(words: list[str], row: dict[str, Any]) -> list[str]:
    names = [printable(row[word]) or "-" for word in words]
    numbers = ("requests", "input_tokens", "cached_tokens", "output_tokens", "service")
    requests = row["requests"]
    return [
        *names,
        *(format_number(row[name]) for name in numbers),
        f"{row['wait_s'] / requests:.2f}" if requests else "-",
        format_number(sum(row["refused"].values())),
    ]
