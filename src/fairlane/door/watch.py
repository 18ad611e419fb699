"""Watching a running server: who gets what between two looks at GET /fairlane/tenants."""

import json
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fairlane.core.errors import FairlaneError

_TIMEOUT_S = 10.0
_OF_POOLS_S = 10.0  # between two looks at a pool at least: its servers tell of themselves seldom
Clients = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """One client between two looks. Rates are per second; `share` is None while nobody is served.

    entitlement: its part of what is looked at while it has something to do, else None.
    wait_s: mean wait of those admitted in between, else None. rejected: None where not told.
    """

    client: str
    share: float | None
    entitlement: float | None
    queued: int
    running: int
    input_rate: float
    output_rate: float
    wait_s: float | None
    rejected: int | None
    service: float


@dataclass(frozen=True, slots=True)
class View:
    """All clients, those with most service in between first.

    where: what was looked at, in words, if it is a pool or a server of one; else "".
    """

    rows: list[Row]
    policy: str
    observed: float | None
    bound: float | None
    problem: str | None
    where: str = ""


class Watch:
    """Looks at one server again and again; at all of its pool, where it shares with others.

    key: an operator's, where the server asks for one. server: the one of the pool to look at.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        server: str | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise FairlaneError(f"{url}: give the server's address: http://localhost:8000")
        self._url = url.rstrip("/") + "/fairlane/tenants"
        self._key = key
        self._clock = clock
        self._server = server
        self._looks: deque[tuple[float, Clients]] = deque()

    def look(self) -> View:
        """What there is now, and what happened since the last look (since the start, at first)."""
        seen = self._get()
        cluster = seen.get("cluster") or {}
        servers = cluster.get("servers") or {}
        if self._server is None and len(servers) < 2:
            return self._view(seen, seen, 0.0)
        if self._server is not None and self._server not in servers:
            known = ", ".join(sorted(servers)) or "it shares with none"
            raise FairlaneError(f"{self._url} knows no server {self._server}: {known}")
        part = cluster if self._server is None else {"clients": servers[self._server]}
        names = ", ".join(sorted(servers)) if self._server is None else self._server
        return self._view(seen, part, _OF_POOLS_S, f"pool {cluster.get('pool')}: {names}")

    def _view(
        self, seen: Mapping[str, Any], part: Mapping[str, Any], least_s: float, where: str = ""
    ) -> View:
        """Of `part`, against what it was at least so many seconds ago, if that was seen."""
        now = self._clock()
        clients: Clients = part.get("clients", {})
        looks = self._looks
        while len(looks) > 1 and now - looks[1][0] >= least_s:
            looks.popleft()
        before_at, before = looks[0] if looks else (None, {})
        elapsed = None if before_at is None else max(now - before_at, 1e-9)
        looks.append((now, clients))
        own = part is seen
        return View(
            compare(clients, before, elapsed),
            str(seen.get("policy") or "?"),
            seen.get("observed_difference") if own else None,
            part.get("bound"),
            seen.get("problem") or (seen.get("cluster") or {}).get("problem"),
            where,
        )

    def _get(self) -> Mapping[str, Any]:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(self._url, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            hint = "put an operator's key into FAIRLANE_KEY" if error.code == 401 else "is it ours?"
            raise FairlaneError(f"{self._url} answered {error.code}; {hint}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise FairlaneError(f"{self._url}: {reason}; is the server running?") from error
        if not isinstance(found, dict):
            raise FairlaneError(f"{self._url} is no Fairlane server")
        return found


def compare(
    now: Mapping[str, Any], before: Mapping[str, Any], elapsed_s: float | None
) -> list[Row]:
    """One row per client from two snapshots; without the time in between, rates are 0."""
    grown = {name: _Growth(client, before.get(name, {})) for name, client in now.items()}
    total = sum(growth("service") for growth in grown.values())
    per_second = 0.0 if elapsed_s is None else 1 / elapsed_s
    rows = []
    for name, growth in grown.items():
        admitted = growth("admissions")
        client = now[name]
        rows.append(
            Row(
                name,
                growth("service") / total if total > 0 else None,
                client.get("entitlement"),
                int(client.get("queued", 0)),
                int(client.get("running", 0)),
                (growth("input_tokens") + growth("cached_tokens")) * per_second,
                growth("output_tokens") * per_second,
                growth("wait_s") / admitted if admitted else None,
                sum(client["rejected"].values()) if "rejected" in client else None,
                float(client.get("service", 0.0)),
            )
        )
    return sorted(rows, key=lambda row: (-(row.share or 0.0), -row.service, row.client))


def grown(now: float, before: float) -> float:
    """By how much a total grew; one that fell has started over."""
    return now - before if now >= before else now


class _Growth:
    """By how much a client's totals grew."""

    def __init__(self, now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        self._now = now
        self._before = before

    def __call__(self, name: str) -> float:
        return grown(float(self._now.get(name) or 0), float(self._before.get(name) or 0))


def views(watch: Watch, interval_s: float) -> Iterator[View]:
    """A view now, and another after each interval."""
    while True:
        yield watch.look()
        time.sleep(interval_s)
