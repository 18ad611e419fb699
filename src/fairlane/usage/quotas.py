"""Quotas: how much a tenant, or a group with all its members, may have in a day and in a month.

Beyond a hard quota requests are refused until the next day or month (of UTC) begins; beyond a soft
one the tenant's weight falls, so that it has what others leave. What was spent is what the database
says, by all servers, and what this one has not written yet. No I/O; knows no database. `wanted` and
`beyond` may be asked in a thread: they take long where many have quotas.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from fairlane.core.types import Rejection
from fairlane.usage.rows import Spent, Sums, day_of, month_of, with_groups

_LEAST_WEIGHT = 1e-6  # see core/options.py
_MOST_ASKED = 10_000  # of those who are no tenants, whose sums are read


class Quota(NamedTuple):
    """One quota. unit: "tokens" or "cost"; period: "day" or "month"."""

    unit: str
    period: str
    limit: float
    soft: bool = False

    @property
    def name(self) -> str:
        """As it is called in files."""
        return f"{'soft_' if self.soft else ''}{self.unit}_per_{self.period}"


class Standing(NamedTuple):
    """How somebody stands with a quota. path: whose it is, its own or a group's above it.

    reset_s: until it begins anew; reset_at: the same in seconds since 1970.
    """

    quota: Quota
    path: str
    used: float
    reset_s: float
    reset_at: float

    @property
    def remaining(self) -> float:
        """What is left of it."""
        return max(0.0, self.quota.limit - self.used)


class Quotas:
    """Who is within quotas.

    quotas_of: from a path to its quotas, asked anew each time. unwritten: what was spent here, by
    period and path, and is not among what `read` tells. clock: seconds since 1970. soft_weight: by
    which weights are multiplied.
    """

    def __init__(
        self,
        quotas_of: Callable[[str], Sequence[Quota]],
        unwritten: Callable[[str, str], Spent],
        clock: Callable[[], float],
        soft_weight: float,
    ) -> None:
        self._quotas_of = quotas_of
        self._unwritten = unwritten
        self._clock = clock
        self._soft_weight = soft_weight
        self._sums: Sums = {}
        self._asked: dict[str, None] = {}  # the latest last
        self.over: frozenset[str] = frozenset()  # paths beyond a soft quota

    def refusal(self, client: str) -> Rejection | None:
        """Why a client may not come in, and for how long; None where it may."""
        hit = [one for one in self._standings(client, soft=False) if one.used >= one.quota.limit]
        if not hit:
            return None
        last = max(hit, key=lambda one: one.reset_s)
        return Rejection(last.quota.name, last.reset_s)

    def standings(self, client: str) -> list[Standing]:
        """How a client stands with its quotas and its groups'."""
        return [*self._standings(client, soft=False), *self._standings(client, soft=True)]

    @property
    def asked(self) -> list[str]:
        """The paths with quotas of those who came lately."""
        return list(self._asked)

    def wanted(self, paths: Iterable[str]) -> list[tuple[str, str]]:
        """The periods and paths whose sums are needed."""
        now = self._clock()
        found = []
        for path in paths:
            periods = {quota.period for quota in self._quotas_of(path)}
            found += [(_key(period, now), path) for period in periods]
        return found

    def read(self, sums: Sums) -> None:
        """What the database says was spent."""
        self._sums = sums

    def beyond(self, paths: Iterable[str]) -> frozenset[str]:
        """Who of `paths` is beyond a soft quota now."""
        return frozenset(path for path in paths if self._is_over(path))

    def lowered(
        self, weights: Mapping[str, float], others: Mapping[str, float]
    ) -> dict[str, float]:
        """Weights by path, less of those beyond a soft quota. others: weights of the rest."""
        found = dict(weights)
        for path in self.over:
            weight = found.get(path, others.get(path, 1.0))
            found[path] = max(weight * self._soft_weight, _LEAST_WEIGHT)
        return found

    # -- inside ------------------------------------------------------------------------------

    def _is_over(self, path: str) -> bool:
        now = self._clock()
        return any(
            quota.soft and self._used(quota, path, now) >= quota.limit
            for quota in self._quotas_of(path)
        )

    def _standings(self, client: str, *, soft: bool) -> list[Standing]:
        now = self._clock()
        found = []
        for path in with_groups(client):
            for quota in self._quotas_of(path):
                if quota.soft == soft:
                    used = self._used(quota, path, now)
                    until = next_begin(quota.period, now)
                    found.append(Standing(quota, path, used, until - now, until))
                    self._ask(path)
        return found

    def _used(self, quota: Quota, path: str, now: float) -> float:
        key = (_key(quota.period, now), path)
        spent = self._sums.get(key, Spent()).plus(self._unwritten(*key))
        return max(0.0, spent.tokens if quota.unit == "tokens" else spent.service)

    def _ask(self, path: str) -> None:
        self._asked.pop(path, None)
        self._asked[path] = None
        if len(self._asked) > _MOST_ASKED:
            del self._asked[next(iter(self._asked))]


def next_begin(period: str, now: float) -> float:
    """When the next day or month begins, in seconds since 1970."""
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (today + timedelta(days=1)).timestamp()
    return (today.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()


def _key(period: str, now: float) -> str:
    return day_of(now) if period == "day" else month_of(now)
