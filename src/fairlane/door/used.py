"""What is told of usage that is kept: GET /fairlane/usage, and GET /fairlane/me.

Operators see everyone's usage, a client its own; everyone sees everyone's where that is configured.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from fairlane.core.errors import FairlaneError
from fairlane.door.admission import Caller, Refused
from fairlane.door.door import Door
from fairlane.door.keeping import Keeper
from fairlane.door.tenants import QUOTAS
from fairlane.usage.quotas import Standing
from fairlane.usage.reading import Row, Where, parse_by, parse_time, report
from fairlane.usage.rows import FIELDS

TOLD = {"/fairlane/usage": "usage", "/fairlane/me": "me"}  # by route
_AT_ONCE = 2  # questions to the database
_TAKES = ("by", "since", "until", "tenant")
_SINCE = "30d"


class Used:
    """Answers for one server."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.keeper: Keeper | None = None  # while usage is not kept
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def tell(self, what: str, caller: Caller, query: str) -> dict[str, Any]:
        """One of TOLD, with the URL's query. Raises Refused."""
        return await (self.me(caller) if what == "me" else self.usage(caller, query))

    async def usage(self, caller: Caller, query: str) -> dict[str, Any]:
        """GET /fairlane/usage?by=tenant,day&since=7d&until=...&tenant=acme. Raises Refused."""
        if self.keeper is None:
            raise Refused(404, "usage_not_kept", "This server keeps no usage.")
        try:
            asked = _asked(query)
            now = datetime.fromtimestamp(self.keeper.clock(), UTC)
            by = parse_by(asked.get("by", "tenant"))
            since = parse_time(asked.get("since", _SINCE), now)
            until = parse_time(asked["until"], now) if "until" in asked else None
        except FairlaneError as error:
            raise Refused(400, "invalid_request", f"The request is refused: {error}.") from None
        tenant, members = asked.get("tenant"), True
        if not (caller.operator or self._door.access.public):
            tenant, members = caller.client or "", False
        return {"by": by, "rows": await self._rows(by, Where(since, until, tenant, members))}

    async def me(self, caller: Caller) -> dict[str, Any]:
        """GET /fairlane/me: who the caller is, and what is left for it. Raises Refused."""
        client = caller.client
        if client is None:
            return {"client": None, "operator": caller.operator}
        limits = self._door.limits_of(client)
        told = {} if limits is None else asdict(limits)
        quotas = self._door.admission.quotas
        weights = self._door.weights()
        return {
            "client": client,
            "operator": caller.operator,
            "weight": weights.get(client, self._door.access.weights.get(client, 1.0)),
            "limits": {n: v for n, v in told.items() if n not in QUOTAS and v is not None},
            "quotas": [
                _standing(one) for one in (() if quotas is None else quotas.standings(client))
            ],
            "usage": None if self.keeper is None else await self._recent(client, self.keeper),
        }

    # -- inside ------------------------------------------------------------------------------

    async def _recent(self, client: str, keeper: Keeper) -> dict[str, Row]:
        """What a client had today and this month."""
        now = datetime.fromtimestamp(keeper.clock(), UTC)
        found = {}
        for name, begin in (("today", "today"), ("month", f"{now:%Y-%m}")):
            where = Where(parse_time(begin, now), None, client, members=False)
            rows = await self._rows([], where)
            found[name] = rows[0] if rows else {**dict.fromkeys(FIELDS, 0), "refused": {}}
        return found

    async def _rows(self, by: Sequence[str], where: Where) -> list[Row]:
        assert self.keeper is not None
        async with self._at_once:
            try:
                return await asyncio.to_thread(report, self.keeper.store, by, where)
            except FairlaneError:
                raise Refused(
                    503, "usage_unavailable", "The database of usage cannot be read now."
                ) from None


def _asked(query: str) -> dict[str, str]:
    """The parameters of a URL. Raises FairlaneError."""
    found = {}
    for name, values in parse_qs(query, keep_blank_values=True).items():
        if name not in _TAKES or len(values) > 1:
            raise FairlaneError(f"the parameters are {', '.join(_TAKES)}, each once")
        found[name] = values[0]
    return found


def _standing(one: Standing) -> dict[str, Any]:
    quota = one.quota
    return {
        "quota": quota.name,
        "of": one.path,
        "soft": quota.soft,
        "limit": quota.limit,
        "used": one.used,
        "remaining": one.remaining,
        "reset": f"{datetime.fromtimestamp(one.reset_at, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "reset_s": one.reset_s,
    }
