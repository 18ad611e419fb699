"""The database of usage: SQLite or PostgreSQL, by SQLAlchemy.

Everything is added to what is there, so any number of servers may write. A batch is one
transaction, in which its writer's sequence number goes on: one that is written again, because
nobody knows whether it got through, changes nothing. Calls block; use them in a thread.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.usage.errors import StoreError, WrongSchema
from fairlane.usage.reading import Where
from fairlane.usage.rows import DAY_HOURS, FIELDS, HOUR_S, Batch, Spent, day_of, month_of

try:
    from sqlalchemy import (
        URL,
        Connection,
        Table,
        create_engine,
        delete,
        event,
        func,
        inspect,
        make_url,
        or_,
        select,
        text,
    )
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.schema import CreateIndex, CreateTable

    from fairlane.usage.schema import METADATA, REFUSALS, SCHEMA, SPENT, USAGE, VERSION, WRITERS
except ImportError as error:  # an extra
    raise FairlaneError(
        "usage needs sqlalchemy, which is not installed: pip install sqlalchemy 'psycopg[binary]'"
    ) from error

_PATHS = 500  # that are asked for at once
_LOCK = 0x6661_6972  # of PostgreSQL: one server at a time makes the tables
_SQLITE_WAIT_S = 10.0  # for others to have written
_POSTGRES = {  # a server that has gone is noticed, and nothing waits for ever
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "options": "-c statement_timeout=20000 -c lock_timeout=10000",
}
Wanted = Iterable[tuple[str, str]]
Row = dict[str, Any]


class Store:
    """See the module. `address`: of a SQLite file, or postgresql://user@host/name.

    makes: whether tables that are missing are made. Connects when it is first used. Methods raise
    StoreError while the database cannot be used, and WrongSchema for one of another version, or
    without tables that are not made.
    """

    def __init__(self, address: str, password: str | None = None, *, makes: bool = True) -> None:
        url = _url(address, password)
        self._sqlite = url.get_backend_name() == "sqlite"
        shown = url.set(drivername="postgresql").render_as_string(hide_password=True)
        self.name = address if self._sqlite else shown
        self._insert = sqlite.insert if self._sqlite else postgresql.insert
        arguments = {"timeout": _SQLITE_WAIT_S} if self._sqlite else _POSTGRES
        self._engine = create_engine(
            url, connect_args=arguments, pool_pre_ping=not self._sqlite, pool_size=2
        )
        if self._sqlite:
            event.listen(self._engine, "connect", _prepare_sqlite)
        self._upserts = {t.name: self._adding(t) for t in (USAGE, REFUSALS, SPENT)}
        self._makes = makes
        self._ready = False

    def close(self) -> None:
        """Let go of its connections."""
        self._engine.dispose()

    # -- writing -----------------------------------------------------------------------------

    def write(self, writer: str, sequence: int, batch: Batch, at: float) -> bool:
        """Add a batch, unless it is in already; whether it was new."""
        with self._begun() as connection:
            new = self._is_new(connection, writer, sequence, int(at // HOUR_S))
            if new:
                # in one order everywhere: else two servers would wait for each other
                self._add(connection, USAGE, _usage_rows(batch))
                self._add(connection, REFUSALS, _refusal_rows(batch))
                self._add(connection, SPENT, _spent_rows(batch))
        return new

    def forget(self, before: float) -> None:
        """Delete what is older than a time, but for the month that it is in."""
        hour = int(before // HOUR_S)
        day, month = day_of(before), month_of(before)
        day_length = len(day)
        of_days = func.length(SPENT.c.period) == day_length
        with self._begun() as connection:
            for table in (USAGE, REFUSALS, WRITERS):
                connection.execute(delete(table).where(table.c.hour < hour))
            connection.execute(delete(SPENT).where(of_days, SPENT.c.period < day))
            connection.execute(delete(SPENT).where(~of_days, SPENT.c.period < month))

    def delete(self, tenant: str) -> int:
        """Delete what there is of a tenant and its members; how many rows.

        Sums of the groups above it stay: they hold what the group has spent.
        """
        count = 0
        with self._begun() as connection:
            for table in (USAGE, REFUSALS, SPENT):
                of = _below(table.c.path if table is SPENT else table.c.tenant, tenant)
                count += connection.execute(delete(table).where(of)).rowcount
        return count

    # -- reading -----------------------------------------------------------------------------

    def spent(self, wanted: Wanted) -> dict[tuple[str, str], Spent]:
        """What was spent, by period and path; nothing where nothing was."""
        by_period: dict[str, list[str]] = {}
        for period, path in wanted:
            by_period.setdefault(period, []).append(path)
        found = {}
        with self._begun() as connection:
            for period, paths in by_period.items():
                for first in range(0, len(paths), _PATHS):
                    some = paths[first : first + _PATHS]
                    query = select(SPENT).where(SPENT.c.period == period, SPENT.c.path.in_(some))
                    for row in connection.execute(query):
                        found[period, row.path] = Spent(row.tokens, row.service)
        return found

    def used(self, by: Sequence[str], where: Where) -> list[Row]:
        """Usage, added up by tenant, model, hour or day; sums of nothing are None."""
        return self._summed(
            USAGE, by, [func.sum(USAGE.c[name]).label(name) for name in FIELDS], where
        )

    def refused(self, by: Sequence[str], where: Where) -> list[Row]:
        """Refusals likewise, and by reason."""
        count = func.sum(REFUSALS.c.count).label("count")
        return self._summed(REFUSALS, [*by, "reason"], [count], where)

    def _summed(self, table: Table, by: Sequence[str], sums: list[Any], where: Where) -> list[Row]:
        columns = [_column(table, name) for name in by]
        query = select(*columns, *sums).group_by(*columns)
        if where.since is not None:
            query = query.where(table.c.hour >= where.since)
        if where.until is not None:
            query = query.where(table.c.hour < where.until)
        if where.tenant is not None:
            query = query.where(
                _below(table.c.tenant, where.tenant)
                if where.members
                else table.c.tenant == where.tenant
            )
        with self._begun() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    # -- inside ------------------------------------------------------------------------------

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        """A transaction, in a database that has its tables."""
        try:
            with self._engine.begin() as connection:
                if not self._ready:
                    if self._makes:
                        self._make(connection)
                    self._check(connection)
                yield connection
            self._ready = True
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).strip()
            raise StoreError(f"{self.name}: {cause.splitlines()[0]}") from error

    def _make(self, connection: Connection) -> None:
        if not self._sqlite:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        for table in METADATA.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
        if connection.execute(select(func.max(SCHEMA.c.version))).scalar() is None:
            written = self._insert(SCHEMA).values(version=VERSION)
            connection.execute(written.on_conflict_do_nothing())  # another server may be as quick

    def _check(self, connection: Connection) -> None:
        if not inspect(connection).has_table(SCHEMA.name):
            raise WrongSchema(f"{self.name} holds no usage of Fairlane")
        version = connection.execute(select(func.max(SCHEMA.c.version))).scalar()
        if version != VERSION:
            raise WrongSchema(
                f"{self.name} has tables of version {version}, and this Fairlane writes version "
                f"{VERSION}; name another database, or run the Fairlane that made it"
            )

    def _is_new(self, connection: Connection, writer: str, sequence: int, hour: int) -> bool:
        given = self._insert(WRITERS).values(id=writer, sequence=sequence, hour=hour)
        written = given.on_conflict_do_update(
            index_elements=[WRITERS.c.id],
            set_={"sequence": given.excluded.sequence, "hour": given.excluded.hour},
            where=WRITERS.c.sequence < given.excluded.sequence,
        )
        return connection.execute(written.returning(WRITERS.c.id)).first() is not None

    def _adding(self, table: Table) -> Any:
        given = self._insert(table)
        keys = [column.name for column in table.primary_key]
        added = {
            column.name: column + given.excluded[column.name]
            for column in table.columns
            if column.name not in keys
        }
        return given.on_conflict_do_update(index_elements=keys, set_=added)

    def _add(self, connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            connection.execute(self._upserts[table.name], rows)


def _url(address: str, password: str | None) -> URL:
    if "://" not in address:
        return URL.create("sqlite", database=address)
    url = make_url(address).set(drivername="postgresql+psycopg")
    return url if password is None else url.set(password=password)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Let readers read while others write, and lose nothing when a process dies."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _usage_rows(batch: Batch) -> list[dict[str, Any]]:
    return [
        {"tenant": tenant, "hour": hour, "model": model, **used._asdict()}
        for (hour, tenant, model), used in sorted(batch.used.items())
    ]


def _refusal_rows(batch: Batch) -> list[dict[str, Any]]:
    names = ("hour", "tenant", "model", "reason")
    return [
        {**dict(zip(names, key, strict=True)), "count": count}
        for key, count in sorted(batch.refused.items())
    ]


def _spent_rows(batch: Batch) -> list[dict[str, Any]]:
    return [
        {"period": period, "path": path, **spent._asdict()}
        for (period, path), spent in sorted(batch.spent.items())
    ]


def _column(table: Table, name: str) -> Any:
    return (table.c.hour // DAY_HOURS).label("day") if name == "day" else table.c[name].label(name)


def _below(column: Any, tenant: str) -> Any:
    """Whether a path is that of a tenant, or of a member."""
    return or_(column == tenant, column.startswith(tenant + "/", autoescape=True))
