"""What is shown of each client and group: one row, from two looks at the schedulers.

A look is what GET /fairlane/tenants tells operators (door/telemetry.py). Groups, where clients'
names are paths, have rows too: sums over their members.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from fairlane.door.first_tokens import FirstTokens
from fairlane.door.tenants import Limits, Tenants
from fairlane.door.watch import grown

COLUMNS = (
    "client", "parent", "weight", "entitlement", "service", "rate", "share", "queued", "running",
    "waiting", "oldest_s", "ttft_p50", "ttft_p99", "input_rate", "output_rate", "requests",
    "rejected", "limits",
)  # fmt: skip
_SUMS = (
    "service", "rate", "queued", "running", "waiting", "input_rate", "output_rate", "requests",
)  # fmt: skip
_PARTS = (0.5, 0.99)
_NOTHING: Mapping[str, Any] = {}
MOST_ROWS = 2000  # of more, those that are active and those served most
Row = dict[str, Any]  # by column


class Rows:
    """Makes rows; remembers the last look. first_tokens: what the door saw of them."""

    def __init__(self, first_tokens: FirstTokens) -> None:
        self._first_tokens = first_tokens
        self._before: tuple[float, dict[str, tuple[float, float, float]]] | None = None

    def take(
        self, clients: Mapping[str, Mapping[str, Any]], tenants: Tenants, now: float
    ) -> dict[str, Row]:
        """Rows by path, of `clients` and of tenants of the file that did nothing yet.

        now: seconds of the clock that first tokens are told by.
        """
        at, before = (now, {}) if self._before is None else self._before
        per_s = 1 / (now - at) if now > at else 0.0
        totals: dict[str, tuple[float, float, float]] = {}
        rows: dict[str, Row] = {}
        limits = {tenants.path(name): tenant.limits for name, tenant in tenants.items()}
        weights = tenants.weights()
        for path in {**clients, **limits}:
            told = clients.get(path, _NOTHING)
            total = totals[path] = _totals(told)
            growths = _grown(total, before.get(path))
            row = _row(path, told, [growth * per_s for growth in growths])
            row["weight"] = told.get("weight", weights.get(path, 1.0))
            row["limits"] = told.get("limits") or _limits(limits.get(path))
            rows[path] = row
        self._before = now, totals
        members = _groups(rows)
        sums = {group: _sum(group, rows, paths) for group, paths in members.items()}
        for group, row in sums.items():
            row["weight"] = rows.get(group, {}).get("weight", weights.get(group, 1.0))
        rows.update(sums)
        self._add_latencies(rows, members, now)
        _add_shares(rows)
        return rows

    def _add_latencies(
        self, rows: Mapping[str, Row], members: Mapping[str, list[str]], now: float
    ) -> None:
        for path, row in rows.items():
            of = [path, *members.get(path, ())]
            row["ttft_p50"], row["ttft_p99"] = map(
                number, self._first_tokens.quantiles(of, _PARTS, now)
            )


class Servers:
    """What is shown of the servers of a pool; they tell of themselves now and then."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float, float]] = {}  # service, since when, and its rate

    def take(self, cluster: Mapping[str, Any], now: float) -> dict[str, Any]:
        """From what telemetry tells of the cluster."""
        servers = {
            name: {
                "rate": self._rate(name, sum(c.get("service", 0.0) for c in clients.values()), now),
                "queued": int(sum(c.get("queued", 0) for c in clients.values())),
            }
            for name, clients in cluster.get("servers", {}).items()
        }
        return {
            "connected": cluster.get("connected"),
            "members": cluster.get("members"),
            "exchange_age_seconds": number(cluster.get("age_s"), 2),
            "servers": servers,
        }

    def _rate(self, name: str, service: float, now: float) -> float | None:
        """Service a second between the last two times that it told of itself."""
        before, since, rate = self._seen.get(name, (service, now, 0.0))
        if service != before and now > since:
            rate = max(service - before, 0.0) / (now - since)
        if service != before or name not in self._seen:
            self._seen[name] = service, now, rate
        return number(rate, 2)


def chosen(rows: dict[str, Row]) -> dict[str, Row]:
    """At most MOST_ROWS of them."""
    if len(rows) <= MOST_ROWS:
        return rows
    order = sorted(rows, key=lambda path: (_idle(rows[path]), -rows[path]["service"], path))
    return {path: rows[path] for path in order[:MOST_ROWS]}


def number(value: Any, digits: int = 4) -> float | None:
    """A number that JSON has, rounded; None for what is none."""
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), digits)


def _idle(row: Row) -> bool:
    return not (row["queued"] or row["running"] or row["waiting"] or row["rate"])


def _totals(told: Mapping[str, Any]) -> tuple[float, float, float]:
    """Service, input tokens (of the cache, too) and output tokens."""
    read = told.get("input_tokens", 0) + told.get("cached_tokens", 0)
    return float(told.get("service", 0.0)), float(read), float(told.get("output_tokens", 0))


def _grown(now: Iterable[float], before: Iterable[float] | None) -> list[float]:
    """By how much each grew; of somebody new, all of it."""
    if before is None:
        return list(now)
    return [grown(n, b) for n, b in zip(now, before, strict=True)]


def _row(path: str, told: Mapping[str, Any], rates: Iterable[float]) -> Row:
    service, read, written = rates
    return {
        "client": path,
        "parent": path.rpartition("/")[0] or None,
        "weight": 1.0,
        "entitlement": number(told.get("entitlement")),
        "service": number(told.get("service", 0.0), 1),
        "rate": number(service, 2),
        "share": None,
        "queued": int(told.get("queued", 0)),
        "running": int(told.get("running", 0)),
        "waiting": int(told.get("waiting", 0)),
        "oldest_s": number(told.get("oldest_s"), 2),
        "ttft_p50": None,
        "ttft_p99": None,
        "input_rate": number(read, 2),
        "output_rate": number(written, 2),
        "requests": int(told.get("arrivals", 0)),
        "rejected": dict(told.get("rejected") or {}),
        "limits": {},
    }


def _limits(limits: Limits | None) -> dict[str, Any]:
    if limits is None:
        return {}
    found = asdict(limits)
    return found if any(value is not None for value in found.values()) else {}


def _groups(paths: Iterable[str]) -> dict[str, list[str]]:
    """By group, all below it."""
    found: dict[str, list[str]] = {}
    for path in paths:
        group = path.rpartition("/")[0]
        while group:
            found.setdefault(group, []).append(path)
            group = group.rpartition("/")[0]
    return found


def _sum(group: str, rows: Mapping[str, Row], members: Iterable[str]) -> Row:
    """A group's row: its members', and its own where it is a client as well."""
    own = rows.get(group) or _row(group, _NOTHING, (0.0, 0.0, 0.0))
    parts = [own, *(rows[path] for path in members)]
    row = dict(own)
    for name in _SUMS:
        row[name] = sum(part[name] for part in parts)
    entitled = [part["entitlement"] for part in parts if part["entitlement"] is not None]
    row["entitlement"] = number(sum(entitled)) if entitled else None
    row["oldest_s"] = max((p["oldest_s"] for p in parts if p["oldest_s"] is not None), default=None)
    row["rejected"] = dict(sum((Counter(part["rejected"]) for part in parts), Counter[str]()))
    return row


def _add_shares(rows: Mapping[str, Row]) -> None:
    total = sum(row["rate"] for row in rows.values() if row["parent"] is None)
    for row in rows.values():
        row["share"] = number(row["rate"] / total) if total > 0 else None
