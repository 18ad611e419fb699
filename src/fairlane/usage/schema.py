"""The tables of usage, the same in SQLite and PostgreSQL.

hour: whole hours since 1970, of UTC. Reports read `fairlane_usage` and `fairlane_refusals`; quotas
read `fairlane_spent`, sums by day and month in which a group has what its members spent.
`fairlane_writers` says of every server how many of its batches are in.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
)

from fairlane.usage.rows import FIELDS

VERSION = 1
METADATA = MetaData()
_WHOLE = {"requests", "input_tokens", "cached_tokens", "output_tokens"}

USAGE = Table(
    "fairlane_usage",
    METADATA,
    Column("tenant", String, primary_key=True),
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("model", String, primary_key=True),
    *(Column(n, BigInteger if n in _WHOLE else Double, nullable=False) for n in FIELDS),
    Index("fairlane_usage_hour", "hour"),
)
REFUSALS = Table(
    "fairlane_refusals",
    METADATA,
    Column("tenant", String, primary_key=True),
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("model", String, primary_key=True),
    Column("reason", String, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Index("fairlane_refusals_hour", "hour"),
)
SPENT = Table(
    "fairlane_spent",
    METADATA,
    Column("period", String, primary_key=True),  # 2026-01-31, or 2026-01
    Column("path", String, primary_key=True),
    Column("tokens", BigInteger, nullable=False),
    Column("service", Double, nullable=False),
)
WRITERS = Table(
    "fairlane_writers",
    METADATA,
    Column("id", String, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("hour", Integer, nullable=False),
)
SCHEMA = Table("fairlane_schema", METADATA, Column("version", Integer, primary_key=True))
