"""The front door of one HTTP server: who comes in now, and within which limits.

A host asks it in this order: `look_for_changes`, `identify`, `arrive`; then it serves the request
and says `admission.served` when the first token is there.
"""

import logging
import time
from collections.abc import Callable, Mapping

from fairlane.door.access import Access
from fairlane.door.admission import Admission, Caller, Refused, Turns
from fairlane.door.answers import Scope
from fairlane.door.credentials import key_in_url
from fairlane.door.limits import quota_headers
from fairlane.door.tenants import Limits, Tenants


class Door:
    """See the module. clock: seconds, never decreasing. log: where its host's words go."""

    def __init__(
        self,
        access: Access,
        clock: Callable[[], float] = time.monotonic,
        log: logging.Logger = logging.getLogger("fairlane.door"),  # noqa: B008
    ) -> None:
        self.access = access
        self.clock = clock
        self._log = log
        self.tenants: Tenants = access.tenants()
        self.admission = Admission(self.limits_of)
        self.turns = Turns(self._most_running)
        self._told = dict(self.weights())
        self._over: frozenset[str] = frozenset()
        self._warned = ""

    def look_for_changes(self) -> Mapping[str, float] | None:
        """Take up a changed file of tenants: keys and limits at once; the weights, where new.

        And who is beyond a soft quota.
        """
        before, tenants = self.tenants, self.access.tenants()
        quotas = self.admission.quotas
        over = self._over if quotas is None else quotas.over
        if tenants is before and over == self._over:
            return None
        self.tenants, self._over = tenants, over
        if tenants is not before:
            self.warn()
            self.turns.limits_changed()
            self.admission.rates.limits_changed(self.clock())
        gone, self._told = self._told, dict(self.weights())
        return {path: self.access.weights.get(path, 1.0) for path in gone} | self._told

    def weights(self) -> Mapping[str, float]:
        """The weight of every tenant and group, and of whoever is beyond a soft quota."""
        return self.admission.lowered(self.tenants.weights(), self.access.weights)

    def warn(self) -> None:
        """Say what has no effect, once for as long as it has none."""
        before, self._warned = self._warned, self.access.warning
        if self._warned not in ("", before):
            self._log.warning("%s", self._warned)

    def identify(self, scope: Scope) -> Caller:
        """Who sends a request. Raises Refused."""
        if key_in_url(scope["query_string"], self.tenants):
            scope["query_string"] = b"key=removed"  # the access log would show it
            raise Refused(401, "key_in_url", "A key in a URL is in logs: revoke it, use a header.")
        return self.access.rules.identify(scope["headers"], self.tenants)

    def key_id(self, scope: Scope) -> str:
        """The id of the key that a request came with; "" where it has none."""
        return self.access.rules.key_id(scope["headers"])

    async def arrive(self, caller: Caller) -> None:
        """A request that asks for work comes in. Raises Refused, with status 429."""
        await self.admission.come_in(caller, self.clock)

    def by_adapter(self, adapter: str | None) -> str:
        """The client of a request whose sender only the adapter tells. Raises Refused."""
        return self.access.rules.by_adapter(adapter, self.tenants)

    def rate_headers(self, caller: Caller | None) -> dict[str, str]:
        """What is left of a client's limits and quotas."""
        if caller is None or caller.client is None:
            return {}
        found = self.admission.rates.headers(caller.client, self.clock())
        quotas = self.admission.quotas
        return found if quotas is None else found | quota_headers(quotas.standings(caller.client))

    def limits_of(self, path: str) -> Limits | None:
        """The limits of a client or group, None where it has none."""
        known = self.tenants.limits(path)
        return self.access.limits if known is None else known

    def _most_running(self, path: str) -> int | None:
        limits = self.limits_of(path)
        return None if limits is None else self.admission.part(limits.max_running)
