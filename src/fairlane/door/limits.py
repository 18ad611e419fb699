"""Rate limits of tenants, and what clients are told of them. No clock, no I/O: time is handed in.

Each limit is a bucket (core/buckets.py). A member of a group also needs room in the buckets of the
groups above it. Where several servers stand before one engine, each has its part of every limit.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from fairlane.core.buckets import REQUESTS, TOKENS, Bucket, Buckets, Quota, arrive
from fairlane.core.types import Rejection
from fairlane.door.tenants import Limits
from fairlane.usage.quotas import Standing

_NO_LIMITS = Limits()


class RateLimits:
    """The buckets of all clients and groups.

    limits_of: from a path ("acme/eng/alice") to its limits, or None. It may change its answers:
    a new limit holds at once.
    servers: how many share each limit, evenly.
    told: is told of whatever is taken, of which limit.
    """

    def __init__(self, limits_of: Callable[[str], Limits | None], servers: int = 1) -> None:
        self._limits_of = limits_of
        self.servers = servers
        self.told: Callable[[Quota, float], None] | None = None
        self._buckets = Buckets()

    def __len__(self) -> int:
        return len(self._buckets)

    def arrive(self, client: str, now: float) -> Rejection | None:
        """Count a request, or say why not and when to come back."""
        found = self._of(client, now)
        rejection = arrive([(quota.kind, bucket) for quota, bucket in found])
        if rejection is None and self.told is not None:
            for quota, _ in found:
                if quota.kind == REQUESTS:
                    self.told(quota, 1)
        return rejection

    def take_tokens(self, client: str, tokens: float, now: float) -> None:
        """Charge tokens that are read or made for a client."""
        for quota, bucket in self._of(client, now):
            if quota.kind == TOKENS:
                bucket.take(tokens)
                if self.told is not None:
                    self.told(quota, tokens)

    def give_back_tokens(self, client: str, tokens: float, now: float) -> None:
        """Undo a charge for tokens that were not read after all."""
        self.take_tokens(client, -tokens, now)

    def limits_tokens(self, client: str) -> bool:
        """Whether a client, or a group above it, has a limit of tokens."""
        return any(quota.kind == TOKENS for quota in self.quotas(client))

    def limits_changed(self, now: float) -> None:
        """Take up everyone's new limits at once: what was removed is forgotten with its debt."""
        for path in self._buckets.paths():
            self._of(path, now)

    def quotas(self, client: str) -> list[Quota]:
        """The limits of a client and of the groups above it, whole."""
        return [
            Quota(kind, path, limit)
            for path, limits in self._limited(client)
            for kind, limit in _rates(limits)
            if limit is not None
        ]

    def set_left(self, quotas: Sequence[Quota], left: Sequence[float], now: float) -> None:
        """What is left of whole limits, as the hub of all servers says."""
        for quota, amount in zip(quotas, left, strict=True):
            self._bucket(quota, now).left = amount

    def headers(self, client: str, now: float) -> dict[str, str]:
        """The x-ratelimit headers of a client: its tightest limit of each kind."""
        found: dict[str, str] = {}
        tightest: dict[str, Bucket] = {}
        for quota, bucket in self._of(client, now):
            other = tightest.get(quota.kind)
            if other is None or bucket.left < other.left:
                tightest[quota.kind] = bucket
        for kind, bucket in tightest.items():
            found[f"x-ratelimit-limit-{kind}"] = str(math.floor(bucket.capacity))
            found[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.left)))
            found[f"x-ratelimit-reset-{kind}"] = duration(bucket.seconds_until(bucket.capacity))
        return found

    def _of(self, client: str, now: float) -> list[tuple[Quota, Bucket]]:
        """The buckets of a client and of the groups above it, refilled."""
        found = []
        for path, limits in self._limited(client):
            for kind, limit in _rates(limits):
                if limit is None:
                    self._buckets.drop(kind, path)
                else:
                    quota = Quota(kind, path, limit)
                    found.append((quota, self._bucket(quota, now)))
        return found

    def _limited(self, client: str) -> Iterator[tuple[str, Limits]]:
        """A client and the groups above it, with their limits."""
        path = client
        while path:
            yield path, self._limits_of(path) or _NO_LIMITS
            path = path.rpartition("/")[0]

    def _bucket(self, quota: Quota, now: float) -> Bucket:
        kind, path, per_minute = quota
        return self._buckets.get(kind, path, per_minute / self.servers, now)


def _rates(limits: Limits) -> tuple[tuple[str, int | None], ...]:
    return ((REQUESTS, limits.requests_per_minute), (TOKENS, limits.tokens_per_minute))


def quota_headers(standings: Iterable[Standing]) -> dict[str, str]:
    """The same headers of quotas: of each kind, such as tokens-day, that of which least is left."""
    tightest: dict[str, Standing] = {}
    for one in standings:
        kind = f"{'soft-' if one.quota.soft else ''}{one.quota.unit}-{one.quota.period}"
        other = tightest.get(kind)
        if other is None or one.remaining < other.remaining:
            tightest[kind] = one
    found: dict[str, str] = {}
    for kind, one in tightest.items():
        found[f"x-ratelimit-limit-{kind}"] = str(math.floor(one.quota.limit))
        found[f"x-ratelimit-remaining-{kind}"] = str(math.floor(one.remaining))
        found[f"x-ratelimit-reset-{kind}"] = duration(one.reset_s)
    return found


def duration(seconds: float) -> str:
    """A duration as OpenAI's headers write it: 120ms, 7.5s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    seconds = math.ceil(seconds * 100) / 100
    if seconds < 60:
        return f"{seconds:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def retry_after(rejection: Rejection, otherwise_s: float = 1.0) -> str:
    """The Retry-After header: whole seconds, at least one."""
    wait = rejection.retry_after_s
    return str(max(1, math.ceil(otherwise_s if wait is None else wait)))
